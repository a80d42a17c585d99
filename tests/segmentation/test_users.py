"""What users bring to a segmenter: one output channel, maps without labels, other ignored labels, loops and views."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.toolboxes.digits import Recipe, make_digits

from ..classification_fixtures import load_tool, run_here
from .fixtures import small_config

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.segmentation.config import complete
from spectral_backbones.segmentation.hooks import SegmentationsHook, segmentations
from spectral_backbones.segmentation.pictures import Scene, draw_scenes, draw_segmentation


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    make_digits(folder, Recipe("segmentation", train=6, val=4, size=64))
    return folder


def relabelled(digits, folder, change):
    """A copy of the set whose annotations went through `change(split, labels)`."""
    for path in digits.rglob("*.[jp][pn]g"):
        copy = folder / path.relative_to(digits)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.parts[-3] == "annotations":
            labels = change(path.parent.name, np.asarray(Image.open(path)))
            Image.fromarray(labels.astype(np.uint8)).save(copy)
        else:
            copy.symlink_to(path)
    return folder


NAMES = ("_ground", r"$\ce{SiC}$")
BINARY = f"""
model["decode_head"].update(
    num_classes=2, out_channels=1, threshold=0.5,
    loss_decode=dict(_delete_=True, type="CrossEntropyLoss", use_sigmoid=True),
)
for loader in (train_dataloader, val_dataloader, test_dataloader):
    del loader["dataset"]["recipe"]
    loader["dataset"].update(
        type="BaseSegDataset", img_suffix=".jpg", seg_map_suffix=".png",
        metainfo=dict(classes={NAMES!r}, palette=[(0, 0, 0), (255, 0, 0)]),
    )
"""


def test_a_head_with_one_output_channel_trains_draws_predicts_and_exports(digits, tmp_path):
    data = relabelled(digits, tmp_path / "data", lambda split, labels: np.minimum(labels, 1))
    config, run = small_config(tmp_path, data, extra=BINARY), tmp_path / "run"
    output = run_here("train.py", config, "--work-dir", run)
    assert "best mIoU " in output and "cannot be drawn" not in output
    assert Image.open(run / "segmentations.png").size > (300, 300)

    photo = min((data / "images" / "validation").iterdir())
    arguments = [str(run / "best.pth"), str(photo), "--out-dir", str(tmp_path / "out")]
    (labels,) = load_tool("predict.py").main(arguments)
    assert labels.dtype == np.int64 and set(np.unique(labels)) <= {0, 1}
    with Image.open(tmp_path / "out" / f"000_{photo.stem}.png") as drawn:
        assert drawn.width > drawn.height >= 480

    # Without annotations, as for a test set that others score.
    export = dict(type="IoUMetric", iou_metrics=["mIoU"], format_only=True, output_dir=str(tmp_path / "labels"))
    cfg = Config.fromfile(config)
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if step.type != "LoadAnnotations"]
    options = [f"test_evaluator={export}", f"test_dataloader.dataset.pipeline={[dict(step) for step in steps]}"]
    said = run_here("test.py", config, run / "best.pth", "--work-dir", tmp_path / "test", "--cfg-options", *options)
    assert said.splitlines() == [f"written: {tmp_path / 'labels'} (4 files)", f"pictures: {tmp_path / 'test'}"]
    exported = np.asarray(Image.open(tmp_path / "labels" / f"{photo.stem}.png"))
    assert np.array_equal(exported, labels)


def test_names_are_drawn_as_they_are(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **_: seen.append(figure))
    image, labels = np.zeros((20, 30, 3), dtype=np.uint8), np.arange(600).reshape(20, 30) // 300
    draw_segmentation(image, labels, NAMES, [(0, 0, 0), (255, 0, 0)], tmp_path / "a.png")
    draw_scenes([Scene(image, labels, labels)], NAMES, [(0, 0, 0), (255, 0, 0)], tmp_path / "b.png")
    one, many = ([text for text in figure.findobj(lambda part: hasattr(part, "get_parse_math"))] for figure in seen)
    for texts in (one, many):
        shown = [text for text in texts if any(text.get_text().startswith(name) for name in NAMES)]
        assert len(shown) == 2 and not any(text.get_parse_math() for text in shown)


def test_a_validation_without_labels_is_told_and_a_picture_that_fails_ends_nothing(digits, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(segmentations, "draw_scenes", fail)
    data = relabelled(
        digits, tmp_path / "data", lambda split, labels: labels if split == "training" else labels * 0 + 255
    )
    config, run = small_config(tmp_path, data, extra=BARE), tmp_path / "run"
    output = run_here("train.py", config, "--work-dir", run)
    assert output.count("mIoU: no annotated pixels, class accuracy: no annotated pixels") == 2
    assert output.count(f"{run}/segmentations.png cannot be drawn, and the run goes on without: no ink") == 1
    assert output.count("this validation is not the best: mIoU is none, no annotated pixels") == 1
    last = f"none is known to be the best, by no figure of the validation; the last checkpoint is {run}/iteration_4.pth"
    assert output.splitlines()[-1] == last and not (run / "best.pth").exists()
    assert min(Image.open(run / "curve.png").size) > 200
    said = run_here("test.py", config, run / "iteration_4.pth", "--work-dir", tmp_path / "test")
    assert "mIoU: none, no annotated pixels" in said


# The classes of the digits as mmseg's plain data set has them: an embedded set would be written anew.
BARE = f"""
for loader in (train_dataloader, val_dataloader, test_dataloader):
    del loader["dataset"]["recipe"]
    loader["dataset"].update(
        type="BaseSegDataset", img_suffix=".jpg", seg_map_suffix=".png",
        metainfo=dict(classes={tuple(map(str, range(11)))!r}, palette={[(label, 0, 0) for label in range(11)]!r}),
    )
"""


def test_another_label_is_ignored_where_heads_and_metrics_ignore_it(digits, tmp_path):
    def change(split, labels):
        labels = labels.copy()
        labels[:8] = 254
        return labels

    data = relabelled(digits, tmp_path / "data", change)
    metric = "val_evaluator = test_evaluator = dict(ignore_index=254)\n"
    config = small_config(tmp_path, data, extra=f"{BARE}model['decode_head']['ignore_index'] = 254\n{metric}")
    output = run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert "best mIoU" in output and "cannot be drawn" not in output
    with pytest.raises(UserError, match=r"holds label 254; with 11 classes and .* 0 to 10, 255 being ignored"):
        options = ["--cfg-options", "val_evaluator.ignore_index=255"]
        run_here("train.py", config, "--work-dir", tmp_path / "other", *options)


def test_heads_that_ignore_different_labels_ignore_none_in_common():
    data = dict(type="BaseSegDataset", metainfo=dict(classes=("a", "b")), pipeline=[dict(type="LoadAnnotations")])
    head = dict(type="FCNHead", ignore_index=254)
    cfg = Config(
        dict(
            custom_imports=dict(imports=["spectral_backbones.segmentation"]),
            model=dict(decode_head=head, auxiliary_head=[head, dict(type="FCNHead")]),
            train_dataloader=dict(dataset=data),
            val_dataloader=dict(dataset=data),
            val_evaluator=[dict(type="IoUMetric", ignore_index=7)],
        )
    )
    cfg = complete(cfg)
    steps = [cfg[key].dataset.pipeline[0] for key in ("train_dataloader", "val_dataloader")]
    assert [step.ignore_index for step in steps] == [None, 7]


def test_epochs_end_over_a_base_that_samples_without_end(digits, tmp_path):
    extra = """
train_dataloader["sampler"] = dict(_delete_=True, type="InfiniteSampler", shuffle=True)
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2)
param_scheduler[0]["by_epoch"] = True
default_hooks = dict(checkpoint=dict(interval=4000))
"""
    config = small_config(tmp_path, digits, extra=extra)
    output = run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert "for 2 epochs: 6 images, 3 batches of 2" in output and "best mIoU" in output
    assert (tmp_path / "run" / "epoch_2.pth").exists()  # saved for its validation, whatever the interval
    cfg = load(str(config), {"train_dataloader.sampler": dict(type="InfiniteSampler", shuffle=False)})
    assert complete(cfg).train_dataloader.sampler == dict(type="DefaultSampler", shuffle=False)
    endless = """
from mmengine.registry import DATA_SAMPLERS
from mmengine.dataset import InfiniteSampler
@DATA_SAMPLERS.register_module(force=True)
class OwnSampler(InfiniteSampler):
    pass
"""
    exec(endless, {})
    with pytest.raises(UserError, match="the sampler OwnSampler never ends, and EpochBasedTrainLoop waits for the end"):
        run_here(
            *("train.py", config, "--work-dir", tmp_path / "own"),
            *("--cfg-options", "train_dataloader.sampler.type=OwnSampler"),
        )


SPOIL = """
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class SpoilFileHook(Hook):
    def __init__(self, folder, suffix):
        self.folder, self.suffix = folder, suffix
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            for path in Path(self.folder).rglob("training/*" + self.suffix):
                path.rename(str(path) + ".good")
                path.write_bytes(b"no picture")
"""


@pytest.mark.parametrize("suffix", [".jpg", ".png"], ids=["picture", "map"])
def test_a_damaged_file_that_is_met_late_costs_no_trained_step(digits, tmp_path, monkeypatch, suffix):
    (tmp_path / "spoil_file_hook.py").write_text(SPOIL)
    monkeypatch.syspath_prepend(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    hook = f"custom_hooks = [dict(type='SpoilFileHook', folder={str(data)!r}, suffix={suffix!r})]\n"
    rare = "train_cfg = dict(max_iters=4, val_interval=4)\ndefault_hooks = dict(checkpoint=dict(interval=1000))\n"
    config, run = small_config(tmp_path, data, extra=rare), tmp_path / "run"
    spoilt = tmp_path / "spoilt.py"
    names = ["spectral_backbones.segmentation", "spectral_backbones.segmentation.digits_dataset", "spoil_file_hook"]
    imports = f"custom_imports = dict(imports={names})\n"
    spoilt.write_text(config.read_text() + imports + hook)
    with pytest.raises(UserError, match=rf"cannot read (image|annotation) .*\{suffix}"):
        run_here("train.py", spoilt, "--work-dir", run)
    assert [path.name for path in run.glob("*.pth")] == ["iteration_2.pth"]
    for path in data.rglob("*.good"):
        path.replace(path.with_suffix(""))
    assert "iteration 4/4" in run_here("train.py", config, "--work-dir", run, "--resume")
    run_here("train.py", config, "--work-dir", tmp_path / "whole")
    ends = [torch.load(one / "iteration_4.pth", weights_only=True)["state_dict"] for one in (run, tmp_path / "whole")]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_views_of_a_picture_are_merged_with_the_weights_of_the_model_alone(digits, tmp_path):
    config, run = small_config(tmp_path, digits), tmp_path / "run"
    run_here("train.py", config, "--work-dir", run)
    arguments = ["test.py", config, run / "iteration_4.pth", "--work-dir", tmp_path / "test"]
    plain, mirrored = run_here(*arguments), run_here(*arguments, "--tta")
    assert figures(plain).keys() == figures(mirrored).keys() and figures(plain) != figures(mirrored)
    # One view, which is the picture as it is: the same figures, by the pipeline of the config.
    steps = [dict(type="Resize", scale=(128, 128)), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    same = dict(type="TestTimeAug", transforms=[[step] for step in steps])
    views = ["--cfg-options", f"tta_pipeline=[dict(type='LoadImageFromFile'),{json.dumps(same)}]"]
    assert figures(run_here(*arguments, "--tta", *views)) == figures(plain)
    with pytest.raises(UserError, match=r"does not fit the model: backbone\.model\.stages"):
        run_here(*arguments, "--tta", "--cfg-options", "model.backbone.depths=(2,1,1,1)")


def figures(output):
    return {name: float(value) for name, value in (line.split(": ") for line in output.splitlines()[:-1])}


def test_a_picture_without_a_map_is_not_drawn():
    hook = SegmentationsHook()
    sample = type("Sample", (), {"img_path": "x.png", "__contains__": lambda self, key: False})()
    hook.after_val_iter(None, 0, outputs=[sample])
    assert hook.scenes == [] and not hook.drawing.has_failed
