"""Whole segmenters that the families' authors publish, written by mmseg 0, load by every door."""

import pytest
import timm
import torch
from mmengine.registry import init_default_scope

pytest.importorskip("mmseg", reason="mmseg is not installed")

import spectral_backbones.engine.checkpoint as files
from spectral_backbones.engine.config import load, without_weights
from spectral_backbones.segmentation.predictor import Predictor
from spectral_backbones.segmentation.toolbox import mmseg

from .. import published
from ..classification_fixtures import ROOT, load_tool, run_here
from .fixtures import small_config

MODELS = mmseg.registry.MODELS
CONFIGS = ROOT / "configs" / "segmentation"
CLASSES = [f"stuff {number}" for number in range(150)]
DAT = (64, 128, 256, 512)
WIDTH = 16


@pytest.fixture(autouse=True, scope="module")
def _scope():
    init_default_scope("mmseg")
    yield
    init_default_scope("mmengine")


def dat():
    return published.backbone_of("datpp_tiny", without=("cls_norm.", "cls_head."), norms=dict(enumerate(DAT)))


def vitae():
    return published.backbone_of("vitaev2_s", without=("head.",))


def semantic_fpn(neck, width):
    return published.fpn(DAT, neck) | published.semantic_fpn(neck, width, 150)


PUBLISHED = {
    "dat/dat-pp-t_upernet_8xb2-160k_ade20k-512x512": (dat, lambda _, width: published.upernet(DAT, width, 150)),
    "dat/dat-pp-t_fpn_8xb2-80k_ade20k-512x512": (dat, semantic_fpn),
    "vitae/vitaev2-s_upernet_8xb2-160k_ade20k-512x512": (vitae, lambda _, width: published.upernet(DAT, width, 150)),
}


def narrow(cfg):
    cfg.decode_head.update(channels=WIDTH, norm_cfg=dict(type="BN"))
    if "neck" in cfg:
        cfg.neck.out_channels = WIDTH
        cfg.decode_head.in_channels = [WIDTH] * 4
    if "auxiliary_head" in cfg:
        cfg.auxiliary_head.norm_cfg = dict(type="BN")
    return cfg


@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_segmenter_is_loaded_as_by_the_doors_of_its_parts(name, tmp_path, monkeypatch):
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *_: tensor)  # replaced all the same
    backbone, parts = PUBLISHED[name]
    cfg = without_weights(load(str(CONFIGS / f"{name}.py")).model)
    with torch.device("meta"):
        own = MODELS.build(cfg).state_dict()
    heads = {key: tuple(value.shape) for key, value in own.items() if not key.startswith("backbone.")}
    assert heads == parts(256, 128 if "_fpn_" in name else 512)  # the authors' names and shapes, all of them

    cfg = narrow(cfg)
    path = tmp_path / "published.pth"
    torch.save(published.checkpoint(backbone(), parts(WIDTH, WIDTH), CLASSES), path)
    model, expected = MODELS.build(cfg).eval(), MODELS.build(cfg).eval()
    weights = files.unwrap(files.read(path))
    said = []
    files.load_strictly(model, weights, path, said.append)
    expected.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    expected.backbone.init_weights()
    expected.load_state_dict({key: value for key, value in weights.items() if "backbone." not in key}, strict=False)
    own = model.state_dict()
    for key, value in expected.state_dict().items():
        assert torch.equal(value, own[key]), key
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(image), expected(image)) and model(image).std() > 0
    for parameter in expected.parameters():
        parameter.zero_()
    assert not files.load_fitting(expected, weights, path, said.append) and not said
    assert all(torch.equal(value, own[key]) for key, value in expected.state_dict().items())


def test_every_tool_takes_it(tmp_path):
    """As mmseg's own wrapper of timm named it; the file's classes are drawn, not the config's."""
    extra = """
model["backbone"] = dict(_delete_=True, type="TimmBackbone", name="resnet18", out_indices=(1, 2, 3, 4))
model["neck"]["in_channels"] = [64, 128, 256, 512]
"""
    config = small_config(tmp_path, tmp_path / "digits", extra)
    cfg = load_tool("test.py").complete(load(str(config)))
    shapes = {
        key: tuple(value.shape)
        for key, value in MODELS.build(without_weights(cfg.model)).state_dict().items()
        if not key.startswith("backbone.")
    }
    names = [*(str(number) for number in reversed(range(10))), "ground"]
    state = timm.create_model("resnet18", features_only=True).state_dict()
    path = tmp_path / "published.pth"
    torch.save(published.checkpoint(state, shapes, names, place="backbone.timm_model."), path)
    assert "mIoU" in run_here("test.py", config, path, "--work-dir", tmp_path / "test")
    image = min((tmp_path / "digits").rglob("*.jpg"), default=None) or min((tmp_path / "digits").rglob("*.png"))
    arguments = ["predict.py", path, image, "--config", config, "--out-dir", tmp_path / "out"]
    assert "1 annotated pictures" in run_here(*arguments)
    predictor = Predictor.load(str(path), cfg)
    assert list(predictor.classes) == names
    loaded = predictor.model.backbone.model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in state.items() if key in loaded)
    assert len(state) == len(loaded)
