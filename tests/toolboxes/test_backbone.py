"""`TimmBackbone` in the registries of mm, and what mm's own initialisation does to it."""

import subprocess
import sys

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope

from spectral_backbones import toolboxes  # noqa: F401
from spectral_backbones.toolboxes.backbone import TimmBackbone

from ..models import assert_close, images

NAME = "gfnet_h_ti"


class Detector(BaseModule):
    """The least that has a backbone, and a child without `init_weights`."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.neck = torch.nn.Linear(1, 1)


def weights_of(backbone):
    return {name: value.clone() for name, value in backbone.state_dict().items()}


def assert_same_weights(backbone, expected):
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_every_toolbox_finds_it(scope):
    registry = pytest.importorskip(f"{scope}.registry").MODELS
    init_default_scope(scope)
    try:
        backbone = registry.build(dict(type="TimmBackbone", name=NAME, out_indices=(0, -1)))
        assert type(backbone) is TimmBackbone
        assert registry.get("SimpleFeaturePyramid") is MODELS.get("SimpleFeaturePyramid")
    finally:
        init_default_scope("mmengine")
    assert [tuple(feature.shape) for feature in backbone(images(1))] == [(1, 64, 16, 16), (1, 512, 2, 2)]


def test_it_needs_neither_mmdet_nor_mmseg():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('mmdet', 'mmseg', 'detectron2'))); "
        "import spectral_backbones.toolboxes; "
        "from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS as CONSTRUCTORS; "
        "print(bool(MODELS.get('TimmBackbone') and CONSTRUCTORS.get('LayerDecayOptimWrapperConstructor')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224"])
def test_init_weights_of_a_detector_leaves_loaded_weights(name, tmp_path):
    """mmengine calls `init_weights` of every child that has one, and timm's models do."""
    torch.manual_seed(1)
    expected = weights_of(TimmBackbone(name))
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in expected.items()}}, tmp_path / "detector.pth")
    path = str(tmp_path / "detector.pth")
    for kwargs in (
        dict(pretrained=path),
        dict(init_cfg=dict(type="Pretrained", checkpoint=path)),
        dict(init_cfg=dict(type="Pretrained", checkpoint=path, prefix="backbone.")),
    ):
        detector = Detector(dict(type="TimmBackbone", name=name, **kwargs))
        detector.init_weights()
        assert_same_weights(detector.backbone, expected)


def test_a_prefix_is_found_where_any_program_keeps_weights(tmp_path):
    """detectron2 has them under "model", below a feature pyramid."""
    torch.manual_seed(1)
    expected = weights_of(TimmBackbone(NAME))
    weights = {f"backbone.bottom_up.{key}": value for key, value in expected.items()}
    path = str(tmp_path / "model_final.pth")
    torch.save({"model": weights, "iteration": 3}, path)
    for prefix in ("backbone.bottom_up", "backbone."):
        backbone = TimmBackbone(NAME, init_cfg=dict(type="Pretrained", checkpoint=path, prefix=prefix))
        backbone.init_weights()
        assert_same_weights(backbone, expected)


def test_without_a_file_the_models_own_initialisation_stays():
    detector = Detector(dict(type="TimmBackbone", name=NAME))
    expected = weights_of(detector.backbone)
    detector.init_weights()
    assert_same_weights(detector.backbone, expected)


def test_other_initialisations_of_mmengine_apply():
    backbone = TimmBackbone(NAME, init_cfg=dict(type="Constant", layer="Linear", val=0.5))
    backbone.init_weights()
    assert backbone.model.stages[0].blocks[0].mlp.fc1.weight.eq(0.5).all()


def test_a_checkpoint_without_the_backbone_is_an_error(tmp_path):
    torch.save({"state_dict": {"neck.weight": torch.zeros(1)}}, tmp_path / "neck.pth")
    cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "neck.pth"), prefix="backbone.")
    with pytest.raises(ValueError, match=r"no tensor whose name begins with 'backbone\.'; it holds neck\.weight"):
        TimmBackbone(NAME, init_cfg=cfg).init_weights()


def test_weights_of_mmsegs_resnet_are_refused():
    with pytest.raises(ValueError, match=r"model=dict\(pretrained=None\)"):
        TimmBackbone(NAME, pretrained="open-mmlab://resnet50_v1c")


def test_mms_arguments_reach_the_model():
    backbone = TimmBackbone(NAME, with_cp=True, frozen_stages=1, drop_path_rate=0.3)
    assert backbone.model.grad_checkpointing
    assert not backbone.model.stages[0].blocks[0].norm1.weight.requires_grad
    assert backbone.model.stages[3].blocks[2].drop_path.drop_prob == pytest.approx(0.3)
    assert backbone.get_layer_depth("backbone.model.patch_embed.proj.weight", "backbone.") == (0, 21)


def test_maps_are_those_of_the_dense_backbone():
    from spectral_backbones.backbones.dense import DenseBackbone

    ours, dense = TimmBackbone(NAME).eval(), DenseBackbone(NAME).eval()
    dense.load_state_dict(ours.state_dict())
    image = images(1, 65, 90)
    for actual, expected in zip(ours(image), dense(image)):
        assert_close(actual, expected)
