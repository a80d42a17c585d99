"""The embedded set of digits and the training of a segmenter on it, in one process and in two."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from PIL import Image

from spectral_backbones import engine
from spectral_backbones.engine import UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine import config as engine_config
from spectral_backbones.engine import predictor as engine_predictor
from spectral_backbones.engine.config import load
from spectral_backbones.engine.images import read_upright
from spectral_backbones.engine.progress import Progress
from spectral_backbones.toolboxes.digits import CLASSES, Recipe, make_digits

from ..classification_fixtures import run_forked, run_here
from .fixtures import small_config

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.segmentation.config import complete
from spectral_backbones.segmentation.hooks import SegmentationsHook
from spectral_backbones.segmentation.predictor import Predictor
from spectral_backbones.segmentation.toolbox import mmseg


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    config = small_config(folder, folder / "data")
    return config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def losses(path):
    return files.read(path)["message_hub"]["log_scalars"]["train/loss"][0].tolist()


def test_the_set_is_written_where_it_is_missing_and_its_labels_are_the_digits(run):
    data = run[1].parent / "data"
    counts = {"training": 6, "validation": 4}
    seen = set()
    for split, count in counts.items():
        images, labels = (sorted((data / kind / split).iterdir()) for kind in ("images", "annotations"))
        assert [path.stem for path in images] == [path.stem for path in labels] and len(images) == count
        for image, label in zip(images, labels, strict=True):
            values = np.asarray(Image.open(label))
            assert values.shape == (64, 64) == Image.open(image).size and values.dtype == np.uint8
            seen |= set(values.ravel())
    assert 0 in seen and seen <= set(range(11)) and len(seen) > 4
    assert not make_digits(data, Recipe("segmentation", train=6, val=4, size=64))  # the same as the tool would write


def test_a_run_by_iterations_says_and_leaves_what_a_run_by_epochs_does(run):
    _, work_dir, output = run
    lines = output.splitlines()
    assert lines[0] == "training EncoderDecoder on spectformer_h_s for 4 iterations: 6 images, batches of 2"
    assert [line.split(":")[0] for line in lines[1:3]] == ["iteration 2/4", "iteration 4/4"]
    assert lines[3].startswith("best mIoU ")
    kept = sorted(path.name for path in work_dir.glob("*.pth"))
    assert kept == ["best.pth", "iteration_3.pth", "iteration_4.pth"]
    last = files.read(work_dir / "iteration_4.pth")
    assert last["meta"]["iter"] == 4 and last["predictor"]["task"] == "segmentation"
    assert last["predictor"]["classes"] == ["ground", *CLASSES]
    for name in ("curve.png", "segmentations.png"):
        assert Image.open(work_dir / name).size > (300, 300)


def test_a_resumed_run_goes_on_as_the_first_would_have(run, tmp_path):
    config, whole, _ = run
    (tmp_path / "iteration_3.pth").write_bytes((whole / "iteration_3.pth").read_bytes())
    output = run_here("train.py", config, "--work-dir", tmp_path, "--resume")
    assert "for 4 iterations from iteration 4: " in output
    assert losses(tmp_path / "iteration_4.pth") == losses(whole / "iteration_4.pth")


def test_rates_fall_to_the_end_of_a_run_whatever_its_length(run, tmp_path):
    config, whole, _ = run
    run_here("train.py", config, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_iters=3")
    for path in (whole / "iteration_4.pth", tmp_path / "iteration_3.pth"):
        rates = files.read(path)["message_hub"]["log_scalars"]["train/lr"][0].tolist()
        assert rates == pytest.approx(np.linspace(rates[0], 0, len(rates)))


def test_a_longer_schedule_is_followed_from_where_a_run_stands(run, tmp_path):
    config, whole, _ = run
    (tmp_path / "iteration_4.pth").write_bytes((whole / "iteration_4.pth").read_bytes())
    arguments = ["train.py", config, "--work-dir", tmp_path, "--resume"]
    longer = ["--cfg-options", "train_cfg.max_iters=8"]
    with pytest.raises(UserError, match="ends at iteration 4, the run at iteration 8: --schedule config follows"):
        run_here(*arguments, *longer)
    run_here(*arguments, "--schedule", "config", *longer)
    rates = files.read(tmp_path / "iteration_8.pth")["message_hub"]["log_scalars"]["train/lr"][0].tolist()
    assert rates[4:] == pytest.approx([rates[0] * left / 7 for left in (3, 2, 1, 0)])


def reorder(source, path, classes):
    """Writes a segmenter's checkpoint as training on the same classes in another order would have left it."""
    checkpoint = files.read(source)
    rows = [checkpoint["predictor"]["classes"].index(name) for name in classes]
    for key in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        checkpoint["state_dict"][key] = checkpoint["state_dict"][key][rows]
    checkpoint["predictor"]["classes"] = checkpoint["meta"]["dataset_meta"]["classes"] = classes
    torch.save(checkpoint, path)


def test_a_segmenter_is_scored_by_the_names_of_its_classes(run, tmp_path):
    config, whole, _ = run
    order = [*CLASSES[::-1], "ground"]
    reorder(whole / "best.pth", tmp_path / "other.pth", order)
    figures = [
        [
            line
            for line in run_here("test.py", config, path, "--work-dir", tmp_path / path.stem).splitlines()
            if "." in line
        ]
        for path in (whole / "best.pth", tmp_path / "other.pth")
    ]
    figures = [[line for line in lines if line[:4] in ("mIoU", "mAcc", "aAcc")] for lines in figures]
    assert figures[0] == figures[1] and len(figures[0]) == 3
    pictures = [(tmp_path / name / "segmentations.png").read_bytes() for name in ("best", "other")]
    assert pictures[0] == pictures[1]


def test_a_segmenter_of_other_classes_is_refused_or_begins_with_the_rows_it_shares(run, tmp_path):
    config, whole, _ = run
    checkpoint = files.read(whole / "best.pth")
    names = ["floor", *CLASSES[:5], *(f"{name} o'clock" for name in CLASSES[5:])]
    checkpoint["predictor"]["classes"] = names
    torch.save(checkpoint, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"'floor', .* are the checkpoint's alone; 'ground', .* are the data's alone"):
        run_here("test.py", config, tmp_path / "other.pth", "--work-dir", tmp_path / "test")
    options = [f"load_from={tmp_path / 'other.pth'}", "train_cfg.max_iters=1", "optim_wrapper.optimizer.lr=0.0"]
    said = run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert "Of the 11 classes 5 keep their weights in the head" in said
    old, new = (files.read(path)["state_dict"] for path in (whole / "best.pth", tmp_path / "run" / "iteration_1.pth"))
    head = "decode_head.conv_seg.weight"
    assert torch.equal(old[head][1:6], new[head][1:6]) and not (old[head][6:] == new[head][6:]).any()
    assert torch.equal(old["neck.lateral_convs.0.conv.weight"], new["neck.lateral_convs.0.conv.weight"])


def test_classes_that_share_a_channel_are_not_given_other_names(run, tmp_path):
    """Of two classes in one channel no weight belongs to one of them: nothing of the head may stay for other names."""
    config, whole, _ = run
    two = config.parent / "two.py"
    two.write_text(
        f"_base_ = {str(config)!r}\n"
        "model = dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.5, "
        "loss_decode=dict(use_sigmoid=True)))\n"
    )
    cfg = load(str(two))
    checkpoint = files.read(whole / "best.pth")
    model = engine_predictor.MODELS.build(cfg.model)
    runner = engine.CarefulRunner.__new__(engine.CarefulRunner)
    runner.cfg = cfg
    with pytest.raises(
        UserError, match=r"'ground' is the checkpoint's alone; 'floor' is the data's alone\. Which of its"
    ):
        runner._carry_over(model, checkpoint["state_dict"], ["ground", "digit"], ["floor", "digit"], "best.pth")


def by_epochs(config):
    """The same run by epochs of three iterations, two of them."""
    cfg = Config.fromfile(config)
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
    cfg.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    cfg.param_scheduler[0].by_epoch = True
    path = config.parent / "by_epochs.py"
    cfg.dump(path)
    return path


def test_a_resumed_run_by_epochs_goes_on_as_the_first_would_have(run, tmp_path):
    config = by_epochs(run[0])
    run_here("train.py", config, "--work-dir", tmp_path / "whole")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "epoch_1.pth").write_bytes((tmp_path / "whole" / "epoch_1.pth").read_bytes())
    output = run_here("train.py", config, "--work-dir", tmp_path / "part", "--resume")
    assert "for 2 epochs from epoch 2: " in output
    assert losses(tmp_path / "part" / "epoch_2.pth") == losses(tmp_path / "whole" / "epoch_2.pth")


@pytest.mark.parametrize("shuffle", [dict(), dict(shuffle=True)], ids=["by default", "said"])
@pytest.mark.parametrize(
    ("loop", "sampler"), [(dict(max_iters=8), "EndlessSampler"), (dict(max_epochs=8), "EpochSampler")]
)
@pytest.mark.parametrize("given", ["DefaultSampler", "InfiniteSampler"])
def test_samples_are_seeded_by_their_place_in_the_run(given, shuffle, loop, sampler):
    imports = dict(imports=["spectral_backbones.segmentation"])
    cfg = Config(
        dict(custom_imports=imports, train_cfg=loop, train_dataloader=dict(sampler=dict(type=given, **shuffle)))
    )
    assert engine_config.complete(cfg, "segmentation", "CheckSegmenterHook").train_dataloader.sampler.type == sampler


def test_an_order_that_is_not_shuffled_is_kept_and_a_config_may_have_no_training():
    sampler = dict(type="DefaultSampler", shuffle=False)
    cfg = dict(custom_imports=dict(imports="spectral_backbones.segmentation"), train_dataloader=dict(sampler=sampler))
    assert engine_config.complete(Config(cfg), "segmentation", "Hook").train_dataloader.sampler == sampler
    cfg["train_dataloader"] = cfg["train_cfg"] = None
    assert engine_config.complete(Config(cfg), "segmentation", "Hook").custom_hooks == [dict(type="Hook")]


@pytest.fixture(scope="module")
def wrapped(run):
    """A config of wrapped data sets, and without a test."""
    cfg = load(str(run[0]))
    training, validation = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=training)
    cfg.val_dataloader.dataset = dict(type="ConcatDataset", datasets=[validation, validation])
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    path = run[0].parent / "wrapped.py"
    cfg.dump(path)
    return path


def test_annotations_of_wrapped_data_sets_are_checked(wrapped):
    cfg = complete(load(str(wrapped)))
    for dataset in (cfg.train_dataloader.dataset.dataset, *cfg.val_dataloader.dataset.datasets):
        (step,) = (step for step in dataset.pipeline if step.type.endswith("Annotations"))
        assert step == dict(type="LoadCheckedAnnotations", num_classes=11)


def test_a_run_without_a_test_leaves_checkpoints_that_predict(wrapped, tmp_path):
    """Pictures are prepared as for its validation, whose data set is a wrapper's first."""
    output = run_here("train.py", wrapped, "--work-dir", tmp_path)
    assert "for 4 iterations: 12 images" in output
    photo = next((wrapped.parent / "data" / "images" / "validation").iterdir())
    assert str(photo) in run_here("predict.py", tmp_path / "best.pth", photo, "--out-dir", tmp_path / "out")


def test_a_set_of_other_digits_than_the_configs_recipe_is_taken_as_it_is(run):
    cfg = complete(load(str(run[0]), {"train_dataloader.dataset.recipe.train": 99}))
    assert len(engine.CarefulRunner.build_dataloader(cfg.train_dataloader).dataset) == 6


def test_a_predictor_works_where_mmengine_finds_a_device(run, monkeypatch):
    monkeypatch.setattr(engine_predictor, "get_device", lambda: "meta")
    model = Predictor.load(str(run[1] / "best.pth")).model
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    assert model.data_preprocessor.device == torch.device("meta")  # which brings the pictures there


def test_a_picture_that_a_camera_turned_is_drawn_as_the_segmenter_sees_it(tmp_path):
    """Cameras store the sensor's rows and say in EXIF how they were held; mmcv turns pictures accordingly."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    path = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(path, exif=exif)
    seen = mmcv.imread(str(path))
    assert seen.shape == (60, 40, 3) and np.ptp(seen) > 200
    assert read_upright(path) == pytest.approx(seen, abs=2)
    hook = SegmentationsHook()
    sample = mmseg.structures.SegDataSample(metainfo=dict(img_path=str(path)))
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 60, 40, dtype=torch.long))
    hook.after_val_iter(None, 0, outputs=[sample])
    hook.draw(dict(classes=["ground"], palette=[(0, 0, 0)]), tmp_path)
    assert min(Image.open(tmp_path / "segmentations.png").size) > 200


def test_a_picture_shows_its_classes(run, tmp_path):
    _, work_dir, _ = run
    photo = next((work_dir.parent / "data" / "images" / "validation").iterdir())
    output = run_here("predict.py", work_dir / "best.pth", photo, "--out-dir", tmp_path)
    assert all(part.split()[0] in ("ground", *CLASSES) for part in output.splitlines()[0].split(": ")[1].split(", "))
    width, height = Image.open(tmp_path / f"000_{photo.stem}.png").size
    assert width > height >= 480  # enlarged, with a legend beside


@pytest.mark.slow
def test_two_processes_train_and_say_that_batch_norm_is_not_synchronised(run, tmp_path):
    """Gloo has no synchronised batch norm: SyncBN becomes plain batch norm, and a warning says so once."""
    config, _, _ = run
    result = run_forked("train.py", config, "--work-dir", tmp_path, processes=2)
    assert result.returncode == 0, result.stdout
    assert "batches of 2 in each of 2 processes" in result.stdout
    assert result.stdout.count("batch norm takes its statistics from each process alone") == 1
    values = losses(tmp_path / "iteration_4.pth")
    assert len(values) == 4 and np.isfinite(values).all()


FIT = """
model["backbone"] = dict(
    _delete_=True, type="TimmBackbone", name="fit_ti", out_norm="final", img_size=64, with_cp=True,
    patch_size=8, embed_dim=16, layout="(1)1(1)1(1)", group_size=3, num_latents=2, num_heads=2, latent_heads=2,
)
model["data_preprocessor"] = dict(size=(64, 64))
model["neck"] = dict(_delete_=True, type="SimpleFeaturePyramid", in_channels=[16], out_channels=8, in_stride=8)
model["decode_head"].update(
    norm_cfg=dict(_delete_=True, type="GN", num_groups=2),
    dropout_ratio=0.0,
    loss_decode=dict(class_weight=None),  # whose sum a mean of two means does not know
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1))  # Adam makes much of gradients that are zero
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader["dataset"]["pipeline"] = pipeline
param_scheduler = []
train_cfg = dict(max_iters=2, val_interval=2)
"""


def test_fit_split_over_two_processes_has_the_weights_of_one(tmp_path):
    """Each process holds half of every tensor and sees half of a batch; checkpoints hold whole tensors."""
    config = small_config(tmp_path, tmp_path / "data", FIT)
    run_here("train.py", config, "--work-dir", tmp_path / "one")
    sharded = ["--cfg-options", "fsdp=True", "train_dataloader.batch_size=1"]
    result = run_forked("train.py", config, "--work-dir", tmp_path / "two", *sharded, processes=2)
    assert result.returncode == 0, result.stdout
    start, one, two = (
        files.read(tmp_path / folder / f"iteration_{iteration}.pth")["state_dict"]
        for folder, iteration in (("one", 1), ("one", 2), ("two", 2))
    )
    for key, value in one.items():
        moved = (value - start[key]).abs().max()
        assert moved > 0 or key.endswith("num_batches_tracked")
        assert (two[key] - value).abs().max() <= 0.02 * moved + 1e-6, key


def test_progress_is_counted_in_what_the_loop_has():
    progress = Progress("iteration", done=3, total=8, iterations=1, window=4)
    assert progress.next() == Progress("iteration", done=4, total=8, iterations=1, window=4)
