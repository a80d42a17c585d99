"""`spectral distill` on small pictures: its stages, what each leaves behind, how it goes on, what it refuses."""

import json
import re
from pathlib import Path

import pytest
import torch

from spectral_backbones.classification.distilled import DistilledClassifier
from spectral_backbones.classification.predictor import Predictor
from spectral_backbones.engine import UserError
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import find_config
from spectral_backbones.methods import mohawk
from spectral_backbones.tools import distill, study_distillation

from .classification_fixtures import make_folder, run_forked, run_here, small_config

STAGES = ["copying", "orientation", "alignment", "distillation"]
DEIT = dict(patch_size=4, embed_dim=16, depth=3, num_heads=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of the student: 48 pictures, 6 steps an epoch, 4 epochs of which one is for alignment."""
    data = make_folder(tmp_path_factory.mktemp("pictures"))
    path = small_config(tmp_path_factory.mktemp("config"), data, max_epochs=4)
    text = path.read_text().replace("'depth': 2", "'depth': 3").replace("'end': 1", "'end': 0.5")
    text = text.replace("'begin': 1", "'begin': 0.5")
    text += (
        "\ndistillation = dict(images=20, judged=30)\ndefault_hooks = dict(curve=None, outcome=None)\n"  # no pictures
    )
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def teacher(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    kwargs = [f"model.kwargs.{key}={value}" for key, value in DEIT.items()]
    arguments = ["--model", "deit_tiny_patch16_224", "--epochs", 2, "--cfg-options", *kwargs]
    run_here("train.py", config, "--work-dir", folder, *arguments)
    return folder / "best.pth"


def call(teacher, config, folder, *arguments, student="spectformer_ti"):
    return run_here("distill.py", teacher, student, config, "--work-dir", folder, *arguments)


def stages(folder):
    return {
        record["of"]["stage"]: record["found"] for record in json.loads((folder / "stages.json").read_text())["results"]
    }


def weights(folder, stage="distillation"):
    return files.timm_weights(files.read(files.list_kept(folder / stage)[0]))


@pytest.fixture(scope="module")
def whole(teacher, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, call(teacher, config, folder)


def test_all_stages_run_and_each_brings_blocks_nearer_or_the_whole(whole, teacher, config):
    folder, said = whole
    found = stages(folder)
    assert list(found) == STAGES
    errors = {stage: row["errors"] for stage, row in found.items()}
    assert errors["alignment"][0] < errors["orientation"][0] < errors["copying"][0]
    assert errors["alignment"][1:] == errors["copying"][1:]  # what is copied stays so until the end
    assert errors["distillation"][1:] != errors["copying"][1:]
    assert all(row["judged"] == 30 and 0 <= row["top1"] <= 100 for row in found.values())
    start, aligned = files.timm_weights(files.read(folder / "start.pth")), weights(folder, "alignment")
    assert {name for name in start if not torch.equal(start[name], aligned[name])} == {
        name for name in start if name.startswith("blocks.0.")
    }
    assert (folder / "blocks.png").stat().st_size > 1000
    assert "for 1 epochs" in said and "for 3 epochs" in said
    assert said.count("top-1") > 4 and said.strip().endswith(str(folder / "distillation" / "best.pth"))
    # Done: nothing is done again.
    before = (folder / "stages.json").read_bytes()
    assert "training" not in call(teacher, config, folder)
    assert (folder / "stages.json").read_bytes() == before


def test_the_student_is_a_classifier_like_any_other(whole, config, tmp_path):
    best = whole[0] / "distillation" / "best.pth"
    assert list(Predictor.load(str(best)).classes) == ["blue", "green", "red"]
    assert not [name for name in files.read(best)["state_dict"] if not name.startswith("model.")]
    arguments = ["--model", "spectformer_ti", "--work-dir", tmp_path]
    assert "top1: " in run_here("test.py", config, best, *arguments)


class _Killed(BaseException):
    pass


def kill(monkeypatch, cls, name, at):
    """Lets the call number `at` of a method be the end."""
    method, calls = getattr(cls, name), []

    def call_or_die(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == at:
            raise _Killed
        return method(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, call_or_die)


@pytest.mark.parametrize(
    "cls, method, at",
    [
        (mohawk.MeanAttention, "add", 2),
        (distill.Distillation, "_judge", 2),  # oriented, not yet written
        (DistilledClassifier, "_losses", 4),  # in alignment
        (distill.Distillation, "_judge_trained", 1),  # aligned, not yet judged
        (DistilledClassifier, "_losses", 15),  # in the second epoch of distillation
        (distill.Distillation, "_judge_trained", 2),
    ],
)
def test_a_command_that_was_killed_goes_on_to_the_same_weights(
    whole, teacher, config, tmp_path, monkeypatch, cls, method, at
):
    monkeypatch.setattr(distill, "SAVED_EVERY", 0.0)
    options = ["--cfg-options", "val_dataloader.batch_size=8"] if cls is mohawk.MeanAttention else []
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        kill(patched, cls, method, at)
        with pytest.raises(_Killed):
            call(teacher, config, folder, *options)
    if cls is mohawk.MeanAttention:
        assert files.read(folder / distill.ATTENTION)["images"] == 8
    call(teacher, config, folder, *options)
    assert list(stages(folder)) == STAGES
    expected = weights(whole[0])
    for name, value in weights(folder).items():
        # Batches of another size are summed in another order.
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4 if options else 0, msg=name)


def test_layers_by_least_squares_bring_blocks_nearer_and_go_on_where_they_were(
    whole, teacher, config, tmp_path, monkeypatch
):
    arguments = ["--without", "alignment", "--cfg-options", "distillation.orientation=least_squares"]
    arguments += ["distillation.images=48"]
    call(teacher, config, tmp_path / "whole", *arguments)
    found = stages(tmp_path / "whole")
    assert found["orientation"]["errors"][0] < 0.9 * stages(whole[0])["orientation"]["errors"][0]
    save, seen = distill._save, []

    def save_or_die(content, path):
        save(content, path)
        seen.append(path.name)
        if len(seen) == 4:
            raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(distill, "_save", save_or_die)
        with pytest.raises(_Killed):
            call(teacher, config, tmp_path / "run", *arguments)
    said = call(teacher, config, tmp_path / "run", *arguments)
    assert said.count("orientation: blocks.") + said.count("orientation: head") == 10 - 4
    assert not (tmp_path / "run" / distill.FITTED).exists()
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize(
    "left_out, epochs",
    [(["orientation"], [1, 3]), (["alignment"], [4]), (["distillation"], [4]), (STAGES[1:3], [4])],
)
def test_stages_can_be_left_out_and_the_others_take_their_steps(teacher, config, tmp_path, left_out, epochs):
    said = call(teacher, config, tmp_path / "run", "--without", *left_out)
    assert list(stages(tmp_path / "run")) == [stage for stage in STAGES if stage not in left_out]
    assert [int(count) for count in re.findall(r"for (\d+) epochs", said)] == epochs


# Another width and depth than the teacher's, and a stem that is no patches'.
OTHER = ["model.kwargs.embed_dim=24", "model.kwargs.depth=2", "model.kwargs.num_heads=3", "model.kwargs.stem=conv"]


@pytest.mark.parametrize("way", ["logits", "relations"])
def test_other_pairs_learn_in_one_run(teacher, config, tmp_path, way):
    arguments = ["--by", way, "--epochs", 2, "--cfg-options", *OTHER, "distillation.label_weight=0.5"]
    said = call(teacher, config, tmp_path / "run", *arguments)
    assert "for 2 epochs" in said and list(stages(tmp_path / "run")) == ["distillation"]
    assert not (tmp_path / "run" / "start.pth").exists()


def test_a_projection_of_features_is_trained_kept_and_no_part_of_the_student(teacher, config, tmp_path, monkeypatch):
    arguments = ["--by", "features", "--epochs", 2, "--cfg-options", *OTHER]
    with monkeypatch.context() as patched:
        kill(patched, DistilledClassifier, "_losses", 9)
        with pytest.raises(_Killed):
            call(teacher, config, tmp_path / "run", *arguments)
    assert "from epoch 2" in call(teacher, config, tmp_path / "run", *arguments)
    call(teacher, config, tmp_path / "whole", *arguments)
    found, expected = (
        files.read(files.list_kept(tmp_path / name / "distillation")[0])["state_dict"] for name in ("run", "whole")
    )
    assert "projection.weight" in found and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    begin = files.read(tmp_path / "whole" / "distillation" / "epoch_1.pth")["state_dict"]
    assert not torch.equal(begin["projection.weight"], found["projection.weight"])
    Predictor.load(str(tmp_path / "run" / "distillation" / "best.pth"))


def test_two_processes_share_the_stages(teacher, config, tmp_path):
    arguments = [teacher, "spectformer_ti", config, "--work-dir", tmp_path / "run", "--epochs", 2, "--batch-size", 4]
    done = run_forked("distill.py", *arguments, processes=2)
    assert done.returncode == 0, done.stdout
    assert list(stages(tmp_path / "run")) == STAGES and done.stdout.count("orientation: top-1") == 1


def test_a_begun_distillation_is_not_taken_for_another(whole, teacher, config, tmp_path):
    with pytest.raises(UserError, match="another distillation, which differs in randomness of the config: choose"):
        call(teacher, config, whole[0], "--seed", 3)
    with pytest.raises(UserError, match="differs in stages: choose another --work-dir, or replace it with --overwrite"):
        call(teacher, config, whole[0], "--without", "alignment")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"thesis.tex, which is of no distillation"):
        call(teacher, config, tmp_path, "--overwrite")
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cfg-options", "model.kwargs.embed_dim=32"], "has 16 channels, the student 32.*would fit.*--by logits"),
        (["--size", "24"], "has 4x4 tokens, the student 6x6"),
        (["--cfg-options", "distillation.image=4"], "distillation of .* has no image; it has images"),
        (["--cfg-options", "distillation.alignment=1.0"], "between 0 and 1, got 1.0"),
        (["--cfg-options", "distillation.orientation=guess"], "one of attention, least_squares, got 'guess'"),
        (["--cfg-options", "distillation.images=0"], "distillation.images is a whole number from 1 up, got 0"),
        (["--cfg-options", "distillation.alignment=some"], "between 0 and 1, got 'some'"),
        (["--cfg-options", "distillation.alignment_lr=-1"], "above 0, or None, got -1"),
        (["--cfg-options", "distillation=7"], "is a dict of images, judged"),
        (["--cfg-options", "fsdp=True"], "fsdp does not go with distillation"),
        (["--cfg-options", "model.pretrained=True"], "model.pretrained has no use"),
        (["--cfg-options", "load_from=other.pth"], "load_from has no use"),
        (["--cfg-options", "val_dataloader=None", "val_cfg=None", "val_evaluator=None"], "has no val_dataloader"),
        (["--epochs", "1"], "a run of 1 epochs is too short"),
        (["--cfg-options", "model.in_chans=1"], "takes pictures of 3 channels, the student of 1"),
        (["--cfg-options", "val_dataloader.dataset.transform.mean=[0.5,0.5,0.5]"], "trained with"),
        (["--by", "logits", "--cfg-options", "distillation.label_weight=2"], "from 0 to 1, got 2"),
        (["--by", "relations", "--cfg-options", "distillation.relation_heads=few"], "from 1 up, or None, got 'few'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_written(
    teacher, config, tmp_path, arguments, message
):
    with pytest.raises(UserError, match=message) as raised:
        call(teacher, config, tmp_path / "run", *arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "start.pth").exists() and not files.list_kept(tmp_path / "run" / "distillation")


def test_a_teacher_that_is_no_classifier_is_refused(config, tmp_path):
    torch.save(
        {"predictor": {"task": "pretraining", "model": {"name": "resnet10t"}}, "state_dict": {}}, tmp_path / "a.pth"
    )
    torch.save({"weight": torch.ones(2)}, tmp_path / "b.pth")
    for name, message in (("a", "checkpoint of pretraining, no classifier"), ("b", "add --teacher-name")):
        with pytest.raises(UserError, match=message):
            call(tmp_path / f"{name}.pth", config, tmp_path / "run")


def test_other_classes_are_refused_and_learnt_by_features(teacher, config, tmp_path):
    data = make_folder(tmp_path / "pictures", per_class=8, classes=("cyan", "green", "red"))
    with pytest.raises(UserError, match=r"trained for other classes than the data have: .*blue"):
        call(teacher, config, tmp_path / "run", "--data-root", data)
    data = make_folder(tmp_path / "fewer", per_class=12, classes=("blue", "red"))
    with pytest.raises(UserError, match="tells 3 classes apart, the data have 2: fine-tune"):
        call(teacher, config, tmp_path / "run", "--data-root", data, "--by", "logits")
    call(teacher, config, tmp_path / "run", "--data-root", data, "--by", "features", "--epochs", 2)


def test_a_config_of_another_task_is_refused(teacher, tmp_path):
    with pytest.raises(UserError, match="no config of classification"):
        call(teacher, "detection/digits/mask-rcnn_spectformer-h-small_fpn_digits", tmp_path / "run")


def test_leaving_out_stages_is_for_mohawk(teacher, config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(teacher, config, tmp_path / "run", "--by", "logits", "--without", "alignment")
    assert "leaves stages of MOHAWK out" in capsys.readouterr().err


# The study of its stages ----------------------------------------------------------------------------------------------


def test_the_study_runs_each_way_once_and_shows_all(tmp_path, monkeypatch):
    ran = []

    def training(arguments):
        ran.append(arguments)
        folder = Path(arguments[arguments.index("--work-dir") + 1])
        if arguments[0] == study_distillation.TEACHER:
            folder.mkdir(parents=True)
            (folder / "epoch_1.pth").touch()
        return {"top1": 50.0 + len(ran), "seconds": 1.0}

    def distilling(arguments, folder):
        assert Path(arguments[0]).name == "epoch_1.pth" and arguments[1] == study_distillation.STUDENT
        return {**training(arguments), "errors": {stage: [0.5, 0.1] for stage in STAGES}, "stages": {}}

    monkeypatch.setattr(study_distillation, "_train", training)
    monkeypatch.setattr(study_distillation, "_distil", distilling)
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\n".join(study_distillation.markers(Path("found.json"))) + "\nafter\n")
    arguments = ["--results", tmp_path / "found.json", "--picture", tmp_path / "p.png", "--work-dir", tmp_path / "w"]
    arguments += ["--page", page, "--seeds", 2]
    with pytest.raises(UserError, match="holds nothing of this study"):
        run_here("study_distillation.py", *arguments, "--known")
    said = run_here("study_distillation.py", *arguments)
    assert len(ran) == 2 * len(study_distillation.WAYS) + 1
    assert said.strip() in page.read_text() and page.read_text().startswith("before\n") and "after" in page.read_text()
    assert all(way.what in said for way in study_distillation.WAYS.values())
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert run_here("study_distillation.py", *arguments) == said and len(ran) == 2 * len(study_distillation.WAYS) + 1
    # Each is what it says, by the commands that a reader has.
    configs = {argument for arguments in ran for argument in arguments if argument.startswith("digits")}
    assert configs == {study_distillation.TEACHER, study_distillation.CONFIG} and all(map(find_config, configs))
    assert load(study_distillation.CONFIG).train_cfg.max_iters == study_distillation.STEPS
