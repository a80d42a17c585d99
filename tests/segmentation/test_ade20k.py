"""Training, evaluation, resuming and prediction as a user runs them, on samples of ADE20K in its real layout, through
mmseg's own data set and pipeline.
"""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import load

from ..classification_fixtures import ROOT, SAMPLES, run_here

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.segmentation.config import complete
from spectral_backbones.segmentation.pictures import percent, shares

ADE = SAMPLES / "ade20k" / "ADEChallengeData2016"
UPERNET = ROOT / "configs" / "segmentation" / "gfnet" / "gfnet-h-ti_upernet_8xb2-160k_ade20k-512x512.py"

pytestmark = pytest.mark.skipif(not ADE.is_dir(), reason=f"no samples of ADE20K in {ADE}")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A published config with a thin model, small crops and few iterations; all that is about the data as it is."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(f"""
_base_ = {str(UPERNET)!r}
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(img_size=64, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1)),
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=16),
    auxiliary_head=dict(in_channels=24, channels=8),
)
train_dataloader = dict(batch_size=8, num_workers=0)
val_dataloader = dict(num_workers=0, dataset=dict(indices=4))
test_dataloader = dict(num_workers=0, dataset=dict(indices=4))
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=1.0, begin=0, by_epoch=False)]
train_cfg = dict(max_iters=12, val_interval=6)
default_hooks = dict(checkpoint=dict(interval=3))
""")
    cfg = Config.fromfile(path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            if "scale" in step:
                step.scale = (256, 64)
            if "crop_size" in step:
                step.crop_size = (64, 64)
    cfg.dump(path)
    return path


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run")
    return work_dir, run_here("train.py", config, "--data-root", ADE, "--work-dir", work_dir)


def losses(work_dir, name):
    return files.read(work_dir / name)["message_hub"]["log_scalars"]["train/loss"][0].tolist()


def test_losses_fall_and_figures_checkpoints_and_pictures_are_there(run):
    work_dir, output = run
    lines = output.splitlines()
    assert lines[0] == "training EncoderDecoder on gfnet_h_ti for 12 iterations: 16 images, batches of 8"
    assert [line.split(":")[0] for line in lines[1:3]] == ["iteration 6/12", "iteration 12/12"]
    assert all("mIoU" in line and "pixel accuracy" in line for line in lines[1:3])
    assert lines[-1].startswith("best mIoU") and lines[-1].endswith(f"{work_dir}/best.pth")
    assert sorted(path.name for path in work_dir.glob("*.pth")) == ["best.pth", "iteration_12.pth", "iteration_9.pth"]
    values = losses(work_dir, "iteration_12.pth")
    assert len(values) == 12 and np.mean(values[-4:]) < 0.9 * np.mean(values[:2])
    assert (work_dir / "curve.png").stat().st_size > 5000
    assert Image.open(work_dir / "segmentations.png").size > (400, 400)


def test_a_resumed_run_goes_on_as_the_first_would_have(config, run, tmp_path):
    """Samples, their augmentation, rates and drop path come from the iteration, not from what ran before."""
    whole, _ = run
    (tmp_path / "iteration_9.pth").write_bytes((whole / "iteration_9.pth").read_bytes())
    output = run_here("train.py", config, "--data-root", ADE, "--work-dir", tmp_path, "--resume")
    assert "for 12 iterations from iteration 10: " in output
    assert losses(tmp_path, "iteration_12.pth") == losses(whole, "iteration_12.pth")
    ours, theirs = (files.read(folder / "iteration_12.pth")["state_dict"] for folder in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_test_gives_the_figures_of_the_validation(config, run, tmp_path):
    work_dir, output = run
    tested = run_here(
        "test.py", config, work_dir / "iteration_12.pth", "--data-root", ADE, "--work-dir", tmp_path
    ).splitlines()
    mean_iou = next(line for line in tested if line.startswith("mIoU: "))
    validated = next(line for line in output.splitlines() if line.startswith("iteration 12/12"))
    assert f"mIoU {float(mean_iou.split()[1]):.2f} %" in validated
    assert (tmp_path / "segmentations.png").is_file()


def test_a_photo_is_segmented_at_its_own_size_with_the_names_of_its_classes(run, tmp_path):
    work_dir, _ = run
    photo = sorted((ADE / "images" / "validation").glob("*.jpg"))[0]
    output = run_here("predict.py", work_dir / "best.pth", photo, "--out-dir", tmp_path)
    classes = files.read(work_dir / "best.pth")["predictor"]["classes"]
    said = output.splitlines()[0].removeprefix(f"{photo}: ")
    found = re.findall(r"(.+?) (under )?(\d+) %(?:, |$)", said)
    assert found and {name for name, _, _ in found} <= set(classes)
    assert sum(int(share) for _, under, share in found if not under) <= 105  # rounded one by one
    assert (tmp_path / f"000_{photo.stem}.png").is_file()


def test_a_prediction_equal_to_the_annotation_scores_100(config):
    """The label offset is right from the file to the figure: 0 counts nowhere, 1 is wall and becomes class 0."""
    init_default_scope("mmseg")
    cfg = complete(load(config, data_root=str(ADE)))
    del cfg.val_dataloader.dataset["indices"]
    loader = Runner.build_dataloader(cfg.val_dataloader)
    metric = Runner.build_evaluator(Runner, cfg.val_evaluator)
    metric.dataset_meta = loader.dataset.metainfo
    assert (
        metric.dataset_meta["classes"][:3] == ("wall", "building", "sky") and len(metric.dataset_meta["classes"]) == 150
    )
    for batch in loader:
        (sample,) = batch["data_samples"]
        raw = np.asarray(Image.open(sample.seg_map_path))
        labels = sample.gt_sem_seg.data.numpy()[0]
        assert np.array_equal(labels[raw > 0], raw[raw > 0] - 1) and (labels[raw == 0] == 255).all()
        guess = sample.gt_sem_seg.data.clone()
        guess[guess == 255] = 7  # whatever is said where nothing is annotated counts nothing
        sample.pred_sem_seg = type(sample.gt_sem_seg)(data=guess)
        metric.process(data_samples=[sample], data_batch=batch)
    figures = metric.evaluate(len(loader.dataset))
    assert figures == {"aAcc": 100.0, "mIoU": 100.0, "mAcc": 100.0}
    init_default_scope("mmengine")


def test_shares_leave_out_what_is_ignored():
    labels = np.array([[3, 3, 255], [3, 1, 255]])
    assert shares(labels) == [(3, 3 / 6), (1, 1 / 6)]


def test_a_class_that_is_there_has_more_than_no_share():
    assert [percent(share) for share in (0.5, 0.01, 0.009)] == ["50 %", "1 %", "under 1 %"]
