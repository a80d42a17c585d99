"""mmseg's own tools on a segmenter of ours, those that need no window and no download; see docs/toolboxes.md."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="mmseg is not installed")

from ..classification_fixtures import run_here
from .fixtures import small_config

TOOLS = Path(find_spec("mmseg").origin).parent / ".mim" / "tools"


def run(monkeypatch, tool, *arguments):
    """Runs a tool of mmseg as a program in this process."""
    path = TOOLS / tool
    if not path.is_file():
        pytest.skip(f"the installed mmseg has no {tool}")
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    tta = """
tta_model = dict(type="SegTTAModel")
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="TestTimeAug", transforms=[
        [dict(type="Resize", scale=(64, 64), keep_ratio=True)],
        [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
        [dict(type="LoadAnnotations")],
        [dict(type="PackSegInputs")],
    ]),
]
"""
    config = small_config(folder, folder / "data", extra=tta)
    run_here("train.py", config, "--work-dir", folder / "run")
    return config, folder / "run" / "iteration_4.pth", folder


def test_print_config(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)  # mmseg's writes a file where it is called
    run(monkeypatch, "misc/print_config.py", trained[0])
    assert "TimmBackbone" in capsys.readouterr().out


def test_browse_dataset(trained, monkeypatch, tmp_path):
    run(monkeypatch, "analysis_tools/browse_dataset.py", trained[0], "--output-dir", tmp_path, "--not-show")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 6


def test_get_flops(trained, monkeypatch, capsys):
    run(monkeypatch, "analysis_tools/get_flops.py", trained[0], "--shape", 64, 64)
    assert "Params" in capsys.readouterr().out


def test_test_time_augmentation_and_confusion_matrix(trained, monkeypatch, tmp_path):
    config, checkpoint, _ = trained
    run(
        monkeypatch, "test.py", config, checkpoint, "--tta", "--work-dir", tmp_path / "test", "--out", tmp_path / "maps"
    )
    assert len(list((tmp_path / "maps").glob("*.png"))) == 4
    run(monkeypatch, "analysis_tools/confusion_matrix.py", config, tmp_path / "maps", tmp_path / "matrix")
    assert (tmp_path / "matrix" / "confusion_matrix.png").is_file()


def test_inferencer(trained, tmp_path):
    from mmseg.apis import MMSegInferencer

    config, checkpoint, folder = trained
    photo = next((folder / "data" / "images" / "validation").iterdir())
    inferencer = MMSegInferencer(str(config), str(checkpoint), device="cpu")
    found = inferencer(str(photo), out_dir=str(tmp_path), show=False)
    assert found["predictions"].shape == (64, 64)
