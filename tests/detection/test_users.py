"""What users bring to a detector: other metrics, pipelines without annotations, hooks that change data, detectors in
detectors.
"""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import HOOKS, init_default_scope
from PIL import Image

from spectral_backbones import detection  # noqa: F401  brings mmcv's operators

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS

from spectral_backbones.detection.config import complete
from spectral_backbones.detection.hooks.check import check_classes
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load

from ..classification_fixtures import run_here
from .fixtures import make_small_digits, small_detector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_small_digits(tmp_path_factory.mktemp("data") / "digits")


METRICS = """
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
import numpy as np

@METRICS.register_module(force=True)
class OddMetric(BaseMetric):
    default_prefix = "odd"
    def process(self, data_batch, data_samples):
        self.results.append(1)
    def compute_metrics(self, results):
        return {"note": "fine", "rows": [0.5, float("nan")], "curve": np.arange(2), "[bold]rate": np.float32(0.25)}
"""

VOC = """
metainfo = dict(classes=tuple("0123456789"), dataset_type="VOC2007")
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader["dataset"]["metainfo"] = metainfo
model["roi_head"].update(mask_head=None, mask_roi_extractor=None)
val_evaluator = [dict(type="OddMetric"), dict(type="VOCMetric", metric="mAP")]
test_evaluator = val_evaluator
"""


@pytest.fixture(scope="module")
def voc(tmp_path_factory, data):
    """A run that VOC's metric and an odd one judge, without masks: config, work directory, output."""
    folder = tmp_path_factory.mktemp("voc")
    (folder / "odd_metric.py").write_text(METRICS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        config = small_detector(folder, data, imports=["odd_metric"])
        config.write_text(config.read_text() + VOC)
        yield config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def test_best_checkpoint_console_and_curve_follow_the_evaluator_of_the_config(voc):
    _, run, output = voc
    lines = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and all("pascal_voc mAP " in line and "pascal_voc AP50 " in line for line in lines)
    assert output.splitlines()[-1].startswith("best pascal_voc mAP ") and (run / "best.pth").is_file()
    info = torch.load(run / "epoch_2.pth", weights_only=True)["message_hub"]["runtime_info"]
    assert info["best_metric"] == "pascal_voc/mAP" and "pascal_voc/mAP" in info["validations"][0]


def test_figures_of_any_type_are_printed(voc, tmp_path):
    config, run, _ = voc
    lines = run_here("test.py", config, run / "best.pth", "--work-dir", tmp_path).splitlines()
    odd = ["odd/note: fine", "odd/rows: [0.5000, none, no number]", "odd/curve: [0.0000, 1.0000]"]
    assert lines[:4] == [*odd, "odd/[bold]rate: 0.2500"]


def test_mmengines_own_checkpoint_hook_is_understood(voc, tmp_path):
    config = voc[0]
    hook = 'default_hooks.checkpoint=dict(_delete_=True,type="CheckpointHook",save_best="pascal_voc/mAP")'
    output = run_here("train.py", config, "--work-dir", tmp_path, "--cfg-options", hook)
    (best,) = tmp_path.glob("best_pascal_voc_mAP_epoch_*.pth")
    epoch = best.stem[-1]
    assert output.splitlines()[-1].startswith("best pascal_voc mAP ")
    assert output.splitlines()[-1].endswith(f" (epoch {epoch}): {best}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["default_hooks.checkpoint.save_best=odd/[bold]rate"], "best odd/[bold]rate 0.25 (epoch 1): "),
        (
            ["val_evaluator=[dict(type='OddMetric')]"],
            "none is known to be the best, by no figure of the validation; the ",
        ),
        (["val_dataloader=None", "val_cfg=None", "val_evaluator=None"], "none is known to be the best, without a vali"),
    ],
    ids=["save_best", "unknown", "no validation"],
)
def test_where_a_runs_checkpoint_is_comes_last(voc, tmp_path, options, said):
    output = run_here("train.py", voc[0], "--work-dir", tmp_path, "--cfg-options", *options)
    last = output.splitlines()[-1]
    assert last.startswith(said) and last.endswith(".pth") and (tmp_path / last.rpartition("/")[2]).is_file()
    told = output.count(
        "no best.pth is kept: which of the figures odd/[bold]rate tells the best is not known; choose one"
    )
    assert told == ("val_evaluator=[dict(type='OddMetric')]" in options)


def test_views_of_a_picture_are_merged(voc, tmp_path):
    config, run, _ = voc
    arguments = ["test.py", config, run / "best.pth", "--tta", "--work-dir", tmp_path]
    assert "pascal_voc/mAP: " in run_here(*arguments) and (tmp_path / "detections.png").is_file()
    view = [[dict(type="Resize", scale=(128, 128))], [dict(type="LoadAnnotations", with_bbox=True)]]
    view += [[dict(type="PackDetInputs")]]
    steps = ["--cfg-options", "tta_model=dict(type='NoModel')", f"tta_pipeline={view}"]
    with pytest.raises(UserError, match="NoModel is not in the registry"):
        run_here(*arguments, *steps)


def test_coco_needs_no_annotations_in_the_pipeline_and_files_for_others_are_told(data, tmp_path):
    config = small_detector(tmp_path, data)
    cfg = Config.fromfile(config)
    for key in ("val_dataloader", "test_dataloader"):
        cfg[key].dataset.pipeline = [step for step in cfg[key].dataset.pipeline if step.type != "LoadAnnotations"]
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    export = dict(cfg.test_evaluator, format_only=True, outfile_prefix=str(tmp_path / "found"))
    cfg.test_evaluator = export
    path = tmp_path / "plain.py"
    cfg.dump(path)
    output = run_here("train.py", path, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=2")
    assert "box AP " in output and "cannot be drawn" not in output
    assert (tmp_path / "run" / "detections.png").is_file()
    said = run_here("test.py", path, tmp_path / "run" / "epoch_2.pth", "--work-dir", tmp_path / "test").splitlines()
    files = ", ".join(str(tmp_path / f"found.{kind}.json") for kind in ("bbox", "segm"))
    assert said == [f"written: {files}", f"pictures: {tmp_path / 'test'}"]


def test_a_validation_without_annotations_is_told(data, tmp_path):
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps({**content, "annotations": []}))
    config = small_detector(tmp_path, data)
    options = [f"val_dataloader.dataset.ann_file={tmp_path / 'none.json'}", "model.test_cfg.rcnn.score_thr=0.0"]
    options += [f"val_evaluator.ann_file={tmp_path / 'none.json'}", "val_dataloader.dataset.type=CocoDataset"]
    options += [f"val_dataloader.dataset.metainfo.classes={list('0123456789')}"]
    output = run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert "box AP: no annotations, box AP50: no annotations" in output
    assert not (tmp_path / "run" / "best.pth").exists() and "the last checkpoint is" in output.splitlines()[-1]
    assert min(Image.open(tmp_path / "run" / "curve.png").size) > 200


SWITCH = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmcv.transforms import Compose

def steps(size):
    return Compose([dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True,
                    poly2mask=True), dict(type="Resize", scale=(size, size)), dict(type="PackDetInputs")])

@HOOKS.register_module(force=True)
class SwitchHook(Hook):
    seen = {}
    def before_train_epoch(self, runner):
        dataset = runner.train_dataloader.dataset
        if runner.epoch == 0:
            self.seen.clear()
        else:
            getattr(dataset, "dataset", dataset).pipeline = steps(64)
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.setdefault(runner.epoch, set()).update(tuple(image.shape[1:]) for image in data_batch["inputs"])
"""


@pytest.mark.parametrize("wraps", [False, True], ids=["alone", "repeated"])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_hook_changes_in_the_data_is_changed(data, tmp_path, monkeypatch, wraps, workers):
    (tmp_path / "switch_hook.py").write_text(SWITCH)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config.fromfile(small_detector(tmp_path, data, imports=["switch_hook"]))
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=bool(workers))
    if wraps:
        cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=1, dataset=cfg.train_dataloader.dataset)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks = [dict(type="SwitchHook")]
    cfg.dump(tmp_path / "config.py")
    run_here("train.py", tmp_path / "config.py", "--work-dir", tmp_path / "run")
    sides = {epoch: {max(size) for size in sizes} for epoch, sizes in HOOKS.get("SwitchHook").seen.items()}
    assert sides[1] == {64} and min(sides[0]) > 90


def test_only_heads_are_asked_for_their_classes():
    init_default_scope("mmdet")
    cfg = get_config("mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")
    cfg.model.detector.backbone = dict(type="TimmBackbone", name="resnet50", out_indices=(1, 2, 3, 4))
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
        views = MODELS.build(dict(type="DetTTAModel", module=cfg.model.detector))
    coco = SimpleNamespace(metainfo=CocoDataset.METAINFO)
    for wrapper in (model, views):
        check_classes(wrapper, coco)
    model.student.roi_head.bbox_head.num_classes = 7
    with pytest.raises(UserError, match=r"model\.student\.roi_head\.bbox_head has 7 classes, the data 80"):
        check_classes(model, coco)
    init_default_scope("mmengine")


@pytest.mark.parametrize("classes", ["red", "redgreen"])
def test_classes_that_are_one_text_are_told(data, tmp_path, classes):
    cfg = load(str(small_detector(tmp_path, data)), {"val_dataloader.dataset.metainfo": dict(classes=classes)})
    with pytest.raises(UserError, match=rf"is the text '{classes}', .* a comma, as in classes=\('{classes}',\)"):
        complete(cfg)
