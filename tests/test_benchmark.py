"""The benchmark measures what it says."""

import json
import sys
import time

import pytest
import torch

from spectral_backbones.tools import benchmark


def run(capsys, *arguments):
    benchmark.main([*arguments, "--seconds", "0.1", "--format", "json"])
    out, err = capsys.readouterr()
    return json.loads(out), err


def sleeper(log, name, seconds):
    def step():
        log.append(name)
        time.sleep(seconds)

    return step


def test_steps_run_in_turn_and_in_changing_order():
    log = []
    times = benchmark.time_in_turn([sleeper(log, "a", 0.001), sleeper(log, "b", 0.003)], seconds=0.05)
    measured = log[2 * benchmark.WARMUP_STEPS :]
    assert measured[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(times[0]) == len(times[1]) == len(measured) / 2


def test_a_comparison_is_the_first_over_the_second():
    log = []
    times = benchmark.time_in_turn([sleeper(log, "a", 0.01), sleeper(log, "b", 0.03)], seconds=0.3)
    result = benchmark.comparison(times, [100, 400])
    assert result["lower_quartile"] <= result["time_ratio"] <= result["upper_quartile"]
    assert 0.2 < result["time_ratio"] < 0.6
    assert result["memory_ratio"] == 0.25


def test_figures_are_median_and_quartiles_of_the_steps():
    figures = benchmark.figures([0.1, 0.2, 0.3, 0.4, 10.0], memory=None, batch=6)
    assert (figures["lower_quartile_s"], figures["median_s"], figures["upper_quartile_s"]) == (0.2, 0.3, 0.4)
    assert figures["images_per_s"] == pytest.approx(20)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured on Linux only")
def test_memory_is_the_peak_of_a_step_and_not_what_it_leaves():
    held = []

    def step():
        torch.ones(64 * 2**18)  # 64 MiB, given back at once
        held.append(torch.ones(2**18))

    assert benchmark.step_memory(step, torch.device("cpu")) == pytest.approx(64 * 2**20, rel=0.1)


@pytest.mark.parametrize("train", [False, True])
def test_command_measures_each_size_and_batch(capsys, train):
    rows, conditions = run(capsys, "test_vit", "--size", "96", "64x128", "--batch", "1", "2", *["--train"] * train)
    assert [(row["size"], row["batch"]) for row in rows] == [("96x96", 1), ("96x96", 2), ("64x128", 1), ("64x128", 2)]
    assert all(0 < row["lower_quartile_s"] <= row["median_s"] <= row["upper_quartile_s"] for row in rows)
    assert ("training step" if train else "inference") in conditions


def test_a_step_may_be_run_once(capsys):
    options = ["--size", "64", "128", "--once", "--train", "--checkpointing"]
    rows, conditions = run(capsys, "fit_ti", *options)
    assert [row["size"] for row in rows] == ["64x64", "128x128"] and "checkpointing" in conditions
    for row in rows:
        assert row["seconds"] > 0 and (row["memory_bytes"] is None or row["memory_bytes"] > 0)
        assert "median_s" not in row


def test_command_compares_two_models_in_the_dtype_asked_for(capsys):
    [row], conditions = run(capsys, "test_convnext", "test_vit", "--compare", "--dtype", "bfloat16")
    assert (row["model"], row["second"], row["size"]) == ("test_convnext", "test_vit", "160x160")
    assert row["time_ratio"] > 0
    assert "bfloat16" in conditions


def test_training_step_trains_in_autocast(monkeypatch):
    model = benchmark.timm.create_model("test_vit")
    monkeypatch.setattr(benchmark.timm, "create_model", lambda name: model)
    before = model.head.weight.detach().clone()
    args = benchmark.parse_args(["test_vit", "--train", "--dtype", "bfloat16", "--amp"])
    benchmark.make_step("test_vit", (64, 64), 2, args)()
    assert model.head.weight.dtype == torch.float32
    assert not torch.equal(model.head.weight, before)
    assert model.head.weight.grad is None  # or the next step would add to it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_vit", "test_convnext", "test_resnet", "--compare"], "--compare takes two names, got 3"),
        (["test_vit", "--amp"], "--amp takes --dtype bfloat16 or float16, got float32"),
        (["test_vot"], "did you mean test_vit"),
        (["test_vit", "--batch", "0"], "'0' is not a whole number of at least 1"),
        (["test_vit", "test_convnext", "--compare", "--once"], "--once measures each model by itself"),
        (["test_vit", "--checkpointing"], "--checkpointing goes with --train"),
        (["test_vit", "--device", "nowhere"], "device 'nowhere' is not available"),
    ],
)
def test_command_explains_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


def test_command_passes_on_why_a_model_refuses_a_size():
    with pytest.raises(SystemExit, match=r"halonet26t at 100x100: "):
        benchmark.main(["halonet26t", "--size", "100"])


def test_a_model_of_one_size_is_made_for_the_size_that_is_measured(capsys):
    benchmark.main(["convit_tiny", "--size", "32x32", "--seconds", "0.01"])
    assert "32x32" in capsys.readouterr().out


def test_runtimes_are_timed_side_by_side(capsys):
    rows, _ = run(capsys, "spectformer_ti", "--size", "32", "--runtimes", "eager,onnxruntime,openvino")
    assert [row["runtime"] for row in rows] == ["eager", "onnxruntime", "openvino"]
    assert len({row["steps"] for row in rows}) == 1 and all(row["median_s"] > 0 for row in rows)
    assert all(row["loaded_bytes"] is None or row["loaded_bytes"] > 0 for row in rows[1:])


@pytest.mark.parametrize("options", [["--runtimes", "tvm"], ["--runtimes", "eager", "--train"]])
def test_runtimes_that_are_none_and_options_that_do_not_go_with_them_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["spectformer_ti", *options])
    assert "--runtimes" in capsys.readouterr().err
