"""The precision of a transform."""

import pytest
import torch

from spectral_backbones.backbones.layers.precision import compute_dtype, full_precision


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_transform_is_computed_in_at_least_float32(dtype, wide):
    assert compute_dtype(dtype) == wide


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_off_inside_and_on_again_after(dtype):
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype):
        with full_precision(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == dtype


def test_nothing_changes_without_autocast_or_on_meta():
    x = torch.randn(2, 2)
    for device in (torch.device("cpu"), torch.device("meta")):
        with full_precision(device):
            assert (x @ x).dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")


def test_autocast_of_another_device_stays():
    with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("meta")):
        assert torch.is_autocast_enabled("cpu")
