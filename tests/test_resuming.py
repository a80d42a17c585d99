"""What a resumed run takes from its checkpoint and what from its config, and what is in its work directory."""

import contextlib
import io
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from spectral_backbones.classification.config import complete
from spectral_backbones.engine import CarefulRunner, UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import flatten, parse
from spectral_backbones.engine.config import load as read_config
from spectral_backbones.engine.names import ClassOrder, class_names
from spectral_backbones.engine.resuming import Length, follow, stretch

from .classification_fixtures import make_folder, picture, run_here, small_config

LONGER = ["train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.02"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """72 images to train with."""
    return make_folder(tmp_path_factory.mktemp("data") / "pictures", per_class=24)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run of three epochs of 9 batches."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, data)
    run_here("train.py", config, "--work-dir", folder / "run")
    return config, folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to go on with."""
    config, whole = finished
    return config, shutil.copytree(whole, tmp_path / "run")


def train(config, work_dir, *flags, options=()):
    return run_here(
        "train.py", config, "--work-dir", work_dir, *flags, *(["--cfg-options", *options] if options else [])
    )


def load(path):
    return torch.load(path, weights_only=True)


def rates(path):
    return load(path)["message_hub"]["log_scalars"]["train/lr"][0].tolist()


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(config, work_dir, *flags, options=()):
    """Runs what has to be refused, and sees that nothing in the work directory is touched or added."""
    before = content(work_dir), sorted(work_dir.iterdir())
    with pytest.raises(UserError) as error:
        train(config, work_dir, *flags, options=options)
    assert (content(work_dir), sorted(work_dir.iterdir())) == before
    return str(error.value)


# The work directory


@pytest.mark.parametrize("left", ["*", "best.pth", "curve.png", "epoch_3.pth"])
def test_nothing_of_an_earlier_run_is_overwritten(run, left):
    config, work_dir = run
    gone = [path for path in work_dir.glob("*.*") if not path.match(left)]
    for path in gone:
        path.unlink()
    says = refused(config, work_dir, options=["train_cfg.max_epochs=2", "model.name=unknown"])  # nothing is built yet
    assert "--resume" in says and "--overwrite" in says


def test_a_damaged_checkpoint_is_not_overwritten_either(run):
    config, work_dir = run
    for path in work_dir.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    assert "(last epoch_3.pth): go on with --resume, replace them with --overwrite" in refused(config, work_dir)
    assert "no checkpoint that --resume could go on from" in refused(config, work_dir, "--resume")


def test_best_alone_is_nothing_to_resume_and_is_not_replaced(run):
    config, work_dir = run
    for path in work_dir.glob("epoch_*"):
        path.unlink()
    assert "holds best.pth of an earlier run, but no checkpoint" in refused(config, work_dir, "--resume")


def test_a_run_that_overwrites_leaves_no_checkpoint_of_the_old_one(run):
    """Fewer epochs than before: the old ones would be taken for the last, to resume from and to keep."""
    config, work_dir = run
    options = ["train_cfg.max_epochs=2", f"load_from={work_dir / 'best.pth'}"]
    says = refused(config, work_dir, "--overwrite", options=["model.name=unknown"])
    assert "no model is called 'unknown'" in says  # a mistake costs nothing
    train(config, work_dir, "--overwrite", options=options)
    assert sorted(path.name for path in work_dir.glob("*.pth")) == ["best.pth", "epoch_1.pth", "epoch_2.pth"]


@pytest.mark.parametrize("options", [[], ["load_from=/nowhere.pth"]], ids=["alone", "with load_from"])
def test_resume_means_the_same_as_an_option(run, options):
    config, work_dir = run
    flag = train(config, work_dir, "--resume", options=options)
    assert train(config, work_dir, options=["resume=True", *options]) == flag
    assert "for 3 epochs from epoch 4: " in flag


@pytest.mark.parametrize(
    ("flags", "options", "says"),
    [
        ([], ["resume=epoch_3.pth"], "resume is 'epoch_3.pth', allowed are True and False"),
        (["--resume", "--overwrite"], [], "choose one of them"),
        (["--schedule", "config"], [], "is for a run that is resumed: add --resume"),
        (["--resume"], ["resume_schedule=flat"], "resume_schedule is 'flat', allowed are checkpoint and config"),
    ],
)
def test_what_contradicts_itself_is_refused(run, flags, options, says):
    assert says in refused(*run, *flags, options=options)


def test_a_config_that_lies_in_the_work_directory_stays_as_it_was_written(finished, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(f"# my notes\n_base_ = {str(finished[0])!r}\ntrain_cfg = dict(max_epochs=2)\n")
    written = config.read_text()
    train(config, tmp_path)
    assert config.read_text() == written and (tmp_path / "epoch_2.pth").exists()


# What goes on and what does not


def test_a_schedule_that_ends_before_the_run_is_refused_and_the_way_on_is_told(run):
    says = refused(*run, "--resume", options=LONGER)
    assert "epoch_3.pth has it, ends at iteration 27, the run at iteration 54: --schedule config follows" in says


def test_a_resumed_schedule_is_that_of_a_whole_run_from_there_on(run, tmp_path):
    config, work_dir = run
    said = train(config, work_dir, "--resume", "--schedule", "config", options=LONGER)
    assert "for 6 epochs from epoch 4: " in said
    train(config, tmp_path / "whole", options=LONGER)
    assert rates(work_dir / "epoch_6.pth")[27:] == pytest.approx(
        rates(tmp_path / "whole" / "epoch_6.pth")[27:], rel=1e-9
    )
    again = train(config, work_dir, "--resume", options=LONGER)  # the length is the checkpoint's by now
    assert "from epoch 7: " in again


def test_a_checkpoint_is_resumed_from_the_cpu_wherever_the_model_is(run, monkeypatch):
    config, work_dir = run
    read, seen = files.read, []
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "cpu:0")  # the same, and told apart
    monkeypatch.setattr(files, "read", lambda file, to: seen.append(to) or read(file, to))
    train(config, work_dir, "--resume", "--schedule", "config", options=["train_cfg.max_epochs=4"])
    assert seen == ["cpu"]


def test_a_schedule_may_end_before_the_run_where_the_user_says_so(run):
    config, work_dir = run
    said = train(config, work_dir, "--resume", "--schedule", "checkpoint", options=LONGER)
    after = rates(work_dir / "epoch_6.pth")
    assert after[27:] == [after[26]] * 27
    assert "optimizer lr: 0.002 in the checkpoint, which is used; 0.02 in the config\n" in said
    assert "train_cfg.max_epochs: 3 in the checkpoint; 6 in the config, which is used\n" in said
    assert "the schedule of the learning rate ends at iteration 27, the run at iteration 54" in said


def test_a_resumed_run_on_fewer_images_ends_where_its_schedule_does(run, data, tmp_path):
    """33 images after 72: an epoch has 4 batches for 9."""
    config, work_dir = run
    (work_dir / "epoch_3.pth").unlink()
    fewer = make_folder(tmp_path / "fewer", per_class=11)
    options = [f"{part}_dataloader.dataset.root={fewer}" for part in ("train", "val")]
    says = refused(config, work_dir, "--resume", options=options)
    assert "ends at iteration 27, the run at iteration 12 (an epoch had 9 batches and has 4)" in says
    said = train(config, work_dir, "--resume", "--schedule", "config", options=options)
    assert "for 3 epochs from epoch 3: 33 images, 4 batches of 8" in said and "-1 day" not in said
    train(config, tmp_path / "whole", options=options)
    assert rates(work_dir / "epoch_3.pth")[-4:] == pytest.approx(
        rates(tmp_path / "whole" / "epoch_3.pth")[-4:], rel=1e-9
    )
    assert load(work_dir / "epoch_3.pth")["meta"]["iter"] == 12


def test_what_differs_is_told_with_both_values_and_nothing_else(run, data, tmp_path):
    config, work_dir = run
    (work_dir / "epoch_3.pth").unlink()
    options = [
        "train_dataloader.num_workers=1",
        "optim_wrapper.optimizer.weight_decay=0.1",
        "optim_wrapper.accumulative_counts=2",
        "model.kwargs.drop_path_rate=0.1",
        "default_hooks.ema.type=ModelEmaHook",
        "randomness.seed=3",
    ]
    said = train(config, work_dir, "--resume", "--amp", options=options)
    lines = {line.strip() for line in said.partition("than it was written by:\n")[2].splitlines() if line[0] == " "}
    assert lines == {
        "average of the weights: none in the checkpoint; it begins from the weights resumed",
        "optimizer weight_decay: 0.05 in the checkpoint, which is used; 0.1 in the config",
        "optim_wrapper.accumulative_counts: not set in the checkpoint; 2 in the config, which is used",
        "optim_wrapper.type: OptimWrapper in the checkpoint; Bfloat16OptimWrapper in the config, which is used",
        "model.kwargs.drop_path_rate: not set in the checkpoint; 0.1 in the config, which is used",
        "default_hooks.ema.type: not set in the checkpoint; ModelEmaHook in the config, which is used",
        "seed: 0 in the checkpoint, which is used; 3 in the config",
    }
    last = load(work_dir / "epoch_3.pth")
    assert last["meta"]["seed"] == 0 and "ema_state_dict" in last
    assert {group["weight_decay"] for group in last["optimizer"]["param_groups"]} == {0.0, 0.05}


def test_the_order_of_samples_is_that_of_the_checkpoints_seed(run, tmp_path):
    config, work_dir = run
    (work_dir / "epoch_3.pth").unlink()
    train(config, work_dir, "--resume", options=["randomness.seed=3"])
    one, other = (load(folder / "epoch_3.pth") for folder in (run[1], work_dir))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["optim_wrapper.optimizer.opt=sgd"], "has the state of AdamW, from which SGD, the optimiser of the config"),
        (["optim_wrapper.paramwise_cfg.layer_decay=0.5"], "parameters in 2 groups, that of the config "),
        (["model.kwargs.embed_dim=32"], "has shape"),
        (["train_cfg.max_epochs=2"], "has 3 epochs behind it, the config asks for 2: raise train_cfg.max_epochs"),
        (["param_scheduler.1.type=PolyLR"], "has other schedulers (LinearLR, PolyLR) than"),
    ],
    ids=["optimiser", "groups", "model", "shorter", "schedulers"],
)
def test_what_cannot_go_on_is_refused(run, options, says):
    config, work_dir = run
    if "PolyLR" in options[0]:  # has no eta_min_ratio
        options = [*options, "param_scheduler.1.eta_min=0.0"]
        text = config.read_text()
        config = work_dir.parent / "poly.py"
        config.write_text(text.replace("'eta_min_ratio': 0.01, ", ""))
        config.write_text(config.read_text() + "\nparam_scheduler[1]['type'] = 'PolyLR'\n")
        options = []
    assert says in refused(config, work_dir, "--resume", options=options)


def test_the_state_of_an_unnamed_optimiser_is_told_from_its_settings(run):
    """Checkpoints of mmengine, and those that this library wrote before, do not name it."""
    config, work_dir = run
    last = load(work_dir / "epoch_3.pth")
    del last["meta"]["optimizers"], last["meta"]["facts"]
    torch.save(last, work_dir / "epoch_3.pth")
    assert "for 3 epochs from epoch 4" in train(config, work_dir, "--resume")
    assert "has the state of an optimiser with" in refused(
        config, work_dir, "--resume", options=["optim_wrapper.optimizer.opt=sgd"]
    )


def test_a_run_by_epochs_is_not_resumed_by_iterations(run):
    config, work_dir = run
    cfg = Config.fromfile(config)
    cfg.train_cfg = dict(by_epoch=False, max_iters=54)
    cfg.train_dataloader.sampler.type = "EndlessSampler"
    cfg.param_scheduler = [dict(type="PolyLR", by_epoch=False)]
    cfg.dump(work_dir.parent / "iterations.py")
    assert "is of a run by epochs, the config trains by iterations" in refused(
        work_dir.parent / "iterations.py", work_dir, "--resume"
    )


def test_a_schedule_with_a_function_in_its_state_goes_on(finished, tmp_path):
    """OneCycle keeps how it anneals as a function, which is not read from a checkpoint."""
    config = tmp_path / "one_cycle.py"
    scheduler = dict(type="OneCycleLR", eta_max=0.01, convert_to_iter_based=True)
    config.write_text(f"_base_ = {str(finished[0])!r}\nparam_scheduler = [{scheduler}]\n")
    train(config, tmp_path / "run")
    whole = rates(tmp_path / "run" / "epoch_3.pth")
    (tmp_path / "run" / "epoch_3.pth").unlink()
    train(config, tmp_path / "run", "--resume")
    assert rates(tmp_path / "run" / "epoch_3.pth") == whole


def test_a_new_run_is_warned_once_that_its_schedule_ends_before_it(finished, tmp_path):
    said = train(finished[0], tmp_path / "run", options=["param_scheduler.1.end=2"])
    assert said.count("the schedule of the learning rate ends at iteration 18, the run at iteration 27") == 1
    # And goes on after an interruption as it would have.
    (tmp_path / "run" / "epoch_3.pth").unlink()
    assert "from epoch 3: " in train(finished[0], tmp_path / "run", "--resume", options=["param_scheduler.1.end=2"])


# Schedules


def rates_of(configs, length, at=0, stretched_from=None):
    """The learning rate at each of the steps of a run from `at` on, by epochs of three iterations."""
    wrapper = OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0))
    if stretched_from:
        configs = [stretch(config, Length(stretched_from, 3 * stretched_from), length) for config in configs]
    built = [
        PARAM_SCHEDULERS.build(
            {"end": length.of(config.get("by_epoch", True)), **config},
            default_args=dict(optimizer=wrapper, epoch_length=3),
        )
        for config in configs
    ]
    runner = SimpleNamespace(
        optim_wrapper=wrapper, param_schedulers=built, train_loop=None, train_dataloader=range(3), logger=None
    )
    seen = []
    for _ in range(at, length.iterations):
        seen.append(wrapper.param_groups[0]["lr"])
        follow(runner, 1)
    return seen


WARM_UP = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (dict(type="MultiStepLR", end=4, milestones=[2, 3]), dict(type="MultiStepLR", milestones=[4, 6])),
        (dict(type="StepLR", step_size=2), dict(type="StepLR", step_size=4)),
        (dict(type="CosineAnnealingLR", T_max=4, end=4), dict(type="CosineAnnealingLR", T_max=8)),
        (dict(type="CosineAnnealingLR", begin=2, end=4), dict(type="CosineAnnealingLR", begin=2, end=8)),
        (dict(type="PolyLR", power=0.9, by_epoch=False, end=12), dict(type="PolyLR", power=0.9, by_epoch=False)),
        (dict(type="ExponentialLR", gamma=0.25), dict(type="ExponentialLR", gamma=0.5)),
        (
            dict(type="CosineRestartLR", periods=[2, 2], restart_weights=[1, 0.5], eta_min=0, end=4),
            dict(type="CosineRestartLR", periods=[4, 4], restart_weights=[1, 0.5], eta_min=0),
        ),
        (dict(type="OneCycleLR", eta_max=1.0, total_steps=4), dict(type="OneCycleLR", eta_max=1.0, total_steps=8)),
        (
            dict(type="LinearLR", start_factor=1.0, end_factor=0.1, end=4),
            dict(type="LinearLR", start_factor=1.0, end_factor=0.1),
        ),
    ],
    ids=lambda config: config["type"],
)
def test_a_schedule_of_twice_the_length_is_stretched(scheduler, expected):
    """A warm-up keeps its length, what follows it does not; also where one counts iterations and one epochs."""
    long = Length(8, 24)
    assert rates_of([WARM_UP, scheduler], long, stretched_from=4) == pytest.approx(rates_of([WARM_UP, expected], long))


# What a checkpoint says of its config


def test_the_config_in_a_checkpoint_is_read_as_data(tmp_path):
    cfg = Config(
        dict(model=dict(a=(1, -2.5), b=[dict(c=None), dict(d="x")]), keys={"e.f": dict(g=True), "h": []}, scale=1e-5)
    )
    read = parse(cfg.pretty_text)
    assert read == cfg.to_dict()
    assert flatten(read["model"]) == {"a": [1, -2.5], "b.0.c": None, "b.1.d": "x"}
    evil = f"model = dict(a=__import__('pathlib').Path({str(tmp_path / 'sprung')!r}).touch(), b=2)"
    assert parse(evil)["model"]["b"] == 2 and not (tmp_path / "sprung").exists()
    assert parse("no config (") == {}


# Classes


def test_labels_and_predictions_are_translated_there_and_back():
    order = ClassOrder(known=["c", "a", "b"], given=["a", "b", "c"])
    mask = PixelData(data=torch.tensor([[[0, 1, 2, 255]]]))
    boxes = InstanceData(labels=torch.tensor([0, 1, 2]))
    samples = [BaseDataElement(gt_sem_seg=mask), BaseDataElement(gt_instances=boxes, gt_sem_seg=mask)]
    batch = dict(inputs=[1], labels=torch.tensor([2, 0]), data_samples=dict(labelled=samples))
    translated = order.batch(batch)
    segmented, detected = translated["data_samples"]["labelled"]
    assert translated["labels"].tolist() == [0, 1] and translated["inputs"] == [1]
    assert segmented.gt_sem_seg.data.tolist() == [[[1, 2, 0, 255]]]
    assert detected.gt_instances.labels.tolist() == [1, 2, 0]
    assert torch.equal(detected.gt_sem_seg.data, mask.data)  # its classes are not the detector's
    assert boxes.labels.tolist() == [0, 1, 2]  # a data set may hold its samples

    logits = torch.tensor([0.1, 0.7, 0.2])  # of c, a and b
    outputs = [
        dict(logits=logits, label=0),
        BaseDataElement(pred_sem_seg=segmented.gt_sem_seg, seg_logits=PixelData(data=logits[:, None, None])),
        BaseDataElement(pred_instances=detected.gt_instances),
    ]
    order.predictions(outputs)
    assert (
        outputs[0]["logits"].tolist() == outputs[1].seg_logits.data.flatten().tolist() == pytest.approx([0.7, 0.2, 0.1])
    )
    assert torch.equal(outputs[1].pred_sem_seg.data, mask.data)
    assert outputs[2].pred_instances.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (dict(predictor=dict(classes=["a", "b"]), meta=dict(dataset_meta=dict(classes=("b", "a")))), ["a", "b"]),
        (dict(meta=dict(dataset_meta=dict(CLASSES=("a", "b")))), ["a", "b"]),
        (dict(meta=dict(CLASSES=("a", "b"))), ["a", "b"]),
        (dict(state_dict={}, meta=None), None),
    ],
    ids=["this library", "mmengine", "mmdet 2", "none"],
)
def test_class_names_are_read_as_each_program_writes_them(checkpoint, names):
    assert class_names(checkpoint) == names


def reorder(path, classes):
    """Writes a checkpoint as training on the same classes in another order would have left it."""
    checkpoint = load(path)
    rows = [checkpoint["predictor"]["classes"].index(name) for name in classes]
    states = [
        checkpoint["state_dict"],
        *(checkpoint["optimizer"]["state"].values() if "optimizer" in checkpoint else ()),
    ]
    for state in states:
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(classes):
                state[key] = value[rows]
    checkpoint["predictor"]["classes"] = checkpoint["meta"]["dataset_meta"]["classes"] = classes
    torch.save(checkpoint, path)


def test_a_test_matches_classes_by_name(run):
    config, work_dir = run
    outputs = []
    for classes in (["blue", "green", "red"], ["red", "blue", "green"]):
        reorder(work_dir / "best.pth", classes)
        said = run_here("test.py", config, work_dir / "best.pth").splitlines()
        outputs.append([line for line in said if "WARNING" not in line])
        images = [work_dir / "test" / f"{name}.png" for name in ("confusion_matrix", "mistakes")]
        outputs.append([path.read_bytes() for path in images])
    assert outputs[0] == outputs[2] and outputs[1] == outputs[3]
    (top1,) = (line for line in outputs[0] if line.startswith("top1: "))
    assert float(top1.split()[1]) > 90


def test_a_runner_that_loads_one_checkpoint_after_another_translates_for_the_last_alone(run, tmp_path):
    """Loops that are built after a checkpoint was loaded are translated as well, and nothing is translated twice."""
    config, work_dir = run
    cfg = complete(read_config(str(config), {"load_from": str(work_dir / "best.pth"), "train_cfg.max_epochs": 2}))
    cfg.work_dir = str(tmp_path / "new")
    cfg.optim_wrapper.optimizer.lr = 0.0
    paths = []
    for classes in (["blue", "green", "red"], ["red", "blue", "green"], ["green", "red", "blue"]):
        paths.append(tmp_path / f"{classes[0]}.pth")
        shutil.copy(work_dir / "best.pth", paths[-1])
        reorder(paths[-1], classes)
    cfg.load_from = str(paths[1])
    with contextlib.redirect_stdout(io.StringIO()):
        runner = CarefulRunner.from_cfg(cfg)
        runner.train()
        figures = [runner.test()["top1"]]  # its loop is built now
        for path in (paths[2], paths[0], paths[1], paths[1]):
            runner.load_checkpoint(str(path))
            figures.append(runner.test()["top1"])
            runner.save_checkpoint(str(tmp_path), "saved.pth")
            saved = load(tmp_path / "saved.pth")
            assert saved["predictor"]["classes"] == load(path)["predictor"]["classes"]
    assert figures[0] > 90 and len(set(figures)) == 1
    # mmengine's own way to begin: weights first, then the loops.
    cfg.load_from, cfg.work_dir = None, str(tmp_path / "other")
    with contextlib.redirect_stdout(io.StringIO()):
        runner = CarefulRunner.from_cfg(cfg)
        runner.load_checkpoint(str(paths[2]))
        runner.train()
    assert runner.message_hub.get_scalar("val/top1").current() == figures[0]


def rename(folder, root, **names):
    """Copies a folder of images under other names of classes."""
    for split in ("train", "val"):
        for path in (folder / split).iterdir():
            shutil.copytree(path, root / split / names.get(path.name, path.name))
    return root


def test_other_names_are_refused_by_test_and_resume(run, data, tmp_path):
    """In another order, too: sorted, they would stand where the old ones did not."""
    config, work_dir = run
    other = rename(data, tmp_path / "other", blue="zebra_blue", red="ant_red")
    says = "'blue', 'red' are the checkpoint's alone; 'ant_red', 'zebra_blue' are the data's alone"
    with pytest.raises(UserError, match=says):
        run_here("test.py", config, work_dir / "best.pth", "--data-root", other, "--work-dir", tmp_path / "test")
    assert says in refused(config, work_dir, "--resume", "--data-root", other)


def test_names_that_differ_in_their_unicode_alone_are_shown_by_code_points(run, data, tmp_path):
    config, work_dir = run
    with pytest.raises(
        UserError, match=r"'caf.+' is written in two forms of Unicode, .* U\+00E9 and .* U\+0065 U\+0301"
    ):
        checkpoint = load(work_dir / "best.pth")
        checkpoint["predictor"]["classes"] = ["caf\u00e9", "green", "red"]
        torch.save(checkpoint, work_dir / "best.pth")
        other = rename(data, tmp_path / "other", blue="cafe\u0301")
        run_here("test.py", config, work_dir / "best.pth", "--data-root", other, "--work-dir", tmp_path / "test")


def test_a_resumed_run_keeps_the_order_of_its_checkpoint(run, finished):
    """The weights that follow are those of the run whose classes have the data's order, row by row."""
    config, work_dir = run
    order = ["red", "blue", "green"]
    (work_dir / "epoch_3.pth").unlink()
    reorder(work_dir / "epoch_2.pth", order)
    said = train(config, work_dir, "--resume")
    whole, resumed = (load(folder / "epoch_3.pth") for folder in (finished[1], work_dir))
    assert resumed["predictor"]["classes"] == list(resumed["meta"]["dataset_meta"]["classes"]) == order
    rows = [whole["predictor"]["classes"].index(name) for name in order]
    for key, value in whole["state_dict"].items():
        value = value[rows] if "head" in key and len(value) == 3 else value
        assert torch.allclose(value, resumed["state_dict"][key], atol=1e-5), key
    scores = [one["message_hub"]["log_scalars"]["val/top1"][0].tolist() for one in (whole, resumed)]
    assert scores[0] == scores[1] and "epoch 3/3" in said


def test_a_run_that_begins_from_weights_of_other_classes_keeps_the_rows_of_those_it_knows(run, data, tmp_path):
    config, work_dir = run
    other = rename(data, tmp_path / "other", blue="amber")  # before green and red, as blue was
    for label in range(2):
        (other / ("train", "val")[label] / "violet").mkdir()
        for number in range(8):
            picture(1, number).save(other / ("train", "val")[label] / "violet" / f"{number}.png")
    start = tmp_path / "start.py"
    start.write_text(
        f"_base_ = {str(config)!r}\n"
        "custom_imports = dict(imports=['spectral_backbones.classification', 'first_step'])\n"
        "default_hooks = dict(first=dict(type='FirstStepHook'))\n"
    )
    (tmp_path / "first_step.py").write_text(
        "import torch\nfrom mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n\n\n"
        "@HOOKS.register_module(force=True)\nclass FirstStepHook(Hook):\n"
        "    def before_train(self, runner):\n"
        f"        torch.save(runner.model.state_dict(), {str(tmp_path / 'begun.pth')!r})\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        options = [f"load_from={work_dir / 'best.pth'}", "train_cfg.max_epochs=2"]
        said = train(start, tmp_path / "new", "--data-root", other, options=options)
    assert "'blue' is the checkpoint's alone; 'amber', 'violet' are the data's alone. Of the 4 classes 2 keep" in said
    old, new = load(work_dir / "best.pth")["state_dict"], load(tmp_path / "begun.pth")
    for key, value in old.items():
        if new[key].shape == value.shape:
            assert torch.equal(new[key], value), key
        else:
            assert len(new[key]) == 4 and torch.equal(new[key][1:3], value[1:])
    assert sum(new[key].shape != old[key].shape for key in old) == 2  # weight and bias
    assert load(tmp_path / "new" / "epoch_2.pth")["predictor"]["classes"] == ["amber", "green", "red", "violet"]


def test_a_run_that_begins_from_weights_of_renamed_classes_has_a_new_head(run, data, tmp_path):
    config, work_dir = run
    other = rename(data, tmp_path / "other", blue="ant", green="bee", red="cat")
    options = [f"load_from={work_dir / 'best.pth'}", "train_cfg.max_epochs=2", "optim_wrapper.optimizer.lr=0.0"]
    said = train(config, tmp_path / "new", "--data-root", other, options=options)
    assert "Of the 3 classes 0 keep their weights in the head, the others are new" in said
    old, new = (load(path)["state_dict"] for path in (work_dir / "best.pth", tmp_path / "new" / "epoch_2.pth"))
    differ = {key for key in old if not torch.equal(old[key], new[key])}
    assert differ == {"model.head.weight", "model.head.bias"}
