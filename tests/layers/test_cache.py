"""The cache of evaluation: what it keeps, and when it must not."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones.backbones.layers import EvalCache


class Doubled:
    """A cached function of a parameter, counted."""

    def __init__(self, **kwargs):
        self.cache = EvalCache(**kwargs)
        self.calls = 0

    def __call__(self, source, key="key"):
        return self.cache.get(key, source, lambda: self._compute(source))

    def _compute(self, source):
        self.calls += 1
        return source * 2


@pytest.fixture
def doubled():
    return Doubled()


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.randn(3))


@torch.no_grad()
def test_a_value_is_computed_once_for_a_key(doubled, parameter):
    first = doubled(parameter, "a")
    assert doubled(parameter, "a") is first
    assert doubled(parameter, "b") is not first
    assert doubled.calls == 2


def test_nothing_is_kept_where_a_gradient_has_to_reach_the_parameter(doubled, parameter):
    doubled(parameter).sum().backward()
    doubled(parameter).sum().backward()
    assert doubled.calls == 2 and len(doubled.cache) == 0
    assert torch.equal(parameter.grad, torch.full((3,), 4.0))


def test_a_pass_with_gradients_forgets_what_is_kept(doubled, parameter):
    with torch.no_grad():
        doubled(parameter)
        doubled(parameter, "another")
    doubled(parameter)
    assert len(doubled.cache) == 0


def test_a_frozen_parameter_is_kept_in_training_too(doubled, parameter):
    parameter.requires_grad_(False)
    assert doubled(parameter) is doubled(parameter)


@torch.no_grad()
def test_a_new_version_of_the_parameter_gives_a_new_value(doubled, parameter):
    doubled(parameter)
    parameter.add_(1)
    assert torch.equal(doubled(parameter), parameter * 2)
    assert len(doubled.cache) == 1


def _by_fused_optimizer(parameter):
    parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW([parameter], fused=True).step()


WRITES = {
    "data": lambda parameter: parameter.data.mul_(2),
    "numpy": lambda parameter: parameter.detach().numpy().__setitem__(-1, 5),
    "shared memory": lambda parameter: parameter.share_memory_().detach().numpy().__setitem__(-1, 5),
    "fused optimiser": _by_fused_optimizer,
    "inference mode": torch.inference_mode()(lambda parameter: parameter.mul_(2)),
    "one unit in the last place": lambda parameter: parameter.data[-1:].nextafter_(torch.tensor(9.0)),
    "order, of the same sum": lambda parameter: parameter.data.copy_(parameter.data.flip(0)),
    "NaN": lambda parameter: parameter.data.fill_(float("nan")),
    "layout": lambda parameter: setattr(parameter, "data", (parameter.data * 2).repeat_interleave(2)[::2]),
}


@torch.no_grad()
@pytest.mark.parametrize("size", [3, 10_000], ids=["small", "large"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_goes_unnoticed(doubled, write, size):
    parameter = torch.nn.Parameter(torch.randn(size))
    doubled(parameter)
    write(parameter)
    assert torch.equal(doubled(parameter).nan_to_num(7), (parameter * 2).nan_to_num(7))
    doubled(parameter)
    assert doubled.calls == 2


@torch.no_grad()
def test_a_dtype_of_equal_values_gives_a_new_value(doubled):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for size in (2, 10_000):
            assert doubled(torch.ones(size, dtype=dtype)).dtype == dtype


@torch.no_grad()
def test_a_parameter_that_changes_while_its_value_is_computed_keeps_nothing(parameter):
    cache = EvalCache()
    cache.get("key", parameter, lambda: (parameter * 2, parameter.data.add_(1))[0])
    assert len(cache) == 0


@torch.no_grad()
def test_modes_that_watch_operators_see_all_of_them(doubled, parameter):
    doubled(parameter)
    with FlopCounterMode(display=False):
        doubled(parameter)
    torch.func.vmap(lambda x: x * doubled(parameter))(torch.randn(2, 3))
    assert doubled.calls == 3
    assert len(doubled.cache) == 1


@torch.no_grad()
def test_another_tensor_of_the_same_version_gives_a_new_value(doubled):
    """Also where the allocator would hand the old one's memory to the new one."""
    for _ in range(50):
        source = torch.randn(3)
        assert torch.equal(doubled(source), source * 2)


@torch.no_grad()
def test_memory_is_bounded_and_the_oldest_goes_first(parameter):
    doubled = Doubled(max_entries=2)
    for key in "abc":
        doubled(parameter, key)
    assert len(doubled.cache) == 2
    doubled(parameter, "c")
    doubled(parameter, "b")
    assert doubled.calls == 3
    doubled(parameter, "a")
    assert doubled.calls == 4


def test_what_inference_mode_computed_may_take_part_in_a_graph(doubled, parameter):
    with torch.inference_mode():
        kept = doubled(parameter)
    assert not kept.is_inference()
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        kept = doubled(parameter)
    (x * kept).sum().backward()
    assert doubled.calls == 1
    assert torch.equal(x.grad, kept)


def test_parameters_made_in_inference_mode_have_no_version_and_are_not_kept(doubled):
    with torch.inference_mode():
        source = torch.randn(3)
        doubled(source)
        source.add_(1)
        assert torch.equal(doubled(source), source * 2)


@torch.no_grad()
def test_compilation_and_tracing_keep_nothing_and_use_nothing_kept(doubled, parameter):
    doubled(parameter)  # must not become a constant of the graph
    torch.compiler.reset()
    compiled = torch.compile(lambda x: doubled(parameter) + x, fullgraph=True, backend="eager")
    traced = torch.jit.trace(lambda p: doubled(p), (parameter,), check_trace=False)
    parameter.add_(1)
    assert torch.equal(compiled(torch.zeros(3)), parameter * 2)
    assert torch.equal(traced(parameter), parameter * 2)
    assert len(doubled.cache) == 1  # that of the first line


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_starts_empty_with_the_same_bound(duplicate, parameter):
    doubled = Doubled(max_entries=7)
    doubled(parameter)
    twin = duplicate(doubled.cache)
    assert len(twin) == 0 and twin.max_entries == 7
    assert len(doubled.cache) == 1


@torch.no_grad()
def test_clear_forgets_everything(doubled, parameter):
    doubled(parameter)
    doubled.cache.clear()
    assert len(doubled.cache) == 0
    doubled(parameter)
    assert doubled.calls == 2


@torch.no_grad()
def test_what_a_thread_looks_at_is_never_changed_by_another(parameter):
    """A dictionary that several threads change can break, and has made them run forever."""
    doubled = Doubled(max_entries=1)
    doubled(parameter, "a")
    seen = doubled.cache._entries
    before = dict(seen)
    for change in (lambda: doubled(parameter, "b"), lambda: doubled(parameter, "a"), doubled.cache.clear):
        change()
        assert seen == before


@torch.no_grad()
def test_clearing_while_a_value_is_computed_is_harmless(parameter):
    cache = EvalCache(max_entries=1)
    for key in range(3):
        assert torch.equal(cache.get(key, parameter, lambda: (cache.clear(), parameter * 2)[1]), parameter * 2)
    assert len(cache) == 1
