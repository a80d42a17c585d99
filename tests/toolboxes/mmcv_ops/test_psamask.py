"""PSANet's masks against a loop over pixels."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import PSAMask

HEIGHT, WIDTH = 4, 5


@pytest.mark.parametrize("window", [(7, 9), (3, 5), (11, 1)])
@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_offsets_become_positions(kind, window):
    torch.manual_seed(0)
    mask = torch.randn(2, window[0] * window[1], HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, HEIGHT, WIDTH, HEIGHT, WIDTH, dtype=torch.float64)  # position, pixel
    for y, x, i, j in torch.cartesian_prod(*(torch.arange(size) for size in (HEIGHT, WIDTH, *window))).tolist():
        row, column = y + i - window[0] // 2, x + j - window[1] // 2
        if 0 <= row < HEIGHT and 0 <= column < WIDTH:
            expected[:, row, column, y, x] = mask[:, i * window[1] + j, y, x].detach()
    expected = expected.flatten(3).flatten(1, 2)
    if kind == "distribute":
        expected = expected.transpose(1, 2)
    layer = PSAMask(kind, window)
    torch.testing.assert_close(layer(mask), expected.reshape(2, -1, HEIGHT, WIDTH))
    torch.autograd.gradcheck(layer, mask, fast_mode=True)


@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_empty_batch(kind):
    assert PSAMask(kind, (3, 3))(torch.zeros(0, 9, 4, 5)).shape == (0, 20, 4, 5)
