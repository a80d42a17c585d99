"""The check of a GPU runs on the CPU with small numbers, so that it is whole when a GPU comes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spectral_backbones.backbones.layers import dense_gate, fused_gate, measured
from spectral_backbones.backbones.mixers import list_mixers
from spectral_backbones.backbones.registry import variants
from spectral_backbones.tools import check_gpu, gpu_operators, gpu_parts

ROOT = Path(__file__).parents[1]

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    ["machine", "parity", "gate_errors", "gate_speed", "operators", "speed", "distributed", "methods"],
)
def test_a_part_has_rows_and_finds_nothing_wrong_on_the_cpu(name):
    rows = list(gpu_parts.PARTS[name].run(gpu_parts.Place(CPU, 60)))
    assert rows
    assert [row for row in rows if row.get("ok") is False] == []


def test_every_family_and_every_mixer_is_checked():
    names = gpu_parts.family_names()
    classes = {variant.model_cls for variant in variants().values()}
    assert {variants()[name].model_cls for name in names} == classes and len(set(names)) == len(names)
    everywhere = gpu_parts.Place(torch.device("cuda"), 60)  # nothing runs there
    assert everywhere.names == names
    rows = [row for index in range(2) for row in gpu_parts.mixers(gpu_parts.Place(CPU, 60, index, 2))]
    assert sorted(row["what"] for row in rows) == list_mixers() and all(row["ok"] for row in rows)


def test_a_part_ends_by_the_clock_however_long_its_imports_took(tmp_path):
    rows = tmp_path / "rows"
    late = ["--part", "mixers", "--rows", str(rows), "--until", str(time.time() + 1)]
    check_gpu.main(["--out", str(tmp_path), "--device", "cpu", *late])
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {row["error"] for row in found} == {"not reached"}


@pytest.mark.slow
def test_a_training_is_killed_and_resumed():
    pytest.importorskip("mmengine")
    pytest.importorskip("sklearn")
    (row,) = gpu_parts.training(gpu_parts.Place(CPU, 240))
    assert row["ok"], row
    assert "epoch_1.pth" in row["killed_with"] and row["resumed"] and row["ended"]


@pytest.mark.slow
def test_parts_run_in_processes_of_their_own_and_are_reported(tmp_path, capsys):
    assert check_gpu.main(["--out", str(tmp_path), "--device", "cpu", "--only", "machine=60"]) == 0
    found = json.loads((tmp_path / "check_gpu.json").read_text())["parts"]["machine"]
    assert found["ended"] == "whole"
    assert {row["what"] for row in found["rows"]} == {"software", "copy", "bfloat16 product"}
    assert "| machine | whole |" in (tmp_path / "check_gpu.md").read_text()
    assert "not right or not reached: nothing" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"check_gpu.json", "check_gpu.md"}


def test_a_part_that_breaks_or_hangs_takes_nothing_from_the_others(tmp_path, monkeypatch):
    """In place of a part's process: one that dies after a row, one that never ends, one that is whole."""
    bodies = {
        "machine": 'write(\'{"what": "first"}\\n\'); import os; os.abort()',
        "parity": 'write(\'{"what": "half"}\\n{"wh\'); import time; time.sleep(60)',
        "operators": 'write(\'{"what": "whole", "ok": false}\\n\')',
    }
    monkeypatch.setattr(check_gpu, "GRACE", 0.0)

    def start(name, index, count, limit, args):
        rows, log = tmp_path / f"{name}.rows", tmp_path / f"{name}.log"
        code = f"write = lambda text: print(text, file=open({str(rows)!r}, 'w'), end='', flush=True); {bodies[name]}"
        with log.open("w") as file:
            popen = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, start_new_session=True)
        return check_gpu.Process(name, index, 2.0, rows, log, popen)

    monkeypatch.setattr(check_gpu, "start", start)
    report = {}
    args = check_gpu.parse_args(["--out", str(tmp_path), "--device", "cpu"])
    check_gpu.run_together(list(bodies), time.monotonic() + 20, args, report)
    assert report["machine"]["ended"] == "broke with exit status -6" and report["machine"]["rows"] == [
        {"what": "first"}
    ]
    assert report["parity"]["ended"] == "stopped at its limit" and report["parity"]["rows"] == [{"what": "half"}]
    assert report["operators"]["ended"] == "whole" and check_gpu.failures(report["operators"])


def test_nothing_goes_on_when_the_check_is_stopped(tmp_path, monkeypatch):
    started = []

    def start(name, index, count, limit, args):
        popen = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        started.append(check_gpu.Process(name, index, 60.0, tmp_path / "rows", tmp_path / "log", popen))
        return started[-1]

    def stopped(seconds):
        raise SystemExit(143)

    monkeypatch.setattr(check_gpu, "start", start)
    monkeypatch.setattr(check_gpu.time, "sleep", stopped)
    args = check_gpu.parse_args(["--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit):
        check_gpu.run_together(["machine", "parity"], time.monotonic() + 60, args, {})
    assert len(started) == 2 and all(process.popen.returncode is not None for process in started)


def test_parts_wait_for_a_core_and_what_they_found_is_written_while_they_run(tmp_path, monkeypatch):
    started, written = [], []

    def start(name, index, count, limit, args):
        assert all(process.popen.poll() is not None for process in started)
        rows, log = tmp_path / f"{name}.rows", tmp_path / f"{name}.log"
        rows.write_text(json.dumps({"what": name}) + "\n")
        log.write_text("")
        code = "import time; time.sleep(0.3)"
        popen = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        started.append(check_gpu.Process(name, index, 9.0, rows, log, popen))
        return started[-1]

    monkeypatch.setattr(check_gpu, "start", start)
    monkeypatch.setattr(check_gpu, "SOON", 0.0)
    monkeypatch.setattr(check_gpu, "write", lambda report, args: written.append(report))
    monkeypatch.setattr(check_gpu.os, "cpu_count", lambda: 1)
    args = check_gpu.parse_args(["--out", str(tmp_path), "--device", "cpu"])
    check_gpu.run_together(["machine", "parity"], time.monotonic() + 60, args, {})
    ends = [{name: part["ended"] for name, part in report.items()} for report in written]
    assert {"machine": "whole", "parity": "still running"} in ends
    assert written[0]["machine"]["rows"] == [{"what": "machine"}]
    assert ends[-1] == {"machine": "whole", "parity": "whole"}


def test_what_no_time_is_left_for_is_reported(tmp_path):
    args = check_gpu.parse_args(["--out", str(tmp_path), "--device", "cpu"])
    report = {}
    check_gpu.run_together(["parity"], time.monotonic(), args, report)
    assert report["parity"]["ended"] == "not reached"


def test_the_summary_gives_failures_ratios_and_the_fastest_division():
    times = {"fft": 4.0, "matmul": 2.0, "fused": 1.0}
    gate = [
        {"what": "2x3x4x8 float32", "mode": mode, "method": method, "ms": ms, "copy_ms": 0.5}
        for mode in ("forward", "training")
        for method, ms in times.items()
    ]
    gate += [
        {"what": "2x3x4x8 float32", "mode": "forward kernel", "method": f"C{ms}", "ms": ms, "copy_ms": 0.5}
        for ms in (0.8, 0.9)
    ]
    models = [
        {"what": f"spectformer_s {name}", "mode": "training", "batch": 2, "size": 224, "images_per_s": rate}
        for name, rate in (("fused", 30.0), ("plain", 20.0))
    ]
    broken = [{"what": "roi_align", "ok": False, "error": "x"}, {"what": "late", "ok": False, "error": "not reached"}]
    rows = {"operators": broken, "gate_speed": gate, "speed": models}
    lines = check_gpu.summary({name: {"rows": found} for name, found in rows.items()})
    assert lines == [
        "**operators: 1 of 2 failed**: roi_align",
        *(
            f"gate 2x3x4x8 float32 {mode}: fused 1.0000 ms, 50% of the copy rate, 4.00 times as fast as fft, 2.00 "
            "times as fast as matmul"
            for mode in ("forward", "training")
        ),
        "gate 2x3x4x8 float32 forward kernel: the fastest is C0.8: 0.8000 ms, 62% of the copy rate",
        "faster than fft, forward and in training: 2x3x4x8 float32: fused, matmul",
        "for the table of backbones/layers/measured.py: `(3, 4, torch.float32): Measured(2 * 8, ('fused',))`",
        "spectformer_s fused training, batch 2 at 224: 30 images a second, 1.50 times spectformer_s plain",
    ]


def test_the_summary_gives_what_the_table_of_measured_methods_needs():
    slow = {"fft": 4.0, "matmul": 3.6}  # too near
    row = check_gpu.table_row("8x64x64x384 bfloat16", {"fused": 1.0, **slow}, {"fused": 1.0, **slow})
    assert row == ["`(64, 64, torch.bfloat16): Measured(8 * 384, ('fused',))`"]
    found = eval(row[0].strip("`").partition(": ")[2], {"Measured": measured.Measured})
    assert found == measured.Measured(8 * 384, ("fused",))
    fast = {"fft": 4.0, "matmul": 2.0, "fused": 1.0}
    (row,) = check_gpu.table_row("16x24x24x384 float16", fast, {"fft": 4.0, "matmul": 2.0, "fused": 5.0})
    assert row == "`(24, 24, torch.float16): Measured(16 * 384, ('matmul',), inference=('fused',))`"
    (row,) = check_gpu.table_row("8x64x64x384 float32", fast, fast)
    assert row.endswith("Measured(8 * 384, ('fused',))`")
    assert check_gpu.table_row("8x64x64x384 float32", slow, slow) == []
    assert check_gpu.table_row("8x64x64x384 float32", {"fused": 1.0}, {}) == []  # the rest was not reached


def test_all_kernels_of_the_gate_are_checked_and_timed():
    everywhere = gpu_parts.Place(torch.device("cuda"), 60)  # nothing runs there
    jobs = gpu_parts._gate_jobs(everywhere)
    assert {(fused_gate.takes_rows(maps.height, maps.width), backward) for maps, _, backward in jobs} == {
        (rows, backward) for rows in (True, False) for backward in (True, False)
    }
    divisions = {(type(config), getattr(config, "whole", None)) for _, config, _ in jobs if config}
    assert divisions == {(fused_gate.Config, None), (dense_gate.Dense, True), (dense_gate.Dense, False)}
    assert {maps.dtype for maps, _, _ in jobs} == {torch.float32, torch.bfloat16, torch.float16}
    assert all(dense_gate.can_transform(maps.empty()) for maps, _, _ in jobs)


def test_models_are_compiled_by_as_many_processes_as_the_cards_memory_holds():
    part = gpu_parts.PARTS["compile_models"]
    assert [part.count(gib) for gib in (140.0, 79.2, 16.0, 6.0)] == [14, 8, 1, 1]
    assert gpu_parts.PARTS["parity"].count(6.0) == gpu_parts.PARTS["parity"].processes


def test_a_part_is_named_with_a_limit_of_its_own(tmp_path, capsys):
    args = check_gpu.parse_args(["--out", str(tmp_path), "--only", "parity=7", "machine", "--device", "cpu"])
    assert args.only == [("parity", 7.0), ("machine", gpu_parts.PARTS["machine"].seconds)]
    with pytest.raises(SystemExit):
        check_gpu.parse_args(["--out", str(tmp_path), "--only", "paritty"])
    assert "'paritty' is no part, expected one of machine, " in capsys.readouterr().err


def test_a_kernel_that_a_card_cannot_hold_is_no_failure():
    class OutOfResources(Exception):
        pass

    def fail():
        raise OutOfResources("out of resource: shared memory, Required: 9, Hardware limit: 8. Reduce it.")

    row = gpu_parts.attempt({"what": "x"}, fail)
    assert row == {"what": "x", "does_not_fit": "out of resource: shared memory, Required: 9, Hardware limit: 8"}
    assert check_gpu.failures({"rows": [row]}) == []


def test_a_failure_is_a_row_with_its_message():
    def fail():
        raise RuntimeError("no such kernel")

    assert gpu_parts.attempt({"what": "x"}, fail) == {"what": "x", "ok": False, "error": "RuntimeError: no such kernel"}


def test_an_operator_that_differs_on_the_device_is_found():
    calls = []

    def operator(x, y):
        y.copy_(x * (1.5 if not calls else 1.0))  # the first call is the device's
        calls.append(x)

    def case():
        x = torch.ones(3)
        return [("operator", (x, torch.zeros(3)))]

    assert gpu_operators.largest_error({"operator": operator}, case, CPU) == pytest.approx(0.5)
