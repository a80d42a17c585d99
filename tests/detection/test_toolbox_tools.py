"""mmdet's own tools on a detector of ours, those that need no window and no download; see docs/toolboxes.md."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmengine.config import Config
from mmengine.fileio import load

from ..classification_fixtures import run_here
from .fixtures import make_small_digits, small_detector

TOOLS = Path(find_spec("mmdet").origin).parent / ".mim" / "tools"


def run(monkeypatch, tool, *arguments):
    """Runs a tool of mmdet as a program in this process."""
    path = TOOLS / tool
    if not path.is_file():
        pytest.skip(f"the installed mmdet has no {tool}")
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and a checkpoint of a run, and the detections of mmdet's own test script in a file."""
    folder = tmp_path_factory.mktemp("tools")
    config = small_detector(folder, make_small_digits(folder / "digits"), max_epochs=2)
    run_here("train.py", config, "--work-dir", folder / "run")
    return config, folder / "run" / "epoch_2.pth", folder


@pytest.fixture(scope="module")
def results(trained):
    config, checkpoint, folder = trained
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, "test.py", config, checkpoint, "--out", folder / "found.pkl", "--work-dir", folder / "test")
    return folder / "found.pkl"


def test_test_writes_what_it_finds(results):
    assert len(load(results)) == 8


def test_print_config(trained, monkeypatch, capsys):
    run(monkeypatch, "misc/print_config.py", trained[0])
    assert "TimmBackbone" in capsys.readouterr().out


def test_browse_dataset(trained, monkeypatch, tmp_path):
    run(monkeypatch, "analysis_tools/browse_dataset.py", trained[0], "--output-dir", tmp_path, "--not-show")
    assert len(list(tmp_path.rglob("*.jpg"))) == 16


def test_get_flops(trained, monkeypatch, capsys):
    run(monkeypatch, "analysis_tools/get_flops.py", trained[0], "--num-images", 1)
    assert "Params" in capsys.readouterr().out


def test_confusion_matrix(trained, results, monkeypatch, tmp_path):
    run(monkeypatch, "analysis_tools/confusion_matrix.py", trained[0], results, tmp_path)
    assert (tmp_path / "confusion_matrix.png").is_file()


def test_analyze_results(trained, results, monkeypatch, tmp_path):
    run(monkeypatch, "analysis_tools/analyze_results.py", trained[0], results, tmp_path, "--topk", 1)
    assert len(list(tmp_path.rglob("*.jpg"))) == 2


def test_inferencer(trained, tmp_path):
    from mmdet.apis import DetInferencer

    config, checkpoint, folder = trained
    photo = next((folder / "digits" / "val").iterdir())
    inferencer = DetInferencer(str(config), str(checkpoint), device="cpu", show_progress=False)
    found = inferencer(str(photo), out_dir=str(tmp_path), no_save_pred=False)
    assert set(found["predictions"][0]) >= {"labels", "scores", "bboxes"}
    assert inferencer.model.dataset_meta["classes"] == tuple("0123456789")


def test_test_time_augmentation(trained, monkeypatch, tmp_path):
    config, checkpoint, _ = trained
    cfg = Config.fromfile(config)
    cfg.tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100))
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    cfg.tta_pipeline = [
        dict(type="LoadImageFromFile"),
        dict(
            type="TestTimeAug",
            transforms=[
                [dict(type="Resize", scale=(64, 64), keep_ratio=True)],
                [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
                [dict(type="LoadAnnotations", with_bbox=True)],
                [dict(type="PackDetInputs", meta_keys=meta)],
            ],
        ),
    ]
    # mmdet merges boxes alone: of instance segmentation it says that it has no test-time augmentation.
    cfg.model.type = "FasterRCNN"
    del cfg.model.roi_head.mask_head, cfg.model.roi_head.mask_roi_extractor
    cfg.test_evaluator.metric = "bbox"
    cfg.dump(tmp_path / "config.py")
    run(monkeypatch, "test.py", tmp_path / "config.py", checkpoint, "--tta", "--work-dir", tmp_path / "test")
    (log,) = (tmp_path / "test").glob("*/*.json")
    assert "coco/bbox_mAP" in log.read_text()
