"""Mixers by name, and the patterns of a trunk."""

import numpy as np
import pytest
import torch
from torch import nn

from spectral_backbones.backbones.mixers import (
    AFNO,
    Attention,
    FNet,
    SpectralGating,
    create_mixer,
    expand_mixers,
    list_mixers,
)

S, A = "spectral", "attention"


class Mine(nn.Module):
    """A user's mixer."""

    def __init__(self, dim, grid_size, num_heads, device=None, dtype=None):
        super().__init__()
        self.given = (dim, grid_size, num_heads, device, dtype)

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (0, [A] * 6),
        (2, [S, S, A, A, A, A]),
        (6, [S] * 6),
        ("spectral", [S] * 6),
        ("attention", [A] * 6),
        ("spectral:4, attention", [S, S, S, S, A, A]),
        ("attention:4,spectral", [A, A, A, A, S, S]),
        ("spectral, attention, ...", [S, A] * 3),
        ("spectral:3, attention, ...", [S, S, S, A, S, S]),
        ("spectral:6", [S] * 6),
        ("spectral:6, attention", [S] * 6),
        ("spectral:1, afno:2, fnet:1, attention", [S, "afno", "afno", "fnet", A, A]),
        (" spectral : 2 ,attention ", [S, S, A, A, A, A]),
        ([S, A, S, A, S, A], [S, A] * 3),
        ((A, A, A, S, S, S), [A, A, A, S, S, S]),
        ([Mine, S, A, A, A, A], [Mine, S, A, A, A, A]),
    ],
)
def test_a_pattern_gives_a_mixer_for_each_block(pattern, expected):
    assert expand_mixers(pattern, 6) == expected


def test_the_list_of_a_user_is_copied():
    pattern = [S, A]
    expand_mixers(pattern, 2).append(S)
    assert pattern == [S, A]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (-1, r"between 0 and 6, got -1"),
        (7, r"between 0 and 6, got 7"),
        (True, r"a number, a text or a sequence, got True"),
        (2.0, r"a number, a text or a sequence, got 2\.0"),
        (None, r"a number, a text or a sequence, got None"),
        (np.float64(2), r"a number, a text or a sequence"),
        (
            "spectrum",
            r"unknown mixer 'spectrum' \(did you mean 'spectral'\?\), expected one of afno, attention",
        ),
        ("conv:2, attention", r"unknown mixer 'conv', expected one of afno, attention, .* or a class"),
        ("", r"unknown mixer ''"),
        (":3", r"unknown mixer ''"),
        ("spectral:2,", r"unknown mixer ''"),
        ("spectral, attention", r"only the last name of the mixer pattern 'spectral, attention' may have no count"),
        ("spectral:0, attention", r"must be a positive number, got 'spectral:0'"),
        ("spectral:-1, attention", r"must be a positive number, got 'spectral:-1'"),
        ("spectral:x, attention", r"must be a positive number, got 'spectral:x'"),
        ("spectral:, attention", r"must be a positive number, got 'spectral:'"),
        ("spectral:²", r"must be a positive number, got 'spectral:²'"),
        ("spectral:2", r"'spectral:2' has 2 blocks, the trunk 6: give the last name no count .* or end with"),
        ("spectral:1, attention:1", r"has 2 blocks, the trunk 6"),
        ("spectral:7, ...", r"has 7 blocks, the trunk 6"),
        ("..., spectral", r"unknown mixer '...'"),
        ("spectral:7", r"'spectral:7' has 7 blocks, the trunk 6"),
        ("spectral:7, attention", r"has 7 blocks, the trunk 6"),
        ([S, A], r"each of the 6 blocks, got 2"),
        ([S] * 7, r"each of the 6 blocks, got 7"),
        ([S, "atention", A, A, A, A], r"unknown mixer 'atention' \(did you mean 'attention'\?\)"),
        ([S, 3, A, A, A, A], r"unknown mixer 3"),
    ],
)
def test_a_wrong_pattern_is_refused_with_what_is_allowed(pattern, message):
    with pytest.raises(ValueError, match=message):
        expand_mixers(pattern, 6)


@pytest.mark.parametrize(
    ("name", "cls"), [("spectral", SpectralGating), ("attention", Attention), ("afno", AFNO), ("fnet", FNet)]
)
def test_a_name_gives_its_layer(name, cls):
    mixer = create_mixer(name, 16, (4, 6), num_heads=2, spectral_method="fft", dtype=torch.float64)
    assert type(mixer) is cls
    assert all(parameter.dtype == torch.float64 for parameter in mixer.parameters())
    assert getattr(mixer, "method", "fft") == "fft"
    assert getattr(mixer, "num_heads", 2) == 2
    assert getattr(mixer, "grid_size", (4, 6)) == (4, 6)
    assert create_mixer(name, 16, (4, 6), num_heads=2, device="meta").state_dict().keys() == mixer.state_dict().keys()


@pytest.mark.parametrize("name", list_mixers())
@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
def test_every_mixer_takes_maps_of_any_size(name, grid):
    mixer = create_mixer(name, 16, (4, 6), num_heads=2)
    x = torch.randn(2, *grid, 16)
    assert mixer(x).shape == x.shape


def test_dropout_reaches_attention():
    mixer = create_mixer("attention", 16, (4, 6), num_heads=2, attn_drop=0.1, proj_drop=0.2)
    assert (mixer.attn.attn_drop.p, mixer.proj_drop.p) == (0.1, 0.2)


def test_a_class_of_ones_own_is_called_with_what_a_mixer_needs():
    mixer = create_mixer(Mine, 16, (4, 6), num_heads=2, dtype=torch.float64)
    assert mixer.given == (16, (4, 6), 2, None, torch.float64)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"unknown mixer 'fft', expected one of afno, attention, .*spectral.* or a class"
    ):
        create_mixer("fft", 16, (4, 6), num_heads=2)
