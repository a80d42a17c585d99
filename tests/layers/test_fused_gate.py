"""The fused gate against torch.fft in float64: on CUDA where there is a device, else in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, so without a device one test runs this file again, in a
process that chooses it.
"""

import functools
import itertools
import os
import subprocess
import sys
from math import log2
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones.backbones.flop_handles import HANDLES
from spectral_backbones.backbones.layers import dense_gate, dft, fused_gate, measured
from spectral_backbones.backbones.layers.dense_gate import Dense
from spectral_backbones.backbones.layers.fused_gate import Config, run_gate, run_gate_backward, spectral_gate, to_planes
from spectral_backbones.backbones.mixers import SpectralGating
from spectral_backbones.tools import gpu_parts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytest.importorskip("triton")
computes = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="runs in the interpreter's process")

# Batch, height, width, channels: even, odd, not square, of one row or column, heights of one and of several factors,
# with and without a power of two, and channels that no block divides. The last three are those of the other kernels:
# a prime height above 16, a long side, and two kernels.
SHAPES = [(1, 7, 7, 5), (1, 14, 14, 17), (1, 5, 9, 3), (1, 1, 1, 2), (2, 6, 1, 3), (1, 18, 17, 4), (1, 28, 18, 2)]
SHAPES += [(2, 17, 6, 5), (1, 3, 33, 2), (1, 4, 65, 2)]
CONFIGS = [
    Config(1, 16, 1),
    Config(1, 64, 2, early=True),
    Config(2, 32, 3, split=True),
    Config(4, 16, 2, early=True),
    Dense(32, 4, 1),
    Dense(16, 8, 2, frequencies=16),
    Dense(8, 4, 1, whole=False),
]

if INTERPRETED:  # it holds bfloat16 in integers and would multiply these
    import numpy
    import triton.language
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    _create_dot = InterpreterBuilder.create_dot

    def _decoded(operand):
        if operand.dtype.scalar != triton.language.bfloat16:
            return operand
        values = (operand.data.astype(numpy.uint32) << 16).view(numpy.float32)
        return TensorHandle(values, triton.language.float32)

    InterpreterBuilder.create_dot = lambda self, a, b, *rest: _create_dot(self, _decoded(a), _decoded(b), *rest)


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests run in this process")
def test_the_kernels_are_right_in_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout


def draw(shape, dtype=torch.float32):
    """A float64 gate whose filter is the spectrum of no real kernel, a map and a gradient of its result, in float64
    but exact in `dtype`.
    """
    torch.manual_seed(0)
    _, height, width, dim = shape
    gate = SpectralGating(dim, (height, width), method="fft", dtype=torch.float64, device=DEVICE)
    with torch.no_grad():
        gate.complex_weight.copy_(torch.randn_like(gate.complex_weight).float())
    x, grad = (torch.randn(shape, device=DEVICE).to(dtype).double() for _ in range(2))
    return gate, x, grad


def fused_copy(gate, dtype=torch.float32):
    height, width = gate.grid_size
    copy = SpectralGating(gate.dim, (height, width), method="fused", dtype=dtype, device=DEVICE)
    copy.load_state_dict(gate.state_dict())
    return copy


def gradients(gate, x, grad):
    x = x.detach().requires_grad_()
    y = gate(x)
    return y.detach(), *torch.autograd.grad(y, (x, gate.complex_weight), grad)


def error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


@computes
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_have_float32s_precision(shape):
    gate, x, grad = draw(shape)
    expected = gradients(gate, x, grad)
    actual = gradients(fused_copy(gate), x.float(), grad.float())
    usual = gradients(gate.float(), x.float(), grad.float())
    for ours, torchs, exact in zip(actual, usual, expected):
        assert ours.dtype == torch.float32 and ours.shape == exact.shape
        assert error(ours, exact) < 4 * error(torchs, exact) + 1e-7


@computes
@pytest.mark.parametrize("shape", [(1, 14, 14, 8), (1, 19, 10, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_little_beyond_its_own_rounding(dtype, shape):
    gate, x, grad = draw(shape, dtype)
    expected = gradients(gate, x, grad)
    actual = gradients(fused_copy(gate), x.to(dtype), grad.to(dtype))
    # The interpreter cuts bfloat16 off where the hardware rounds it.
    allowed = 2.2 if INTERPRETED and dtype == torch.bfloat16 else 1.5
    for ours, exact in zip(actual[:2], expected):
        assert ours.dtype == dtype
        assert error(ours, exact) < allowed * error(exact.to(dtype), exact) + 5e-4
    assert error(actual[2], expected[2]) < 2e-3


@functools.lru_cache
def divided(conjugate, config=None):
    """A result and its gradients, by a division of the work, of whichever kernels, or the usual one."""
    gate, x, grad = draw((2, 4, 5, 18))
    x, grad = x.float(), grad.float()
    weight = gate.complex_weight.float().detach().requires_grad_()
    planes = dense_gate.arrange(weight) if isinstance(config, Dense) else to_planes(weight, 4, 5)
    y = run_gate(x, planes.detach(), conjugate, config)
    grad_x, grad_planes = run_gate_backward(grad, x, planes.detach(), conjugate, config)
    return y, grad_x, *torch.autograd.grad(planes, weight, grad_planes)


@computes
@pytest.mark.parametrize(
    ("config", "conjugate"), list(zip(CONFIGS, [False, True, True, False, True, False, True], strict=True))
)
def test_the_division_of_the_work_changes_nothing(config, conjugate):
    torch.testing.assert_close(divided(conjugate, config), divided(conjugate))


@computes
def test_gradients_are_the_same_in_every_run():
    gate, x, grad = draw((2, 4, 5, 4))
    gate = fused_copy(gate)
    first, second = (gradients(gate, x.float(), grad.float()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@computes
@pytest.mark.parametrize("shape", [(1, 5, 6, 3), (1, 17, 3, 2)])
def test_gradients_of_gradients_are_those_of_the_fft(shape):
    gate, x, grad = draw(shape)

    def penalty(gate, x, grad):
        x = x.requires_grad_()
        first = torch.autograd.grad(gate(x).pow(3).sum(), (x, gate.complex_weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, gate.complex_weight))

    expected = penalty(gate, x.clone(), grad)
    actual = penalty(fused_copy(gate), x.float(), grad.float())
    assert all(error(a, b) < 1e-5 for a, b in zip(actual, expected))


@computes
def test_a_frozen_filter_lets_gradients_through():
    gate, x, grad = draw((1, 5, 6, 3))
    _, expected, _ = gradients(gate, x, grad)
    frozen = fused_copy(gate).requires_grad_(False)
    x = x.float().requires_grad_()
    frozen(x).backward(grad.float())
    assert error(x.grad, expected) < 1e-6


@computes
def test_other_grids_layouts_and_modes():
    gate, _, _ = draw((2, 7, 5, 4))
    fused = fused_copy(gate)
    channels_first = torch.randn(1, 4, 7, 5), torch.randn(1, 4, 17, 5)
    resampled = torch.randn(1, 9, 6, 4), torch.randn(0, 7, 5, 4), torch.randn(0, 17, 5, 4)
    for values in (*resampled, *(maps.permute(0, 2, 3, 1) for maps in channels_first)):
        values = values.to(DEVICE)
        for mode in (True, False):
            actual = fused.train(mode)(values)
            with torch.no_grad():
                assert torch.equal(fused(values), actual)
            assert actual.shape == values.shape
            if values.numel():
                assert error(actual, gate(values.double())) < 1e-6


@computes
def test_what_the_operator_does_not_cover_goes_through_the_fft():
    gate, x, _ = draw((1, 5, 6, 3))
    fused = fused_copy(gate, torch.float64)
    assert torch.equal(fused(x), gate(x))
    for grid in ((4, dense_gate.LONGEST + 1), (dense_gate.WHOLE + 1, 4)):
        large = torch.randn(1, *grid, 3, device=DEVICE)
        assert not dense_gate.can_transform(large)
        assert error(fused(large), gate(large.double())) < 1e-5
    assert dense_gate.can_transform(large.half())
    single = fused_copy(gate)
    mapped = torch.vmap(single)(torch.stack([x, x]).float())
    assert error(mapped[1], gate(x)) < 1e-6
    primal, tangent = torch.func.jvp(single, (x.float(),), (x.float(),))
    torch.testing.assert_close(primal, tangent)  # it is linear


@computes
@pytest.mark.parametrize("height", [5, 17])
def test_the_operator_is_registered_as_torch_asks(height):
    planes = to_planes(torch.randn(height, 3, 3, 2, device=DEVICE), height, 4).requires_grad_()
    x = torch.randn(2, height, 4, 3, device=DEVICE, requires_grad=True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(spectral_gate, (x, planes, False), test_utils=tests)


@computes
def test_a_compiler_and_an_exporter_see_one_node():
    gate, x, _ = draw((1, 5, 6, 3))
    fused, x = fused_copy(gate).eval(), x.float()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), fused(x))
    graph = torch.export.export(fused, (x,)).graph
    assert [node for node in graph.nodes if "spectral_gate" in str(node.target)]
    assert not [node for node in graph.nodes if "fft" in str(node.target)]


@computes
def test_its_operations_are_counted():
    x = torch.randn(2, 6, 8, 3, device=DEVICE, requires_grad=True)
    gate = SpectralGating(3, (6, 8), method="fused", device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        gate(x).sum().backward()
    transform = 2 * 5 * 8 * 6  # cosines and sines along W of 6 rows
    assert counter.get_total_flops() == 2 * 2 * 3 * (2 * transform + 3 * transform)
    gate = SpectralGating(3, (17, 8), method="fused", device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        gate(torch.randn(2, 17, 8, 3, device=DEVICE)).sum().backward()
    transform = 2 * 5 * 8 * 17 + 4 * 5 * 17 * 17  # and along H the products of complex numbers
    assert counter.get_total_flops() == 2 * 2 * 3 * (2 * transform + 3 * transform)


@computes
def test_fvcore_counts_it_as_executed():
    jit_analysis = pytest.importorskip("fvcore.nn.jit_analysis")
    gate = SpectralGating(3, (6, 8), method="fused", device=DEVICE).eval()
    counted = jit_analysis.JitModelAnalysis(gate, torch.randn(2, 6, 8, 3, device=DEVICE)).set_op_handle(**HANDLES)
    assert counted.by_operator()["matmul"] == 2 * 2 * 3 * 2 * (2 * 5 * 8 * 6)
    assert counted.by_operator()["fft"] == 2 * round(5 * 6 * log2(6) * 2 * 3 * 5)
    assert counted.by_operator()["complex product"] == 6 * 2 * 3 * 6 * 5


@computes
def test_the_check_of_a_gpu_finds_all_kernels_right():
    rows = list(gpu_parts.gate_errors(gpu_parts.Place(torch.device(DEVICE), 600)))
    assert {row["what"].split()[0] for row in rows} >= {"2x4x5x8", "1x17x3x2"} or DEVICE == "cuda"
    assert all(row["ok"] for row in rows), rows


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled there")
def test_a_map_of_64_x_64_is_compiled_in_seconds_and_fits_on_a_card(tmp_path):
    triton = pytest.importorskip("triton")
    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not disassembler.exists():
        pytest.skip("this Triton comes without NVIDIA's tools")
    code = f"""
import os, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from spectral_backbones.backbones.layers.dense_gate_kernels import map_kernel as kernel
given = dict(H=64, W=64, DIM=384, H_BLOCK=64, W_BLOCK=64, COLUMNS=64, ALL=48, F=8, C=4, KEPT=True, CONJUGATE=False,
    PRECISION="half")
names = dict(x_pointer="*bf16", y_pointer="*bf16", filter_pointer="*fp32", tables_pointer="*fp32", batch="i32",
    images="i32")
signature = {{name: names.get(name, "constexpr") for name in kernel.arg_names}}
places = {{name: (i,) for i, name in enumerate(kernel.arg_names)}}
aligned = {{places[name]: [["tt.divisibility", 16]] for name, kind in names.items() if kind[0] == "*"}}
source = ASTSource(kernel, signature, {{places[name]: value for name, value in given.items()}}, aligned)
start = sum(os.times()[:4])
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=8))
open({str(tmp_path / "kernel.cubin")!r}, "wb").write(compiled.asm["cubin"])
print(compiled.metadata.shared, sum(os.times()[:4]) - start)  # with the assembler's processes
"""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    shared, seconds = map(float, run.stdout.split())
    assert shared <= dense_gate.WHOLE_HALF and seconds < 60
    given = [str(disassembler), "-res-usage", str(tmp_path / "kernel.cubin")]
    usage = subprocess.run(given, capture_output=True, text=True, check=True).stdout
    assert int(usage.partition("STACK:")[2].split()[0]) <= 64  # bytes: a few addresses, outside of the inner loop


# Without a kernel -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="there it can run")
def test_without_cuda_it_is_refused_with_what_is_missing():
    gate = SpectralGating(4, (5, 5), method="fused")
    with pytest.raises(ValueError, match=r"needs Triton and a CUDA device: maps are on 'cpu'"):
        gate(torch.randn(1, 5, 5, 4))


def test_without_triton_it_is_refused_with_what_is_missing(monkeypatch):
    monkeypatch.setattr(fused_gate.importlib.util, "find_spec", lambda name: None)
    gate = SpectralGating(4, (5, 5), method="fused")
    with pytest.raises(ValueError, match=r"needs Triton and a CUDA device: Triton is not installed"):
        gate(torch.randn(1, 5, 5, 4))


def test_with_an_older_triton_it_is_refused_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(fused_gate, "triton_version", lambda: (3, 3))
    gate = SpectralGating(4, (5, 5), method="fused")
    with pytest.raises(ValueError, match=r"Triton 3\.6 or later is needed, .* and 3\.3 is installed"):
        gate(torch.randn(1, 5, 5, 4))


def test_shapes_are_known_without_values():
    gate = SpectralGating(4, (5, 5), method="fused", device="meta")
    assert gate(torch.empty(2, 5, 5, 4, device="meta")).shape == (2, 5, 5, 4)


def test_auto_takes_only_what_was_measured(monkeypatch):
    class Card:
        type = "cuda"

    class Map:
        shape, dtype, device = (128, 14, 14, 384), torch.bfloat16, Card()

    table = {(9, 0): {(14, 14, torch.bfloat16): measured.Measured(1000, ("fused",))}}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(measured, "MEASURED", table)
    assert measured.is_measured_faster("fused", Map())
    assert not measured.is_measured_faster("matmul", Map())
    assert not dft.uses_matmul("auto", Map())
    for changed in (dict(shape=(128, 14, 13, 384)), dict(dtype=torch.float32), dict(shape=(1, 14, 14, 384))):
        assert not measured.is_measured_faster("fused", type("Other", (Map,), changed)())
    table[9, 0][14, 14, torch.bfloat16] = measured.Measured(1000, ("fused", "matmul"))
    assert dft.uses_matmul("auto", Map())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert not measured.is_measured_faster("fused", Map()) and not dft.uses_matmul("auto", Map())
    assert not measured.is_measured_faster("fused", torch.empty(128, 14, 14, 384, dtype=torch.bfloat16, device="meta"))


def test_a_compiler_with_gradients_takes_what_was_measured_for_it_while_products_are_exact(monkeypatch):
    class Map:
        shape, dtype, device = (128, 14, 14, 384), torch.float32, type("Card", (), {"type": "cuda"})

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    chosen = measured.Measured(1000, ("fused",), compiled_training=("matmul",))
    monkeypatch.setattr(measured, "MEASURED", {(9, 0): {(14, 14, torch.float32): chosen}})

    def methods():
        return [method for method in ("fused", "matmul") if measured.is_measured_faster(method, Map())]

    assert methods() == ["fused"]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert methods() == ["matmul"]
    with torch.no_grad():
        assert methods() == ["fused"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert methods() == ["fused"]


def test_what_was_measured_without_gradients_alone_is_taken_without_them_alone(monkeypatch):
    class Map:
        shape, dtype, device = (16, 24, 24, 384), torch.bfloat16, type("Card", (), {"type": "cuda"})

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    table = {(9, 0): {(24, 24, torch.bfloat16): measured.Measured(1000, ("matmul",), inference=("fused",))}}
    monkeypatch.setattr(measured, "MEASURED", table)
    assert not measured.is_measured_faster("fused", Map())
    with torch.no_grad():
        assert measured.is_measured_faster("fused", Map())
        assert measured.is_measured_faster("matmul", Map())  # where the operator cannot run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [3, 384])
@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (28, 28), (30, 31), (13, 5)])
def test_a_program_holds_whole_rows_and_no_more_images_than_there_are(grid, dim, dtype):
    x = torch.empty(128, *grid, dim, dtype=dtype, device="meta")
    for backward in (False, True):
        config = fused_gate.config_for(x, backward)
        assert grid[0] % config.rows == 0 and config.channels % fused_gate.CHANNELS == 0
        assert config.warps in (1, 2, 4)
        assert grid[0] // config.rows <= fused_gate.MOST_TENSORS
        assert 1 <= config.images <= 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [(17, 5), (64, 64), (40, 100), (3, 33), (128, 9)])
def test_a_map_is_held_whole_where_its_sides_and_the_shared_memory_allow(grid, dtype, monkeypatch):
    x = torch.empty(16, *grid, 96, dtype=dtype, device="meta")
    config, for_filter = (dense_gate.config_for(x, backward) for backward in (False, True))
    assert config.whole == (max(grid) <= dense_gate.WHOLE) and not for_filter.whole
    for each in (config, for_filter):
        assert each.warps in (4, 8) and each.channels in (4, 8, 16) and 1 <= each.images <= 16
    monkeypatch.setattr(dense_gate, "_shared_memory", lambda device: 99 * 1024)  # of a smaller card
    smaller = dense_gate.config_for(x, backward=False)
    assert smaller.whole == (config.whole and dtype != torch.float32)


@pytest.mark.parametrize("grid", [(7, 7), (6, 5), (1, 1), (2, 9)])
def test_planes_hold_the_whole_filter_and_zeros(grid):
    height, width = grid
    weight = torch.randn(height, width // 2 + 1, 19, 2)
    planes = to_planes(weight, height, width)
    for c, k, f, part in itertools.product(range(19), range(height), range(width // 2 + 1), (0, 1)):
        block, c_in_block = divmod(c, 16)
        high, low = divmod(c_in_block, 8)
        assert planes[block, k, f // 4, low, f % 4, high, part] == weight[k, f, c, part]
    assert planes.count_nonzero() == weight.count_nonzero()
