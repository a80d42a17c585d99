"""The contract of a model (backbones/backbone.py), on the smallest model of each code path.

See `code_path` in models.py; registering a family covers it. Graphs, autocast in training and the doors of checkpoints
are in test_contract_of_code.py, what a name alone can break is in test_names.py.
"""

import fnmatch

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters

from .models import REPRESENTATIVES, SIZE, assert_close, build, classifier_names, create, drawn, images, on_meta

pytestmark = pytest.mark.parametrize("name", REPRESENTATIVES, scope="module")


def least_size(model):
    return model.feature_info[0]["reduction"]


def is_of(key, names):
    """Whether a parameter belongs to one of the modules."""
    return key.rpartition(".")[0] in names


# Creation ---------------------------------------------------------------------------------------------------------


def test_features_without_classifier_have_the_promised_width(name):
    model = on_meta(name, num_classes=0).eval()
    assert model(images(device="meta")).shape == (2, model.num_features)


def test_unpooled_output_is_a_map_or_a_sequence(name):
    model = build(name, num_classes=0, global_pool="").eval()
    output = model(images())
    assert output.dim() in (3, 4)
    assert output.shape[-1] == model.num_features


def test_other_input_channels_and_rates_are_accepted(name):
    model = build(name, in_chans=1, drop_rate=0.1, drop_path_rate=0.2).train()
    assert model(images(channels=1)).shape == (2, 5)


def test_stochastic_depth_is_drawn_for_each_image(name):
    model = create(name, drop_path_rate=0.9).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # its statistics would mix images
    same = images(1).expand(4, -1, -1, -1)
    with torch.no_grad():
        assert model(same).std(dim=0).max() > 0


def test_unknown_argument_is_refused(name):
    with pytest.raises(TypeError, match="no_such_argument"):
        on_meta(name, no_such_argument=1)


def test_wrong_pooling_is_refused_with_what_is_allowed(name):
    with pytest.raises(ValueError, match=r"'avg'.*'median'"):
        on_meta(name, global_pool="median")


def test_a_number_of_classes_or_channels_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="num_classes must be at least 0, which is for features, got -1"):
        on_meta(name, num_classes=-1)
    with pytest.raises(ValueError, match="in_chans must be at least 1, got 0"):
        on_meta(name, in_chans=0)
    model = on_meta(name)
    head = model.head
    with pytest.raises(ValueError, match="num_classes must be at least 0"):
        model.reset_classifier(-2, "max")
    assert model.head is head and model.num_classes == 5


def test_meta_device_then_init_weights_gives_finite_tensors(name):
    model = on_meta(name, dtype=torch.float64)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    model = model.float().to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))  # what is forgotten shows
        model.init_weights()
        for key, tensor in (*model.named_parameters(), *model.named_buffers()):
            assert torch.isfinite(tensor).all(), key
        assert torch.isfinite(model(images())).all()


# Use --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_forward_is_features_then_head(name):
    model = drawn(name)
    x = images()
    features = model.forward_features(x)
    assert torch.equal(model(x), model.forward_head(features))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert features.shape[-1 if features.dim() == 3 or model.output_fmt == "NHWC" else 1] == model.num_features


@torch.no_grad()
def test_intermediates_have_the_announced_channels_and_strides(name):
    model = drawn(name)
    x = images(1, 64, 96)
    for output_fmt in ("NCHW", "NLC"):
        final, maps = model.forward_intermediates(x, output_fmt=output_fmt)
        torch.testing.assert_close(final, model.forward_features(x))
        assert len(maps) == len(model.feature_info)
        for feature, info in zip(maps, model.feature_info):
            height, width = -(-64 // info["reduction"]), -(-96 // info["reduction"])
            if output_fmt == "NCHW":
                assert feature.shape == (1, info["num_chs"], height, width)
            else:
                assert feature.shape == (1, height * width, info["num_chs"])


@torch.no_grad()
def test_intermediates_are_the_same_whichever_are_asked_for(name):
    model = drawn(name)
    x = images(1)
    maps = model.forward_intermediates(x, intermediates_only=True)
    last = len(maps) - 1
    for stop_early in (False, True):
        some = model.forward_intermediates(x, indices=[0, last - 1], stop_early=stop_early, intermediates_only=True)
        assert torch.equal(some[0], maps[0])
        assert torch.equal(some[1], maps[last - 1])
    assert torch.equal(model.forward_intermediates(x, indices=1, intermediates_only=True)[0], maps[-1])
    normed = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
    assert normed.shape == maps[-1].shape
    assert torch.equal(normed, maps[-1]) == isinstance(model.norm, torch.nn.Identity)


@torch.no_grad()
def test_class_tokens_come_with_the_maps_on_request(name):
    model = drawn(name)
    x = images(1)
    if model.forward_features(x).dim() == 4:
        assert not getattr(model, "num_prefix_tokens", 0)
        return  # a map has no place for them
    final, pairs = model.forward_intermediates(x, norm=True, output_fmt="NLC", return_prefix_tokens=True)
    assert [prefix.shape[1] for _, prefix in pairs] == [model.num_prefix_tokens] * len(pairs)
    tokens, prefix = pairs[-1]
    torch.testing.assert_close(torch.cat([prefix, tokens], dim=1), final)


def test_unknown_output_format_is_refused(name):
    with pytest.raises(ValueError, match=r"NCHW.*'CHWN'"):
        drawn(name).forward_intermediates(images(), output_fmt="CHWN")


def test_features_only_gives_the_asked_maps(name):
    model = build(name, features_only=True, out_indices=(0, 2)).eval()
    maps = model(images(1, 64, 96))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    sides = [(-(-64 // stride), -(-96 // stride)) for stride in model.feature_info.reduction()]
    assert [tuple(m.shape[2:]) for m in maps] == sides
    assert len(build(name, features_only=True).feature_info.channels()) >= 3


@torch.no_grad()
def test_pruned_model_keeps_its_taps(name):
    model = create(name).eval()
    x = images(1)
    last = len(model.feature_info) - 1
    taps = model.forward_intermediates(x, intermediates_only=True)
    for index, prune_norm in ((0, False), (last - 1, True), (last, False)):
        pruned = create(name).eval()
        assert pruned.prune_intermediate_layers([index], prune_norm=prune_norm) == [index]
        (tap,) = pruned.forward_intermediates(x, indices=[index], intermediates_only=True)
        assert torch.equal(tap, taps[index])
    expected = model(x)
    assert model.prune_intermediate_layers([last], prune_head=False) == [last]
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("prune_norm", [False, True])
def test_pruned_model_has_no_unused_parameter(name, prune_norm):
    x = images()
    last = len(drawn(name).feature_info) - 1
    for index in (0, last):
        pruned = build(name).train()
        indices = pruned.prune_intermediate_layers([index], prune_norm=prune_norm)
        maps = pruned.forward_intermediates(x, indices=indices, norm=not prune_norm, intermediates_only=True)
        sum(m.sum() for m in maps).backward()
        assert not [key for key, parameter in pruned.named_parameters() if parameter.grad is None]
        assert pruned(x).shape[-1] == pruned.num_features


def test_reset_classifier_keeps_pooling_and_dtype(name):
    model = build(name, dtype=torch.float64).eval()
    pool = model.global_pool
    x = images(dtype=torch.float64)
    model.reset_classifier(7)
    assert model.global_pool == pool
    logits = model(x)
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float64
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


def test_reset_classifier_draws_a_new_one(name):
    model = create(name)
    model.reset_classifier(7)
    for key in classifier_names(model):
        classifier = model.get_submodule(key)
        assert torch.isfinite(classifier.weight).all()
        assert classifier.weight.std() > 0
        assert not classifier.bias.any()


@pytest.mark.parametrize("training", [True, False])
def test_reset_classifier_leaves_the_mode_of_every_other_module(name, training):
    """A frozen stem stays in evaluation while the rest trains, batch norm's averages included."""
    model = on_meta(name).train(training)
    modes = {}
    for i, module in enumerate(model.modules()):
        modes[module] = module.training = training if i % 2 == 0 else not training
    model.reset_classifier(7)
    model.reset_classifier(7, "avg")
    assert all(module.training == modes.get(module, training) for module in model.modules())


def test_frozen_weights_stay_frozen_through_reset_and_resize(name):
    model = on_meta(name).requires_grad_(False)
    model.reset_classifier(0)
    model.set_input_size(img_size=(2 * SIZE, SIZE))
    assert not [key for key, parameter in model.named_parameters() if parameter.requires_grad]


# Training ---------------------------------------------------------------------------------------------------------


def test_every_parameter_gets_a_finite_gradient(name):
    model = create(name).train()
    model(images()).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_training_at_another_size_reaches_every_parameter(name):
    model = build(name).train()
    model(images(2, 70, 131)).square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_grad_checkpointing_changes_neither_outputs_nor_gradients(name):
    model = create(name, features_only=True, out_indices=(1, 2)).train()
    x = images()
    results = []
    for enable in (False, True):
        model.zero_grad()
        model.model.set_grad_checkpointing(enable)
        torch.manual_seed(0)  # a model may have dropout by default
        maps = model(x)
        sum(m.square().mean() for m in maps).backward()
        results.append([*maps, *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(plain, checkpointed)


def test_group_matcher_sorts_every_parameter_into_ordered_layers(name):
    model = on_meta(name)
    trunk = [key for key, _ in on_meta(name, num_classes=0, global_pool="").named_parameters()]
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        last = max(groups.values())
        assert {groups[key] for key in groups if is_of(key, classifier_names(model))} == {last}
        assert max(groups[key] for key in trunk) < last
        assert groups[f"{model.default_cfg['first_conv']}.weight"] == 0


def test_no_weight_decay_names_parameters(name):
    model = on_meta(name)
    keys = [key for key, _ in model.named_parameters()]
    for pattern in model.no_weight_decay():
        assert fnmatch.filter(keys, pattern), pattern


# Sizes ------------------------------------------------------------------------------------------------------------


def test_any_size_works_and_may_change_from_batch_to_batch(name, recwarn):
    model = drawn(name)
    least = least_size(model)
    with torch.no_grad():
        for height, width in ((SIZE, SIZE), (least, least), (70, 131), (33, 200), (SIZE, SIZE)):
            logits = model(images(1, height, width))
            assert logits.shape == (1, 5)
            assert torch.isfinite(logits).all()
    assert not [str(w.message) for w in recwarn if "torch.jit" not in str(w.message)]


@torch.no_grad()
def test_image_does_not_depend_on_its_batch(name):
    """In float64: rounding in float32 differs with the batch, and SG-Former sorts by scores that nearly tie."""
    model = create(name).eval().double()
    x = images(3, 70, 90, dtype=torch.float64)
    assert_close(torch.cat([model(image[None]) for image in x]), model(x), tolerance=1e-6)


def test_too_small_an_image_is_refused_with_the_least_size(name):
    model = drawn(name)
    least = least_size(model)
    with pytest.raises(ValueError, match=f"{least - 1}x64 pixels.*least size is {least}x{least}"):
        model(images(1, least - 1, 64))
    with pytest.raises(ValueError, match=f"at least {least} pixels"):
        on_meta(name, img_size=least - 1)


def test_set_input_size_makes_a_size_the_models_own(name):
    model = create(name).eval()
    x = images(1, 128, 64)
    with torch.no_grad():
        before = model(x)
        model.set_input_size(img_size=(128, 64))
        after = model(x)
    fresh = on_meta(name, img_size=(128, 64))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert timm.models.get_model_input_config(model)["input_size"] == (3, 128, 64)
    # DAT reads its tables of relative positions bilinearly in the forward pass, and resamples them bicubically here.
    assert_close(after, before, tolerance=1e-2 if name.startswith("dat") else 1e-4)


# Precision --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_float64_is_computed_in_float64(name):
    x = images()
    single = drawn(name)(x)
    double = create(name).eval().double()(x.double())
    assert double.dtype == torch.float64
    # Rounding decides the order in which SG-Former takes tokens of nearly equal scores; see test_sgformer.py.
    assert_close(single.double(), double, tolerance=1e-2 if name.startswith("sgformer") else 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_autocast_stays_near_float32(name, dtype):
    x = images(1)
    with torch.autocast("cpu", dtype):
        output = drawn(name)(x)
    assert_close(output.float(), drawn(name)(x), tolerance=0.1)


@torch.no_grad()
def test_bfloat16_model_stays_near_float32(name):
    x = images()
    output = create(name).eval().to(torch.bfloat16)(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), drawn(name)(x), tolerance=0.1)


# Checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoint_adapts_to_another_size_as_set_input_size_does(name):
    overlay = dict(state_dict=dict(sorted(drawn(name).state_dict().items())), num_classes=5)
    model = build(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=(128, 64))
    resized = create(name)
    resized.set_input_size((128, 64))
    expected = resized.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_checkpoint_of_another_model_is_refused_with_what_differs(name):
    foreign = {f"layer{i}.conv1.weight": torch.zeros(64, 64, 3, 3) for i in range(4)}
    overlay = dict(state_dict=foreign, num_classes=5)
    with pytest.raises(ValueError, match=rf"not one of {name}.*tensors are missing"):
        on_meta(name, pretrained=True, pretrained_cfg_overlay=overlay)
