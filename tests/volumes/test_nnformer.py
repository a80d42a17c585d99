"""nnFormer as its users meet it: any size, gradients, weights of files, costs, errors."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones.backbones.flops import count
from spectral_backbones.backbones.mixers.attention import DotProductAttention
from spectral_backbones.volumes import create_model, list_models, load_checkpoint
from spectral_backbones.volumes.window import VolumeWindowAttention, official_rows

SMALL = dict(feature_size=12, num_heads=(1, 2, 2, 4), crop_size=(16, 32, 32), drop_path_rate=0.0)


def small(name="nnformer_synapse", **arguments):
    """A variant with few channels, for crops of 16x32x32 (ACDC: 14x32x32)."""
    arguments = {**SMALL, "decoder_num_heads": None, **arguments}
    if name == "nnformer_acdc":
        arguments["crop_size"] = (14, 32, 32)
    return create_model(name, **arguments).eval()


def volumes_for(model, size=None, batch=1):
    return torch.randn(batch, model.in_channels, *(size or model.crop_size))


@pytest.mark.parametrize("name, params, macs", [
    ("nnformer_synapse", 150_054_210, 212.7),
    ("nnformer_acdc", 37_160_200, 47.5),
    ("nnformer_tumor", 37_606_726, 63.9),
])  # fmt: skip
def test_published_variants_cost_what_the_official_code_does(name, params, macs):
    with torch.device("meta"):
        model = create_model(name).eval()
        assert sum(parameter.numel() for parameter in model.parameters()) == params
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.forward_deep(volumes_for(model))
    # A little less where windows do not fill the map: what pads them is cut off before the output projection.
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, rel=0.004)


@pytest.mark.parametrize("name", ["nnformer_synapse", "nnformer_acdc"])
def test_macs_are_counted(name):
    model = small(name)
    for module in model.modules():  # torch's counter does not know the fused attention of the CPU
        if isinstance(module, DotProductAttention):
            module.fused_attn = False
    cost = count(model, (model.in_channels, *model.crop_size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(volumes_for(model))
    assert cost.flops == counter.get_total_flops()
    assert not cost.uncounted


@pytest.mark.parametrize("size", [(2, 4, 4), (17, 33, 40), (24, 64, 32), (40, 20, 72)])
@pytest.mark.parametrize("name", list_models())
def test_any_size_has_logits_of_its_own_size(name, size):
    model = small(name)
    size = tuple(max(side, patch) for side, patch in zip(size, model.patch_size))
    with torch.no_grad():
        logits = model(volumes_for(model, size))
    assert logits.shape == (1, model.out_channels, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", list_models())
def test_padding_is_zeros_at_the_far_sides(name):
    model = small(name)
    size = (13, 30, 27)
    volumes = volumes_for(model, size)
    padded = torch.zeros(1, model.in_channels, *model.padded_size(size))
    padded[..., : size[0], : size[1], : size[2]] = volumes
    with torch.no_grad():
        assert torch.equal(model(volumes), model(padded)[..., : size[0], : size[1], : size[2]])


def test_a_size_after_another_gives_what_it_gives_alone():
    model = small()
    first, second = volumes_for(model), volumes_for(model, (32, 64, 64))
    with torch.no_grad():
        alone = model(first)
        model(second)
        assert torch.equal(model(first), alone)


def test_shifted_windows_keep_opposite_sides_apart():
    """A token of a far corner has no influence on the near one, whose shifted window wraps around to it."""
    attention = VolumeWindowAttention(8, 2, (4, 4, 4), shifted=True)
    unmasked = VolumeWindowAttention(8, 2, (4, 4, 4), shifted=True, mask_shifted=False)
    unmasked.load_state_dict(attention.state_dict())
    tokens = torch.randn(1, 8, 8, 8, 8)
    changed = tokens.clone()
    changed[0, -1, -1, -1] += 1.0
    assert torch.equal(attention(tokens)[0, 0, 0, 0], attention(changed)[0, 0, 0, 0])
    assert not torch.allclose(unmasked(tokens)[0, 0, 0, 0], unmasked(changed)[0, 0, 0, 0])


def test_windows_are_what_a_loop_over_pairs_of_tokens_gives():
    """Shifted windows of unequal sides that do not fill the map, against attention written token by token."""
    size, shift, map_size = (2, 3, 4), (1, 1, 2), (3, 7, 6)
    attention = VolumeWindowAttention(4, 1, size, shifted=True, shrink=False).double()
    tokens = torch.randn(1, *map_size, 4, dtype=torch.float64)
    grid = [-(-length // side) * side for length, side in zip(map_size, size)]
    places = [(i, j, k) for i in range(grid[0]) for j in range(grid[1]) for k in range(grid[2])]
    inside = [all(c < length for c, length in zip(place, map_size)) for place in places]
    values = torch.stack([tokens[0][p] if i else torch.zeros(4, dtype=torch.float64) for p, i in zip(places, inside)])
    q, k, v = attention.qkv(values).chunk(3, -1)
    logits = torch.full((len(places), len(places)), -torch.inf, dtype=torch.float64)
    table = attention.distances()[0]
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            # Windows begin at the shift; what lies before it are smaller windows.
            if all((a - s) // w == (b - s) // w for a, b, s, w in zip(query, key, shift, size)):
                logits[i, j] = q[i] @ k[j] / 2 + table[tuple(a - b + w - 1 for a, b, w in zip(query, key, size))]
    expected = attention.proj(logits.softmax(-1) @ v)[torch.tensor(inside)].reshape(1, *map_size, 4)
    torch.testing.assert_close(attention(tokens), expected)


def test_the_official_index_reads_the_rows_that_it_is_known_for():
    used = {size: len(official_rows(size).unique()) for size in [(4, 4, 4), (8, 8, 8), (3, 5, 5), (7, 10, 10)]}
    assert used == {(4, 4, 4): 115, (8, 8, 8): 547, (3, 5, 5): 137, (7, 10, 10): 709}


@pytest.mark.parametrize("name", list_models())
def test_official_weights_compute_the_same_by_the_right_index(name, tmp_path):
    official = small(name, relative_index="official")
    # As nnU-Net saves them, with the index among the tensors
    state = {
        **official.state_dict(),
        "decoder.layers.0.blocks.1.attn.relative_position_index": torch.zeros(2, 2).long(),
    }
    torch.save(
        {"epoch": 1000, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.model"
    )
    right = small(name, relative_index="right", checkpoint=tmp_path / "a.model")
    again = small(name, relative_index="official", checkpoint=tmp_path / "a.model")
    for size in (None, (22, 70, 45)):
        volumes = volumes_for(official, size)
        with torch.no_grad():
            expected = official(volumes)
            torch.testing.assert_close(right(volumes), expected)
            assert torch.equal(again(volumes), expected)


@pytest.mark.parametrize("prefix", ["", "module._orig_mod.", "_orig_mod.module.", "network.", "model.swin."])
def test_weights_load_under_the_names_of_whatever_holds_the_network(prefix):
    model, other = small(), small()
    assert not load_checkpoint(
        model, {"state_dict": {prefix + name: value for name, value in other.state_dict().items()}}
    )
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("relative_index", ["official", "right"])
def test_the_memory_format_of_volumes_can_be_changed(relative_index):
    """torch changes it in all that have five axes, and in what has four too, by the same name."""
    model = small(relative_index=relative_index)
    volumes = volumes_for(model)
    with torch.no_grad():
        expected = model(volumes)
        model.to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(model(volumes.to(memory_format=torch.channels_last_3d)), expected)


def test_a_table_with_an_axis_for_each_side_loads():
    attention = VolumeWindowAttention(4, 2, (2, 3, 4))
    saved = attention.state_dict(keep_vars=True)["relative_position_bias_table"]
    assert saved is attention.relative_position_bias_table, "tools that look parameters up by name would not find it"
    table = torch.randn(2, 3, 5, 7)
    attention.load_state_dict({**attention.state_dict(), "relative_position_bias_table": table})
    assert torch.equal(attention.distances(), table)


def test_weights_of_the_right_index_are_refused_by_the_official_one():
    with pytest.raises(ValueError, match=r"(?s)the official relative index.*relative_position_bias_table"):
        load_checkpoint(small(relative_index="official"), small().state_dict())


def test_new_networks_have_a_value_for_every_distance():
    model = small()
    model(volumes_for(model)).sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table") and parameter[0].numel() > 1:  # a window of one token knows no distance
            assert (parameter.grad != 0).all(), name


def test_other_classes_keep_the_rest_of_a_checkpoint():
    published = small(out_channels=14)
    model = create_model("nnformer_synapse", **SMALL, out_channels=3)
    left = load_checkpoint(model, published.state_dict())
    assert sorted(left) == sorted(name for name in model.state_dict() if name.startswith("final."))
    one, other = model.state_dict(), published.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one if name not in left)


def test_deep_supervision_gives_coarser_logits_in_training_alone():
    model = small(deep_supervision=True).train()
    volumes = volumes_for(model, (15, 33, 30))
    outputs = model(volumes)
    assert [tuple(output.shape[2:]) for output in outputs] == [(15, 33, 30), (8, 17, 15), (4, 9, 8)]
    sum(output.mean() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model.eval()(volumes), model.forward_deep(volumes)[0])


@pytest.mark.parametrize("name", list_models())
def test_checkpointing_changes_no_gradient(name):
    model = small(name, deep_supervision=False).train()
    volumes = volumes_for(model)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(volumes).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(checkpointed, plain)


def test_checkpointing_stores_less():
    stored = {}
    model = small(deep_supervision=False).train()
    volumes = volumes_for(model)
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        stored[enable] = values_stored(model, volumes)
    assert stored[True] < stored[False] / 2


def values_stored(model, volumes):
    """How many values a forward pass stores for gradients."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        model(volumes)
    return sum(sizes)


def test_volumes_with_the_depth_last_are_transposed_and_back():
    model = small()
    last = small(depth_last=True)
    last.load_state_dict(model.state_dict())
    volumes = volumes_for(model, (15, 33, 30))
    with torch.no_grad():
        assert torch.equal(last(volumes.transpose(2, 4)), model(volumes).transpose(2, 4))


def test_bfloat16_autocast_is_near_float32():
    model = small()
    volumes = volumes_for(model)
    with torch.no_grad():
        exact = model(volumes)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(volumes)
    assert rounded.isfinite().all()
    assert (rounded.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("make, message", [
    (lambda: create_model("nnformer_sinapse"), "did you mean nnformer_synapse"),
    (lambda: create_model("nnformer_acdc", relative_index="wrong"), "'right', 'official'"),
    (lambda: small(window_size=((1, 4, 1),) * 4, shrink_windows=False, relative_index="official"), "leaves its table"),
    (lambda: create_model("nnformer_acdc", in_channels=0), "in_channels must be at least 1"),
    (lambda: create_model("nnformer_acdc", out_channels=0), "out_channels must be at least 1"),
    (lambda: create_model("nnformer_acdc", num_heads=(3, 6, 12)), "num_heads has 3 values for 4 stages"),
    (lambda: create_model("nnformer_acdc", num_heads=(5, 6, 12, 24)), "num_heads must be a divisor of the 96 channels"),
    (lambda: create_model("nnformer_tumor", crop_size=(2, 128, 128)), "2x128x128 voxels is smaller than a patch"),
    (lambda: create_model("nnformer_tumor", crop_size=(128, 128)), "crop_size must be depth, height and width"),
    (lambda: create_model("nnformer_tumor", window_size=(4, 4, 0, 4)), "window_size must be at least 1"),
    (lambda: create_model("nnformer_tumor", feature_size=95), "feature_size must be even"),
    (lambda: create_model("nnformer_tumor", feature_size=0), "feature_size must be at least 1"),
    (lambda: create_model("nnformer_tumor", feature_size=96.0), "feature_size must be at least 1, a whole number"),
    (lambda: create_model("nnformer_tumor", num_heads=6), "num_heads must be a list of values, got 6"),
    (lambda: create_model("nnformer_tumor", window_size=4), "window_size must be a list of values, got 4"),
    (lambda: create_model("nnformer_tumor", window_size=(4, 4, 4, (4, 4))), "window_size must be depth, height and wi"),
    (lambda: create_model("nnformer_tumor", depths=2), "depths must be a list of values, got 2"),
    (lambda: create_model("nnformer_tumor", crop_size=(128, "128", 128)), "crop_size must be at least 1, a whole numb"),
    (lambda: create_model("nnformer_tumor", patch_strides=(4, 4)), "patch_strides must be depth, height and width"),
    (lambda: create_model("nnformer_tumor", patch_strides=((4, 4, 4),)), "patch_strides must be those of two convol"),
    (lambda: create_model("nnformer_tumor", patch_strides=((0, 2, 2),) * 2), "patch_strides must be at least 1"),
    (lambda: create_model("nnformer_tumor", reductions=(((3, 3, 3), (2, 0, 2)),) * 3), "stride of reductions must be"),
    (
        lambda: create_model("nnformer_tumor", reductions=(((3, 3, 3), (2, 2, 2), (1, 0, 1)),) * 3),
        "no height comes back behind the reductions",
    ),
    (lambda: create_model("nnformer_tumor", drop_path_rate=1.0), "drop_path_rate must be from 0 to less than 1"),
    (lambda: create_model("nnformer_tumor", drop_path_rate=None), "drop_path_rate must be from 0 to less than 1"),
    (lambda: small()(torch.zeros(1, 2, 16, 32, 32)), r"C = 1 channels, got \(1, 2, 16, 32, 32\)"),
    (lambda: small()(torch.zeros(1, 16, 32, 32)), r"volumes must be \(B, C, D, H, W\)"),
    (lambda: small()(torch.zeros(1, 1, 1, 32, 32)), "1x32x32 voxels is smaller than a patch, 2x4x4"),
    (lambda: small(checkpoint={"conv.weight": torch.zeros(1)}), "are missing"),
    (lambda: small(checkpoint=small("nnformer_synapse", in_channels=2).state_dict()), "1 channels.*size mismatch"),
])  # fmt: skip
def test_what_cannot_work_is_told(make, message):
    with pytest.raises(ValueError, match="(?s)" + message):
        make()
