"""Operators that mmcv computes in Python since 2.0: they have to work beside the extension, in all directions."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import CornerPool, CrissCrossAttention


@pytest.mark.parametrize("mode", ["top", "bottom", "left", "right"])
def test_corner_pool_is_the_greatest_value_on_the_way(mode):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.empty_like(maps)
    for y in range(5):
        for x in range(4):
            way = {
                "top": maps[:, :, y:, x],
                "bottom": maps[:, :, : y + 1, x],
                "left": maps[:, :, y, x:],
                "right": maps[:, :, y, : x + 1],
            }[mode]
            expected.data[:, :, y, x] = way.amax(2)
    torch.testing.assert_close(CornerPool(mode)(maps), expected)
    torch.autograd.gradcheck(CornerPool(mode), maps, fast_mode=True)


def test_criss_cross_attention_sees_row_and_column_only():
    torch.manual_seed(0)
    layer = CrissCrossAttention(8)
    layer.gamma.scale.data.fill_(1)
    maps = torch.randn(1, 8, 5, 6, requires_grad=True)
    layer(maps)[0, :, 2, 3].sum().backward()
    seen = maps.grad[0].abs().sum(0) > 0
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2], expected[:, 3] = True, True
    assert torch.equal(seen, expected)
