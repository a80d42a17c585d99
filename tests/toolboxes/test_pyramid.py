"""The simple feature pyramid: sizes, values against its parts, and errors."""

import pytest
import torch

from spectral_backbones.toolboxes.simple_feature_pyramid import SimpleFeaturePyramid


@pytest.mark.parametrize(
    "in_stride, strides, num_outs", [(16, (4, 8, 16, 32), 5), (8, (4, 8, 16, 32), 4), (32, (4, 64, 128), None)]
)
def test_maps_have_their_strides(in_stride, strides, num_outs):
    neck = SimpleFeaturePyramid([32], 16, in_stride, strides, num_outs)
    maps = neck((torch.randn(2, 32, 512 // in_stride, 384 // in_stride),))
    expected = [*strides, strides[-1] * 2][: num_outs or len(strides)]
    assert [tuple(m.shape) for m in maps] == [(2, 16, -(-512 // s), -(-384 // s)) for s in expected]
    sum(m.square().mean() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_odd_sides_are_rounded_up():
    neck = SimpleFeaturePyramid(32, 16, num_outs=5)
    assert [tuple(m.shape[2:]) for m in neck(torch.randn(1, 32, 5, 7))] == [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]


def test_widths_halve_with_every_finer_map():
    """As in ViTDet: 4 C -> C transposed, then a 1x1 and a 3x3 convolution to the common width."""
    levels = SimpleFeaturePyramid(64, 16).levels
    assert [[tuple(p.shape) for p in level.parameters() if p.ndim == 4] for level in levels] == [
        [(64, 32, 2, 2), (32, 16, 2, 2), (16, 16, 1, 1), (16, 16, 3, 3)],
        [(64, 32, 2, 2), (16, 32, 1, 1), (16, 16, 3, 3)],
        [(16, 64, 1, 1), (16, 16, 3, 3)],
        [(16, 64, 1, 1), (16, 16, 3, 3)],
    ]


def test_norms_are_over_channels():
    neck = SimpleFeaturePyramid(32, 16)
    for feature in neck(torch.randn(2, 32, 8, 8)):
        assert feature.mean(1).abs().max() < 1e-5
        assert (feature.std(1, correction=0) - 1).abs().max() < 1e-2


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(in_channels=[32, 64]), r"of one map, got \[32, 64\]"),
        (dict(in_channels=32, strides=(4, 12)), "16, the backbone's, times powers of two, got 12"),
        (dict(in_channels=32, num_outs=3), "at least 4, the number of strides, got 3"),
    ],
)
def test_a_wrong_argument_says_what_is_allowed(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**kwargs)


def test_another_backbone_is_told_what_to_set():
    neck = SimpleFeaturePyramid(32)
    with pytest.raises(ValueError, match=r"one map of 32 channels, the backbone gives \[64\]: set neck.in_channels=64"):
        neck(torch.zeros(1, 64, 4, 4))
    with pytest.raises(ValueError, match=r"gives \[32, 64\]: set backbone.out_indices=\(-1,\)"):
        neck((torch.zeros(1, 32, 4, 4), torch.zeros(1, 64, 2, 2)))
