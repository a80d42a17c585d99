"""Multi-scale deformable attention against a loop over points, and its gradients against finite differences."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401
from spectral_backbones.toolboxes.mmcv_ops import multi_scale

from .test_deform import bilinear

pytest.importorskip("mmcv")
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

SHAPES = torch.tensor([[4, 3], [2, 5]])
STARTS = torch.tensor([0, 12])


def attend(value, locations, weights):
    return MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)


@pytest.fixture
def tensors():
    """Values (B, S, M, D), locations (B, Q, M, L, P, 2), some outside, and weights (B, Q, M, L, P) in float64."""
    torch.manual_seed(0)
    value = torch.randn(2, 22, 3, 4, dtype=torch.float64)
    locations = 1.4 * torch.rand(2, 7, 3, 2, 5, 2, dtype=torch.float64) - 0.2
    weights = torch.rand(2, 7, 3, 2, 5, dtype=torch.float64)
    return value, locations, weights


@pytest.fixture(params=["whole", "in chunks"])
def chunks(request, monkeypatch):
    """Few queries at a time: the result may not depend on how the work is cut."""
    if request.param == "in chunks":
        monkeypatch.setattr(multi_scale, "SAMPLED_VALUES", 2 * 3 * 4 * 5 * 3)  # of seven queries three at a time


def test_output_is_the_weighted_sum_of_sampled_values(tensors, chunks):
    value, locations, weights = tensors
    batch, queries, heads = weights.shape[:3]
    expected = torch.zeros(batch, queries, heads, value.shape[3], dtype=value.dtype)
    for b, q, m, level, p in torch.cartesian_prod(*(torch.arange(size) for size in weights.shape)).tolist():
        height, width = SHAPES[level].tolist()
        start = int(STARTS[level])
        x, y = (locations[b, q, m, level, p] * torch.tensor([width, height]) - 0.5).tolist()
        for d in range(value.shape[3]):
            image = value[b, start : start + height * width, m, d].view(height, width)
            expected[b, q, m, d] += weights[b, q, m, level, p] * bilinear(image, y, x)
    torch.testing.assert_close(attend(*tensors), expected.flatten(2))


def test_gradients(tensors, chunks):
    torch.autograd.gradcheck(attend, [tensor.requires_grad_() for tensor in tensors], fast_mode=True)


def test_agrees_with_the_fallback_of_mmcv(tensors):
    """The layer takes mmcv's own path on the CPU and the operator on CUDA: a checkpoint must not notice."""
    value, locations, weights = (tensor.float() for tensor in tensors)
    expected = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    torch.testing.assert_close(attend(value, locations, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values(tensors, dtype):
    """Under autocast values alone are half precision; mmcv casts the rest."""
    value, locations, weights = (tensor.to(dtype).float().requires_grad_() for tensor in tensors)
    output = attend(value.to(dtype), locations, weights)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), attend(value, locations, weights), rtol=0.01, atol=0.01)
    output.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (value, locations, weights))


def test_empty_batch_and_no_queries(tensors):
    value, locations, weights = tensors
    assert attend(value[:0], locations[:0], weights[:0]).shape == (0, 7, 12)
    assert attend(value, locations[:, :0], weights[:, :0]).shape == (2, 0, 12)
