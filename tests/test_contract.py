"""The contract of a model (backbones/backbone.py) for every registered name: registering a family covers it."""

import copy
import fnmatch
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters

import backbones

NAMES = backbones.list_models()
SIZE = 96  # pixels; three stages of a pyramid still have more than one token

pytestmark = pytest.mark.parametrize("name", NAMES)


def create(name, **kwargs):
    return timm.create_model(name, **{"img_size": SIZE, "num_classes": 5, **kwargs})


def images(batch=2, height=SIZE, width=SIZE, channels=3, dtype=torch.float32):
    return torch.randn(batch, channels, height, width, dtype=dtype)


def assert_close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    assert error < tolerance, f"off by {error:.1e} of the scale"


def least_size(model):
    return model.feature_info[0]["reduction"]


# Creation ---------------------------------------------------------------------------------------------------------


def test_name_is_not_one_of_timms(name):
    assert Path(timm.__file__).parent not in Path(timm.model_entrypoint(name).__code__.co_filename).parents


def test_default_cfg_describes_the_model(name):
    model = timm.create_model(name, device="meta")
    cfg = model.default_cfg
    assert model.num_classes == cfg["num_classes"] == 1000
    assert model.in_chans == cfg["input_size"][0] == 3
    for field in ("mean", "std", "interpolation", "crop_pct", "license", "origin_url", "paper_ids"):
        assert cfg[field], f"default_cfg has no {field}"
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert [model.get_submodule(classifier).out_features for classifier in classifiers] == [1000] * len(classifiers)
    assert len(model.feature_info) >= 3


def test_features_without_classifier_have_the_promised_width(name):
    model = create(name, num_classes=0).eval()
    assert model(images()).shape == (2, model.num_features)


def test_unpooled_output_is_a_map(name):
    model = create(name, num_classes=0, global_pool="").eval()
    assert model(images()).dim() in (3, 4)
    assert model(images()).shape[-1] == model.num_features


def test_other_input_channels_and_rates_are_accepted(name):
    model = create(name, in_chans=1, drop_rate=0.1, drop_path_rate=0.2).train()
    assert model(images(channels=1)).shape == (2, 5)


def test_stochastic_depth_is_drawn_for_each_image(name):
    model = create(name, drop_path_rate=0.9).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # its statistics would mix images
    same = images(1).expand(8, -1, -1, -1)
    with torch.no_grad():
        assert model(same).std(dim=0).max() > 0


def test_unknown_argument_is_refused(name):
    with pytest.raises(TypeError, match="no_such_argument"):
        create(name, no_such_argument=1)


def test_wrong_pooling_is_refused_with_what_is_allowed(name):
    with pytest.raises(ValueError, match=r"'avg'.*'median'"):
        create(name, global_pool="median")


def test_meta_device_then_init_weights_gives_finite_tensors(name):
    model = create(name, device="meta", dtype=torch.float64)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))  # what is forgotten shows
    model.init_weights()
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert torch.isfinite(tensor).all(), key
    assert torch.isfinite(model(images(dtype=torch.float64))).all()


# Use --------------------------------------------------------------------------------------------------------------


def test_forward_is_features_then_head(name):
    model = create(name).eval()
    x = images()
    features = model.forward_features(x)
    assert torch.equal(model(x), model.forward_head(features))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert features.shape[-1 if features.dim() == 3 or model.output_fmt == "NHWC" else 1] == model.num_features


def test_intermediates_have_the_announced_channels_and_strides(name):
    model = create(name).eval()
    x = images(1, 96, 128)
    for output_fmt in ("NCHW", "NLC"):
        final, maps = model.forward_intermediates(x, output_fmt=output_fmt)
        torch.testing.assert_close(final, model.forward_features(x))
        assert len(maps) == len(model.feature_info)
        for feature, info in zip(maps, model.feature_info):
            height, width = -(-96 // info["reduction"]), -(-128 // info["reduction"])
            if output_fmt == "NCHW":
                assert feature.shape == (1, info["num_chs"], height, width)
            else:
                assert feature.shape == (1, height * width, info["num_chs"])


def test_intermediates_are_the_same_whichever_are_asked_for(name):
    model = create(name).eval()
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
    assert not torch.equal(normed, maps[-1])


def test_unknown_output_format_is_refused(name):
    with pytest.raises(ValueError, match=r"NCHW.*'CHWN'"):
        create(name).forward_intermediates(images(), output_fmt="CHWN")


def test_features_only_gives_the_asked_maps(name):
    model = create(name, features_only=True, out_indices=(0, 2)).eval()
    maps = model(images(1, 64, 96))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [(m.shape[2], m.shape[3]) for m in maps] == [(64 // r, 96 // r) for r in model.feature_info.reduction()]
    assert len(create(name, features_only=True).feature_info.channels()) >= 3


@pytest.mark.parametrize("prune_norm", [False, True])
def test_pruned_model_keeps_its_taps_and_no_unused_parameter(name, prune_norm):
    model = create(name).eval()
    x = images()
    last = len(model.feature_info) - 1
    with torch.no_grad():
        taps = model.forward_intermediates(x, intermediates_only=True)
        kept = copy.deepcopy(model)
        assert kept.prune_intermediate_layers([last], prune_head=False) == [last]
        assert torch.equal(kept(x), model(x))
    for index in (0, last - 1, last):
        pruned = copy.deepcopy(model)
        indices = pruned.prune_intermediate_layers([index], prune_norm=prune_norm)
        assert indices == [index]
        with torch.no_grad():
            (tap,) = pruned.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert torch.equal(tap, taps[index])
        pruned.train()
        maps = pruned.forward_intermediates(x, indices=indices, norm=not prune_norm, intermediates_only=True)
        sum(m.sum() for m in maps).backward()
        assert not [key for key, parameter in pruned.named_parameters() if parameter.grad is None]
        assert pruned(x).shape[-1] == pruned.num_features


def test_reset_classifier_keeps_pooling_mode_and_dtype(name):
    model = create(name).to(torch.float64).eval()
    pool = model.global_pool
    model.reset_classifier(7)
    assert model.global_pool == pool
    assert model(images(dtype=torch.float64)).shape == (2, 7)
    assert not any(module.training for module in model.modules())
    classifier = model.get_classifier()
    for head in classifier if isinstance(classifier, tuple) else (classifier,):
        assert head.weight.dtype == torch.float64
        assert torch.isfinite(head.weight).all()
    model.reset_classifier(0)
    assert model(images(dtype=torch.float64)).shape == (2, model.num_features)


def test_reset_classifier_leaves_the_mode_of_every_other_module(name):
    """A frozen stem stays in evaluation while the rest trains, batch norm's averages included."""
    model = create(name).train()
    model.patch_embed.eval()
    model.reset_classifier(7)
    model.reset_classifier(7, "avg")
    assert not any(module.training for module in model.patch_embed.modules())
    assert all(module.training for module in model.head.modules())
    assert all(module.training for module in model.pool.modules())


def test_frozen_weights_stay_frozen_through_reset_and_resize(name):
    model = create(name, device="meta").requires_grad_(False)
    model.reset_classifier(0)
    model.set_input_size(img_size=(2 * SIZE, SIZE))
    assert not [key for key, parameter in model.named_parameters() if parameter.requires_grad]


# Training ---------------------------------------------------------------------------------------------------------


def test_every_parameter_gets_a_gradient(name):
    model = create(name).train()
    model(images()).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_grad_checkpointing_changes_neither_outputs_nor_gradients(name):
    model = create(name, features_only=True, out_indices=(1, 2)).train()
    x = images()
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.model.set_grad_checkpointing(enable)
        maps = model(x)
        sum(m.square().mean() for m in maps).backward()
        gradients.append([*maps, *(parameter.grad.clone() for parameter in model.parameters())])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


def test_group_matcher_sorts_every_parameter_into_ordered_layers(name):
    model = create(name, device="meta")
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        heads = [key for key, _ in model.named_parameters() if key.split(".")[0] in ("head", "aux_head")]
        assert {groups[key] for key in heads} == {max(groups.values())}
        assert groups[f"{model.default_cfg['first_conv']}.weight"] == 0
    unmatched = max(groups.values())
    inner = [key for key in groups if re.match(r"(stages|blocks|patch_embed|pos_embed|norm)\b", key)]
    assert all(groups[key] < unmatched for key in inner)


def test_no_weight_decay_names_parameters(name):
    model = create(name, device="meta")
    keys = [key for key, _ in model.named_parameters()]
    for pattern in model.no_weight_decay():
        assert fnmatch.filter(keys, pattern), pattern


# Sizes ------------------------------------------------------------------------------------------------------------


def test_any_size_works_and_may_change_from_batch_to_batch(name, recwarn):
    model = create(name).eval()
    least = least_size(model)
    with torch.no_grad():
        for height, width in ((96, 96), (least, least), (70, 131), (33, 200), (96, 96)):
            logits = model(images(1, height, width))
            assert logits.shape == (1, 5)
            assert torch.isfinite(logits).all()
    assert not [str(w.message) for w in recwarn if "torch.jit" not in str(w.message)]


def test_image_does_not_depend_on_its_batch(name):
    model = create(name).eval()
    x = images(3, 70, 90)
    with torch.no_grad():
        assert_close(torch.cat([model(image[None]) for image in x]), model(x))


def test_training_at_another_size_reaches_every_parameter(name):
    model = create(name).train()
    model(images(2, 70, 131)).square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_too_small_an_image_is_refused_with_the_least_size(name):
    model = create(name)
    least = least_size(model)
    with pytest.raises(ValueError, match=f"{least - 1}x64 pixels.*least size is {least}x{least}"):
        model(images(1, least - 1, 64))
    with pytest.raises(ValueError, match=f"at least {least} pixels"):
        create(name, img_size=least - 1)


def test_set_input_size_makes_a_size_the_models_own(name):
    model = create(name).eval()
    x = images(1, 128, 64)
    with torch.no_grad():
        before = model(x)
        model.set_input_size(img_size=(128, 64))
        after = model(x)
    fresh = create(name, img_size=(128, 64))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert timm.models.get_model_input_config(model)["input_size"] == (3, 128, 64)
    assert_close(after, before, tolerance=0.5)  # tables are resampled by another rule in the forward pass


# Precision --------------------------------------------------------------------------------------------------------


def test_float64_is_computed_in_float64(name):
    model = create(name).eval()
    x = images()
    with torch.no_grad():
        single = model(x)
        double = model.double()(x.double())
    assert double.dtype == torch.float64
    # Rounding decides the order in which SG-Former takes tokens of nearly equal scores; see test_sgformer.py.
    assert_close(single.double(), double, tolerance=1e-2 if name.startswith("sgformer") else 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32_and_trains(name, dtype):
    model = create(name).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype):
            assert_close(model(x).float(), expected, tolerance=0.1)
    with torch.autocast("cpu", dtype):
        loss = model.train()(x).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_bfloat16_model_stays_near_float32(name):
    model = create(name).eval()
    x = images()
    with torch.no_grad():
        expected = model(x)
        output = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert_close(output.float(), expected, tolerance=0.1)


# Compilation and export -------------------------------------------------------------------------------------------


def test_compiles_as_one_graph(name):
    model = create(name, img_size=64).eval()
    x = images(2, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(x), model(x))


def test_exports_with_a_dynamic_batch(name):
    model = create(name, img_size=64).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images(2, 64, 64),), dynamic_shapes=({0: batch},))
    x = images(3, 64, 64)
    with torch.no_grad():
        assert_close(program.module()(x), model(x))


def test_scripts(name):
    model = create(name, img_size=64).eval()
    x = images(2, 64, 64)
    assert_close(torch.jit.script(model)(x), model(x))


@pytest.mark.slow
def test_onnx_equals_eager(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = create(name, img_size=64).eval()
    path = str(tmp_path / "model.onnx")
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(model, (images(2, 64, 64),), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = images(3, 64, 64)
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(output), model(x))


# Checkpoints ------------------------------------------------------------------------------------------------------


def load(name, source, **kwargs):
    return create(name, pretrained=True, pretrained_cfg_overlay=dict(num_classes=5, **source), **kwargs).eval()


def test_own_checkpoint_is_loaded_as_it_is(name, tmp_path):
    model = create(name).eval()
    x = images()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    with torch.no_grad():
        assert torch.equal(load(name, dict(file=str(tmp_path / "own.pth")))(x), model(x))
        shuffled = dict(sorted(model.state_dict().items()))
        assert torch.equal(load(name, dict(state_dict=shuffled))(x), model(x))


def test_checkpoint_adapts_to_classes_channels_and_size(name):
    state_dict = create(name).state_dict()
    other = load(name, dict(state_dict=dict(state_dict)), num_classes=3, in_chans=1, img_size=(128, 64))
    assert other(images(channels=1)).shape == (2, 3)
    # Biases of pairs of tokens are resampled between cells, not corners.
    trunk = [key for key in state_dict if re.match(r"(stages|blocks)\b(?!.*relative_pos)", key)]
    same = [
        key for key in trunk if torch.equal(other.state_dict()[key].reshape(-1)[:1], state_dict[key].reshape(-1)[:1])
    ]
    assert len(same) == len(trunk)  # corners survive resampling, everything else is unchanged
    headless = {key: value for key, value in state_dict.items() if not re.match(r"(head|aux_head)\b", key)}
    features = load(name, dict(state_dict=headless), num_classes=0)
    assert features(images()).shape == (2, features.num_features)


def test_checkpoint_of_another_model_is_refused_with_what_differs(name):
    foreign = timm.create_model("resnet18", num_classes=5).state_dict()
    with pytest.raises(ValueError, match=rf"not one of {name}.*tensors are missing"):
        load(name, dict(state_dict=foreign))


def test_local_dir_is_a_source_too(name, tmp_path):
    from safetensors.torch import save_file

    model = create(name).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = dict(architecture=name, num_classes=5, pretrained_cfg=dict(num_classes=5), model_args=dict(img_size=SIZE))
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = images()
    with torch.no_grad():
        assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))
