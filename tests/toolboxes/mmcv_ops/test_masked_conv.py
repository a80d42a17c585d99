"""Convolution at chosen pixels: as the whole convolution there, zero elsewhere."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import MaskedConv2d


@pytest.mark.parametrize("kernel, padding", [((3, 3), 1), ((3, 1), (1, 0)), ((1, 1), 0)])
@pytest.mark.filterwarnings("ignore:This overload of addmm")  # mmcv's call
def test_equals_the_convolution_where_the_mask_is_set(kernel, padding):
    torch.manual_seed(0)
    layer = MaskedConv2d(4, 5, kernel, padding=padding)
    image, mask = torch.randn(1, 4, 7, 6), (torch.rand(1, 7, 6) > 0.6).float()
    with torch.no_grad():
        expected = F.conv2d(image, layer.weight, layer.bias, padding=padding) * mask
        torch.testing.assert_close(layer(image, mask), expected)


def test_empty_mask_gives_zeros():
    layer = MaskedConv2d(4, 5, 3, padding=1)
    assert (layer(torch.randn(1, 4, 7, 6), torch.zeros(1, 7, 6)) == 0).all()
