"""The benchmark of the spectral gate measures both methods and finds where they meet."""

import json

import pytest
import torch

from spectral_backbones.tools import benchmark_spectral


def run(capsys, *arguments):
    benchmark_spectral.main([*arguments, "--seconds", "0.05", "--format", "json"])
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_each_grid_is_measured_by_both_methods_in_inference_and_training(capsys):
    rows, err = run(capsys, "--grid", "4", "3x5", "--dim", "8", "--batch", "2")
    assert [(row["grid"], row["dim"], row["batch"]) for row in rows] == [("4x4", 8, 2), ("3x5", 8, 2)]
    for row in rows:
        assert all(row[f"{mode}_{method}_s"] > 0 for mode in ("infer", "train") for method in ("fft", "matmul"))
    assert "1 threads, float32" in err
    assert "\nforward: " in err and "\nforward and backward: " in err


def test_training_steps_reach_filter_and_map():
    gate = benchmark_spectral.SpectralGating(4, (3, 3))
    seen = []
    gate.complex_weight.register_hook(lambda grad: seen.append(grad.abs().sum().item()))
    benchmark_spectral.make_step(gate, torch.randn(2, 3, 3, 4), train=True, compiled=False)()
    assert len(seen) == 1 and seen[0] > 0
    benchmark_spectral.make_step(gate, torch.randn(2, 3, 3, 4), train=False, compiled=False)()
    assert len(seen) == 1
    assert not gate.training


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({10: 0.5, 20: 2.0}, 15),
        ({20: 2.0, 10: 0.5, 30: 4.0}, 15),
        ({10: 0.25, 20: 2.0}, 10 + 10 * 2 / 3),
        ({10: 0.5, 20: 1.0}, 20),
        ({10: 0.5, 20: 0.9}, None),
        ({10: 1.5, 20: 2.0}, None),
    ],
)
def test_the_methods_meet_where_the_ratio_rises_to_one(points, expected):
    assert benchmark_spectral.crossover(points) == (expected if expected is None else pytest.approx(expected))


def test_the_verdict_names_the_faster_method():
    grids = [(7, 7), (14, 14)]
    for ratios, text in [
        ((0.5, 2.0), "up to W"),
        ((0.5, 0.6), "matmul is faster throughout"),
        ((2, 3), "fft is faster"),
    ]:
        rows = [{"infer_ratio": ratio} for ratio in ratios]
        assert text in benchmark_spectral.verdict(rows, grids, "infer")


def test_a_grid_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark_spectral.main(["--grid", "7by7"])
    assert "grid is '7by7', allowed are N and HxW in tokens" in capsys.readouterr().err
