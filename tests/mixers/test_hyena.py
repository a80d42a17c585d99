"""The Hyenas against their equations, token by token, in all directions and orders."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from spectral_backbones.backbones.mixers import Hyena, HyenaND, HyenaPixel, create_mixer
from spectral_backbones.backbones.spectformer import SpectFormer

GRIDS = [(1, 1), (1, 4), (3, 1), (4, 4), (3, 5), (6, 2)]
HYENAS = [
    ("hyena", {}),
    ("hyenapixel", {}),
    ("hyenapixel", {"long_kernel_size": 6}),
    *(("hyena_nd", {"directions": d, "order": n}) for d in ("standard", "seq", "4dir", "4dirp") for n in (2, 3)),
]


def randomised(mixer):
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return mixer


def network(mlp, x):
    for i, linear in enumerate(mlp.hidden):
        x = torch.sin(mlp.freq[min(i, len(mlp.freq) - 1)] * (x @ linear.weight.T + linear.bias))
    return x @ mlp.out.weight.T


def rates(channels):
    return torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels, dtype=torch.float64).abs()


def pairs(x, weight):
    """Σ over all pairs of places of a map (B, H, W, C) of `weight` of their distances (rows, columns), (C,) or None."""
    y = torch.zeros_like(x)
    for i, j, k, m in torch.cartesian_prod(*(torch.arange(side) for side in (*x.shape[1:3], *x.shape[1:3]))).tolist():
        taken = weight(i - k, j - m)
        if taken is not None:
            y[:, i, j] += taken * x[:, k, m]
    return y


def projections(mixer, x, conv):
    return conv(F.linear(x, *projection(mixer)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).split(x.shape[-1], -1)


def projection(mixer):
    layer = mixer.in_proj if hasattr(mixer, "in_proj") else mixer.qkv
    return layer.weight, layer.bias


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_hyena_gates_a_convolution_along_the_sequence_in_both_directions(grid):
    mixer = randomised(Hyena(6, grid, dtype=torch.float64))
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    length = grid[0] * grid[1]
    q, k, v = projections(mixer, x.reshape(2, 1, length, 6), mixer.dwconv)
    kernel = network(mixer.filter_mlp, mixer.positions)

    def weight(_, distance):
        time = 1 - abs(distance) / (length - 1) if length > 1 else 1.0
        window = torch.exp(-(1 - time) * rates(6))
        return kernel[distance + length - 1] * window + (mixer.skip if distance == 0 else 0)

    expected = mixer.proj((q * pairs(k * v, weight)).reshape(x.shape))
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("side", [1, 4, 5, 12])
@torch.no_grad()
def test_hyenapixel_gates_a_convolution_with_a_centred_kernel(grid, side):
    mixer = randomised(HyenaPixel(6, grid, long_kernel_size=side, kernel_size=3, embed_dim=4, dtype=torch.float64))
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    q, k, v = projections(mixer, x, mixer.dwconv)
    kernel = network(mixer.filter_mlp, mixer.positions)

    def weight(row, col):
        a, b = row + side // 2, col + side // 2
        if not (0 <= a < side and 0 <= b < side):
            return None
        distance = math.hypot(a + 0.5 - side / 2, b + 0.5 - side / 2)
        window = torch.exp(-distance * mixer.decay.abs()) + mixer.shift
        return kernel[a, b] * window + (mixer.skip if row == col == 0 else 0)

    torch.testing.assert_close(mixer(x), mixer.proj(v * pairs(q * k, weight)))


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("directions", ["standard", "seq", "4dir", "4dirp"])
@pytest.mark.parametrize("official_scale", [False, True])
@torch.no_grad()
def test_hyena_nd_is_its_recurrence_on_maps_that_are_mirrored(grid, order, directions, official_scale):
    """As the public code has it: maps are mirrored and not filters, and each direction is computed by itself."""
    options = dict(order=order, directions=directions, official_scale=official_scale)
    mixer = randomised(HyenaND(4, (5, 5), **options, dtype=torch.float64))
    x = torch.randn(2, *grid, 4, dtype=torch.float64)
    *gates, v = projections(mixer, x, mixer.dwconv)
    positions = [along(mixer.positions, length) for length in grid]
    kernels = torch.empty(order - 1, *grid, 4, dtype=torch.float64)
    for a in range(grid[0]):
        for b in range(grid[1]):
            time = a / max(grid[0] - 1, 1) + b / max(grid[1] - 1, 1)
            value = network(mixer.filter_mlp, torch.cat([positions[0][a], positions[1][b]]))
            kernels[:, a, b] = (value * torch.exp(-time * rates(len(value)))).reshape(order - 1, 4)
    kernels = kernels / 10 if official_scale else kernels  # made for a side of 5

    def convolved(v, o, flips):
        def weight(row, col):
            skip = mixer.skip.reshape(order - 1, 4)[o] if row == col == 0 else 0
            return kernels[o, row, col] + skip if row >= 0 and col >= 0 else None

        return pairs(v.flip(flips), weight).flip(flips)

    results = []
    for axes in [(), (1, 2), (2,), (1,)] if directions.startswith("4dir") else [()]:
        y = v
        for o in range(order - 1):
            y = convolved(y * gates[order - 1 - o], o, (1, 2) if directions == "seq" and o == 0 else axes)
        results.append(y * gates[0])
    y = torch.stack(results, -1)  # B H W C directions
    if directions == "4dir":
        y = y @ mixer.mix_weight + mixer.mix_bias
    else:
        y = mixer.mix(y.flatten(-2))
    torch.testing.assert_close(mixer(x), mixer.proj(y))


def along(table, length):
    """Rows of a table read at `length` places from its first to its last row, linearly between neighbours."""
    last = len(table) - 1
    places = [i * last / (length - 1) if length > 1 else 0.0 for i in range(length)]
    low = [min(int(place), last - 1) for place in places]
    return torch.stack(
        [table[i] + (place - i) * (table[i + 1] - table[i]) for i, place in zip(low, places, strict=True)]
    )


@pytest.mark.parametrize("directions", ["4dir", "4dirp"])
def test_the_default_of_hyena_nd_sees_the_whole_map_from_everywhere(directions):
    mixer = randomised(create_mixer("hyena_nd", 4, (4, 5), 1, directions=directions))
    x = torch.randn(1, 4, 5, 4, requires_grad=True)
    for i, j in ((0, 0), (3, 4), (0, 4), (2, 2)):
        (seen,) = torch.autograd.grad(mixer(x)[0, i, j].sum(), x)
        assert (seen.abs().sum(-1) > 0).all()
    assert create_mixer("hyena_nd", 4, (4, 5), 1).directions == "4dir"


@pytest.mark.parametrize("name", ["hyena", "hyena_nd"])
@torch.no_grad()
def test_positions_stretched_for_good_give_what_the_forward_pass_gives(name):
    mixer = randomised(create_mixer(name, 4, (4, 4), 1)).eval()
    x = torch.randn(1, 6, 5, 4)
    if name == "hyena_nd":
        x = torch.randn(1, 6, 6, 4)
    before, parameter = mixer(x), mixer.positions
    mixer.set_grid_size(tuple(x.shape[1:3]))
    assert mixer.positions is parameter
    torch.testing.assert_close(mixer(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), HYENAS)
def test_filters_begin_with_something_to_learn_from_in_a_trunk_too(name, options):
    """A trunk draws linear layers with a standard deviation of 0.02, of which a filter would hardly depend on."""
    import timm

    mixer = dict(type=name, **options)
    model = timm.create_model("spectformer_ti", img_size=16, patch_size=4, embed_dim=8, depth=1, mixers=[mixer])
    mlp = model.blocks[0].mixer.filter_mlp
    assert (mlp.freq == 1).all() and mlp.hidden[1].weight.std() > 2 * 0.02


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operator gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel() * (2 if tensor.is_complex() else 1))
        return out


@pytest.mark.parametrize(
    ("name", "options"), [("hyena", {}), ("hyenapixel", {}), ("hyena_nd", {}), ("axial", {}), ("ffnified", {})]
)
@pytest.mark.parametrize("training", [False, True])
def test_no_tensor_of_a_large_map_grows_with_the_square_of_its_tokens(name, options, training):
    """Not on the way back either: 128 x 128 tokens of 32 channels, where a table of all pairs has 268 million."""
    mixer = create_mixer(name, 32, (14, 14), 4, **options).train(training)
    x = torch.randn(1, 128, 128, 32, requires_grad=training)
    with LargestTensor() as largest, torch.set_grad_enabled(training):
        y = mixer(x)
        if training:
            y.square().sum().backward()
    assert largest.size <= 128**2 * 32 * 8


@torch.no_grad()
def test_tables_of_axial_attention_with_positions_grow_with_the_sides_of_a_map():
    mixer = create_mixer("axial_deeplab", 32, (14, 14), 4).eval()
    with LargestTensor() as largest:
        mixer(torch.randn(1, 128, 128, 32))
    assert largest.size == 128**2 * 128 * 3 * 4  # three products of four heads, for each token and its line


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="order must be at least 2, one convolution, got 1"):
        HyenaND(4, order=1)
    with pytest.raises(ValueError, match="directions must be one of standard, seq, 4dir, 4dirp, got 'parallel'"):
        HyenaND(4, directions="parallel")
    with pytest.raises(ValueError, match="embed_dim must be a multiple of 4"):
        HyenaPixel(4, embed_dim=6)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        HyenaPixel(4, kernel_size=4)
    with pytest.raises(ValueError, match="long_kernel_size must be at least 1, got 0"):
        HyenaPixel(4, long_kernel_size=0)


@torch.no_grad()
def test_a_graph_for_any_grid_gives_what_the_mixer_gives():
    mixer = randomised(HyenaPixel(4, (4, 6))).eval()
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 1: dynamic, 2: dynamic},)
    program = torch.export.export(mixer, (torch.randn(2, 4, 7, 4),), dynamic_shapes=shapes)
    x = torch.randn(3, 6, 11, 4)
    torch.testing.assert_close(program.module()(x), mixer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hyena", "hyena_nd", "axial_deeplab"])
@torch.no_grad()
def test_a_checkpoint_of_another_size_gives_what_its_model_gives_there(name):
    import timm

    torch.manual_seed(0)
    args = dict(patch_size=4, embed_dim=8, depth=1, num_classes=1000, mixers=name)
    small = timm.create_model("spectformer_ti", img_size=16, **args).eval()
    for parameter in small.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    overlay = dict(state_dict=small.state_dict())
    large = timm.create_model("spectformer_ti", img_size=24, **args, pretrained=True, pretrained_cfg_overlay=overlay)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(large.eval()(x), small(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_kernel_of_a_checkpoint_is_cut_to_its_middle_for_a_smaller_one():
    large, small = HyenaPixel(4, long_kernel_size=9), HyenaPixel(4, long_kernel_size=5)
    positions = small.resample_state("positions", large.positions)
    assert torch.equal(positions, large.positions[2:7, 2:7])
    assert large.resample_state("positions", small.positions).shape == (9, 9, 32)


def test_any_trunk_spares_positions_and_filter_networks_weight_decay():
    mixers = "hyena:1, hyenapixel:1, hyena_nd:1, neighbourhood"
    model = SpectFormer(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, mixers=mixers, device="meta")
    spared = model.no_weight_decay()
    names = {name for name, _ in model.named_parameters()}
    tables = ("positions", "relative_position_bias", "pos_embed.weight")
    assert spared == {name for name in names if name.endswith(tables) or ".filter_mlp." in name}
    assert {name.split(".")[1] for name in spared} == {"0", "1", "2", "3", "weight"}
