"""Whole detectors that the families' authors publish, written by mmdet 2, load by every door."""

import functools

import mmengine.config.utils
import pytest
import timm
import torch
from mmengine.registry import MODELS, init_default_scope

from spectral_backbones import detection  # noqa: F401  supplies mmcv's operators before mmdet asks for them

pytest.importorskip("mmdet", reason="mmdet is not installed")
from mmdet.testing import demo_mm_inputs

import spectral_backbones.engine.checkpoint as files
from spectral_backbones.detection.predictor import Predictor
from spectral_backbones.engine import CarefulRunner, UserError
from spectral_backbones.engine.config import load, without_weights
from spectral_backbones.toolboxes.backbone import TimmBackbone

from .. import published
from ..classification_fixtures import ROOT, load_tool, run_here
from .fixtures import make_small_digits, small_detector

CONFIGS = ROOT / "configs" / "detection"
CLASSES = [f"thing {number}" for number in range(80)]
DAT = (64, 128, 256, 512)
WIDTH, HIDDEN = 16, 32  # of necks and heads; the authors' are 256 and 1024


@pytest.fixture(autouse=True, scope="module")
def _scope():
    """mmengine reads all hundred metafiles of mmdet for each base that is mmdet's, here once for all."""
    load_file = mmengine.config.utils.load
    mmengine.config.utils.load = functools.lru_cache(load_file)
    init_default_scope("mmdet")
    yield
    mmengine.config.utils.load = load_file
    init_default_scope("mmengine")


def dat(stages):
    norms = {stage: DAT[stage] for stage in stages}
    return published.backbone_of("datpp_tiny", without=("cls_norm.", "cls_head."), norms=norms)


def vitae():
    """With a buffer that windows of its classification code leave."""
    state = published.backbone_of("vitaev2_s", without=("head.",))
    return {**state, "layers.0.NC.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}


def retina(channels, width, *hidden):
    return published.fpn(channels, width, (channels[-1], width)) | published.retina(width, 80)


def two_stage(channels, width, hidden, extra=()):
    return published.fpn(channels, width, extra) | published.two_stage(width, hidden, 80)


def cascade(channels, width, hidden):
    return published.fpn(channels, width) | published.cascade(width, hidden, 80)


# Config, the backbone, and neck and heads of a width.
PUBLISHED = {
    "dat/retinanet_dat-pp-t_fpn_ms-crop-1x_coco": (lambda: dat((1, 2, 3)), lambda *width: retina(DAT[1:], *width)),
    "dat/mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco": (
        lambda: dat((0, 1, 2, 3)),
        lambda *width: two_stage(DAT, *width, extra=(512,)),
    ),
    "dat/cascade-mask-rcnn_dat-pp-t_fpn_ms-crop-3x_coco": (
        lambda: dat((0, 1, 2, 3)),
        lambda *width: cascade(DAT, *width),
    ),
    "vitae/cascade-mask-rcnn_vitaev2-s_fpn_ms-crop-3x_coco": (vitae, lambda *width: cascade(DAT, *width)),
    "pyramidtnt/retinanet_pyramidtnt-ti_fpn_1x_coco": (
        lambda: published.backbone_of("pyramidtnt_ti", without=("head.", "norm.")),
        lambda width, *hidden: published.fpn((80, 160, 320, 320), width, (320,)) | published.retina(width, 80),
    ),
}


def configured(name):
    cfg = load(str(CONFIGS / f"{name}.py")).model
    if name.startswith("pyramidtnt"):
        cfg.backbone.out_norm = None  # which is this library's
    return without_weights(cfg)


def narrow(cfg):
    cfg.neck.out_channels = WIDTH
    if "roi_head" not in cfg:
        cfg.bbox_head.update(in_channels=WIDTH, feat_channels=WIDTH)
        cfg.test_cfg.update(max_per_img=3, score_thr=0.0)
        return cfg
    cfg.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    roi = cfg.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = WIDTH
    roi.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH)
    for head in roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]:
        head.update(in_channels=WIDTH, fc_out_channels=HIDDEN)
        if "conv_out_channels" in head:
            head.conv_out_channels = WIDTH
            head.norm_cfg = dict(type="BN")
    cfg.test_cfg.rpn.max_per_img = 10
    cfg.test_cfg.rcnn.update(max_per_img=3, score_thr=0.0)
    return cfg


@torch.no_grad()
def predictions(model):
    torch.manual_seed(0)
    inputs = demo_mm_inputs(2, [(3, 64, 64)] * 2)
    return [sample.pred_instances for sample in model.eval().test_step(inputs)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_detector_is_loaded_as_by_the_doors_of_its_parts(name, tmp_path, monkeypatch):
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *_: tensor)  # replaced all the same
    backbone, parts = PUBLISHED[name]
    with torch.device("meta"):
        own = MODELS.build(configured(name)).state_dict()
    heads = {key: tuple(value.shape) for key, value in own.items() if not key.startswith("backbone.")}
    assert heads == parts(256, 1024)  # the authors' names and shapes, all of them

    cfg = narrow(configured(name))
    path = tmp_path / "published.pth"
    torch.save(published.checkpoint(backbone(), parts(WIDTH, HIDDEN), CLASSES), path)
    model, expected = MODELS.build(cfg), MODELS.build(cfg)
    weights = files.unwrap(files.read(path))
    said = []
    files.load_strictly(model, weights, path, said.append)
    assert not said

    expected.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    expected.backbone.init_weights()
    expected.load_state_dict({key: value for key, value in weights.items() if "backbone." not in key}, strict=False)
    own = model.state_dict()
    for key, value in expected.state_dict().items():
        assert torch.equal(value, own[key]), key
    norms = [value for key, value in own.items() if key.startswith("backbone.out_norms.")]
    assert len(norms) == 2 * len(model.backbone.out_norms or ()) and not any(norm.eq(norm[0]).all() for norm in norms)
    for actual, wanted in zip(predictions(model), predictions(expected)):
        assert torch.equal(actual.scores, wanted.scores) and torch.equal(actual.bboxes, wanted.bboxes)

    # For a training, too.
    for parameter in expected.parameters():
        parameter.data.zero_()
    assert not files.load_fitting(expected, weights, path, said.append) and not said
    assert all(torch.equal(value, own[key]) for key, value in expected.state_dict().items())


def test_a_whole_detector_gives_its_backbone_to_timm(tmp_path):
    torch.save(published.checkpoint(dat((0, 1, 2, 3)), two_stage(DAT, WIDTH, HIDDEN), CLASSES), tmp_path / "whole.pth")
    overlay = dict(file=str(tmp_path / "whole.pth"))
    model = timm.create_model("dat_pp_t", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    backbone = TimmBackbone("dat_pp_t", pretrained=tmp_path / "whole.pth", out_norm="new")
    loaded = model.model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in backbone.model.state_dict().items())


class Detector(torch.nn.Module):
    """The least that has a backbone and something beside it."""

    def __init__(self, name, **kwargs):
        super().__init__()
        self.backbone = TimmBackbone(name, **kwargs)
        self.neck = torch.nn.Linear(2, 2)


def wrapped(name, features_only):
    """A timm model, and a detector's weights as mmseg's and mmpretrain's TIMMBackbone name them."""
    model = timm.create_model(name, **(dict(features_only=True) if features_only else dict(num_classes=0))).eval()
    state = {f"backbone.timm_model.{key}": value for key, value in model.state_dict().items()}
    return model, {**state, **torch.nn.Linear(2, 2).state_dict(prefix="neck.")}


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "features_only"),
    [("resnet18", True), ("convnext_atto", True), ("convnext_atto", False), ("gfnet_h_ti", True)],
)
def test_timms_models_come_from_the_wrappers_of_other_toolboxes(name, features_only):
    """timm's extractors write `stages_0` for `stages.0` where they hold a model's stages side by side."""
    source, state = wrapped(name, features_only)
    model, said = Detector(name).eval(), []
    files.load_strictly(model, state, "whole.pth", said.append)
    assert said == ([] if features_only else ["whole.pth holds what no map of the backbone needs: " + HEAD])
    assert torch.equal(model.neck.weight, state["neck.weight"])
    image = torch.randn(1, 3, 64, 64)
    expected = (
        source(image)[-4:] if features_only else source.forward_intermediates(image, intermediates_only=True)[-4:]
    )
    for actual, wanted in zip(model.backbone(image), expected[-4:], strict=True):
        assert torch.allclose(actual, wanted, atol=1e-4)


HEAD = "head.norm.weight, head.norm.bias"


def test_what_is_missing_or_left_over_of_a_backbone_is_named():
    _, state = wrapped("resnet18", True)
    cut = {key: value for key, value in state.items() if key != "backbone.timm_model.conv1.weight"}
    for load_weights in (files.load_strictly, files.load_fitting):
        with pytest.raises(UserError, match=r"cut.pth do not fit resnet18: 1 of .* missing, conv1.weight"):
            load_weights(Detector("resnet18"), cut, "cut.pth", print)
    for place in ("backbone.timm_model.", "backbone."):
        left = {**state, f"{place}gate.weight": torch.zeros(1)}
        with pytest.raises(UserError, match=r"does not fit the model: backbone\.gate\.weight is unknown"):
            files.load_strictly(Detector("resnet18"), left, "left.pth")
        assert files.load_fitting(Detector("resnet18"), left, "left.pth", print) == ["backbone.gate.weight"]


def test_output_norms_that_a_backbone_lacks_are_no_part_to_leave_out(tmp_path, caplog):
    state = {f"backbone.{name}": value for name, value in dat((1, 2, 3)).items()}
    with pytest.raises(UserError, match=r"backbone\.out_norms\.0\.weight is unknown"):
        files.load_strictly(Detector("dat_pp_t", out_indices=(1, 2, 3)), state, "published.pth")
    with pytest.raises(UserError, match=r"output norms of published.pth are not those of \(0, 1, 2, 3\)"):
        files.load_strictly(Detector("dat_pp_t", out_norm="new"), state, "published.pth")
    torch.save({"state_dict": state}, tmp_path / "published.pth")
    TimmBackbone(
        "dat_pp_t", init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "published.pth"))
    ).init_weights()
    assert "out_norm='new' takes its output norms" in caplog.text


def test_what_modules_rename_while_they_load_is_renamed():
    """What is `conv_cls` in mmdet's FCOS was `fcos_cls` once."""
    head = dict(type="FCOSHead", num_classes=3, in_channels=4, feat_channels=4, stacked_convs=1, norm_cfg=None)
    model = MODELS.build(head)
    old = {key.replace("conv_cls.", "fcos_cls."): value for key, value in model.state_dict(prefix="bbox_head.").items()}
    holder = torch.nn.ModuleDict({"bbox_head": MODELS.build(head)})
    files.load_strictly(holder, old, "old.pth")
    assert torch.equal(holder["bbox_head"].conv_cls.weight, model.conv_cls.weight)


DOORS = dict(type="TimmBackbone", name="pyramidtnt_ti", _delete_=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A config for a small set of digits, and a checkpoint of the kind with the classes' names."""
    folder = tmp_path_factory.mktemp("published")
    data = make_small_digits(folder / "digits")
    config = small_detector(folder, data)
    config.write_text(
        config.read_text() + f"model['backbone'] = {DOORS!r}\nmodel['neck']['in_channels'] = [80, 160, 320, 320]\n"
    )
    model = load_tool("test.py").complete(load(str(config)))
    shapes = {
        key: tuple(value.shape)
        for key, value in MODELS.build(without_weights(model.model)).state_dict().items()
        if not key.startswith("backbone.")
    }
    names = [str(number) for number in reversed(range(10))]
    state = published.backbone_of("pyramidtnt_ti", without=("head.",))
    torch.save(published.checkpoint(state, shapes, names), folder / "published.pth")
    return config, folder / "published.pth", data, names


def test_every_tool_takes_it(digits, tmp_path, monkeypatch):
    config, path, data, names = digits
    assert "coco/bbox_mAP" in run_here("test.py", config, path, "--work-dir", tmp_path / "test")
    image = min((data / "val").iterdir())
    arguments = [path, image, "--config", config, "--threshold", 0.0, "--out-dir", tmp_path / "out"]
    assert "1 annotated pictures" in run_here("predict.py", *arguments)
    predictor = Predictor.load(str(path), load_tool("test.py").complete(load(str(config))))
    assert list(predictor.classes) == names
    expected = predictor.model.state_dict()

    cfg = load_tool("train.py").complete(load(str(config)))
    cfg.work_dir, cfg.load_from, cfg.launcher = str(tmp_path / "run"), str(path), "none"
    runner = CarefulRunner.from_cfg(cfg)
    said = []
    monkeypatch.setattr(runner.logger, "warning", said.append)
    runner.load_checkpoint(str(path))
    assert all(torch.equal(value, expected[key]) for key, value in runner.model.state_dict().items())
    assert said == [f"{path} holds what no map of the backbone needs: norm.weight, norm.bias"]
