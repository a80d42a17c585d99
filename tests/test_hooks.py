"""What hooks promise whatever a config leaves out, and what a run that is killed while it validates leaves."""

import itertools

import pytest
import torch
from mmengine.config import Config
from torch.utils.data import Subset, TensorDataset

from spectral_backbones.engine import UserError
from spectral_backbones.engine.figures import figure_of, known, numbers, spelt, telling
from spectral_backbones.engine.hooks import KeepCheckpointsHook
from spectral_backbones.engine.hooks.fresh_workers import _state
from spectral_backbones.engine.sampler import Draw, SeededDataset

from .classification_fixtures import make_folder, run_here, small_config

OURS = ("checkpoint", "seed", "loss_guard", "sync_buffers", "curve", "outcome", "describe", "console", "ema")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pictures"), per_class=4)


@pytest.fixture(scope="module")
def config(tmp_path_factory, data):
    return small_config(tmp_path_factory.mktemp("config"), data, max_epochs=2)


@pytest.mark.parametrize("left", [(), *itertools.combinations(("checkpoint", "console", "curve", "ema"), 1)])
def test_any_hook_of_ours_may_be_none(config, tmp_path, left):
    """All of them but one, and all."""
    hooks = [f"default_hooks.{name}=None" for name in OURS if name not in left]
    if "ema" in left:
        hooks.append("default_hooks.ema.type=ModelEmaHook")
    output = run_here("train.py", config, "--work-dir", tmp_path, "--cfg-options", *hooks)
    assert ("epoch 2/2" in output) == ("console" in left)
    assert (tmp_path / "epoch_2.pth").exists() == ("checkpoint" in left)
    assert (tmp_path / "curve.png").exists() == ("curve" in left)


KILL = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class KillHook(Hook):
    def before_val_iter(self, runner, batch_idx, data_batch=None):
        raise KeyboardInterrupt
"""


def test_a_run_killed_in_its_first_validation_resumes_and_makes_up_for_it(config, data, tmp_path, monkeypatch):
    (tmp_path / "kill_hook.py").write_text(KILL)
    monkeypatch.syspath_prepend(tmp_path)
    run_here("train.py", config, "--work-dir", tmp_path / "whole")
    deadly = small_config(tmp_path, data, max_epochs=2, imports=["kill_hook"])
    with pytest.raises(KeyboardInterrupt):
        options = ["--cfg-options", "default_hooks.kill.type=KillHook"]
        run_here("train.py", deadly, "--work-dir", tmp_path / "run", *options)
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["epoch_1.pth"]
    output = run_here("train.py", config, "--work-dir", tmp_path / "run", "--resume")
    epochs = [line.split(":")[0] for line in output.splitlines() if line.startswith("epoch ")]
    assert epochs == ["epoch 1/2", "epoch 2/2"]
    one, other = (torch.load(tmp_path / name / "epoch_2.pth", weights_only=True) for name in ("whole", "run"))
    info, again = (checkpoint["message_hub"]["runtime_info"] for checkpoint in (one, other))
    assert info["validations"] == again["validations"] and info["best_at"] == again["best_at"]
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    # What was validated is not validated again.
    assert "epoch 2/2:" not in run_here("train.py", config, "--work-dir", tmp_path / "run", "--resume")


def test_a_wrapped_data_set_is_the_data_set():
    inside = TensorDataset(torch.arange(4))
    middle = Subset(inside, [3, 2, 1])
    data = SeededDataset(middle)
    assert isinstance(data, Subset) and data.dataset is inside and data.indices == [3, 2, 1]
    data.indices = [0]
    assert middle.indices == [0] and len(data) == 1
    data.mark = 1
    assert middle.mark == 1
    del data.mark
    assert not hasattr(middle, "mark")
    # torch asks for the samples of a batch at once where a data set can give them, which would pass the seeds by.
    assert not hasattr(data, "__getitems__")
    draws = []
    middle.dataset = [torch.rand] * 1
    for _ in range(2):
        data[Draw(0, (1, 2, 0))]
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_any_change_of_a_data_set_is_noticed_and_none_is_not():
    data = SeededDataset(Subset(Subset(TensorDataset(torch.arange(4000)), [1, 2]), [0]))
    before = _state(data)
    assert _state(data) == before
    data.dataset.indices[0] = 3  # of the one inside, in place
    after = _state(data)
    assert after != before
    data.mapping = lambda value: value  # which no pickle takes
    assert _state(data) != after and _state(data) == _state(data)


@pytest.mark.parametrize(
    ("figures", "tells"),
    [
        (["coco/bbox_mAP", "coco/segm_mAP"], "coco/bbox_mAP"),
        (["coco/segm_mAP_50", "coco/segm_mAP"], "coco/segm_mAP"),
        (["lvis/bbox_AP50", "lvis/bbox_AP"], "lvis/bbox_AP"),
        (["openimages/AP50", "openimages/mAP"], "openimages/mAP"),
        (["cityscapes/AP@50", "cityscapes/mAP"], "cityscapes/mAP"),
        (["coco_panoptic/SQ", "coco_panoptic/PQ"], "coco_panoptic/PQ"),
        (["aAcc", "mDice", "mAcc"], "mDice"),
        (["teacher/coco/bbox_mAP", "student/coco/bbox_mAP"], "teacher/coco/bbox_mAP"),
        (["abs_rel", "time"], None),
        ([], None),
    ],
)
def test_the_figure_that_tells_the_best_is_that_of_the_evaluator(figures, tells):
    assert telling(figures) == tells
    assert not figures or known(figures)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("coco/bbox_mAP", 0.5, "box AP 50.0"),
        ("coco/bbox_mAP", -1.0, "box AP: no annotations"),
        ("val/segm_mAP_50", -1.0, "val mask AP50: no annotations"),
        ("coco/cat_precision", float("nan"), "coco/cat_precision: no annotations"),
        ("mIoU", float("nan"), "mIoU: no annotated pixels"),
        ("mDice", float("nan"), "mDice: no annotated pixels"),
        ("reward", -1.0, "reward -1.00"),
        ("reward", float("nan"), "reward: no number"),
    ],
)
def test_a_figure_that_is_none_says_why(key, value, shown):
    assert figure_of(key).show(value) == shown


def test_figures_that_are_no_single_number_are_left_out_and_written_as_they_are():
    odd = dict(text="fine", rows=[1, "a"], maps=torch.eye(2), nothing=None)
    assert numbers({**odd, "one": torch.tensor([2.0]), "flag": True}) == {"one": 2.0, "flag": 1.0}
    assert [spelt(key, value) for key, value in odd.items()] == [
        "fine",
        "[1.0000, a]",
        "[[1.0000, 0.0000], [0.0000, 1.0000]]",
        "None",
    ]


def test_lower_may_be_better(config, tmp_path):
    options = ["default_hooks.checkpoint.save_best=loss", "train_cfg.max_epochs=3"]
    run_here("train.py", config, "--work-dir", tmp_path, "--cfg-options", *options)
    info = torch.load(tmp_path / "epoch_3.pth", weights_only=True)["message_hub"]["runtime_info"]
    losses = [row["loss"] for row in info["validations"]]
    assert info["best_metric"] == "loss" and info["best_score"] == min(losses)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(rule="lower"), "rule is 'lower'; it has to be 'greater' or 'less'"),
        (dict(metric="top1", save_best="loss"), "which mean the same: drop one of them"),
        (dict(keep=0), "keep and interval must be 1 or more"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, says):
    with pytest.raises(UserError, match=says):
        KeepCheckpointsHook(**arguments)


def test_the_default_hooks_may_be_none_altogether(config, tmp_path):
    cfg = Config.fromfile(config)
    cfg.default_hooks = None
    cfg.dump(tmp_path / "config.py")
    run_here("train.py", tmp_path / "config.py", "--work-dir", tmp_path / "run")
    assert (tmp_path / "run" / "epoch_2.pth").is_file()  # by mmengine's own
