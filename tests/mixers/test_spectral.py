"""The spectral gate: right on any grid, by both methods, in every precision, compiled and exported."""

import copy
import io
import pickle
import re
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models import create_feature_extractor

from spectral_backbones.backbones.layers import dft
from spectral_backbones.backbones.mixers import SpectralGating

METHODS = ["fft", "matmul"]
GRIDS = [(1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (5, 6), (6, 5), (7, 7), (8, 8), (4, 9)]
both_methods = pytest.mark.parametrize("method", METHODS)


def reference(x, weight):
    """The official gate in numpy: what torch computes on the CPU, written out.

    x (B, H, W, C), weight (H, F, C, 2) -> (B, H, W, C).
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight.detach(), np.float64)
    width = x.shape[2]
    spectrum = np.fft.rfft2(x, axes=(1, 2), norm="ortho") * (weight[..., 0] + 1j * weight[..., 1])
    spectrum = np.fft.ifft(spectrum, axis=1, norm="ortho")  # complex along H
    # Real along W: every bin but 0 and W / 2 counts twice, those two have no imaginary part.
    result = np.zeros_like(x)
    position = np.arange(width)[:, None]
    for frequency in range(width // 2 + 1):
        column = spectrum[:, :, frequency : frequency + 1]
        angle = 2 * np.pi * frequency * position / width
        if 2 * frequency % width == 0:
            result += column.real * np.cos(angle)
        else:
            result += 2 * (column.real * np.cos(angle) - column.imag * np.sin(angle))
    return torch.from_numpy(result / np.sqrt(width))


def resampled(weight, grid, mode):
    """Real and imaginary part as images, corners aligned."""
    size = (grid[0], grid[1] // 2 + 1)
    parts = [weight[..., i].detach().permute(2, 0, 1)[None] for i in range(2)]  # 1 C H F
    parts = [F.interpolate(part, size, mode=mode, align_corners=True)[0].permute(1, 2, 0) for part in parts]
    return torch.stack(parts, -1)


def gate_of(dim=3, grid_size=(6, 5), method="auto", dtype=None, **kwargs):
    gate = SpectralGating(dim, grid_size, method=method, dtype=dtype, **kwargs)
    torch.nn.init.normal_(gate.complex_weight)  # not Hermitian
    return gate


def fresh(gate, x):
    """What a copy without any memory computes."""
    with torch.no_grad():
        return copy.deepcopy(gate)(x)


# The function ----------------------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("grid", GRIDS)
def test_equals_the_reference_for_filters_that_are_not_hermitian(grid, method):
    gate = gate_of(grid_size=grid, method=method, dtype=torch.float64)
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    torch.testing.assert_close(gate(x), reference(x, gate.complex_weight), atol=1e-12, rtol=1e-12)


@both_methods
@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (28, 28), (12, 17)])
def test_float32_is_close_to_the_reference(grid, method):
    gate = gate_of(grid_size=grid, method=method)
    x = torch.randn(2, *grid, 3)
    torch.testing.assert_close(gate(x).double(), reference(x, gate.complex_weight), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(6, 5), (6, 6), (9, 8), (1, 2)])
def test_the_filter_is_made_the_spectrum_of_a_real_kernel(grid):
    """So that no library's inverse, of which some differ on other spectra, has anything to decide."""
    spectrum = torch.view_as_complex(gate_of().filter(*grid, torch.float64))
    full = torch.fft.fft2(torch.fft.irfft2(spectrum, s=grid, dim=(0, 1)), dim=(0, 1))  # of a real kernel
    torch.testing.assert_close(spectrum, full[:, : grid[1] // 2 + 1])


def test_is_a_circular_convolution_with_the_kernel_of_its_filter():
    gate = gate_of(grid_size=(4, 5), dtype=torch.float64)
    x = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    kernel = torch.fft.irfft2(torch.view_as_complex(gate.filter(4, 5, torch.float64)), s=(4, 5), dim=(0, 1))
    expected = torch.zeros_like(x)
    for i in range(4):
        for j in range(5):
            expected += kernel[i, j] * x.roll((i, j), (1, 2))
    torch.testing.assert_close(gate(x), expected)


@both_methods
def test_images_of_a_batch_do_not_mix(method):
    gate = gate_of(method=method)
    x = torch.randn(3, 6, 5, 3)
    torch.testing.assert_close(gate(x)[1:2], gate(x[1:2]))


@both_methods
@pytest.mark.parametrize("grid", [(6, 5), (9, 8), (1, 1), (1, 2)])
def test_an_empty_batch_gives_an_empty_batch(method, grid):
    """With its gradient, which for the filter is zero: a process without images must not keep others waiting."""
    gate = gate_of(method=method)
    x = torch.empty(0, *grid, 3, requires_grad=True)
    y = gate(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert not gate.complex_weight.grad.any()


@both_methods
def test_any_memory_layout_gives_the_same(method):
    gate = gate_of(method=method)
    x = torch.randn(2, 6, 5, 3)
    as_nchw = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not as_nchw.is_contiguous()
    torch.testing.assert_close(gate(as_nchw), gate(x))
    torch.testing.assert_close(gate(x.repeat(1, 1, 1, 2)[..., ::2]), gate(x.repeat(1, 1, 1, 2)[..., ::2].contiguous()))


def test_starts_as_gfnet_does():
    weight = SpectralGating(64, (14, 14)).complex_weight
    assert weight.shape == (14, 8, 64, 2)
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(weight.mean().item()) < 0.001


# Other grids -----------------------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("grid", [(9, 8), (3, 4), (6, 9), (1, 1), (12, 5)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_another_grid_takes_the_resampled_filter(grid, method, interpolation):
    gate = gate_of(grid_size=(6, 5), method=method, dtype=torch.float64, interpolation=interpolation)
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    expected = reference(x, resampled(gate.complex_weight, grid, interpolation))
    for train in (True, False):
        torch.testing.assert_close(gate.train(train)(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(gate(x), expected)


def test_a_filter_is_resampled_bicubically_unless_asked_otherwise():
    assert SpectralGating(3).interpolation == "bicubic"
    with pytest.raises(ValueError, match=r"'nearest'.*bicubic, bilinear"):
        SpectralGating(3, interpolation="nearest")


@pytest.mark.parametrize("grid", [(9, 8), (3, 4), (6, 9), 7])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_set_grid_size_resamples_the_stored_filter_as_the_forward_pass_does(grid, interpolation):
    gate = gate_of(grid_size=(6, 5), dtype=torch.float64, interpolation=interpolation)
    size = (grid, grid) if isinstance(grid, int) else grid
    expected = resampled(gate.complex_weight, size, interpolation)
    gate.set_grid_size(grid)
    assert gate.complex_weight.is_contiguous()
    assert gate.grid_size == size
    torch.testing.assert_close(gate.complex_weight.detach(), expected)
    assert isinstance(gate.complex_weight, torch.nn.Parameter)
    x = torch.randn(1, *size, 3, dtype=torch.float64)
    torch.testing.assert_close(gate(x), reference(x, expected))


def test_set_grid_size_keeps_dtype_and_whether_the_filter_learns():
    gate = gate_of().to(torch.bfloat16).requires_grad_(False)
    gate.set_grid_size((9, 9))
    assert gate.complex_weight.dtype == torch.bfloat16
    assert not gate.complex_weight.requires_grad


# Gradients -------------------------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (5, 6)], ids=["own grid", "smaller W", "larger"])
def test_gradients_agree_with_finite_differences(grid, method):
    gate = gate_of(dim=2, grid_size=(3, 4), method=method, dtype=torch.float64)
    x = torch.randn(2, *grid, 2, dtype=torch.float64, requires_grad=True)

    def function(x, weight):
        return torch.func.functional_call(gate, {"complex_weight": weight}, (x,))

    assert torch.autograd.gradcheck(function, (x, gate.complex_weight))


def test_both_methods_have_the_same_gradients():
    grads = []
    fft, matmul = gate_of(dim=8, grid_size=(14, 14), method="fft"), gate_of(dim=8, grid_size=(14, 14), method="matmul")
    matmul.load_state_dict(fft.state_dict())
    x = torch.randn(2, 14, 14, 8)
    for gate in (fft, matmul):
        leaf = x.clone().requires_grad_()
        gate(leaf).square().sum().backward()
        grads.append((leaf.grad, gate.complex_weight.grad))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-3, rtol=1e-4)


def test_a_filter_can_learn_a_circular_shift():
    gate = SpectralGating(2, (4, 4))
    x = torch.randn(64, 4, 4, 2)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(100):
        loss = (gate(x) - x.roll((1, 2), (1, 2))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


@both_methods
def test_transforms_of_torch_func_reach_the_filter_in_evaluation(method):
    gate = gate_of(method=method).eval()
    x = torch.randn(2, 6, 5, 3)
    weight, tangent = gate.complex_weight.detach(), torch.randn_like(gate.complex_weight)

    def function(weight):
        return torch.func.functional_call(gate, {"complex_weight": weight}, (x,))

    with torch.no_grad():
        plain, expected = function(weight), function(tangent)  # the gate is linear in its filter
        # An ensemble of two filters.
        torch.testing.assert_close(torch.vmap(function)(torch.stack([weight, tangent]))[1], expected)
        torch.testing.assert_close(torch.func.jvp(function, (weight,), (tangent,)), (plain, expected))
        with torch.autograd.forward_ad.dual_level():
            function(weight)  # is kept, and has the memory and the version of the dual number below
            dual = function(torch.autograd.forward_ad.make_dual(weight, tangent))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)
        torch.testing.assert_close(function(weight), plain)


# What evaluation keeps -------------------------------------------------------------------------------------------


def count_preparations(gate, monkeypatch):
    calls = []
    prepare = gate._prepared

    def counted(*args):
        calls.append(args[:2])
        return prepare(*args)

    monkeypatch.setattr(gate, "_prepared", counted)
    return calls


@torch.no_grad()
@both_methods
def test_evaluation_resamples_the_filter_once_for_a_grid(method, monkeypatch):
    gate = gate_of(method=method).eval()
    grids = [(5, 6), (9, 5), (9, 9)]
    maps = [torch.randn(1, *grid, 3) for grid in grids * 2]
    expected = [fresh(gate, x) for x in maps]
    calls = count_preparations(gate, monkeypatch)
    for x, y in zip(maps, expected):
        assert torch.equal(gate(x), y)
    assert calls == grids


@torch.no_grad()
def test_what_is_kept_for_one_dtype_or_method_does_not_serve_another():
    gate = gate_of().eval()
    x = torch.randn(1, 6, 5, 3)
    for gate.method in METHODS * 2:
        for map_of_a_dtype in (x, x.double(), x.bfloat16()):
            assert torch.equal(gate(map_of_a_dtype), fresh(gate, map_of_a_dtype))


def test_passes_with_gradients_prepare_the_filter_every_time(monkeypatch):
    gate = gate_of().eval()
    calls = count_preparations(gate, monkeypatch)
    for _ in range(3):
        gate.complex_weight.grad = None
        gate(torch.randn(1, 6, 5, 3)).sum().backward()
        assert gate.complex_weight.grad.abs().sum() > 0
    assert len(calls) == 3


def _step(**kwargs):
    def change(gate):
        gate(torch.randn(1, 6, 5, 3)).square().sum().backward()
        torch.optim.AdamW(gate.parameters(), lr=1.0, **kwargs).step()

    return change


def _in_place(gate):
    with torch.no_grad():
        gate.complex_weight.mul_(2)


def _in_inference_mode(gate):
    with torch.inference_mode():
        gate.complex_weight.mul_(2)


def _data_copy(mode):
    def change(gate):
        gate.complex_weight.data.copy_(torch.randn_like(gate.complex_weight))
        gate.train(mode)

    return change


def _load(assign):
    def change(gate):
        gate.load_state_dict(gate_of().state_dict(), assign=assign)

    return change


def _assign_data(gate):
    gate.complex_weight.data = torch.randn_like(gate.complex_weight)


def _replace(gate):
    gate.complex_weight = torch.nn.Parameter(torch.randn_like(gate.complex_weight))


def _by_data(gate):
    gate.complex_weight.data.mul_(2)


def _by_numpy(gate):
    gate.complex_weight.detach().numpy()[0, 0, 0, 0] += 1


def _by_swapping(gate):
    torch.utils.swap_tensors(gate.complex_weight, torch.nn.Parameter(torch.randn_like(gate.complex_weight)))


def _parametrise(gate):
    torch.nn.utils.parametrize.register_parametrization(gate, "complex_weight", torch.nn.Tanh())


CHANGES = {
    "data in place": _by_data,
    "one value through numpy": _by_numpy,
    "swapped tensors": _by_swapping,
    "parametrised": _parametrise,
    "optimizer step": _step(foreach=False),
    "foreach optimizer step": _step(foreach=True),
    "fused optimizer step": _step(fused=True),
    "in place": _in_place,
    "in place in inference mode": _in_inference_mode,
    "load_state_dict": _load(False),
    "load_state_dict assigning": _load(True),
    "data assigned": _assign_data,
    "parameter replaced": _replace,
    "data copied, then eval()": _data_copy(False),
    "data copied, then train()": _data_copy(True),
    "set_grid_size": lambda gate: gate.set_grid_size((4, 4)),
    "another dtype": lambda gate: gate.to(torch.bfloat16),
    "other parameters initialised": lambda gate: gate.reset_parameters(),
}


@both_methods
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grid", [(6, 5), (8, 8)], ids=["own grid", "other grid"])
def test_what_is_kept_is_never_stale(change, grid, method):
    gate = gate_of(method=method).eval()
    x = torch.randn(2, *grid, 3)
    with torch.no_grad():
        before = gate(x)
    CHANGES[change](gate)
    with torch.no_grad():
        after = gate(x)
    assert not torch.equal(after, before)
    assert torch.equal(after, fresh(gate, x))


def test_reentrant_checkpointing_with_a_fused_optimizer_sees_each_step():
    """Its first pass runs without gradients, so it may keep the filter, and the step leaves no version behind."""
    gate = gate_of().train()
    x = torch.randn(2, 6, 5, 3, requires_grad=True)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        y = torch.utils.checkpoint.checkpoint(gate, x, use_reentrant=True)
        assert torch.equal(y.detach(), fresh(gate, x))
        y.square().sum().backward()
        optimizer.step()


def test_moving_to_meta_and_back_forgets_the_filter():
    gate = gate_of().eval()
    x = torch.randn(1, 6, 5, 3)
    state = gate_of().state_dict()
    with torch.no_grad():
        gate(x)
        gate.to("meta")
        assert gate(x.to("meta")).shape == x.shape
        gate.to_empty(device="cpu").load_state_dict(state)
        assert torch.equal(gate(x), fresh(gate, x))


@both_methods
def test_what_inference_mode_kept_serves_a_pass_with_gradients(method):
    gate = gate_of(method=method).eval().requires_grad_(False)  # a frozen stage
    x = torch.randn(1, 8, 8, 3)
    with torch.inference_mode():
        expected = gate(x)
    x.requires_grad_()
    y = gate(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), expected.clone())
    assert x.grad.abs().sum() > 0


@torch.no_grad()
def test_what_is_kept_is_bounded():
    gate = gate_of().eval()
    for n in range(1, 20):
        gate(torch.randn(1, n, 5, 3))
    assert len(gate._cache) == gate._cache.max_entries


@torch.no_grad()
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda gate: pickle.loads(pickle.dumps(gate)), lambda gate: _through_torch_save(gate)],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_work_and_start_with_nothing_kept(duplicate):
    gate = gate_of().eval()
    x = torch.randn(1, 8, 8, 3)
    expected = gate(x)
    twin = duplicate(gate)
    assert len(gate._cache) == 1
    assert len(twin._cache) == 0
    assert torch.equal(twin(x), expected)
    twin.complex_weight.zero_()
    assert not twin(x).any()
    assert torch.equal(gate(x), expected)


def _through_torch_save(gate):
    file = io.BytesIO()
    torch.save(gate, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@torch.no_grad()
def test_the_state_dict_holds_the_filter_alone():
    gate = gate_of().eval()
    gate(torch.randn(1, 8, 8, 3))
    assert list(gate.state_dict()) == ["complex_weight"]


def test_threads_may_share_a_gate():
    gate = gate_of().eval()
    maps = [torch.randn(1, 4 + i, 5, 3) for i in range(8)]  # more grids than are kept
    expected = [fresh(gate, x) for x in maps]
    wrong = []

    @torch.no_grad()
    def work(offset):
        for i in range(120):
            k = (i + offset) % len(maps)
            if i % 16 == offset:
                gate.eval()  # clears what is kept, while others use it
            try:
                if not torch.equal(gate(maps[k]), expected[k]):
                    wrong.append(k)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(offset,), daemon=True) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


# Precision -------------------------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_transform(dtype, method):
    gate = gate_of(dim=8, grid_size=(14, 14), method=method)
    for grid in [(14, 14), (9, 12)]:
        x = torch.randn(2, *grid, 8)
        expected = gate(x)
        with torch.autocast("cpu", dtype):
            assert torch.equal(gate(x), expected)
            half = gate(x.to(dtype))
        assert half.dtype == dtype
        torch.testing.assert_close(half, gate(x.to(dtype).float()).to(dtype))


@both_methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_gate_rounds_only_input_filter_and_result(dtype, method):
    gate = gate_of(dim=8, grid_size=(14, 14), method=method).to(dtype)
    for grid in [(14, 14), (9, 12)]:
        x = torch.randn(2, *grid, 8).to(dtype)
        y = gate(x)
        assert y.dtype == dtype
        weight = resampled(gate.complex_weight.float(), grid, "bicubic")
        torch.testing.assert_close(y, reference(x.float(), weight).to(dtype))


@both_methods
def test_gradients_reach_a_bfloat16_gate_in_its_dtype(method):
    gate = gate_of(method=method).to(torch.bfloat16)
    x = torch.randn(2, 6, 5, 3, dtype=torch.bfloat16, requires_grad=True)
    gate(x).sum().backward()
    assert x.grad.dtype == gate.complex_weight.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all() and gate.complex_weight.grad.abs().sum() > 0


@both_methods
def test_a_float64_map_is_computed_in_float64_whatever_the_filter_is(method):
    gate = gate_of(method=method)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    assert gate(x).dtype == torch.float64
    torch.testing.assert_close(gate(x), reference(x, gate.complex_weight), atol=1e-12, rtol=1e-12)


# Compilers and exporters -----------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize(("grid", "backend"), [((6, 5), "eager"), ((8, 8), "aot_eager")])
def test_compiles_in_one_graph_forward_and_backward(method, grid, backend):
    torch.compiler.reset()
    gate = gate_of(grid_size=(6, 5), method=method)
    compiled = torch.compile(gate, fullgraph=True, backend=backend)
    x = torch.randn(2, *grid, 3)
    results = []
    for function in (gate, compiled):
        leaf = x.clone().requires_grad_()
        gate.zero_grad()
        y = function(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad, gate.complex_weight.grad.clone()))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_compiled_gate_sees_changed_weights_in_evaluation():
    torch.compiler.reset()
    gate = gate_of().eval()
    compiled = torch.compile(gate, fullgraph=True, backend="eager")
    x = torch.randn(1, 6, 5, 3)
    compiled(x)
    _in_place(gate)
    torch.testing.assert_close(compiled(x), fresh(gate, x))


@both_methods
@pytest.mark.parametrize("grid", [(6, 5), (8, 8)], ids=["own grid", "other grid"])
def test_exports_with_a_dynamic_batch(grid, method):
    gate = gate_of(method=method).eval()
    example = torch.randn(2, *grid, 3)
    program = torch.export.export(gate, (example,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    x = torch.randn(5, *grid, 3)
    torch.testing.assert_close(program.module()(x), gate(x))


def test_gates_of_a_grid_share_the_constants_of_a_graph_that_can_be_saved():
    model = torch.nn.Sequential(*(gate_of(grid_size=grid, method="matmul") for grid in [(6, 5), (6, 5), (8, 8)]))
    example = torch.randn(2, 6, 5, 3)
    dft._kept_matrices.cache_clear()  # the exporter is the first to ask
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert len(program.constants) == 4  # the third gate is used on the grid of the others
    computed = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {name for name in computed if re.search(r"arange|cos|sin|grad_enabled", name)}
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    x = torch.randn(3, 6, 5, 3, requires_grad=True)
    expected = model(x)  # with what the exporter kept
    torch.testing.assert_close(torch.export.load(file).module()(x), expected)
    expected.sum().backward()


@torch.no_grad()
def test_auto_exports_without_complex_numbers_on_any_grid():
    gate = gate_of(grid_size=(56, 56)).eval()
    x = torch.randn(2, 56, 56, 3)
    assert "fft" in str(torch.export.export(gate_of(grid_size=(56, 56), method="fft"), (x,)).graph)
    program = torch.export.export(gate, (x,))
    assert "fft" not in str(program.graph)
    assert not any(value.is_complex() for node in program.graph.nodes if (value := _tensor_of(node)) is not None)
    torch.testing.assert_close(program.module()(x), gate(x), atol=1e-5, rtol=1e-5)


def _tensor_of(node):
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


@torch.no_grad()
def test_onnxruntime_computes_the_same(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    gate = gate_of(grid_size=(6, 5)).eval()
    example = torch.randn(2, 7, 8, 3)  # another grid: resampling is exported too
    gate(example)  # what evaluation keeps must not become part of the graph
    path = tmp_path / "gate.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own dependencies
        torch.onnx.export(
            gate, (example,), path, dynamo=True, verbose=False, dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 7, 8, 3)
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), gate(x), atol=1e-5, rtol=1e-5)


@both_methods
def test_a_scripted_gate_computes_the_same_on_any_grid(method):
    gate = gate_of(method=method)
    scripted = torch.jit.script(gate)
    for grid in [(6, 5), (8, 8)]:
        x = torch.randn(2, *grid, 3)
        torch.testing.assert_close(scripted(x), gate(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*is deprecated")
@torch.no_grad()
def test_a_traced_gate_follows_its_weights():
    gate = gate_of().eval()
    x = torch.randn(1, 8, 8, 3)
    gate(x)
    traced = torch.jit.trace(gate, (x,))
    gate.complex_weight.mul_(2)
    torch.testing.assert_close(traced(x), fresh(gate, x))


@torch.no_grad()
def test_fx_takes_the_gate_as_a_leaf():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), gate_of(), torch.nn.Linear(3, 3)).eval()
    graph = create_feature_extractor(model, {"1": "filtered"})
    x = torch.randn(2, 8, 7, 3)  # not the grid it was made for
    torch.testing.assert_close(graph(x)["filtered"], model[:2](x))


# Errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"'FFT' is unknown, expected one of auto, fft, matmul"):
        SpectralGating(3, method="FFT")


@pytest.mark.parametrize("grid_size", [(0, 5), (5, 0), 0, (-1, 3), (4, 4, 4)])
def test_an_empty_or_misshapen_grid_is_refused(grid_size):
    with pytest.raises(ValueError, match="at least"):
        SpectralGating(3, grid_size)
    gate = gate_of()
    with pytest.raises(ValueError, match=r"grid_size must be \(H, W\) of at least \(1, 1\)"):
        gate.set_grid_size(grid_size)
    assert gate.grid_size == (6, 5)


@both_methods
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (2, 30, 3), (2, 0, 5, 3), (2, 6, 0, 3), (2, 3, 6, 5)])
def test_a_map_of_another_shape_is_refused_with_its_shape(shape, method):
    with pytest.raises(ValueError, match=r"expected a map \(B, H, W, 3\).*got \[2, "):
        gate_of(method=method)(torch.empty(shape))


def test_repr_says_what_matters():
    assert repr(gate_of(method="fft")) == "SpectralGating(3, grid_size=(6, 5), method=fft)"
