"""The real DFT by matrix products, against numpy's FFT."""

import numpy as np
import pytest
import torch

from spectral_backbones.backbones.layers import dft
from spectral_backbones.backbones.mixers import SpectralGating

GRIDS = [(1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (5, 6), (6, 5), (7, 7), (8, 8), (4, 9)]


def as_complex(spectrum, height, width):
    """(B, 2, H, F C) -> (B, H, F, C) complex numpy."""
    parts = spectrum.reshape(spectrum.shape[0], 2, height, width // 2 + 1, -1).numpy()
    return parts[:, 0] + 1j * parts[:, 1]


def real_inverse(spectrum, width):
    """(B, H, F, C) -> (B, H, W, C), the definition: complex along H, then a real sum along W that has no place for the
    imaginary parts of bins 0 and W / 2.
    """
    columns = np.fft.ifft(spectrum, axis=1, norm="ortho")
    result = np.zeros((*columns.shape[:2], width, columns.shape[3]))
    position = np.arange(width)[:, None]
    for frequency in range(width // 2 + 1):
        column = columns[:, :, frequency : frequency + 1]
        angle = 2 * np.pi * frequency * position / width
        count = 1 if 2 * frequency % width == 0 else 2
        result += count * (column.real * np.cos(angle) - column.imag * np.sin(angle)) / np.sqrt(width)
    return result


@pytest.mark.parametrize("grid", GRIDS)
def test_the_forward_transform_is_rfft2(grid):
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    rows, columns, _, _ = dft.matrices_for(x, *grid)
    expected = np.fft.rfft2(x.numpy(), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(as_complex(dft.rdft2(x, rows, columns), *grid), expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_inverse_of_any_half_spectrum_ignores_what_a_real_map_cannot_have(grid):
    height, width = grid
    spectrum = torch.randn(2, 2, height, (width // 2 + 1) * 3, dtype=torch.float64)
    _, _, inverse_columns, inverse_rows = dft.matrices_for(spectrum, *grid)
    actual = dft.irdft2(spectrum, 3, inverse_columns, inverse_rows)
    expected = real_inverse(as_complex(spectrum, *grid), width)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_hermitian_part_makes_a_spectrum_that_survives_going_to_a_map_and_back(grid):
    height, width = grid
    spectrum = torch.randn(height, width // 2 + 1, 3, 2, dtype=torch.float64)
    projected = torch.view_as_complex(dft.hermitian_columns(spectrum, width)).numpy()
    x = real_inverse(projected[None], width)
    np.testing.assert_allclose(np.fft.rfft2(x, axes=(1, 2), norm="ortho")[0], projected, atol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 5, 6])
def test_the_hermitian_part_changes_only_columns_that_stand_for_themselves(width):
    spectrum = torch.randn(4, width // 2 + 1, 3, 2)
    changed = (dft.hermitian_columns(spectrum, width) != spectrum).flatten(2).any(2).any(0)
    assert changed.tolist() == [2 * frequency % width == 0 for frequency in range(width // 2 + 1)]


def test_the_hermitian_part_is_a_projection_and_keeps_leading_axes():
    spectrum = torch.randn(2, 5, 4, 3, 3, 2)
    once = dft.hermitian_columns(spectrum, 4)
    torch.testing.assert_close(dft.hermitian_columns(once, 4), once)
    torch.testing.assert_close(once[1, 2], dft.hermitian_columns(spectrum[1, 2], 4))


def test_angles_keep_their_precision_on_long_axes():
    n = 1000
    cos, sin = dft.cos_sin(n, n, torch.float32, torch.device("cpu"))
    k = np.arange(n)
    angle = 2 * np.pi * np.outer(k, k) / n  # in float32 it would be off by up to 3e-4
    np.testing.assert_allclose(cos, np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angle), atol=1e-6)


def test_float32_matrices_are_rounded_from_float64():
    x = torch.randn(1, 6, 7, 1)
    for single, double in zip(dft.matrices_for(x, 6, 7), dft.matrices_for(x.double(), 6, 7)):
        assert single.dtype == torch.float32
        assert torch.equal(single, double.float())


def test_matrices_are_computed_once_and_serve_gradients_after_inference_mode():
    dft._kept_matrices.cache_clear()
    x = torch.randn(2, 5, 4, 3, requires_grad=True)
    with torch.inference_mode():
        first = dft.matrices_for(x, 5, 4)
    again = dft.matrices_for(x, 5, 4)
    assert all(a is b for a, b in zip(first, again))
    dft.rdft2(x, again[0], again[1]).sum().backward()
    assert x.grad is not None


def test_kept_matrices_are_bounded():
    for n in range(1, 100):
        dft.matrices_for(torch.empty(1, n, 1, 1), n, 1)
    assert dft._kept_matrices.cache_info().currsize <= 64


def test_auto_takes_matrices_on_small_grids_and_fft_on_large_ones():
    def takes_matrices(height, width, **kwargs):
        return dft.uses_matmul("auto", torch.empty(1, height, width, 1, **kwargs))

    assert takes_matrices(7, 7)
    assert takes_matrices(14, 14)
    assert takes_matrices(28, 28)
    assert not takes_matrices(56, 56)
    # Along H the transform is complex and costs twice as much as along W.
    assert takes_matrices(20, 48) and not takes_matrices(48, 20)
    assert takes_matrices(14, 14, dtype=torch.bfloat16)  # computed in float32
    assert not takes_matrices(14, 14, dtype=torch.float64)
    assert not takes_matrices(7, 7, device="meta")  # as on any device that was not measured


def test_auto_takes_matrices_on_any_grid_in_export():
    gate = SpectralGating(4, (56, 56)).eval()
    program = torch.export.export(gate, (torch.randn(1, 56, 56, 4),))
    assert not [node for node in program.graph.nodes if "fft" in str(node.target)]


@pytest.mark.parametrize("grid", [(7, 7), (224, 224)])
def test_a_forced_method_is_used_on_any_grid(grid):
    x = torch.empty(1, *grid, 1)
    assert dft.uses_matmul("matmul", x)
    assert not dft.uses_matmul("fft", x)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'dct' is unknown, expected one of auto, fft, matmul"):
        dft.check_spectral_method("dct")
