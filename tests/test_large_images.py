"""The tool that measures large images, and that its page says what was measured."""

import pytest
from PIL import Image

from spectral_backbones.tools import large_images
from spectral_backbones.tools.records import Records

MEASURED = Records(large_images.MEASURED)


def test_a_measurement_is_kept_as_it_comes_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(large_images, "MEASURED", tmp_path / "measured.json")
    monkeypatch.setattr(large_images, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(large_images, "MINUTE", 0.0)
    measure, sides = large_images.measure, []

    def once_and_stop(name, side):
        sides.append((name, side))
        if sides == [("fit_ti", 64), ("fit_ti", 128)]:
            raise KeyboardInterrupt
        return measure(name, side)

    monkeypatch.setattr(large_images, "measure", once_and_stop)
    command = ["--measure", "--models", "fit_ti", "test_vit", "--sides", "64", "128"]
    with pytest.raises(KeyboardInterrupt):
        large_images.main(command)
    large_images.main(command)
    assert sides == [("fit_ti", 64), ("fit_ti", 128), ("fit_ti", 128), ("test_vit", 64)]
    found = large_images.passes(Records(tmp_path / "measured.json"))
    assert {name: list(rows) for name, rows in found.items()} == {"fit_ti": [64, 128], "test_vit": [64]}
    row = found["fit_ti"][128]
    assert row["seconds"] > 0 and row["held_bytes"] > 4 * 5_000_000
    assert min(Image.open(tmp_path / "picture.png").size) > 300


def test_time_grows_with_a_power_of_the_tokens():
    rows = {512: {"seconds": 1.0}, 1024: {"seconds": 4.0 ** (4 / 3)}}
    assert large_images.exponent(rows) == pytest.approx(4 / 3)
    assert large_images.exponent(large_images.passes(MEASURED)["fit_s"]) < 4 / 3


PAGE = (large_images.DOCS / "large-images.md").read_text(encoding="utf-8")


def latest(kind):
    return next(record["found"] for record in reversed(MEASURED.all) if kind in record["of"])


def test_the_page_says_what_was_measured():
    passes = large_images.passes(MEASURED)
    for side in (512, 1024, 2048, 4096, 6400):
        cells = [f"{(side // 16) ** 2:,}"]
        for name in large_images.MODELS:
            row = passes[name].get(side)
            cells += [f"{row['seconds']:.1f}", f"{row['memory_bytes'] / 2**30:.2f}"] if row else ["", ""]
        assert f"| {side} | {' | '.join(cells)} |" in PAGE
    for key in ("whole", "split"):
        assert " | ".join(f"{value / 2**30:.2f}" for value in latest("split")[key]) in PAGE
    assert max(record["date"] for record in MEASURED.all) in PAGE
    for step in ("train", "predict"):
        assert f"{latest('segmenter')[step]['memory_bytes'] / 2**30:.1f} GiB" in PAGE
        assert latest("segmenter")[step]["memory_bytes"] < 8 * 2**30
    assert passes["fit_s"][6400]["memory_bytes"] < 16 * 2**30
