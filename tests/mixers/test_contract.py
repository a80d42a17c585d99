"""What every registered token mixer promises, so that any trunk can carry it. One that is added is covered by its name.

Attributes of a mixer's class tell the test what its docstring tells the reader:

    memory_growth   the power of the tokens that peak memory in evaluation grows with, which every mixer has to declare
    circular        True where a roll of the map by any offset rolls the answer
    jumps           a reason why half precision may give another answer: the function has steps
    no_export       a reason why the mixer cannot be exported, which its error then says
    noisy           a reason why answers in training are drawn at random
    learns          a reason why a training step changes more than parameters and running statistics
    counted_as      an attribute and what it is set to while cost is counted as papers do
"""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones.backbones.flops import count
from spectral_backbones.backbones.layers import block_for
from spectral_backbones.backbones.layers.chunk import CHUNK_BYTES
from spectral_backbones.backbones.mixers import create_mixer, list_mixers, mixer_options
from spectral_backbones.backbones.spectformer import SpectFormer, SpectFormerH, checkpoint_filter_fn

DIM, GRID, HEADS = 16, (4, 6), 2

every_mixer = pytest.mark.parametrize("name", list_mixers())


class Alone(nn.Module):
    """A mixer as a function of a map alone, behind one that gives it what it takes. None for no such partner."""

    def __init__(self, name, dim=DIM, grid_size=GRID, **options):
        super().__init__()
        torch.manual_seed(0)
        self.mixer = create_mixer(name, dim, grid_size, num_heads=HEADS, **options)
        giver = partner(name)
        factory = {key: options[key] for key in ("device", "dtype") if key in options}
        self.giver = create_mixer(giver, dim, grid_size, num_heads=HEADS, **factory) if giver else None
        for parameter in self.parameters():  # what begins as zeros or ones would hide what it does
            if not parameter.is_meta:
                nn.init.normal_(parameter, std=0.2)

    def forward(self, x):
        return self.both(x)[0]

    def both(self, x):
        """The map, and what the mixer hands on, None if nothing."""
        if not hands_on(self.mixer):
            return self.mixer(x), None
        return self.mixer(x, self.giver(x, None)[1] if self.giver is not None else None)


def exact_in_training(name, **options):
    """As in training, unless that draws at random."""
    return Alone(name, **options).train(not getattr(class_of(name), "noisy", None))


def hands_on(mixer):
    return getattr(mixer, "takes", None) is not None or getattr(mixer, "gives", None) is not None


@functools.cache
def class_of(name):
    return type(create_mixer(name, DIM, GRID, num_heads=HEADS, device="meta"))


def partner(name):
    """The first mixer that gives what `name` takes and needs nothing itself."""
    takes = getattr(class_of(name), "takes", None)
    givers = [
        other
        for other in list_mixers()
        if takes
        and getattr(class_of(other), "gives", None) == takes
        and not getattr(class_of(other), "needs_handed", 0)
    ]
    return givers[0] if givers else None


def maps(*shape, dtype=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, DIM, generator=generator, dtype=dtype)


def assert_close(actual, expected, tolerance=1e-4):
    scale = expected.abs().max().clamp(min=1e-3) if expected.numel() else 1.0
    assert (actual - expected).abs().max() <= tolerance * scale


# Shapes -----------------------------------------------------------------------------------------------------------


@every_mixer
@torch.no_grad()
def test_takes_maps_of_any_size_each_image_by_itself(name):
    mixer = Alone(name).eval()
    for grid in [(1, 1), (1, 2), (5, 1), (2, 2), (3, 7), GRID, (9, 13), (17, 8)]:
        x = maps(3, *grid)
        y, handed = mixer.both(x)
        assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all(), grid
        assert handed is None or len(handed) == len(x)
        for i in range(len(x)):
            assert_close(y[i : i + 1], mixer(x[i : i + 1]))
        strided = x.transpose(1, 2).contiguous().transpose(1, 2)
        assert_close(mixer(strided), y)
    assert mixer(maps(0, *GRID)).shape == (0, *GRID, DIM)


@every_mixer
def test_device_and_dtype_reach_all_parameters_and_buffers(name):
    mixer = create_mixer(name, DIM, GRID, num_heads=HEADS, device="meta", dtype=torch.float64)
    assert all(tensor.is_meta for tensor in mixer.state_dict().values())
    assert all(parameter.dtype == torch.float64 for parameter in mixer.parameters())
    real = create_mixer(name, DIM, GRID, num_heads=HEADS, dtype=torch.float64)
    assert {key: value.shape for key, value in mixer.state_dict().items()} == {
        key: value.shape for key, value in real.state_dict().items()
    }
    if not hands_on(real):
        assert real(maps(2, *GRID, dtype=torch.float64)).dtype == torch.float64


# Precision --------------------------------------------------------------------------------------------------------


@every_mixer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_finite_answers_near_those_of_float32_and_finite_gradients(name, dtype):
    mixer = exact_in_training(name)
    x = maps(2, 5, 7).requires_grad_()
    expected = mixer(x).detach()
    with torch.autocast("cpu", dtype):
        y = mixer(x)
    assert y.isfinite().all()
    if not getattr(class_of(name), "jumps", None):
        assert (y.detach() - expected).std() <= 0.1 * expected.std()
    y.float().square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mixer.parameters())


@every_mixer
@pytest.mark.parametrize("grid", [(2, 3), (1, 4)])
def test_gradients_are_those_of_finite_differences(name, grid):
    mixer = exact_in_training(name, grid_size=(3, 3), dtype=torch.float64)
    named = dict(mixer.mixer.named_parameters(prefix="mixer"))
    x = (0.5 * maps(2, *grid, dtype=torch.float64)).requires_grad_()

    def function(x, *values):
        return torch.func.functional_call(mixer, dict(zip(named, values, strict=True)), (x,))

    values = [parameter.detach().requires_grad_() for parameter in named.values()]
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True, atol=1e-4)


# Graphs and transforms --------------------------------------------------------------------------------------------


@every_mixer
@torch.no_grad()
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    mixer = Alone(name).eval()
    compiled = torch.compile(mixer, fullgraph=True, backend="eager", dynamic=False)
    for grid in (GRID, (5, 3)):
        x = maps(2, *grid)
        assert_close(compiled(x), mixer(x))


@every_mixer
@torch.no_grad()
def test_exports_with_a_dynamic_batch_or_says_why_not(name):
    mixer = Alone(name).eval()
    reason = getattr(class_of(name), "no_export", None)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    if reason:
        with pytest.raises(Exception, match=reason):
            torch.export.export(mixer, (maps(2, 5, 7),), dynamic_shapes=shapes)
        return
    program = torch.export.export(mixer, (maps(2, 5, 7),), dynamic_shapes=shapes)
    x = maps(3, 5, 7)
    assert_close(program.module()(x), mixer(x))


@every_mixer
def test_vmap_and_gradients_of_each_image_are_those_of_the_batch(name):
    mixer = Alone(name).eval()
    x = maps(3, 5, 7)
    parameters = {key: value.detach() for key, value in mixer.named_parameters()}

    def one(parameters, x):
        return torch.func.functional_call(mixer, parameters, (x[None],))[0]

    with torch.no_grad():
        assert_close(torch.func.vmap(one, (None, 0))(parameters, x), mixer(x))
    if not parameters:
        return
    gradients = torch.func.vmap(torch.func.grad(lambda *args: one(*args).square().sum()), (None, 0))(parameters, x)
    mixer(x).square().sum().backward()
    for key, parameter in mixer.named_parameters():
        if parameter.grad is not None:
            assert_close(gradients[key].sum(0), parameter.grad, 1e-3)


# Training ---------------------------------------------------------------------------------------------------------


@every_mixer
@torch.no_grad()
def test_dropout_acts_in_training_alone_and_follows_the_seed(name):
    options = {key: 0.5 for key in ("attn_drop", "proj_drop") if key in mixer_options(name)}
    x = maps(2, 5, 7)

    def run(mixer):
        torch.manual_seed(2)
        return mixer(x)

    whole = Alone(name).eval()(x)
    for key, rate in options.items():
        mixer = Alone(name, **{key: rate})
        assert_close(mixer.eval()(x), whole)
        mixer.train()
        assert not torch.allclose(run(mixer), whole, atol=1e-3), key
        assert torch.equal(run(mixer), run(mixer))
    mixer = Alone(name).train()
    assert torch.equal(run(mixer), run(mixer))


@every_mixer
@torch.no_grad()
def test_drop_path_leaves_the_map_alone(name):
    alone = Alone(name).train()
    block_cls = block_for(alone.mixer)
    block = block_cls(alone.mixer, nn.Linear(DIM, DIM), nn.Identity(), nn.Identity(), DIM, drop_path=1 - 1e-12)
    x = maps(4, *GRID)
    if not hands_on(alone.mixer):
        assert torch.equal(block(x), x)
        return
    block.receives = alone.giver is not None
    handed = alone.giver(x, None)[1] if block.receives else None
    assert torch.equal(block(x, handed)[0], x)


# Truth ------------------------------------------------------------------------------------------------------------


@every_mixer
@torch.no_grad()
def test_an_answer_follows_weights_that_change_after_an_evaluation(name):
    mixer = Alone(name).eval()
    inputs = [maps(2, *GRID), maps(2, 5, 7)]
    before = [mixer(x) for x in inputs]
    changes = [
        lambda p: p.mul_(1.5),
        lambda p: p.data.copy_(p.data.flip(0) + 0.1),
        lambda p: p.numpy().__imul__(0.5),
        lambda p: setattr(p, "data", p.data * -1.5),
    ]
    for change in changes:
        for parameter in mixer.parameters():
            change(parameter)
        fresh = Alone(name).eval()
        fresh.load_state_dict(mixer.state_dict())
        for i, x in enumerate(inputs):
            y = mixer(x)
            assert torch.equal(y, fresh(x))
            if next(mixer.mixer.parameters(), None) is not None:
                assert not torch.allclose(y, before[i])
            before[i] = y
    assert torch.equal(copy.deepcopy(mixer)(inputs[1]), before[1])


# Cost -------------------------------------------------------------------------------------------------------------


class OfImages(nn.Module):
    """A mixer on images of DIM channels."""

    def __init__(self, mixer):
        super().__init__()
        self.inner = mixer

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        if self.inner.giver is None:
            return self.inner.both(x)
        given, handed = self.inner.giver(x, None)
        return given, self.inner.mixer(x, handed)  # all that is computed, or tracing would drop a part


@every_mixer
@torch.no_grad()
def test_cost_is_counted_with_nothing_left_out(name):
    model = OfImages(Alone(name).eval())
    cost = count(model, (DIM, 10, 13), as_executed=True)
    assert not cost.uncounted
    assert not [name for name in cost.uncalled if not name.startswith("inner.giver.")]  # which is handed nothing
    with FlopCounterMode(display=False) as counter:  # another count, of products alone
        model(maps(1, 10, 13).permute(0, 3, 1, 2))
    assert cost.flops >= counter.get_total_flops()
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def peak_bytes(function):
    """The most memory that torch holds on the CPU at any time within a call, beyond what it holds before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function()  # held, so that it counts
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    del result
    return peak


@every_mixer
def test_peak_memory_grows_no_faster_than_declared(name):
    growth = class_of(name).memory_growth
    sides = (24, 48) if growth >= 2 else (48, 96)  # a table of each pair of 96 x 96 tokens is gigabytes
    small, large = (peak_bytes(functools.partial(Alone(name).eval(), maps(1, side, side))) for side in sides)
    assert large <= 1.15 * (4**growth * small + CHUNK_BYTES)  # up to which some mixers compute at once


# Symmetry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in list_mixers() if getattr(class_of(name), "circular", False)])
@torch.no_grad()
def test_a_roll_of_the_map_rolls_the_answer_where_it_is_said_to(name):
    mixer = Alone(name).eval()
    for grid in (GRID, (5, 7)):
        x = maps(2, *grid)
        for offset in ((1, 0), (0, 1), (3, 2), (-2, 4)):
            assert_close(mixer(x.roll(offset, (1, 2))), mixer(x).roll(offset, (1, 2)))


# In a trunk -------------------------------------------------------------------------------------------------------


@every_mixer
def test_any_trunk_carries_it(name):
    pattern = f"{partner(name)}, {name}, ..." if partner(name) else name
    torch.manual_seed(0)
    trunks = [
        SpectFormer(img_size=24, patch_size=4, embed_dim=DIM, depth=2, num_heads=HEADS, num_classes=3, mixers=pattern),
        SpectFormerH(
            img_size=32, stem_dim=8, embed_dims=(DIM, DIM), depths=(2, 2), num_heads=(HEADS, HEADS), mlp_ratios=(1, 1),
            mixers=pattern, num_classes=3,
        ),
    ]  # fmt: skip
    for model in trunks:
        x = torch.randn(2, 3, 27, 36)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(gradients) == len(list(model.parameters())) or partner(name) or hands_on(class_of(name))
        model.zero_grad()
        model.set_grad_checkpointing()
        changes = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        if not changes and not getattr(class_of(name), "learns", None):
            torch.manual_seed(1)
            model(x).square().sum().backward()
            for gradient, parameter in zip(
                gradients, (p for p in model.parameters() if p.grad is not None), strict=True
            ):
                assert_close(parameter.grad, gradient)
        model.eval()
        with torch.no_grad():
            features, taps = model.forward_intermediates(x)
            assert_close(model.forward_head(features), model(x))
            assert len(taps) == 2
            assert_close(torch.jit.script(model)(x), model(x))


@every_mixer
@torch.no_grad()
def test_a_checkpoint_of_another_size_loads_as_if_the_size_had_been_set(name):
    pattern = f"{partner(name)}, {name}, ..." if partner(name) else name
    arguments = dict(patch_size=4, embed_dim=DIM, depth=2, num_heads=HEADS, num_classes=3, mixers=pattern)
    model = SpectFormer(img_size=16, **arguments).eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    other = SpectFormer(img_size=(28, 20), **arguments).eval()
    other.load_state_dict(checkpoint_filter_fn(weights, other))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # parameters stay the same objects
    model.set_input_size((28, 20))
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    x = torch.randn(1, 3, 28, 20)
    assert_close(other(x), model(x))
