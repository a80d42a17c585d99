"""Whole runs of tools/train.py: what a user sees and gets, what survives a kill, what two processes do."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner, runner
from PIL import Image
from torch.distributed.tensor import DTensor

from spectral_backbones.classification import UserError
from spectral_backbones.engine import CarefulRunner
from spectral_backbones.engine.errors import plain_message

from .classification_fixtures import (
    command,
    environment,
    load_tool,
    make_folder,
    run_forked,
    run_here,
    run_tool,
    small_config,
)

# Everything random is on: augmentation, mixup, drop path; and everything that has a state: EMA, accumulation, schedule.
RANDOM = [
    "model.kwargs.drop_path_rate=0.2",
    "model.mixup.mixup_alpha=0.8",
    "optim_wrapper.accumulative_counts=2",
    "default_hooks.ema.type=ModelEmaHook",
    "default_hooks.ema.decay=0.9",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run that nothing disturbed: config, work directory, output."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, data, max_epochs=4)
    result = run_forked("train.py", config, "--work-dir", folder / "run", "--cfg-options", *RANDOM)
    assert result.returncode == 0, result.stdout
    return config, folder / "run", result.stdout


def load(work_dir, name):
    return torch.load(work_dir / name, weights_only=True)


def losses(checkpoint, key="train/loss"):
    return checkpoint["message_hub"]["log_scalars"][key][0].tolist()


def assert_equal(one, other, part):
    assert one[part].keys() == other[part].keys()
    assert all(torch.equal(value, other[part][key]) for key, value in one[part].items()), part


# What a user sees and gets


def test_a_run_leaves_what_it_promises(finished):
    _, work_dir, output = finished
    lines = [line for line in output.splitlines() if line.startswith(("training", "epoch", "best"))]
    assert lines[0] == "training spectformer_ti for 4 epochs: 48 images, 6 batches of 8"
    assert [line.split(":")[0] for line in lines[1:5]] == [f"epoch {number}/4" for number in range(1, 5)]
    assert all(word in line for line in lines[1:5] for word in ("loss ", "val loss ", "top-1 ", " left"))
    best = load(work_dir, "best.pth")
    top1 = best["message_hub"]["runtime_info"]["best_score"]
    assert lines[-1] == f"best top-1 {top1:.2f} % (epoch {best['meta']['epoch']}): {work_dir}/best.pth"
    assert output.endswith(lines[-1] + "\n")
    assert best["predictor"]["classes"] == ["blue", "green", "red"] and "optimizer" not in best
    assert sorted(path.name for path in work_dir.glob("epoch_*.pth")) == ["epoch_3.pth", "epoch_4.pth"]
    for name in ("curve", "confusion_matrix", "mistakes"):
        assert min(Image.open(work_dir / f"{name}.png").size) > 200
    assert not list(work_dir.glob(".*"))


def test_the_log_is_in_mmengines_own_form(finished):
    """Programs that read mmengine's scalars.json read ours."""
    (path,) = finished[1].glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows if "top5" in row] == [1, 2, 3, 4]


def test_it_learns(tmp_path, data):
    """Colour tells the classes: a model that does not learn this learns nothing."""
    output = run_here("train.py", small_config(tmp_path, data, max_epochs=6), "--work-dir", tmp_path / "run")
    assert float(output.strip().splitlines()[-1].split()[2]) > 90, output


@pytest.mark.parametrize(("is_new", "wrapper"), [(True, "Bfloat16OptimWrapper"), (False, "AmpOptimWrapper")])
def test_amp_takes_float16_on_gpus_that_only_emulate_bfloat16(monkeypatch, is_new, wrapper):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or is_new)
    assert load_tool("train.py").amp_wrapper() == wrapper


def test_amp_trains_in_bfloat16_on_the_cpu(tmp_path, data):
    config = small_config(tmp_path, data, max_epochs=2)
    runs = {}
    for name, flags in (("float32", []), ("bfloat16", ["--amp"])):
        run_here("train.py", config, "--work-dir", tmp_path / name, *flags)
        runs[name] = losses(load(tmp_path / name, "epoch_2.pth"))
    assert runs["float32"] != runs["bfloat16"]
    assert runs["float32"] == pytest.approx(runs["bfloat16"], rel=0.05)


def test_test_reports_what_training_saw(finished):
    config, work_dir, _ = finished
    output = run_here("test.py", config, work_dir / "best.pth")
    figures = dict(line.split(": ") for line in output.strip().splitlines())
    best = load(work_dir, "best.pth")["message_hub"]["runtime_info"]["best_score"]
    assert float(figures["top1"]) == pytest.approx(best, abs=1e-3)
    assert (Path(figures["pictures"]) / "confusion_matrix.png").exists()


# Killed and resumed

KILL_WHILE_WRITING = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
import spectral_backbones.engine.checkpoint as files

@HOOKS.register_module()
class KillWhileWriting(Hook):
    def before_train(self, runner):
        whole = files.replace
        def half(part, path):
            if path.name != "epoch_3.pth":
                return whole(part, path)
            part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        files.replace = half
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, data, finished):
    """Killed in the middle of an epoch, killed again in the middle of writing a checkpoint, and then let finish."""
    config, whole, output = finished
    work_dir = tmp_path / "run"

    def arguments(config, *flags, options=()):
        return ["train.py", config, "--work-dir", work_dir, *flags, "--cfg-options", *RANDOM, *options]

    process = subprocess.Popen(command(*arguments(config)), env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (work_dir / "epoch_1.pth").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (work_dir / "epoch_3.pth").exists()

    (tmp_path / "kill_while_writing.py").write_text(KILL_WHILE_WRITING)
    deadly = small_config(tmp_path, data, max_epochs=4, imports=["kill_while_writing"])
    # The number of workers may change on the way.
    options = ["default_hooks.kill.type=KillWhileWriting", "train_dataloader.num_workers=2"]
    killed = run_forked(*arguments(deadly, "--resume", options=options), path=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert (work_dir / ".epoch_3.pth.part").exists() and not (work_dir / "epoch_3.pth").exists()

    result = run_forked(*arguments(config, "--resume"))
    assert result.returncode == 0, result.stdout
    assert "for 4 epochs from epoch 3:" in result.stdout
    for name in ("epoch_4.pth", "best.pth"):
        one, other = load(whole, name), load(work_dir, name)
        assert_equal(one, other, "state_dict")
        assert_equal(one, other, "ema_state_dict")
    assert losses(load(whole, "epoch_4.pth")) == losses(load(work_dir, "epoch_4.pth"))
    assert result.stdout.splitlines()[-1].split(":")[0] == output.splitlines()[-1].split(":")[0]
    assert not list(work_dir.glob(".*"))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_one_epoch(tmp_path, finished):
    config, whole, _ = finished
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    for path in whole.glob("*.pth"):
        (work_dir / path.name).write_bytes(path.read_bytes())
    (work_dir / "epoch_4.pth").write_bytes((whole / "epoch_4.pth").read_bytes()[:5000])
    result = run_forked("train.py", config, "--work-dir", work_dir, "--resume", "--cfg-options", *RANDOM)
    assert result.returncode == 0, result.stdout
    assert f"{work_dir}/epoch_4.pth is cut short or damaged: going back" in result.stdout
    assert_equal(load(whole, "epoch_4.pth"), load(work_dir, "epoch_4.pth"), "state_dict")


def test_a_new_run_does_not_overwrite_an_old_one(finished):
    config, work_dir, _ = finished
    before = {path: path.read_bytes() for path in work_dir.glob("*.pth")}
    with pytest.raises(UserError, match=r"earlier run \(last epoch_4.pth\): go on with --resume"):
        run_here("train.py", config, "--work-dir", work_dir)
    assert before == {path: path.read_bytes() for path in work_dir.glob("*.pth")}


def test_a_finished_run_has_nothing_to_resume(finished):
    config, work_dir, output = finished
    again = run_here("train.py", config, "--work-dir", work_dir, "--resume", "--cfg-options", *RANDOM)
    assert again.splitlines()[-1] == output.splitlines()[-1]
    assert not [line for line in again.splitlines() if line.startswith("epoch")]


def test_resuming_nothing_starts_anew_and_says_so(tmp_path, data):
    config = small_config(tmp_path, data, max_epochs=2)
    output = run_here("train.py", config, "--work-dir", tmp_path / "run", "--resume")
    assert "for 2 epochs: " in output and (tmp_path / "run" / "epoch_2.pth").exists()
    assert "holds no checkpoint to resume from: starting anew" in output


# What goes wrong is told, and costs no checkpoint

SPOIL = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class SpoilHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 8:
            data_batch["inputs"][0, 0, 0, 0] = float("nan")
"""


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_good_checkpoint(tmp_path, data, monkeypatch):
    (tmp_path / "spoil_hook.py").write_text(SPOIL)
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config(tmp_path, data, imports=["spoil_hook"])
    work_dir = tmp_path / "run"
    with pytest.raises(UserError) as error:
        run_here("train.py", config, "--work-dir", work_dir, "--cfg-options", "default_hooks.spoil.type=SpoilHook")
    assert str(error.value).startswith("the loss is nan at iteration 9 (epoch 2, learning rate 0.00")
    assert str(error.value).endswith(f"The last good checkpoint is {work_dir}/epoch_1.pth")
    assert all(torch.isfinite(value).all() for value in load(work_dir, "epoch_1.pth")["state_dict"].values())
    assert not (work_dir / "epoch_2.pth").exists()


BURST = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class BurstHook(Hook):
    priority = "VERY_HIGH"

    def after_train_epoch(self, runner):
        if runner.epoch == 1:
            runner.model.model.head.weight.data[0, 0] = float("inf")
"""


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, data, monkeypatch):
    """A step can spoil the weights after a sound loss: the checkpoint of that epoch must not count as good."""
    (tmp_path / "burst_hook.py").write_text(BURST)
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config(tmp_path, data, max_epochs=2, imports=["burst_hook"])
    work_dir = tmp_path / "run"
    with pytest.raises(UserError, match=r"after epoch 2: nothing is saved. The last good checkpoint is .*epoch_1.pth"):
        run_here("train.py", config, "--work-dir", work_dir, "--cfg-options", "default_hooks.burst.type=BurstHook")
    assert [path.name for path in work_dir.glob("epoch_*.pth")] == ["epoch_1.pth"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["model.num_classes=7"], "the model has 7 classes, ImageFolder has 3: set model.num_classes to 3"),
        (["model.name=spectformer_xl"], "no model is called 'spectformer_xl'; near it: "),
        (["train_dataloader.batch_size=64"], "48 training images make no batch of 64 in each of 1 processes"),
        (["train_dataloader.dataset.root=/nowhere"], "image folder /nowhere does not exist"),
        (["model.pretrained=/nowhere.pth"], "checkpoint /nowhere.pth does not exist"),
        (["train_cfg.max_epochs=1"], "CosineAnnealingLR, goes from epoch 1 to 1, but train_cfg.max_epochs is 1"),
    ],
    ids=["classes", "name", "batch", "folder", "weights", "schedule"],
)
def test_mistakes_are_told(tmp_path, data, options, says):
    config = small_config(tmp_path, data)
    with pytest.raises(UserError) as error:
        run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert says in str(error.value)


@pytest.mark.parametrize("arguments", [("train.py",), ("flops.py", "--config")], ids=lambda arguments: arguments[0])
def test_a_mistake_ends_the_command_with_one_line(tmp_path, arguments):
    result = run_forked(*arguments, tmp_path / "absent.py")
    assert result.returncode == 1
    expected = (
        f"error: config {tmp_path}/absent.py does not exist: it is no file, and no config of the library; "
        "`spectral configs` lists the library's own"
    )
    assert result.stdout.splitlines()[-1] == expected and "Traceback" not in result.stdout


def test_the_demonstration_removes_only_what_it_left(tmp_path):
    mine = tmp_path / "classification" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("work of years")
    with pytest.raises(UserError, match="classification holds something else than an earlier demonstration"):
        run_here("demo.py", "--work-dir", tmp_path, "--only", "classification")
    assert mine.is_file()


def test_an_unreadable_image_in_a_worker_is_named(tmp_path):
    data = make_folder(tmp_path / "pictures", per_class=8)
    broken = data / "train" / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    config = small_config(tmp_path, data)
    with pytest.raises(UserError) as error:
        options = ["--cfg-options", "train_dataloader.num_workers=1"]
        run_here("train.py", config, "--work-dir", tmp_path / "run", *options)
    assert plain_message(error.value).startswith(f"cannot read image {broken}: ")


def test_a_metric_that_the_validation_does_not_have_ends_the_run_with_what_it_has_computed(tmp_path, data):
    config = small_config(tmp_path, data)
    options = ["--cfg-options", "default_hooks.checkpoint.metric=top2"]
    with pytest.raises(UserError, match=r"is 'top2'; the validation has top1, top5, loss.*: name one of them"):
        run_here("train.py", config, "--work-dir", tmp_path / "run", *options)
    assert (tmp_path / "run" / "epoch_1.pth").is_file()


def test_a_run_resumes_from_its_own_checkpoints_and_not_from_where_it_began(finished, tmp_path):
    _, other, _ = finished
    config = small_config(tmp_path, tmp_path, max_epochs=2)
    arguments = ["train.py", config, "--data-root", make_folder(tmp_path / "pictures"), "--work-dir", tmp_path / "run"]
    options = ["--cfg-options", f"load_from={other / 'best.pth'}"]
    said = run_here(*arguments, "--resume", *options)  # before its first checkpoint a run begins anew
    assert "for 2 epochs: 48 images" in said and "epoch 1/2" in said
    (tmp_path / "run" / "epoch_2.pth").unlink()
    assert "for 2 epochs from epoch 2: 48 images" in run_here(*arguments, "--resume", *options)


def test_runs_that_start_in_one_second_share_nothing(tmp_path, data, monkeypatch):
    """As the second of two quick runs in a notebook, which mmengine would give the name of the first."""
    monkeypatch.setattr(runner.time, "time", lambda: 1.8e9)
    config = small_config(tmp_path, data, max_epochs=2)
    for name in ("first", "second"):
        run_here("train.py", config, "--work-dir", tmp_path / name)
        assert len(losses(load(tmp_path / name, "epoch_2.pth"))) == 12
        (log,) = (tmp_path / name).glob("*/vis_data/scalars.json")
        assert len(log.read_text().splitlines()) == 4  # of training and validation, for each of two epochs


def test_test_refuses_a_checkpoint_of_another_model(finished, tmp_path):
    config, work_dir, _ = finished
    with pytest.raises(UserError, match=r"best.pth does not fit the model: .*has shape"):
        options = ["--work-dir", tmp_path, "--cfg-options", "model.kwargs.embed_dim=32"]
        run_here("test.py", config, work_dir / "best.pth", *options)


# Several processes


def test_the_config_says_how_processes_share_a_model_on_cpus_too(monkeypatch):
    careful = CarefulRunner.__new__(CarefulRunner)
    careful._distributed, careful.cfg = True, Config({"find_unused_parameters": True})
    monkeypatch.setattr(Runner, "wrap_model", lambda self, wrapper, model: wrapper)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given, bucket in ((None, {}), ({"bucket_cap_mb": 5}, {"bucket_cap_mb": 5})):
        assert careful.wrap_model(given, torch.nn.Linear(1, 1)) == {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": True,
            "device_ids": None,
            **bucket,
        }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """The run of one process with the whole batch, to compare with."""
    folder = tmp_path_factory.mktemp("alone")
    config = small_config(folder, data, max_epochs=2)
    run_here("train.py", config, "--work-dir", folder / "run", "--cfg-options", "train_dataloader.batch_size=16")
    return config, load(folder / "run", "epoch_2.pth")


def assert_same_run(one, two):
    assert len(losses(one)) == len(losses(two)) == 6
    for key in ("train/loss", "train/top1", "val/top1", "val/loss"):
        assert losses(one, key) == pytest.approx(losses(two, key), rel=1e-4), key


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path, alone):
    """torchrun over Gloo, half the batch in each process, against one process with the whole batch."""
    config, one = alone
    result = run_tool("train.py", config, "--work-dir", tmp_path, processes=2)
    assert result.returncode == 0, result.stdout
    assert "3 batches of 8 in each of 2 processes" in result.stdout
    assert_same_run(one, load(tmp_path, "epoch_2.pth"))


@pytest.mark.slow
def test_sharded_training_has_the_losses_of_one_and_resumes(tmp_path, alone):
    """Two processes with half of every tensor each write whole checkpoints, and go on from them."""
    config, one = alone
    arguments = ["train.py", config, "--work-dir", tmp_path, "--cfg-options", "fsdp=True"]
    result = run_forked(*arguments, processes=2)
    assert result.returncode == 0, result.stdout
    assert_same_run(one, load(tmp_path, "epoch_2.pth"))
    (tmp_path / "epoch_2.pth").rename(tmp_path / "first.pth")
    result = run_forked(*arguments, "--resume", processes=2)
    assert result.returncode == 0 and "from epoch 2:" in result.stdout, result.stdout
    first, resumed = load(tmp_path, "first.pth"), load(tmp_path, "epoch_2.pth")
    assert_equal(first, resumed, "state_dict")
    assert not any(isinstance(value, DTensor) for value in resumed["state_dict"].values())
