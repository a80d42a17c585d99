"""Every detection config is parsed and built, and its parts fit. One of each algorithm and one of each family, of those
that others derive from, also takes a training step and predicts; the others are built without values.
"""

import functools

import mmengine.config.utils
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from spectral_backbones.backbones.undrawn import undrawn
from spectral_backbones.toolboxes.backbone import TimmBackbone
from spectral_backbones.toolboxes.simple_feature_pyramid import SimpleFeaturePyramid

from ..classification_fixtures import ROOT

mmdet_registry = pytest.importorskip("mmdet.registry", reason="mmdet is not installed")
demo_mm_inputs = pytest.importorskip("mmdet.testing").demo_mm_inputs

BASES = ROOT / "configs" / "_base_" / "detection"
DIGITS = ROOT / "configs" / "detection" / "digits"
CONFIGS = sorted((ROOT / "configs" / "detection").glob("*/*_coco.py"))


def trained():
    """Of the configs that others derive from: Mask R-CNNs of each family, and one of each other algorithm."""
    first = [path for path in CONFIGS if '_base_ = "../../_base_' in path.read_text()]
    chosen, seen = [], set()
    for path in sorted(first, key=lambda path: not path.stem.startswith("mask-rcnn")):
        kinds = set(path.stem.split("_")[:2])  # algorithm and backbone
        if kinds - seen:
            chosen.append(path)
            seen |= kinds
    return chosen


TRAINED = trained()
HEIGHT, WIDTH = 64, 96


@pytest.fixture(autouse=True, scope="module")
def _scope():
    """mmengine reads all hundred metafiles of mmdet for each base that is mmdet's, here once for all."""
    load = mmengine.config.utils.load
    mmengine.config.utils.load = functools.lru_cache(load)
    init_default_scope("mmdet")
    yield
    mmengine.config.utils.load = load
    init_default_scope("mmengine")


def names(family, *parts):
    return {path.stem for path in CONFIGS if path.parent.name == family and all(part in path.stem for part in parts)}


def test_what_the_papers_trained_is_there():
    for size in "sbl":
        name = f"spectformer-h-{size}_fpn"
        assert names("spectformer", name) == {
            f"retinanet_{name}_1x_coco",
            f"mask-rcnn_{name}_1x_coco",
            f"mask-rcnn_{name}_ms-3x_coco",
            f"cascade-mask-rcnn_{name}_ms-3x_coco",
            f"gfl_{name}_ms-3x_coco",
        }
    assert names("vitae") == {
        f"{detector}_vitaev2-s_fpn_ms-crop-{schedule}_coco"
        for detector in ("mask-rcnn", "cascade-mask-rcnn")
        for schedule in ("1x", "3x")
    }
    assert names("ffnet") == {f"cascade-mask-rcnn_ffnet-{size}_fpn_ms-crop-3x_coco" for size in (2, 3, 4)}
    assert names("fit") == {"mask-rcnn_fit-s_sfp_1x_coco"}
    assert names("axial_resnet") == {"mask-rcnn_axial-26s_fpn_1x_coco"}
    for family in ("gfnet", "pyramidtnt", "halonet", "sgformer", "dat"):
        assert (
            names(family, "retinanet", "1x") and names(family, "mask-rcnn", "1x") and names(family, "mask-rcnn", "3x")
        )
    for family in ("spectformer", "gfnet", "convit", "tnt"):
        assert len(names(family, "mask-rcnn", "_sfp_")) >= 3


@functools.lru_cache
def metafile(family):
    models = yaml.safe_load((ROOT / "configs" / "detection" / family / "metafile.yml").read_text())["Models"]
    return {model["Config"]: model["Metadata"] for model in models}


def test_metafiles_and_readmes_name_every_config():
    for family in {path.parent for path in CONFIGS}:
        own = sorted(path for path in CONFIGS if path.parent == family)
        assert sorted(metafile(family.name)) == [str(path.relative_to(ROOT)) for path in own]
        readme = (family / "README.md").read_text()
        assert all(f"[{path.stem}]({path.name})" in readme for path in own)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_fits(path):
    cfg = Config.fromfile(path)
    assert f"_{cfg.model.backbone.name.replace('_', '-').removesuffix('-256')}" in path.stem.replace("-256", "")
    check_schedule(cfg, path.stem)
    check_runtime(cfg)
    metadata = metafile(path.parent.name)[str(path.relative_to(ROOT))]
    if path not in TRAINED:
        with torch.device("meta"), undrawn():
            model = mmdet_registry.MODELS.build(cfg.model)
        check_parts(model, metadata)
        return
    model = mmdet_registry.MODELS.build(with_few_boxes(cfg.model))
    check_parts(model, metadata)
    model.init_weights()
    check_step(model, build_optim_wrapper(model, cfg.optim_wrapper))
    check_prediction(model.eval())


def with_few_boxes(cfg):
    """A thousand proposals cost more than the backbone does."""
    if "rpn_proposal" in cfg.train_cfg:
        cfg.train_cfg.rpn_proposal.max_per_img = cfg.test_cfg.rpn.max_per_img = 20
        stages = cfg.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 8
        cfg.test_cfg.rcnn.update(max_per_img=3, score_thr=0.0)
    else:
        cfg.test_cfg.update(max_per_img=3, score_thr=0.0)
    return cfg


def check_schedule(cfg, name):
    epochs = 36 if "3x" in name else 12
    warm_up, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == steps.end == epochs
    assert steps.milestones == ([27, 33] if epochs == 36 else [8, 11])
    assert (warm_up.end, warm_up.start_factor) == (500, 0.001)
    assert cfg.optim_wrapper.optimizer.type == "AdamW" and cfg.optim_wrapper.optimizer.weight_decay == 0.05
    published = {2e-4, 4e-4} if "dat-pp" in name else {1e-4}
    assert cfg.optim_wrapper.optimizer.lr in published
    pipeline = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert ("Resize" in pipeline) == ("ms-" not in name)
    assert ("LoadAnnotations" in pipeline) and pipeline[-1] == "PackDetInputs"


@functools.lru_cache
def runtime():
    return Config.fromfile(BASES / "runtime.py")


def check_runtime(cfg):
    """Its checkpoints are kept and describe themselves, and all else that this library adds to a run is there."""
    hooks = {name: hook["type"] for name, hook in runtime().default_hooks.items()}
    assert {"KeepCheckpointsHook", "DescribeDetectorHook"} <= set(hooks.values())
    assert {name: hook["type"] for name, hook in cfg.default_hooks.items()} == hooks
    assert set(runtime().custom_imports["imports"]) <= set(cfg.custom_imports["imports"])
    assert cfg.randomness == runtime().randomness


def test_the_demonstration_runs_as_the_others():
    (path,) = DIGITS.glob("*.py")
    check_runtime(Config.fromfile(path))


def test_gfl_is_mmdets():
    """Its values are said again in this library, backbone and channels apart."""
    ours = Config.fromfile(BASES / "gfl.py").model.to_dict()
    theirs = get_config("mmdet::gfl/gfl_r50_fpn_1x_coco.py").model.to_dict()
    del theirs["backbone"], theirs["neck"]["in_channels"]
    assert ours == theirs


def check_parts(model, metadata):
    """Channels and strides from the backbone through the neck to the heads, and the number of parameters."""
    assert metadata["Parameters"] == f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}M"
    backbone, neck = model.backbone, model.neck
    assert type(backbone) is TimmBackbone
    if isinstance(neck, SimpleFeaturePyramid):
        assert (neck.in_channels,) == backbone.channels and backbone.strides == (16,)
        strides = list(neck.strides)
    else:
        assert tuple(neck.in_channels) == backbone.channels
        strides = list(backbone.strides[neck.start_level :])
    while len(strides) < neck.num_outs:
        strides.append(strides[-1] * 2)
    dense_head = getattr(model, "rpn_head", None) or model.bbox_head
    assert [stride[0] for stride in dense_head.prior_generator.strides] == strides
    if hasattr(model, "roi_head"):
        extractors = model.roi_head.bbox_roi_extractor
        for extractor in [*(extractors if isinstance(extractors, torch.nn.ModuleList) else [extractors])]:
            assert extractor.featmap_strides == strides[:4]


def batch(model, training):
    data = demo_mm_inputs(2, image_shapes=[(3, HEIGHT, WIDTH)] * 2, num_items=[2, 1], num_classes=80, with_mask=True)
    return model.data_preprocessor(data, training)


def check_step(model, optim_wrapper):
    learned = [parameter for group in optim_wrapper.optimizer.param_groups for parameter in group["params"]]
    assert len(learned) == len(set(learned)) == sum(parameter.requires_grad for parameter in model.parameters())
    data = batch(model, training=True)
    loss, logs = model.parse_losses(model.loss(data["inputs"], data["data_samples"]))
    assert sum("loss" in name for name in logs) > 2 and all(torch.isfinite(value) for value in logs.values())
    loss.backward()
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert unused == []  # they would stop distributed training
    before = model.backbone.model.patch_embed.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    optim_wrapper.step()
    assert any(
        not torch.equal(value, before[name]) for name, value in model.backbone.model.patch_embed.state_dict().items()
    )


@torch.no_grad()
def check_prediction(model):
    data = batch(model, training=False)
    samples = model.predict(data["inputs"], data["data_samples"])
    assert len(samples) == 2
    for sample in samples:
        found = sample.pred_instances
        assert len(found) > 0
        assert found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
        if model.with_mask:
            assert found.masks.shape[0] == len(found)
