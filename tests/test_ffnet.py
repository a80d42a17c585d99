"""What is particular to FFNet: its re-parameterised form, and official weights of both forms."""

import copy
import re

import numpy as np
import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.utils import reparameterize_model
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.ffnet import ConvMlp, ResidualNormLinear, checkpoint_filter_fn
from spectral_backbones.backbones.mixers import FFNifiedAttention

from .golden import weights
from .golden_models import GOLDEN
from .models import assert_close, build, images

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


def small(name, **kwargs):
    """A narrow model whose batch norms are as training leaves them: new ones would hide a fault of their folding."""
    model = build(name, **kwargs)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "trained", "fused"),
    [
        ("ffnet_1", 13_775_656, 13_660_152),
        ("ffnet_2", 27_208_408, 26_908_440),
        ("ffnet_3", 48_817_896, 48_330_632),
        ("ffnet_4", 79_868_968, 79_200_360),
    ],
)
def test_parameters_of_both_forms(name, trained, fused):
    """Rounded to a tenth of a million the second are the published ones."""
    model = timm.create_model(name, device="meta").eval()
    assert count(model) == trained
    assert count(reparameterize_model(model, inplace=True)) == fused


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_3"])
@pytest.mark.parametrize("convert", [lambda model: model, convert_sync_batchnorm, freeze_batch_norm_2d])
@torch.no_grad()
def test_the_reparameterised_form_computes_the_same_at_any_size(name, convert):
    model = convert(small(name)).eval()
    fused = reparameterize_model(model)
    assert [key for key, module in fused.named_modules() if isinstance(module, BATCH_NORMS)] == ["norm.bn"]
    for height, width in ((64, 64), (37, 90), (4, 5)):
        x = images(2, height, width)
        for ours, expected in zip(fused.forward_intermediates(x)[1], model.forward_intermediates(x)[1], strict=True):
            assert_close(ours, expected, tolerance=1e-5)
        assert_close(fused(x), model(x), tolerance=1e-5)


def test_training_mode_is_not_reparameterised():
    with pytest.raises(RuntimeError, match="evaluation alone"):
        reparameterize_model(small("ffnet_1").train())
    with pytest.raises(RuntimeError, match=r"linear layer.*evaluation alone"):
        ResidualNormLinear(4).train().fuse()


@pytest.mark.parametrize("learns", [True, False], ids=["learning", "frozen"])
def test_a_reparameterised_model_learns_with_all_of_its_weights_unless_they_were_frozen(learns):
    model = small("ffnet_1").requires_grad_(learns).eval()
    fused = reparameterize_model(model)
    assert {parameter.requires_grad for parameter in fused.parameters()} == {learns}
    if learns:
        fused.train()(images(2, 37, 64)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in fused.parameters())


def test_a_linear_layer_that_a_hook_looks_into_keeps_its_batch_norm():
    layer = ResidualNormLinear(4).eval()
    handle = layer.norm.register_forward_hook(lambda *_: None)
    assert layer.fuse() is layer
    handle.remove()
    assert isinstance(layer.fuse(), nn.Linear)


def test_its_token_mixers_are_the_houses_and_only_7x7_kernels_are_trained_in_two():
    model = timm.create_model("ffnet_2", device="meta")
    for stage, kernel_size in zip(model.stages, (3, 3, 7, 7), strict=True):
        for block in stage.blocks:
            assert isinstance(block.mixer, FFNifiedAttention)
            assert hasattr(block.mixer.conv1, "large") == hasattr(block.mixer.conv2, "large") == (kernel_size == 7)
            assert block.mlp.conv.large.conv.kernel_size == (7, 7)


def test_initial_weights_follow_the_reference():
    model = timm.create_model("ffnet_3", depths=(1, 1, 1, 1), drop_path_rate=0.3)
    block = model.stages[2].blocks[0]
    for module in (block.mixer.fc.conv, block.mixer.conv1.large.conv, block.mlp.fc1, model.head):
        assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not block.mlp.fc1.bias.any() and not model.stages[0].blocks[0].mixer.conv1.bias.any()
    assert torch.equal(block.ls1.gamma, torch.full((384,), 1e-6)) and torch.equal(block.ls2.gamma, block.ls1.gamma)
    rates = [[b.drop_path1, b.drop_path2] for stage in model.stages for b in stage.blocks]
    assert [[getattr(drop, "drop_prob", 0.0) for drop in pair] for pair in rates] == [
        [pytest.approx(rate)] * 2 for rate in (0.0, 0.1, 0.2, 0.3)
    ]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(embed_dims=(80, 160, 240, 480)), r"multiple of the one before, got \(80, 160, 240, 480\)"),
        (dict(depths=(2, 2, 8)), "depths must have a value for each of the 4 stages"),
        (dict(depths=(2, 0, 8, 2)), r"depths must be at least 1, got \(2, 0, 8, 2\)"),
        (dict(mlp_kernel_size=4), "mlp_kernel_size must be odd and at least 1, got 4"),
        (dict(mlp_kernel_size=-1), "mlp_kernel_size must be odd and at least 1, got -1"),
        (dict(mixers="ffnified(kernel_size=2)"), "kernel_size must be odd and at least 1, got 2"),
        (dict(mixers=("ffnified", "ffnified")), "mixers must have a value for each of the 4 stages"),
        (dict(mixers="fnified"), "ffnified"),
        (dict(img_size=3), "at least 4 pixels"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("ffnet_1", device="meta", **kwargs)


def test_other_mixers_and_kernels_have_a_place_in_its_trunk():
    model = build("ffnet_1", mixers=("ffnified(kernel_size=5)", "halo", "attention"), mlp_kernel_size=5)
    assert isinstance(model.stages[0].blocks[0].mlp, ConvMlp)
    model(images(2, 40, 56)).square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


# Checkpoints ----------------------------------------------------------------------------------------------------------


def official(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    return golden, weights.state_dict(golden["names"], golden["shapes"])


def folded(state, conv, bn):
    """Weight and bias of a convolution and the batch norm behind it."""
    scale = state[f"{bn}.weight"] * (state[f"{bn}.running_var"] + 1e-5).rsqrt()
    weight = state[f"{conv}.weight"] * scale[:, None, None, None]
    return weight, state[f"{bn}.bias"] - state[f"{bn}.running_mean"] * scale


def officially_fused(state):
    """What the official `fuse` makes of its state dict: the same names, without those of the parts."""
    fused = {name: value for name, value in state.items() if not re.search(r"\.(c|bn)\.", name)}
    for name in [name.removesuffix(".c.weight") for name in state if name.endswith(".c.weight")]:
        if ".proj.1." in name:  # the norm in front, and x itself
            scale = state[f"{name}.bn.weight"] * (state[f"{name}.bn.running_var"] + 1e-5).rsqrt()
            weight = state[f"{name}.c.weight"][:, :, 0, 0]
            parts = (
                weight * scale + torch.eye(len(weight)),
                weight @ (state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale),
            )
            place, weight, bias = name.removesuffix(".conv"), parts[0][:, :, None, None], parts[1]
        elif re.search(r"\.conv1$", name) and f"{name.removesuffix('1')}.c.weight" in state:
            continue  # together with the large one
        elif f"{name.removesuffix('.conv')}.conv1.c.weight" in state and name.endswith(".conv"):
            place = name.removesuffix(".conv")
            weight, bias = folded(state, f"{name}.c", f"{name}.bn")
            small_weight, small_bias = folded(state, f"{place}.conv1.c", f"{place}.conv1.bn")
            weight, bias = weight + nn.functional.pad(small_weight, [2] * 4), bias + small_bias
        else:
            place = name
            weight, bias = folded(state, f"{name}.c", f"{name}.bn")
        fused[f"{place}.weight"], fused[f"{place}.bias"] = weight, bias
    return fused


@pytest.mark.parametrize("name", ["ffnet_1", "ffnet_2"])
@torch.no_grad()
def test_golden_logits_come_from_reparameterised_official_checkpoints(name, tmp_path, caplog):
    golden, state = official(name)
    fused = officially_fused(state)
    torch.save({"state_dict": fused, "epoch": 319}, tmp_path / "fused.pth.tar")
    source = dict(file=str(tmp_path / "fused.pth.tar"))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source)
    assert "re-parameterised" in caplog.text
    assert model.training and all(module.training for module in model.modules())
    model.eval()
    assert count(model) == sum(value.numel() for key, value in fused.items() if "running_" not in key)
    x = weights.images(golden["image_shape"])[:1]
    assert_close(model(x), torch.from_numpy(golden["logits_float64"][:1]).float(), tolerance=1e-5)
    # A detector's backbone, and our own file of that form
    backbone = DenseBackbone(name, pretrained=tmp_path / "fused.pth.tar", out_indices=(0, 1)).eval()
    x = images(1, 48, 70)
    for feature, expected in zip(backbone(x), model.forward_intermediates(x)[1][:2], strict=True):
        assert_close(feature, expected, tolerance=1e-5)
    own = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=model.state_dict())).eval()
    assert torch.equal(own(x), model(x))


def test_golden_weights_of_another_model_are_refused():
    _, state = official("ffnet_1")
    model = timm.create_model("ffnet_2", device="meta")
    before = copy.deepcopy(model)
    for one in (state, officially_fused(state)):
        with pytest.raises(ValueError, match="not one of ffnet_2"):
            checkpoint_filter_fn(one, model)
    assert repr(model) == repr(before) and model.training  # not left in another form
    fused = reparameterize_model(timm.create_model("ffnet_1", device="meta").eval())
    with pytest.raises(ValueError, match="ffnet_1 is re-parameterised and the checkpoint is not"):
        checkpoint_filter_fn(state, fused)


def test_golden_checkpoint_of_a_detector_gives_its_trunk():
    golden, state = official("ffnet_2_dense")
    detector = {"state_dict": {f"backbone.{key}": value for key, value in state.items()}}
    overlay = dict(state_dict=detector)
    model = timm.create_model("ffnet_2", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0).eval()
    x = weights.images(golden["image_shape"])
    with torch.no_grad():
        last = model.forward_intermediates(x, intermediates_only=True)[-1]
        last = nn.functional.layer_norm(
            last.permute(0, 2, 3, 1), (704,), state["norm3.weight"], state["norm3.bias"], 1e-6
        )
    assert_close(last.permute(0, 3, 1, 2).flatten()[:64], torch.from_numpy(golden["feature_3_sample"]))
