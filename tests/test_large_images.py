"""The tool that measures large images, and that its page says what was measured."""

import json
import re

import pytest
from PIL import Image

from spectral_backbones.tools import large_images

MEASURED = json.loads(large_images.MEASURED.read_text(encoding="utf-8"))


def test_a_measurement_is_written_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(large_images, "MEASURED", tmp_path / "measured.json")
    monkeypatch.setattr(large_images, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(large_images, "MINUTE", 0.0)
    large_images.main(["--measure", "--models", "fit_ti", "test_vit", "--sides", "64", "128"])
    found = json.loads((tmp_path / "measured.json").read_text())
    assert {"machine", "torch", "date", "models"} == set(found)
    assert {name: list(rows) for name, rows in found["models"].items()} == {"fit_ti": ["64", "128"], "test_vit": ["64"]}
    row = found["models"]["fit_ti"]["128"]
    assert row["seconds"] > 0 and row["held_bytes"] > 4 * 5_000_000
    assert min(Image.open(tmp_path / "picture.png").size) > 300


def test_time_grows_with_a_power_of_the_tokens():
    rows = {"512": {"seconds": 1.0}, "1024": {"seconds": 4.0 ** (4 / 3)}}
    assert large_images.exponent(rows) == pytest.approx(4 / 3)
    assert large_images.exponent(MEASURED["models"]["fit_s"]) < 4 / 3


PAGE = (large_images.DOCS / "large-images.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})


def test_the_page_says_what_was_measured():
    for side in ("512", "1024", "2048", "4096", "6400"):
        cells = [f"{(int(side) // 16) ** 2:,}"]
        for name in large_images.MODELS:
            row = MEASURED["models"][name].get(side)
            cells += [f"{row['seconds']:.1f}", f"{row['memory_bytes'] / 2**30:.2f}"] if row else ["", ""]
        assert f"| {side} | {' | '.join(cells)} |" in PAGE
    for key in ("whole", "split"):
        assert " | ".join(f"{value / 2**30:.2f}" for value in MEASURED["split"][key]) in PAGE
    assert MEASURED["date"] in PAGE
    for step in ("train", "predict"):
        assert f"{MEASURED['segmenter'][step]['memory_bytes'] / 2**30:.1f} GiB" in PAGE
        assert MEASURED["segmenter"][step]["memory_bytes"] < 8 * 2**30
    assert MEASURED["models"]["fit_s"]["6400"]["memory_bytes"] < 16 * 2**30
