"""AFNO against the official formula, written out with complex numbers."""

import numpy as np
import pytest
import torch

from spectral_backbones.backbones.mixers import AFNO

METHODS = ["fft", "matmul"]
both_methods = pytest.mark.parametrize("method", METHODS)


def official(x, layer):
    """NVlabs/AFNO-transformer's AFNO2D with all modes kept, x (B, H, W, C) float64."""
    w1, b1, w2, b2 = (np.asarray(p.detach()) for p in (layer.w1, layer.b1, layer.w2, layer.b2))
    w1, b1, w2, b2 = w1[0] + 1j * w1[1], b1[0] + 1j * b1[1], w2[0] + 1j * w2[1], b2[0] + 1j * b2[1]
    x = np.asarray(x)
    batch, height, width, _ = x.shape
    spectrum = np.fft.rfft2(x, axes=(1, 2), norm="ortho")
    blocks = spectrum.reshape(batch, height, width // 2 + 1, layer.num_blocks, -1)
    out = np.empty_like(blocks)
    for k in range(layer.num_blocks):
        hidden = blocks[..., k, :] @ w1[k] + b1[k]
        hidden = np.maximum(hidden.real, 0) + 1j * np.maximum(hidden.imag, 0)
        out[..., k, :] = hidden @ w2[k] + b2[k]
    spectrum = (shrink(out.real, layer) + 1j * shrink(out.imag, layer)).reshape(spectrum.shape)
    # What irfft2 does on the CPU: complex along H, then real along W, which drops imaginary parts of bins 0 and W / 2.
    columns = np.fft.ifft(spectrum, axis=1, norm="ortho")
    return torch.from_numpy(np.fft.irfft(columns, n=width, axis=2, norm="ortho") + x)


def shrink(x, layer):
    return np.sign(x) * np.maximum(np.abs(x) - layer.sparsity_threshold, 0)


def layer_of(method, dtype=torch.float64, **kwargs):
    layer = AFNO(8, **{"num_blocks": 2, "hidden_ratio": 2, "method": method, "dtype": dtype, **kwargs})
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@both_methods
@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (6, 1), (4, 5), (5, 4), (7, 7), (8, 8)])
def test_equals_the_official_formula_though_its_spectrum_is_not_hermitian(grid, method):
    layer = layer_of(method)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), official(x, layer))


@pytest.mark.parametrize("kwargs", [{"num_blocks": 1}, {"num_blocks": 8}, {"hidden_ratio": 1}])
def test_blocks_and_hidden_width_are_the_users(kwargs):
    layer = layer_of("matmul", **kwargs)
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), official(x, layer))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_sparsity_threshold_is_the_users(threshold):
    layer = layer_of("fft", sparsity_threshold=threshold)
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), official(x, layer))


def test_weights_have_the_official_shapes_and_start():
    layer = AFNO(64, num_blocks=4, hidden_ratio=2)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {"w1": (2, 4, 16, 32), "b1": (2, 4, 32), "w2": (2, 4, 32, 16), "b2": (2, 4, 16)}
    for parameter in layer.parameters():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.3)


@both_methods
def test_gradients_agree_with_finite_differences(method):
    layer = layer_of(method)
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True)


@both_methods
def test_an_empty_batch_gives_an_empty_batch(method):
    layer = layer_of(method, torch.float32)
    x = torch.empty(0, 4, 5, 8, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 4, 5, 8)
    assert not any(parameter.grad.any() for parameter in layer.parameters())


@both_methods
def test_half_precision_computes_in_float32(method):
    layer = layer_of(method, torch.float32)
    x = torch.randn(2, 6, 5, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.05)
    y = layer.to(torch.bfloat16)(x.bfloat16())
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


@both_methods
def test_compiles_in_one_graph(method):
    torch.compiler.reset()
    layer = layer_of(method, torch.float32)
    x = torch.randn(2, 4, 5, 8)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


@torch.no_grad()
def test_auto_exports_without_complex_numbers():
    layer = AFNO(8, num_blocks=2)
    x = torch.randn(2, 40, 40, 8)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert "fft" not in str(program.graph) and "complex" not in str(program.graph)
    x = torch.randn(3, 40, 40, 8)
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_blocks", [3, 0, -2, 16])
def test_blocks_that_do_not_divide_the_channels_are_refused(num_blocks):
    with pytest.raises(ValueError, match=f"divisor of the 8 channels, got {num_blocks}"):
        AFNO(8, num_blocks=num_blocks)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="expected one of auto, fft, matmul"):
        AFNO(8, method="dct")


@both_methods
@pytest.mark.parametrize("shape", [(2, 4, 4, 16), (2, 16, 8)])
def test_a_map_of_another_shape_is_refused_with_its_shape(shape, method):
    with pytest.raises(ValueError, match=r"expected a map \(B, H, W, 8\), got \[2, "):
        layer_of(method, torch.float32)(torch.empty(shape))
