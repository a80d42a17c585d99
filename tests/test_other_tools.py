"""Our models under tools that were written for others: tracers, hooks, feature extractors, adapters, wrappers.

What depends on the code of a model runs on one of each code path; see models.py.
"""

import copy

import pytest
import timm
import torch
from timm.layers import set_fused_attn
from timm.utils import AttentionExtract
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

from spectral_backbones.backbones.mixers import (
    AFNO,
    Attention,
    AxialDeepLabAttention,
    FFNifiedAttention,
    FNet,
    PerformerAttention,
    SpectralGating,
)
from spectral_backbones.backbones.mixers.attention import DotProductAttention
from spectral_backbones.backbones.mixers.deformable import sample_by_cells

from .models import ONE_OF_EACH_CLASS, REPRESENTATIVES, assert_close, create, images

of_each_code_path = pytest.mark.parametrize("name", REPRESENTATIVES, scope="module")


def created(name):
    return create(name).eval()


# Tracers ------------------------------------------------------------------------------------------------------------


@of_each_code_path
@torch.no_grad()
def test_any_tracer_of_torch_fx_goes_through_and_the_graph_takes_other_sizes(name):
    model = created(name)
    graph = torch.fx.symbolic_trace(model)
    x = images(3, 70, 50)
    assert_close(graph(x), model(x))


@pytest.mark.parametrize("name", ["gfnet_h_ti", "dat_t"])
@torch.no_grad()
def test_torchvisions_feature_extractor_gives_the_features(name):
    model = created(name)
    x = images(3, 70, 50)
    features = create_feature_extractor(model, {"stages.1": "a", "stages.2": "b"})(x)
    expected = model.forward_intermediates(x, [1, 2], output_fmt="NHWC", intermediates_only=True)
    for feature, map_ in zip((features["a"], features["b"]), expected):
        assert_close(feature, map_)


def test_a_layer_that_tracers_cannot_look_into_is_one_operation_of_any_model():
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.LayerNorm(8), SpectralGating(8, (4, 4)), nn.Linear(8, 8)))
    assert [node.op for node in graph.graph.nodes][1:-1] == ["call_module"] * 3


@pytest.mark.parametrize("feature_cls", ["fx", "hook"])
@pytest.mark.parametrize("name", ["convit_ti", "tnt_ti", "pyramidtnt_ti", "gfnet_h_ti"])
@torch.no_grad()
def test_other_feature_classes_of_timm_give_the_features_of_the_default_one(name, feature_cls):
    default = timm.create_model(name, features_only=True, img_size=64).eval()
    other = timm.create_model(name, features_only=True, img_size=64, feature_cls=feature_cls).eval()
    inner = other.graph_module if feature_cls == "fx" else other.body
    inner.load_state_dict(default.model.state_dict(), strict=False)
    x = images(1, 64, 96)
    features, expected = other(x), default(x)
    assert len(features) == len(expected) == len(other.feature_info.channels())
    for feature, map_ in zip(features, expected):
        tokens = map_.flatten(2).transpose(1, 2)
        assert_close(feature.flatten(1, -2)[:, -tokens.shape[1] :], tokens)  # without a class token


@pytest.mark.parametrize("feature_cls", ["list", "dict", "other", timm.models.FeatureListNet])
def test_feature_classes_that_cannot_work_are_refused_by_name(feature_cls):
    with pytest.raises(ValueError, match=r"feature_cls must be 'getter', 'fx' or 'hook', got"):
        timm.create_model("gfnet_ti", features_only=True, feature_cls=feature_cls, device="meta")


# Attention ----------------------------------------------------------------------------------------------------------


def without_fused_attention(model):
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, DotProductAttention):
            module.fused_attn = False
    return model


def test_timms_switch_is_read_when_a_layer_is_made():
    try:
        set_fused_attn(False)
        layer = Attention(8, 2)
    finally:
        set_fused_attn(True)
    assert (layer.attn.fused_attn, Attention(8, 2).attn.fused_attn) == (False, True)


@of_each_code_path
def test_attention_without_fused_kernels_is_the_same_and_shows_its_weights(name):
    """With gradients, too, which decide about kernels."""
    fused = created(name)
    plain = without_fused_attention(fused)
    x = images(1, 70, 50)
    with torch.no_grad():
        expected = fused(x)
        assert_close(plain(x), expected)
    assert_close(plain(x), fused(x))

    attentions = [module for module in plain.modules() if isinstance(module, DotProductAttention)]
    if not attentions:
        mixers = {type(module) for module in plain.modules()}
        assert mixers & {SpectralGating, AFNO, FNet, PerformerAttention, AxialDeepLabAttention, FFNifiedAttention}
        return
    extract = AttentionExtract(plain, method="hook")
    with torch.no_grad():
        weights = extract(x)
    assert len(weights) == len(attentions)
    for weight in weights.values():
        assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]), 1e-5)


@pytest.mark.parametrize("name", ["spectformer_ti", "tnt_ti"])
def test_weights_of_attention_are_nodes_of_a_graph_where_tracers_see_it(name):
    weights = AttentionExtract(without_fused_attention(created(name)))(images())
    assert weights and all(weight.dim() == 4 for weight in weights.values())


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH_CLASS if not name.startswith("sgformer")] + ["dat_pp_t"])
def test_forward_mode_derivatives_are_those_of_differences(name):
    model = created(name).double()
    x, direction = images(1, dtype=torch.float64), images(1, dtype=torch.float64)
    _, derivative = torch.func.jvp(model, (x,), (direction,))
    with torch.no_grad():
        step = 1e-6  # small beside the distance to the kinks of ReLU
        difference = (model(x + step * direction) - model(x - step * direction)) / (2 * step)
    assert_close(derivative, difference, 1e-3)


def test_forward_mode_derivatives_of_sgformer_are_finite():
    """Differences cross steps, where tokens change their order."""
    model = created("sgformer_s")
    _, derivative = torch.func.jvp(model, (images(1),), (images(1),))
    assert derivative.isfinite().all() and derivative.any()


def test_sampling_by_cells_is_torchs():
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 6, 7, 2, dtype=torch.float64) * 2.6 - 1.3  # some are outside
    points[0, 0, :3] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    points.requires_grad_()
    ours, theirs = sample_by_cells(maps, points), nn.functional.grid_sample(maps, points, align_corners=True)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(output.sin().sum(), (maps, points)) for output in (ours, theirs)]
    torch.testing.assert_close(*gradients)


# Modules that are replaced --------------------------------------------------------------------------------------------

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class Replacement(nn.Module):
    """Shows nothing of the layer that it calls, neither weight nor width."""

    def __init__(self, layer):
        super().__init__()
        self.layers = [layer]

    def forward(self, x):
        return self.layers[0](x)


@of_each_code_path
@torch.no_grad()
def test_linear_layers_convolutions_and_norms_may_be_replaced(name):
    model, x = created(name), images(2, 70, 50)
    expected = model(x)
    replaced = [path for path, module in model.named_modules() if isinstance(module, LAYERS)]
    for path in replaced:
        model.set_submodule(path, Replacement(model.get_submodule(path)))
    assert len(replaced) > 3
    assert_close(model(x), expected)


@of_each_code_path
@torch.no_grad()
def test_linear_layers_and_convolutions_are_called_as_such(name):
    """Classes that compute anything else than their base would be taken for it."""
    for path, module in created(name).named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            assert type(module) in (nn.Linear, nn.Conv2d), path


@pytest.mark.parametrize("name", ["sgformer_s", "convit_ti", "halonet_26t"])
@torch.no_grad()
def test_dynamic_quantisation_of_linear_layers(name):
    model, x = created(name), images()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert_close(quantised(x), model(x), 0.2)


@pytest.mark.parametrize("name", ["sgformer_s", "dat_pp_t"])
def test_lora_on_all_linear_layers(name):
    peft = pytest.importorskip("peft")
    model, x = created(name), images()
    before = model(x).detach()
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    output = adapted(x)
    output.square().mean().backward()
    assert not torch.allclose(output, before, atol=1e-4)
    trained = {key: parameter.grad for key, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in key and gradient is not None for key, gradient in trained.items())
    assert_close(adapted.merge_and_unload()(x), output, 1e-3)


@pytest.mark.parametrize("name", [*ONE_OF_EACH_CLASS, "sehalonet_33ts"])
def test_full_backward_hooks_on_every_module(name):
    model = created(name).train()
    seen = set()
    for path, module in model.named_modules():
        module.register_full_backward_hook(lambda *_, path=path: seen.add(path))
    model(images().requires_grad_()).sum().backward()
    assert {"", "patch_embed", "head"} <= seen


# Networks around a backbone -------------------------------------------------------------------------------------------

UNETS = [("Unet", "gfnet_h_ti"), ("FPN", "dat_t"), ("DPT", "convit_ti"), ("DPT", "tnt_ti"), ("DPT", "spectformer_ti")]


@pytest.mark.parametrize(("architecture", "name"), UNETS)
def test_segmentation_models_pytorch(architecture, name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, architecture)(encoder_name=f"tu-{name}", encoder_weights=None, classes=2)
    masks = model(images())
    assert masks.shape == (2, 2, 64, 64)
    masks.square().mean().backward()
    stem = {name: p for name, p in model.named_parameters() if ".patch_embed." in name}
    assert stem and all(parameter.grad is not None for parameter in stem.values())


@pytest.mark.slow
@torch.no_grad()
def test_a_unet_is_exported_by_torch_export():
    """What takes the place of TorchScript, which cannot call timm's feature extractor of our models."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("tu-gfnet_h_ti", encoder_weights=None, classes=2).eval()
    program = torch.export.export(model, (images(),))
    x = images()
    assert_close(program.module()(x), model(x))


class Pyramid(nn.Module):
    """Maps by name as torchvision's detectors take them."""

    def __init__(self, body, out_channels=16):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), out_channels)
        self.out_channels = out_channels

    def forward(self, x):
        return self.fpn({str(i): feature for i, feature in enumerate(self.body(x))})


@pytest.mark.parametrize("name", ["gfnet_h_ti", "convit_ti", "spectformer_ti"])
def test_torchvisions_faster_rcnn(name):
    from torchvision.models.detection.rpn import AnchorGenerator

    body = timm.create_model(name, features_only=True, img_size=64)
    num_maps = len(body.feature_info.channels())
    anchors = AnchorGenerator(tuple((8 * 2**i,) for i in range(num_maps)), ((0.5, 1.0, 2.0),) * num_maps)
    model = FasterRCNN(Pyramid(body), 3, min_size=64, max_size=96, rpn_anchor_generator=anchors)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    losses = model([torch.rand(3, 60, 80)], [dict(boxes=boxes, labels=torch.tensor([1]))])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, 60, 80)])
    assert found["boxes"].shape[1] == 4


@pytest.mark.parametrize("name", ["gfnet_ti", "convit_ti", "pyramidtnt_ti"])
def test_transformers_wrappers_of_timm(name):
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmWrapperConfig(architecture=name, num_labels=3, model_args=dict(img_size=64))
    output = transformers.TimmWrapperForImageClassification(config)(images(), labels=torch.tensor([0, 2]))
    assert output.logits.shape == (2, 3)
    output.loss.backward()
    config = transformers.TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=(-2, -1))
    backbone = transformers.TimmBackbone(config)
    maps = backbone(images()).feature_maps
    assert [feature.shape[1] for feature in maps] == backbone.channels
