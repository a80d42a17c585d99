"""ConViT beyond the contract: timm's weights, other sizes, its class token, and its attention for pictures."""

import pytest
import timm
import torch

from spectral_backbones import backbones  # noqa: F401


def randomised(name, **kwargs):
    """A model of timm whose every parameter matters."""
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "pos_proj" not in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.03)
    return model


def load(name, state_dict, **kwargs):
    overlay = dict(state_dict=dict(state_dict))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        ("convit_ti", "convit_tiny", 224),
        ("convit_ti", "convit_tiny", 288),
        ("convit_s", "convit_small", 224),
        ("convit_b", "convit_base", 224),
    ],
)
def test_timms_weights_give_timms_outputs(ours, theirs, size):
    reference = randomised(theirs, img_size=size)
    model = load(ours, reference.state_dict(), img_size=size)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = reference(x)
        assert (model(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_hub_weights_are_timms():
    hub_ids = {name: timm.get_pretrained_cfg(name).hf_hub_id for name in ("convit_ti", "convit_s", "convit_b")}
    assert hub_ids == {
        "convit_ti": "timm/convit_tiny.fb_in1k",
        "convit_s": "timm/convit_small.fb_in1k",
        "convit_b": "timm/convit_base.fb_in1k",
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convit_ti", 5_710_512),
        ("convit_s", 27_777_322),
        ("convit_b", 86_540_040),
        ("convit_ti_plus", 9_972_912),
        ("convit_s_plus", 48_979_882),
        ("convit_b_plus", 153_134_856),
    ],
)
def test_parameter_count_is_the_official_one(name, count):
    assert sum(parameter.numel() for parameter in timm.create_model(name, device="meta").parameters()) == count


def small(**kwargs):
    return timm.create_model(
        "convit_ti", **{"img_size": 64, "num_classes": 5, "depth": 3, "local_up_to_layer": 2, **kwargs}
    )


def test_the_class_token_joins_behind_the_positional_blocks():
    model = small().eval()
    _, taps = model.forward_intermediates(torch.randn(2, 3, 64, 96), return_prefix_tokens=True)
    assert [tuple(feature.shape) for feature, _ in taps] == [(2, 192, 4, 6)] * 3
    assert [tuple(prefix.shape) for _, prefix in taps] == [(2, 1, 192)] * 3
    assert model.forward_features(torch.randn(2, 3, 64, 96)).shape == (2, 1 + 24, 192)


def test_a_model_pruned_to_its_positional_blocks_has_no_class_token():
    model = small().eval()
    x = torch.randn(1, 3, 64, 64)
    (tap,) = model.forward_intermediates(x, indices=[1], output_fmt="NLC", intermediates_only=True)
    model.prune_intermediate_layers([1], prune_norm=True)
    assert "cls_token" not in model.state_dict()
    assert torch.equal(model(x), tap)


def test_all_blocks_may_be_positional_if_the_class_token_is_not_asked():
    with pytest.raises(ValueError, match="'token' needs a class token"):
        small(local_up_to_layer=3)
    model = small(local_up_to_layer=3, global_pool="avg").eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert model.num_prefix_tokens == 0
    with pytest.raises(ValueError, match="'token' needs a class token"):
        model.reset_classifier(5, "token")


def test_without_positional_blocks_it_is_a_vision_transformer():
    model = small(local_up_to_layer=0).train()
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.attention_maps(torch.randn(1, 3, 64, 64)) == []


def test_average_pooling_leaves_the_class_token_out():
    model = small(global_pool="avg").eval()
    features = model.forward_features(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, 1:].mean(1))


def test_gates_and_attention_of_each_head_can_be_read():
    model = small().eval()
    with torch.no_grad():
        model.blocks[1].mixer.gating_param.copy_(torch.tensor([-9.0, 0.0, 1.0, 9.0]))
    x = torch.randn(2, 3, 64, 96)
    first, second = model.attention_maps(x)
    assert second.content.shape == (2, 4, 24, 24)
    assert second.position.shape == (4, 24, 24)
    torch.testing.assert_close(first.gate, torch.full((4,), 0.7310586))
    assert second.gate[0] < 0.001 < 0.999 < second.gate[3]
    (again,) = model.attention_maps(x, indices=[1])
    assert torch.equal(again.content, second.content)
    # the second block really attends so: its first residual, from the maps
    with torch.no_grad():
        state = model.blocks[0](model.forward_stem(x))
        normed = model.blocks[1].norm1(state)
        v = model.blocks[1].mixer.qkv(normed)[..., 384:].flatten(1, 2).unflatten(2, (4, 48)).transpose(1, 2)
        mixed = model.blocks[1].mixer.proj((second.mixed @ v).transpose(1, 2).reshape(state.shape))
        torch.testing.assert_close(mixed, model.blocks[1].mixer(normed), atol=1e-5, rtol=1e-4)


def test_blocks_without_positional_attention_are_named():
    with pytest.raises(ValueError, match=r"blocks 0 to 1 have positional attention, got \[2\]"):
        small().attention_maps(torch.randn(1, 3, 64, 64), indices=[0, 2])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(local_up_to_layer=4), "between 0 and the depth of 3, got 4"),
        (dict(num_heads=5), "divisor of the 192 channels, got 5"),
        (dict(locality_strength=-1.0), "at least 0, got -1.0"),
        (dict(img_size=15), "at least 16 pixels"),
        (dict(patch_size=0), "at least 1 pixel, got 0"),
        (dict(depth=0), "depth must be at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)
