"""Groups of parameters: which learning rate and weight decay each has in a detector."""

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn

from spectral_backbones.toolboxes.backbone import TimmBackbone


class Detector(nn.Module):
    def __init__(self, name="dat_t", **kwargs):
        super().__init__()
        self.backbone = TimmBackbone(name, **kwargs)
        self.neck = nn.Conv2d(8, 8, 1)
        self.head = nn.Embedding(4, 8)


ADAMW = dict(type="AdamW", lr=1e-2, weight_decay=0.05)


def build(model, optimizer=ADAMW, **paramwise_cfg):
    cfg = dict(
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=paramwise_cfg,
        optimizer=optimizer,
    )
    return build_optim_wrapper(model, cfg)


def settings(model, wrapper):
    """(lr, weight decay) by name; each parameter is in one group."""
    groups = wrapper.optimizer.param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return {name: found.get(id(parameter)) for name, parameter in model.named_parameters()}


def test_rate_falls_from_head_to_stem():
    model = Detector(out_norm="new", frozen_stages=0)
    found = settings(model, build(model, layer_decay_rate=0.5))
    assert found["neck.weight"] == (1e-2, 0.05) and found["neck.bias"] == (1e-2, 0.0)
    assert found["backbone.out_norms.0.weight"] == (1e-2, 0.0)
    last = [value for name, value in found.items() if "stages.3.blocks.1" in name]
    assert {lr for lr, _ in last} == {5e-3}
    assert found["backbone.model.stages.0.blocks.0.mlp.fc1.weight"] == (pytest.approx(1e-2 * 0.5**12), 0.05)
    assert all(value is None for name, value in found.items() if "patch_embed" in name)  # frozen


def test_tables_norms_and_biases_have_no_weight_decay():
    model = Detector()
    found = settings(model, build(model))
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim <= 1 or "relative_position_bias" in name
        assert found[name] == (1e-2, 0.0 if exempt else 0.05), name
    assert any("relative_position_bias" in name for name in found)
    assert len(build(model).optimizer.param_groups) == 2


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_any_timm_model(name):
    with torch.device("meta"):
        model = Detector(name)
    found = settings(model, build(model, layer_decay_rate=0.8))
    assert None not in found.values()
    rates = sorted({lr for lr, _ in found.values()})
    assert rates[-1] == 1e-2 and rates[0] == pytest.approx(1e-2 * 0.8 ** (len(rates) - 1))


def test_more_patterns_and_custom_keys():
    model = Detector("gfnet_h_ti")
    custom = {"backbone": dict(lr_mult=0.1), "backbone.model.norm": dict(decay_mult=0.0), "neck": dict(decay_mult=2.0)}
    found = settings(model, build(model, no_weight_decay=["head.*"], custom_keys=custom))
    assert found["head.weight"] == (1e-2, 0.0) and found["neck.weight"] == (1e-2, 0.1)
    assert found["backbone.model.stages.0.blocks.0.mlp.fc1.weight"] == (pytest.approx(1e-3), 0.05)


def test_wrapped_models_have_the_same_groups(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = Detector("gfnet_h_ti")
        plain = settings(model, build(model, layer_decay_rate=0.5))
        compiled = torch.compile(model)
        assert settings(model, build(MMDistributedDataParallel(model), layer_decay_rate=0.5)) == plain
        assert settings(model, build(compiled, layer_decay_rate=0.5)) == plain
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "paramwise_cfg, message",
    [
        (dict(decay_rate=0.9), r"may hold layer_decay_rate, no_weight_decay and custom_keys, got \['decay_rate'\]"),
        (dict(layer_decay_rate=1.5), "above 0 and at most 1, got 1.5"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(nn.Linear(1, 1), **paramwise_cfg)


def test_what_is_multiplied_must_be_given():
    """The default of the optimiser's class is not known before it is built."""
    adamw = dict(type="AdamW")
    for paramwise_cfg in (dict(layer_decay_rate=0.5), dict(custom_keys={"neck": dict(lr_mult=0.1)})):
        with pytest.raises(ValueError, match=r"multiplies lr, which the optimizer's config must hold.*\['type'\]"):
            build(nn.Linear(1, 1), adamw, **paramwise_cfg)
    with pytest.raises(ValueError, match=r"multiplies weight_decay, which .*\['lr', 'type'\]"):
        build(nn.Linear(1, 1), dict(adamw, lr=1e-2), custom_keys={"neck": dict(decay_mult=0.5)})
    model = Detector("gfnet_h_ti")
    found = settings(model, build(model, adamw, custom_keys={"neck": dict(decay_mult=0.0)}))
    assert found["head.weight"] == (1e-3, 1e-2) and found["neck.weight"] == found["neck.bias"] == (1e-3, 0.0)


def test_layer_decay_needs_a_backbone_that_tells_its_layers():
    with pytest.raises(ValueError, match="needs a backbone of type TimmBackbone"):
        build(nn.Linear(1, 1), layer_decay_rate=0.5)
    with torch.device("meta"), pytest.raises(ValueError, match="has no group_matcher"):
        build(Detector("caformer_s18"), layer_decay_rate=0.5)
    assert build(nn.Linear(1, 1)).optimizer.param_groups[0]["lr"] == 1e-2
