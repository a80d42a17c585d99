"""Whole runs of tools/train.py on detectors: what a user sees and gets, what survives a kill, what two processes do."""

import signal

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

pytest.importorskip("mmdet", reason="mmdet is not installed")

from spectral_backbones.engine import UserError

from ..classification_fixtures import run_forked, run_here
from .fixtures import make_small_digits, small_detector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_small_digits(tmp_path_factory.mktemp("data") / "digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run of three epochs that nothing disturbed: config, work directory, output."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_detector(folder, data, max_epochs=3)
    return config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def load(work_dir, name):
    return torch.load(work_dir / name, weights_only=True)


def losses(checkpoint, key="train/loss"):
    return checkpoint["message_hub"]["log_scalars"][key][0].tolist()


def test_a_run_leaves_what_it_promises(finished):
    _, work_dir, output = finished
    lines = output.splitlines()
    assert lines[0] == "training MaskRCNN on spectformer_h_s for 3 epochs: 16 images, 4 batches of 4"
    assert [line.split(":")[0] for line in lines[1:4]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"] and len(lines) <= 5
    assert all("loss " in line and " left" in line for line in lines[1:4])
    assert sorted(path.name for path in work_dir.glob("epoch_*.pth")) == ["epoch_2.pth", "epoch_3.pth"]
    last = load(work_dir, "epoch_3.pth")
    assert len(losses(last)) == 12 and np.mean(losses(last)[-4:]) < np.mean(losses(last)[:4])
    assert last["predictor"]["classes"] == [str(digit) for digit in range(10)]
    assert min(Image.open(work_dir / "curve.png").size) > 200
    assert not list(work_dir.glob(".*"))
    (log,) = work_dir.glob("*/*.log")
    assert "loading annotations" in log.read_text()  # what pycocotools prints is kept


KILL = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillDetectorHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 9:  # in the third epoch
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, data, finished):
    """Shuffling, augmentation, drop path and the samplers of regions all draw what they would have drawn."""
    (tmp_path / "kill_detector_hook.py").write_text(KILL)
    deadly = small_detector(tmp_path, data, max_epochs=3, imports=["kill_detector_hook"])
    arguments = ["train.py", deadly, "--work-dir", tmp_path / "run", "--cfg-options"]
    killed = run_forked(
        *arguments, "default_hooks.kill.type=KillDetectorHook", "train_dataloader.num_workers=1", path=tmp_path
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    config, whole, _ = finished
    resumed = run_here("train.py", config, "--work-dir", tmp_path / "run", "--resume")
    assert "for 3 epochs from epoch 3:" in resumed
    one, other = load(whole, "epoch_3.pth"), load(tmp_path / "run", "epoch_3.pth")
    assert losses(one) == losses(other)
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def test_a_run_by_iterations_resumes_to_the_same_weights(tmp_path, finished):
    cfg = Config.fromfile(finished[0])
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=6, val_interval=3)
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler")
    cfg.param_scheduler = [dict(type="PolyLR", by_epoch=False)]
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.checkpoint.interval = 3
    cfg.dump(tmp_path / "config.py")
    run_here("train.py", tmp_path / "config.py", "--work-dir", tmp_path / "whole")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "iteration_3.pth").write_bytes((tmp_path / "whole" / "iteration_3.pth").read_bytes())
    resumed = run_here("train.py", tmp_path / "config.py", "--work-dir", tmp_path / "part", "--resume")
    assert "for 6 iterations from iteration 4:" in resumed
    one, other = (load(tmp_path / name, "iteration_6.pth") for name in ("whole", "part"))
    assert losses(one) == losses(other)
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


def reorder(source, path, classes):
    """Writes a detector's checkpoint as training on the same classes in another order would have left it."""
    checkpoint = load(source.parent, source.name)
    rows = [checkpoint["predictor"]["classes"].index(name) for name in classes]
    weights = checkpoint["state_dict"]
    for key in [key for key in weights if key.startswith("roi_head")]:
        value = weights[key]
        if "fc_cls" in key:  # the background is last
            weights[key] = value[[*rows, len(rows)]]
        elif "fc_reg" in key:
            weights[key] = value.unflatten(0, (len(rows), 4))[rows].flatten(0, 1)
        elif "conv_logits" in key:
            weights[key] = value[rows]
    checkpoint["predictor"]["classes"] = checkpoint["meta"]["dataset_meta"]["classes"] = classes
    torch.save(checkpoint, path)


def test_a_detector_is_scored_by_the_names_of_its_classes(tmp_path, finished):
    config, whole, _ = finished
    reorder(whole / "epoch_3.pth", tmp_path / "other.pth", [str(digit) for digit in range(9, -1, -1)])
    figures = []
    everything = ["model.test_cfg.rcnn.score_thr=0.0", "default_hooks.visualization.threshold=0.0"]
    for path in (whole / "epoch_3.pth", tmp_path / "other.pth"):
        said = run_here("test.py", config, path, "--work-dir", tmp_path / path.stem, "--cfg-options", *everything)
        figures.append([line for line in said.splitlines() if line.startswith("coco/")])
    assert figures[0] == figures[1] and len(figures[0]) > 10
    pictures = [(tmp_path / name / "detections.png").read_bytes() for name in ("epoch_3", "other")]
    assert pictures[0] == pictures[1]


def test_a_detector_of_other_classes_is_refused_or_begins_with_the_rows_it_shares(tmp_path, finished):
    config, whole, _ = finished
    checkpoint = load(whole, "epoch_3.pth")
    checkpoint["predictor"]["classes"] = [*"01234", "five", "six", "seven", "eight", "nine"]
    torch.save(checkpoint, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"'five', .* are the checkpoint's alone; '5', .* are the data's alone"):
        run_here("test.py", config, tmp_path / "other.pth", "--work-dir", tmp_path / "test")
    options = [f"load_from={tmp_path / 'other.pth'}", "train_cfg.max_epochs=2", "optim_wrapper.optimizer.lr=0.0"]
    said = run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert "Of the 10 classes 5 keep their weights in the head, the others are new; new as a whole are roi_head" in said
    old, new = load(whole, "epoch_3.pth")["state_dict"], load(tmp_path / "run", "epoch_2.pth")["state_dict"]
    for key, kept in (("bbox_head.fc_cls.weight", [*range(5), 10]), ("mask_head.conv_logits.weight", [*range(5)])):
        old_rows, new_rows = old[f"roi_head.{key}"], new[f"roi_head.{key}"]
        same = [index for index in range(len(old_rows)) if torch.equal(old_rows[index], new_rows[index])]
        assert same == kept, key


def test_a_resumed_detector_keeps_the_order_of_its_checkpoint(tmp_path, finished):
    config, whole, _ = finished
    order = [str(digit) for digit in range(9, -1, -1)]
    checkpoint = load(whole, "epoch_2.pth")
    checkpoint["predictor"]["classes"] = checkpoint["meta"]["dataset_meta"]["classes"] = order
    (tmp_path / "run").mkdir()
    torch.save(checkpoint, tmp_path / "run" / "epoch_2.pth")
    run_here("train.py", config, "--work-dir", tmp_path / "run", "--resume")
    resumed = load(tmp_path / "run", "epoch_3.pth")
    assert resumed["predictor"]["classes"] == list(resumed["meta"]["dataset_meta"]["classes"]) == order
    assert losses(resumed) != losses(load(whole, "epoch_3.pth"))  # a seven is called a two there


def test_amp_trains_in_bfloat16_on_the_cpu(tmp_path, finished):
    config, whole, _ = finished
    run_here("train.py", config, "--work-dir", tmp_path / "run", "--amp", "--cfg-options", "train_cfg.max_epochs=2")
    one, other = losses(load(whole, "epoch_2.pth"))[:4], losses(load(tmp_path / "run", "epoch_2.pth"))[:4]
    assert one != other and one == pytest.approx(other, rel=0.1)


@pytest.mark.slow
def test_two_processes_train_one_model_and_score_all_images(tmp_path, data, finished):
    config = finished[0]
    result = run_forked(
        "train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=2", processes=2
    )
    assert result.returncode == 0, result.stdout
    assert "2 batches of 4 in each of 2 processes" in result.stdout
    checkpoint = load(tmp_path / "run", "epoch_2.pth")
    assert len(losses(checkpoint)) == 4
    # What two processes scored together is what one scores alone.
    output = run_here("test.py", config, tmp_path / "run" / "epoch_2.pth")
    alone = dict(line.split(": ") for line in output.strip().splitlines())
    together = checkpoint["message_hub"]["log_scalars"]["val/coco/bbox_mAP_50"][0][-1].item()
    assert float(alone["coco/bbox_mAP_50"]) == pytest.approx(together, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["model.backbone.name=spectformer_h_xl"], "no model is called 'spectformer_h_xl'; near it: spectformer_h_"),
        (["model.backbone.out_indices=(0,1,2,4)"], "out_indices must be between -4 and 3 for spectformer_h_s"),
        (["model.neck.in_channels=[64,128,320,448]"], "set model.neck.in_channels to [16, 16, 24, 24]"),
        (["model.roi_head.bbox_head.num_classes=80"], "model.roi_head.bbox_head has 80 classes, the data 10"),
        (["model.backbone.drop_paths=0.1"], "got an unexpected keyword argument 'drop_paths'"),
        (["val_evaluator.ann_file=/nowhere/val.json"], "/nowhere/val.json does not exist"),
        (
            ["train_dataloader.dataset.type=CocoDataset", "train_dataloader.dataset.ann_file=x.json"],
            "x.json does not exist",
        ),
        (["model.type=MaskRCN"], "MaskRCN is not in the registry mmdet::model"),
        (["custom_imports=None"], 'add custom_imports = dict(imports=["spectral_backbones.detection"]'),
    ],
    ids=["name", "indices", "channels", "classes", "argument", "evaluator", "annotations", "type", "imports"],
)
def test_mistakes_are_told(tmp_path, finished, options, says):
    with pytest.raises(UserError) as error:
        run_here("train.py", finished[0], "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert says in str(error.value)


def test_damaged_annotations_are_told(tmp_path):
    data = make_small_digits(tmp_path / "digits")
    config = small_detector(tmp_path, data)
    arguments = ["train.py", config, "--work-dir", tmp_path / "run"]
    path = data / "annotations" / "instances_train.json"
    content = path.read_text()
    path.write_text(content.replace('"name": "', '"name": "digit '))
    with pytest.raises(
        UserError,
        match=r"instances_train\.json has no category '0', '1', .* of metainfo.classes, but 'digit 0', 'digit 1', ",
    ):
        run_here(*arguments)
    path.write_text(content[: len(content) // 2])
    with pytest.raises(UserError, match="an annotation file is cut short or damaged, it is no JSON"):
        run_here(*arguments)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[:-40], "train/000003.jpg: it is damaged or no picture; replace it"),
        (lambda content: b"", "is an empty file (`find FOLDER -size 0` tells which)"),
    ],
    ids=["cut short", "empty"],
)
def test_a_corrupt_image_is_told(tmp_path, spoil, says):
    data = make_small_digits(tmp_path / "digits")
    broken = data / "train" / "000003.jpg"
    broken.write_bytes(spoil(broken.read_bytes()))
    config = small_detector(tmp_path, data)
    with pytest.raises(UserError) as error:
        run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert says in str(error.value)
