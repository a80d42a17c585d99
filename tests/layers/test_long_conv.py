"""Convolutions with long kernels against sums over all pairs of tokens."""

import pytest
import torch

from spectral_backbones.backbones.layers import long_conv as module
from spectral_backbones.backbones.layers.long_conv import circles_for, kernel_spectrum, long_conv

CASES = [  # map, kernel, its centre
    ((1, 1), (1, 1), (0, 0)),
    ((4, 5), (7, 9), (3, 4)),  # the whole map from everywhere
    ((4, 5), (4, 5), (0, 0)),  # from above and from the left alone
    ((4, 5), (4, 5), (3, 4)),  # from below and from the right alone
    ((6, 3), (3, 2), (1, 1)),
    ((1, 8), (1, 15), (0, 7)),
    ((3, 7), (4, 6), (2, 3)),  # even sides have no middle
]


def by_sums(x, kernel, top, left):
    y = torch.zeros_like(x)
    _, height, width, _ = x.shape
    for i in range(height):
        for j in range(width):
            for a in range(kernel.shape[0]):
                for b in range(kernel.shape[1]):
                    row, col = i + top - a, j + left - b
                    if 0 <= row < height and 0 <= col < width:
                        y[:, i, j] += kernel[a, b] * x[:, row, col]
    return y


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize(("grid", "kernel_size", "centre"), CASES)
@torch.no_grad()
def test_equals_the_sum_over_all_pairs_in_reach(grid, kernel_size, centre, matmul, monkeypatch):
    monkeypatch.setattr(module, "uses_matmul", lambda method, x: matmul)
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    kernel = torch.randn(*kernel_size, 3, dtype=torch.float64)
    circles = circles_for(x, *kernel_size, *centre)
    assert circles.matmul == matmul
    y = long_conv(x, kernel_spectrum(kernel, circles), circles)
    torch.testing.assert_close(y, by_sums(x, kernel, *centre))


@pytest.mark.parametrize("matmul", [False, True])
def test_gradients_agree_with_finite_differences(matmul, monkeypatch):
    monkeypatch.setattr(module, "uses_matmul", lambda method, x: matmul)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    circles = circles_for(x, 5, 3, 2, 1)
    assert torch.autograd.gradcheck(lambda x, k: long_conv(x, kernel_spectrum(k, circles), circles), (x, kernel))


def test_circles_are_no_longer_than_they_must_but_for_lengths_that_ffts_are_fast_for():
    circles = circles_for(torch.empty(1, 65, 1, 1), 129, 1, 64, 0)
    assert (circles.rows, circles.cols) == (140, 1)  # 129 at least; the even numbers to 138 have larger factors than 7
    small = circles_for(torch.empty(1, 4, 5, 1), 7, 9, 3, 4)
    assert small.matmul and (small.rows, small.cols) == (7, 9)


@torch.no_grad()
def test_half_precision_is_convolved_in_float32():
    x, kernel = torch.randn(2, 5, 4, 3).bfloat16(), torch.randn(9, 7, 3)
    circles = circles_for(x, 9, 7, 4, 3)
    spectrum = kernel_spectrum(kernel, circles)
    with torch.autocast("cpu", torch.bfloat16):
        y = long_conv(x, spectrum, circles)
    assert y.dtype == torch.bfloat16 and torch.equal(y, long_conv(x.float(), spectrum, circles).bfloat16())
