"""Precise pooling against a fine grid of points, and its gradients against finite differences."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import prroi_pool, roi_align

ROIS = torch.tensor([[1, 2.3, 1.1, 12.7, 11.2], [0, 4.2, 3.3, 9.1, 10.4], [1, 5.1, 2.7, 6.3, 8.9], [0, 4, 4, 4, 9]])


def test_equals_the_mean_of_many_points():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 7, 9)
    expected = roi_align(maps, ROIS + torch.tensor([0, 1, 1, 1, 1]), (2, 3), 0.5, 200, "avg", True)
    result = prroi_pool(maps, ROIS, (2, 3), 0.5)
    torch.testing.assert_close(result[:3], expected[:3], atol=1e-4, rtol=1e-4)
    assert not result[3].any()  # without an area


def test_gradients():
    torch.manual_seed(0)
    maps, rois = torch.randn(2, 1, 7, 9, requires_grad=True), ROIS[:3].clone().requires_grad_()
    weight = torch.randn(3, 1, 2, 3)

    def loss(maps, rois):
        return (prroi_pool(maps, rois, (2, 3), 0.5) * weight).sum()

    by_maps, by_rois = torch.autograd.grad(loss(maps, rois), (maps, rois))
    direction = torch.randn_like(maps)
    torch.testing.assert_close((by_maps * direction).sum(), loss(direction, rois).detach())  # linear in the maps
    assert not by_rois[:, 0].any()
    for k, corner in torch.cartesian_prod(torch.arange(3), torch.arange(1, 5)).tolist():
        step = torch.zeros_like(rois)
        step[k, corner] = 0.02
        slope = (loss(maps, rois + step) - loss(maps, rois - step)) / 0.04
        torch.testing.assert_close(by_rois[k, corner], slope.detach(), atol=1e-2, rtol=1e-2)


def test_no_regions():
    maps = torch.randn(2, 3, 7, 9, requires_grad=True)
    prroi_pool(maps, ROIS[:0], (2, 3), 0.5).sum().backward()
    assert not maps.grad.any()
