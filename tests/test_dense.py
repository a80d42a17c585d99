"""Feature maps of any timm model: which, of what size, with which weights, and what of them learns."""

import copy
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.weights import read_checkpoint

from .golden import weights
from .models import assert_close, images

# A small model of each family, and of each kind that timm has.
OURS = [
    ("spectformer_h_s", dict(out_norm="final")),
    ("spectformer_ti", {}),
    ("gfnet_h_ti", dict(out_norm="final", out_indices=(0, 2))),
    ("convit_ti", dict(out_norm="new", out_indices=(2, -1))),
    ("tnt_ti", dict(out_norm="final")),
    ("pyramidtnt_ti", dict(out_norm="new")),
    ("halonet_26t", {}),
    ("sgformer_s", dict(out_norm="final")),
    ("dat_pp_t", dict(out_norm="new")),
    ("ffnet_1", dict(out_norm="new")),
    ("axial_26s", dict(out_indices=(1, 2, 3))),
]
FOREIGN = [
    ("resnet18", {}),
    ("swin_tiny_patch4_window7_224", dict(out_norm="final", out_indices=(0, 1))),
    ("vit_tiny_patch16_224", dict(out_norm="final", out_indices=(3, 7))),
    ("deit_tiny_distilled_patch16_224", {}),
    ("convnext_atto", dict(out_norm="new")),
    ("efficientnet_b0", {}),
    ("halonet26t", dict(pad_size_divisor=256)),
]


@pytest.mark.parametrize("name, kwargs", OURS + FOREIGN)
def test_maps_of_changing_sizes_in_which_every_parameter_has_a_part(name, kwargs):
    backbone = DenseBackbone(name, **kwargs)
    for height, width in ((64, 96), (97, 70)):
        maps = backbone(images(2, height, width))
        shapes = [
            (2, channels, -(-height // stride), -(-width // stride))
            for channels, stride in zip(backbone.channels, backbone.strides)
        ]
        assert [tuple(feature.shape) for feature in maps] == shapes
    sum(feature.square().mean() for feature in maps).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
    depths = {backbone.get_layer_depth(f"model.{key}")[0] for key, _ in backbone.model.named_parameters()}
    assert sorted(depths) == list(range(len(depths)))
    assert backbone.get_layer_depth("head.weight") == (len(depths), len(depths) + 1)


@pytest.mark.parametrize("name", ["spectformer_h_s", "resnet18", "swin_tiny_patch4_window7_224"])
def test_maps_are_those_of_the_model(name):
    backbone = DenseBackbone(name, out_indices=(1, 2)).eval()
    model = timm.create_model(name, **({"strict_img_size": False} if "swin" in name else {})).eval()
    backbone.model.load_state_dict(model.state_dict(), strict=False)
    image = images(1, 64, 96)
    for ours, theirs in zip(
        backbone(image), model.forward_intermediates(image, indices=[1, 2], intermediates_only=True)
    ):
        assert_close(ours, theirs)


def test_norms_of_outputs():
    plain = DenseBackbone("spectformer_h_s").eval()
    final = DenseBackbone("spectformer_h_s", out_norm="final").eval()
    new = DenseBackbone("spectformer_h_s", out_norm="new").eval()
    for other in (final, new):
        other.model.load_state_dict(plain.model.state_dict(), strict=False)
    image = images(1)
    raw, normed, layers = plain(image), final(image), new(image)
    for i in range(3):
        torch.testing.assert_close(raw[i], normed[i])
    expected = torch.nn.functional.layer_norm(raw[3].permute(0, 2, 3, 1), (448,), eps=1e-6).permute(0, 3, 1, 2)
    assert_close(normed[3], expected)
    for feature in layers:
        assert feature.mean(1).abs().max() < 1e-5 and (feature.std(1, correction=0) - 1).abs().max() < 1e-2
    # The norm of a map that is not asked for would be a parameter without gradient.
    assert "model.norm.weight" not in dict(
        DenseBackbone("spectformer_h_s", out_norm="final", out_indices=(0, 1)).named_parameters()
    )


# Training ------------------------------------------------------------------------------------------------------------


def _frozen(backbone):
    return {name.split("model.")[1] for name, p in backbone.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    "name, stages, first, last",
    [
        ("spectformer_h_s", 1, "stages.0.blocks.0.norm1.weight", "stages.1.downsample.proj.weight"),
        ("spectformer_ti", 3, "blocks.2.norm1.weight", "blocks.3.norm1.weight"),
        ("halonet_26t", 2, "stages.1.blocks.1.conv1.bn.weight", "stages.2.blocks.0.conv1.bn.weight"),
        ("resnet18", 1, "layer1.1.bn2.weight", "layer2.0.conv1.weight"),
        ("swin_tiny_patch4_window7_224", 1, "layers.0.blocks.1.mlp.fc2.bias", "layers.1.blocks.0.norm1.weight"),
        ("vit_tiny_patch16_224", 2, "blocks.1.norm1.weight", "blocks.2.norm1.weight"),
    ],
)
def test_frozen_stages_stay_as_they_are(name, stages, first, last):
    with torch.device("meta"):
        backbone = DenseBackbone(name, frozen_stages=stages)
        stem = DenseBackbone(name, frozen_stages=0)
    frozen = _frozen(backbone)
    assert first in frozen and last not in frozen and last in dict(backbone.model.named_parameters())
    assert _frozen(stem) and _frozen(stem) < frozen
    assert not any(key.startswith(("stages", "blocks", "layer")) for key in _frozen(stem))


def test_frozen_norms_keep_their_statistics_through_train():
    backbone = DenseBackbone("resnet18", frozen_stages=1, zero_init_last=False)
    before = copy.deepcopy(backbone.state_dict())
    backbone.eval().train()
    sum(feature.square().mean() for feature in backbone(images())).backward()
    torch.optim.SGD((p for p in backbone.parameters() if p.grad is not None), lr=1.0).step()
    after = backbone.state_dict()
    for name, value in before.items():
        is_frozen = name.startswith(("model.conv1", "model.bn1", "model.layer1"))
        assert torch.equal(value, after[name]) == is_frozen, name


def test_norm_eval_keeps_statistics_and_trains_weights():
    backbone = DenseBackbone("halonet_26t", norm_eval=True).train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms) and backbone.model.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(norm.training for norm in DenseBackbone("halonet_26t").train().modules() if isinstance(norm, _BatchNorm))


@pytest.mark.parametrize("name", ["spectformer_h_s", "resnet18"])
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    backbone = DenseBackbone(name, norm_eval=True)
    for enable in (False, True):
        checkpointed = DenseBackbone(name, norm_eval=True, grad_checkpointing=enable).train()
        checkpointed.load_state_dict(backbone.state_dict())
        torch.manual_seed(0)
        sum(feature.square().mean() for feature in checkpointed(images(1))).backward()
        gradients.append([parameter.grad for parameter in checkpointed.parameters()])
    assert checkpointed.model.grad_checkpointing
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(plain, recomputed)


# Weights -------------------------------------------------------------------------------------------------------------


class Log:
    """What a program leaves in its checkpoints beside weights."""

    def __init__(self):
        self.history = [1.0]


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return timm.create_model("gfnet_h_ti", num_classes=3)


def _files(model):
    own = model.state_dict()
    return {
        "bare": own,
        "timm": {"state_dict": own, "epoch": 3},
        "averaged": {"state_dict": {name: torch.zeros_like(v) for name, v in own.items()}, "state_dict_ema": own},
        "data parallel": {"model": OrderedDict((f"module.{name}", value) for name, value in own.items())},
        "mmpretrain": {"state_dict": {f"backbone.timm_model.{name}": value for name, value in own.items()}},
        "mmdet": {
            "meta": {},
            "message_hub": Log(),
            "state_dict": {
                **{f"backbone.model.{name}": value for name, value in own.items()},
                "neck.lateral_convs.0.conv.weight": torch.zeros(1),
            },
        },
        "detectron2": {"model": {f"backbone.bottom_up.model.{name}": value for name, value in own.items()}},
    }


@pytest.mark.parametrize(
    "kind", ["bare", "timm", "averaged", "data parallel", "mmpretrain", "mmdet", "detectron2", "safetensors"]
)
def test_weights_come_from_any_file(kind, source, tmp_path):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(source.state_dict(), path)
    else:
        torch.save(_files(source)[kind], path)
    backbone = DenseBackbone("gfnet_h_ti", pretrained=path, out_norm="final")
    own = source.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in backbone.model.state_dict().items())


class Trap:
    """Unpickling it would print."""

    def __reduce__(self):
        return print, ("code of the file ran",)


def test_a_file_runs_no_code(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap()}, tmp_path / "trap.pth")
    assert list(read_checkpoint(tmp_path / "trap.pth")["state_dict"]) == ["a"]
    assert capsys.readouterr().out == ""


def test_official_names_and_other_image_channels(tmp_path):
    golden = np.load(Path(__file__).parent / "golden" / "gfnet_h_ti.npz")
    official = weights.state_dict(golden["names"], golden["shapes"])
    torch.save({"model": official}, tmp_path / "official.pth")
    backbone = DenseBackbone("gfnet_h_ti", pretrained=tmp_path / "official.pth", in_chans=1)
    assert_close(backbone.model.patch_embed.proj.weight, official["patch_embed.0.proj.weight"].sum(1, keepdim=True))
    assert_close(backbone.model.stages[3].blocks[2].mlp.fc2.weight, official["blocks.3.2.mlp.fc2.weight"])


def test_published_detectors_keep_their_output_norms(tmp_path):
    detector = DenseBackbone("dat_pp_t", out_norm="new")
    with torch.no_grad():
        for norm in detector.out_norms:
            norm.weight.uniform_()
    published = {
        re.sub(r"^out_norms\.(\d)\.", r"norms.\1.norm.", name.removeprefix("model.")): value
        for name, value in detector.state_dict().items()
    }
    published = {f"backbone.{name}": value for name, value in published.items()}
    torch.save({"state_dict": published}, tmp_path / "detector.pth")
    loaded = DenseBackbone("dat_pp_t", out_norm="new", pretrained=tmp_path / "detector.pth")
    for name, value in detector.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_weights_that_do_not_fit_are_an_error(source, tmp_path):
    own = source.state_dict()
    lacking = {name: value for name, value in own.items() if not name.startswith("stages.3.blocks.2.mlp")}
    other = timm.create_model("resnet18").state_dict()
    cases = {
        "lacking": (lacking, "4 of its .* missing, stages.3.blocks.2.mlp.fc1.weight"),
        "other": (other, "not fit gfnet_h_ti"),
        "empty": ({"meta": {}}, "holds no weights of a backbone"),
    }
    for kind, (checkpoint, message) in cases.items():
        torch.save(checkpoint, tmp_path / f"{kind}.pth")
        with pytest.raises(ValueError, match=message):
            DenseBackbone("gfnet_h_ti", pretrained=tmp_path / f"{kind}.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut.pth \(5000 bytes\) cannot be read"):
        DenseBackbone("gfnet_h_ti", pretrained=tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError, match=r"none.pth does not exist"):
        DenseBackbone("gfnet_h_ti", pretrained=tmp_path / "none.pth")


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("spectformer_hs", {}, "no model is called 'spectformer_hs'; near it: .*spectformer_h_s"),
        ("gfnet_h_ti", dict(out_indices=(0, 4)), r"between -4 and 3 for gfnet_h_ti, got \(0, 4\).*3: stride 32, 512 "),
        ("gfnet_h_ti", dict(out_indices=()), "between -4 and 3"),
        ("gfnet_h_ti", dict(out_indices=(1, 0)), "must ascend"),
        ("gfnet_h_ti", dict(out_indices=(3, -1)), "must ascend, each once"),
        ("gfnet_h_ti", dict(frozen_stages=5), "up to 4 for the stem and as many stages"),
        ("gfnet_h_ti", dict(frozen_stages=-2), "frozen_stages must be -1"),
        ("caformer_s18", dict(frozen_stages=1), "has no group_matcher"),
        ("gfnet_h_ti", dict(out_norm="batch"), "None, 'final', 'new', got 'batch'"),
        ("gfnet_h_ti", dict(pretrained=True), "no weights to download: set pretrained to the path"),
        ("gfnet_h_ti", dict(pad_size_divisor=0), "at least 1 pixel, got 0"),
    ],
)
def test_a_wrong_argument_says_what_is_allowed(name, kwargs, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        DenseBackbone(name, **kwargs)


# Layer decay ---------------------------------------------------------------------------------------------------------


def test_layers_go_from_the_stem_to_the_end():
    with torch.device("meta"):
        backbone = DenseBackbone("spectformer_h_s", out_norm="new")
    depth = backbone.get_layer_depth
    assert depth("model.patch_embed.conv.0.weight") == (0, 18)
    assert depth("backbone.model.stages.0.blocks.0.norm1.weight", "backbone.") == (1, 18)
    assert depth("model.stages.3.blocks.2.norm1.weight") == (16, 18)
    assert depth("out_norms.0.weight") == depth("neck.conv.weight", "backbone.") == (17, 18)


def test_tables_have_no_weight_decay():
    with torch.device("meta"):
        assert DenseBackbone("spectformer_ti").no_weight_decay() == {"model.pos_embed.weight"}
        assert DenseBackbone("resnet18").no_weight_decay() == set()
