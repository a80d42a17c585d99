"""What is compared, how it grows, and that nothing is measured or trained twice."""

import json
import re
import shlex
import shutil
import statistics
from pathlib import Path

import pytest
import torch

from spectral_backbones.backbones.mixers import list_mixers
from spectral_backbones.backbones.mixers.registry import expand_mixers
from spectral_backbones.backbones.spectformer import SpectFormer
from spectral_backbones.engine import UserError
from spectral_backbones.tools import benchmark, compare, learning, records
from spectral_backbones.tools.records import Records

from .classification_fixtures import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command with short measurements; gives its rows, what it said and its results."""

    def call(*arguments, fmt="json"):
        results = tmp_path / "results.json"
        compare.main([*arguments, "--seconds", "0.02", "--results", str(results), "--format", fmt])
        out, err = capsys.readouterr()
        return json.loads(out) if fmt == "json" else out, err, json.loads(results.read_text())["results"]

    return call


def test_models_are_measured_at_each_size_once_and_drawn(run, tmp_path, monkeypatch):
    rows, _, results = run("test_vit", "--sizes", "128", "64")
    assert [(row["model"], row["size"]) for row in rows] == [("test_vit", 64), ("test_vit", 128)]
    assert all(row[key] > 0 for row in rows for key in ("params", "macs", "seconds"))
    assert (tmp_path / "results.png").is_file()
    measured = []
    make_step = compare.make_step
    monkeypatch.setattr(compare, "make_step", lambda *args, **kw: measured.append(args[1]) or make_step(*args, **kw))
    again, _, more = run("test_vit", "test_convnext", "--sizes", "64", "128")
    assert again[:2] == rows and more[: len(results)] == results
    assert measured == [(64, 64), (128, 128)]  # of the second model alone
    run("test_vit", "--sizes", "64", "--batch", "2")  # which is another step
    assert measured[2:] == [(64, 64)]


def test_an_interrupted_comparison_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    measure = compare._measure

    def stop_at_128(subject, side, args):
        if side == 128:
            raise KeyboardInterrupt
        return measure(subject, side, args)

    monkeypatch.setattr(compare, "_measure", stop_at_128)
    with pytest.raises(KeyboardInterrupt):
        run("test_vit", "--sizes", "64", "128")
    (first,) = [r for r in json.loads((tmp_path / "results.json").read_text())["results"] if "step" in r["of"]]
    sides = []
    monkeypatch.setattr(compare, "_measure", lambda s, side, args: sides.append(side) or measure(s, side, args))
    rows, _, _ = run("test_vit", "--sizes", "64", "128", "--known")
    assert [row["size"] for row in rows] == [64] and not sides
    rows, _, results = run("test_vit", "--sizes", "64", "128")
    assert sides == [128] and first in results and rows[0]["seconds"] == first["found"]["seconds"]


def test_what_takes_too_long_or_too_much_memory_ends_a_model_and_is_told(run, monkeypatch):
    seconds = {64: 1.0, 128: 4.0}
    monkeypatch.setattr(compare, "_measure", lambda subject, side, args: {"seconds": seconds[side], "bytes": 1})
    out, err, _ = run("test_vit", "--sizes", "64", "128", "256", "512", "--budget", "10", fmt="markdown")
    assert "test_vit at 256x256: beyond 10 s" in err and "512x512" not in err  # 16 s are expected there
    assert "beyond 10 s" in out

    def no_memory(subject, side, args):
        raise benchmark.OutOfMemory

    monkeypatch.setattr(compare, "_measure", no_memory)
    _, err, results = run("test_convnext", "--sizes", "64", "128", "--memory", "2")
    assert "test_convnext at 64x64: beyond 2 GiB" in err and "128x128" not in err
    assert results[-1]["of"]["beyond"] == 2 * 2**30
    monkeypatch.setattr(compare, "_measure", lambda subject, side, args: {"seconds": 1.0, "bytes": 1})
    rows, _, _ = run("test_convnext", "--sizes", "64", "--memory", "4")  # more is another question
    assert rows[0]["seconds"] == 1.0


@pytest.mark.skipif(not benchmark.sys.platform.startswith("linux"), reason="memory is limited on Linux alone")
def test_a_step_gets_no_more_memory_than_it_may_take():
    with benchmark.memory_limit(2**30, CPU):
        assert torch.ones(2**20).sum() == 2**20
    with pytest.raises(benchmark.OutOfMemory), benchmark.memory_limit(2**27, CPU):
        torch.ones(2**28)
    assert torch.ones(2**28, dtype=torch.uint8).numel() == 2**28  # the limit is gone
    with pytest.raises(RuntimeError, match="Expected size"), benchmark.memory_limit(2**30, CPU):
        torch.ones(2) @ torch.ones(3, 4, 5)  # which is no matter of memory


@pytest.mark.parametrize(
    ("power", "name"),
    [
        (1, "linear (1.00)"),
        (2, "quadratic (2.00)"),
        (0.5, "less than linear (0.50)"),
        (1.5, "more than linear (1.50)"),
        (1.1, "linear (1.10)"),
    ],
)
def test_growth_is_named_by_the_largest_sizes(power, name):
    small = [(10.0, 5.0), (20.0, 5.0)]  # where something else takes the time
    points = [(float(x), 3 * float(x) ** power) for x in (100, 400, 900)]
    assert compare.growth(small + points) == name
    assert compare.growth(points[:1]) == "unknown"


def test_each_mixer_stands_in_all_blocks_of_the_trunk(run):
    mixers = ["self_guided,fnet", "spectral:1, neighbourhood(kernel_size=3)"]
    rows, _, results = run("--trunk", "spectformer_ti", "--depth", "2", "--mixers", *mixers, "--sizes", "64")
    assert [row["model"] for row in rows] == ["self_guided", "fnet", mixers[1]]
    assert {record["of"]["mixers"] for record in results} == {"hybrid_scale, self_guided, ...", "fnet", mixers[1]}
    assert len({row["params"] for row in rows}) == 3
    out, _, _ = run("test_vit", "--trunk", "spectformer_ti", "--mixers", "fnet", "--sizes", "64", fmt="markdown")
    assert "spectformer_ti, fnet" in out  # beside models, the trunk is told


def test_checkpoints_of_a_run_are_compared_with_what_it_has_found(run, tmp_path):
    from spectral_backbones.tools import train

    options = ["model.kwargs.embed_dim=16", "model.kwargs.num_heads=2", "train_dataloader.batch_size=256"]
    digits = "classification/spectformer/spectformer_ti_digits"
    options += ["param_scheduler.0.end=1", "param_scheduler.1.begin=1", "default_hooks.outcome=None"]
    train.main([digits, "--epochs", "2", "--work-dir", str(tmp_path / "run"), "--cfg-options", *options])
    paths = [str(tmp_path / "run" / f"epoch_{n}.pth") for n in (1, 2)]
    out, _, results = run(*paths, "--sizes", "32", "64", fmt="csv")
    first, second = ([line.split(",") for line in out.splitlines() if path in line] for path in paths)
    assert [line[1:] for line in first] == [line[1:] for line in second]  # one network, which is measured once
    assert len([record for record in results if "step" in record["of"]]) == 2
    out, _, _ = run(*paths, "--sizes", "32", "64", fmt="markdown")
    scores = re.findall(r"top-1 ([\d.]+) % after (\d+) iterations", out)
    assert [int(iterations) for _, iterations in scores] == [5, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch_vit"], "unknown model 'nosuch_vit'"),
        ([], "name models or checkpoints"),
        (["--mixers", "all"], "--mixers goes with --trunk or --learn"),
        (["test_vit", "--trunk", "spectformer_s"], "--mixers goes with --trunk or --learn"),
        (["test_vit", "--depth", "2"], "--depth is that of --trunk"),
        (["test_vit", "--budget", "0"], "--budget must be more than 0"),
        (["test_vit", "--learn", "digits", "--mixers", "fnet"], "it takes --mixers alone"),
        (["test_vit", "--device", "nowhere"], "device 'nowhere' is not available"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        compare.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vit", "test_vit"], "test_vit is named twice"),
        (["--trunk", "spectformer_s", "--mixers", "nosuch"], "unknown mixer 'nosuch'"),
        (["--trunk", "convit_s", "--mixers", "fnet"], "convit_s cannot have the mixers 'fnet'"),
        (["--learn", "digits", "--mixers", "nosuch"], "unknown mixer 'nosuch'"),
        (["--learn", "digits", "--mixers", "fnet:2, spectral"], "--learn takes names of mixers"),
        (["test_vit", "--results", __file__], "holds no results of a comparison"),
        ([__file__], "test_compare.py"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        compare.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "file/results.json"], "--results file/results.json cannot be written: "),
        (["--results", "."], "--results . is a folder"),
        (["--picture", "file/costs.png"], "--picture file/costs.png cannot be written: "),
        (["--picture", "costs.doc"], "--picture costs.doc has no ending of a picture"),
        (["--page", "nosuch.md"], "nosuch.md"),
        (["--page", "file"], "file: "),
    ],
)
def test_where_nothing_can_be_written_is_told_before_anything_is_measured(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(compare, "_measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=re.escape(message)):
        compare.main(["test_vit", "--sizes", "32", *arguments])


def test_results_that_cannot_be_kept_are_no_refusal_of_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_measure", lambda *_: {"seconds": 1.0, "bytes": 1})
    monkeypatch.setattr(records, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"results\.json cannot be written: No space left"):
        compare.main(["test_vit", "--sizes", "32", "64", "--results", str(tmp_path / "results.json")])


def test_results_are_whole_whatever_interrupts_their_writing(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    Records(path).keep({"of": 1}, "first")
    write = Path.write_text

    def interrupted(file, text, **kwargs):
        write(file, text[: len(text) // 2], **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Records(path).keep({"of": 2}, "second")
    assert Records(path).find({"of": 1})["found"] == "first" and Records(path).find({"of": 2}) is None


def test_a_record_without_a_result_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"results": [{"of": {}}]}')
    with pytest.raises(UserError, match=r"holds no results of a comparison: KeyError\('found'\)"):
        Records(tmp_path / "results.json")


def test_a_model_that_takes_none_of_the_sizes_is_told_behind_the_table(run, capsys):
    with pytest.raises(UserError, match="spectformer_ti: none of the sizes could be measured; the table"):
        run("spectformer_ti", "test_resnet", "--sizes", "15", fmt="markdown")
    assert "test_resnet" in capsys.readouterr().out


# What is learnt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", learning.FORMS)
def test_a_form_gives_each_block_of_the_demonstration_s_trunk_a_mixer(form):
    for name in list_mixers():
        mixers = expand_mixers(learning.pattern(name, form), learning.DEPTH)
        assert name in mixers
        if form == "hybrid":
            assert (mixers[0], mixers[-1]) == ("spectral", "attention")
            assert "hybrid_scale" in mixers or mixers[1:-1] == [name] * (learning.DEPTH - 2)
    arguments = dict(img_size=32, patch_size=4, embed_dim=16, depth=learning.DEPTH, num_heads=2, device="meta")
    SpectFormer(mixers=learning.pattern("self_guided", form), **arguments)  # which needs what another hands on


def make_study(tmp_path):
    return learning.Study(Records(tmp_path / "learnt.json"), {})


def test_the_best_and_the_references_are_trained_from_all_seeds_in_all_forms(tmp_path, monkeypatch):
    tops = {name: float(number) for number, name in enumerate(sorted(list_mixers()))}

    monkeypatch.setattr(learning.Study, "_config", lambda self, training: training.mixer)
    monkeypatch.setattr(learning, "train_once", lambda name, folder: {"top1": tops[name], "loss": 1.0})
    monkeypatch.setattr(learning.Study, "_pictures", lambda self, data: 7)
    study = make_study(tmp_path)
    done = []
    for training in study.plan(list_mixers(), ["digits", "cifar10"], seeds=3):
        study.learn(training)
        done.append(training)
    first, rest = done[: len(list_mixers())], done[len(list_mixers()) :]
    assert [(t.data, t.mixer, t.form, t.seed) for t in first] == [("digits", name, "pure", 0) for name in list_mixers()]
    others = [name for name in list_mixers() if name not in learning.REFERENCES]
    chosen = [*learning.REFERENCES, *sorted(others, key=tops.get)[: -learning.BEST - 1 : -1]]
    assert {t.mixer for t in rest} == set(chosen) and len(chosen) == 8
    assert len(set(rest)) == len(rest) == len(chosen) * len(learning.FORMS) * 3 * 2
    rows = compare.learnt(study, list_mixers(), ["digits", "cifar10"], seeds=3)
    assert len(next(row for row in rows if row["mixer"] == "spectral")["cifar10 hybrid"]) == 3


def test_a_training_is_run_once_and_its_figures_kept(tmp_path, monkeypatch):
    small = {"model.kwargs.embed_dim": 16, "model.kwargs.num_heads": 2, "train_dataloader.batch_size": 256}
    data = learning.DATA["digits"]
    monkeypatch.setitem(learning.DATA, "digits", learning.Data(data.config, 1, {**data.options, **small}))
    training = learning.Training("digits", "fnet", "pure", 1)
    found = make_study(tmp_path).learn(training)
    assert 0 < found["top1"] <= 100 and found["loss"] > 0 and found["params"] > 0 and found["seconds"] > 0
    monkeypatch.setattr(learning, "train_once", None)
    assert make_study(tmp_path).learn(training) == found  # by another call of the command
    assert make_study(tmp_path).found(learning.Training("digits", "fnet", "pure", 2)) is None
    (record,) = make_study(tmp_path).records.all
    assert record["of"]["pictures"] == 1437 and record["of"]["mixers"] == "fnet" and record["of"]["seed"] == 1


def test_runs_are_shown_by_mean_and_spread():
    assert compare.show_runs([]) == "-" and compare.show_runs([90.04]) == "90.0"
    values = [90.0, 91.0, 95.0]
    assert compare.show_runs(values) == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


# The pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/mixers.md", "docs/models.md"])
def test_the_table_of_a_page_is_that_of_the_results_beside_it(page, tmp_path, monkeypatch, capsys):
    """What the command of the page makes of them, with what and where they were found."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (line,) = re.findall(r"^spectral compare (.*)", text.replace("\\\n", " "), re.MULTILINE)
    arguments = shlex.split(line)
    for option in ("--results", "--page", "--picture"):
        place = arguments.index(option) + 1
        path = ROOT / arguments[place]
        arguments[place] = str(tmp_path / path.name)
        shutil.copy(path, tmp_path)
    records = json.loads((ROOT / line.split("--results ")[1].split()[0]).read_text(encoding="utf-8"))["results"]
    versions = {key: records[0]["of"][key] for key in ("library", "torch", "timm")}
    device = next(record["of"]["device"] for record in records if "device" in record["of"])
    for tool in (compare, learning):
        monkeypatch.setattr(tool, "versions", lambda: versions)
        monkeypatch.setattr(tool, "device_name", lambda device_: device)
    pictures = {record["of"].get("learnt"): record["of"].get("pictures") for record in records}
    monkeypatch.setattr(learning.Study, "_pictures", lambda self, data: pictures.get(data))
    for tool, name in ((compare, "_measure"), (compare, "_count"), (learning, "train_once")):
        monkeypatch.setattr(tool, name, None)
    compare.main([*arguments, "--known"])
    assert (tmp_path / Path(page).name).read_text(encoding="utf-8") == text
