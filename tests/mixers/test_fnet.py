"""FNet against the definition of the DFT."""

import numpy as np
import pytest
import torch

from spectral_backbones.backbones.mixers import FNet

both_methods = pytest.mark.parametrize("method", ["fft", "matmul"])


def definition(x):
    """y = Re(F_N x F_C), both matrices unnormalised, tokens in rows; x (B, H, W, C)."""
    batch, height, width, dim = x.shape
    tokens = x.reshape(batch, height * width, dim).numpy()
    dft_n, dft_c = (np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in (height * width, dim))
    return torch.from_numpy((dft_n @ tokens @ dft_c).real).reshape(x.shape)


@both_methods
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 6), (5, 4, 7), (1, 6, 1), (3, 3, 8)])
def test_equals_the_definition(shape, method):
    x = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(FNet(method)(x), definition(x))


@both_methods
def test_gradients_agree_with_finite_differences(method):
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FNet(method), (x,))


def test_has_no_parameters():
    assert not list(FNet().parameters()) and not FNet().state_dict()


@both_methods
def test_float32_methods_agree_at_the_size_of_a_model(method):
    x = torch.randn(1, 14, 14, 384)
    expected = definition(x.double())
    torch.testing.assert_close(FNet(method)(x).double(), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@both_methods
def test_half_precision_computes_in_float32(method):
    layer = FNet(method)
    x = torch.randn(2, 4, 4, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x.bfloat16()), layer(x.bfloat16().float()).bfloat16())


@both_methods
def test_an_empty_batch_gives_an_empty_batch(method):
    x = torch.empty(0, 4, 4, 8, requires_grad=True)
    y = FNet(method)(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 4, 4, 8)


def test_auto_exports_without_complex_numbers():
    x = torch.randn(2, 4, 4, 8)
    program = torch.export.export(FNet(), (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert "fft" not in str(program.graph)
    x = torch.randn(3, 4, 4, 8)
    torch.testing.assert_close(program.module()(x), FNet()(x), atol=1e-4, rtol=1e-4)


@both_methods
def test_compiles_in_one_graph(method):
    torch.compiler.reset()
    x = torch.randn(2, 4, 4, 8)
    compiled = torch.compile(FNet(method), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), FNet(method)(x))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'dct' is unknown, expected one of auto, fft, matmul"):
        FNet("dct")
