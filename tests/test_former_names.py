"""Configs, runs and checkpoints from before the library was installed under one name go on as they are, anywhere."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from spectral_backbones.engine.config import custom_imports, load

from .classification_fixtures import make_folder, picture, run_here, small_config
from .detection import fixtures as detection
from .segmentation import fixtures as segmentation


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("classification", ["+classification"]),
        (["backbones", "classification"], ["+backbones", "+classification"]),
        (["detection", "detection.hooks", "mmdet.models"], ["+detection", "+detection.hooks", "mmdet.models"]),
        (["detection.my_own", "my_hooks", "segmentation"], ["detection.my_own", "my_hooks", "+segmentation"]),
        (["backbones", "engine"], ["+backbones", "+engine"]),
        (["engine"], ["engine"]),  # there is another one
        (["detection", "+detection"], ["detection", "+detection"]),  # a user's own beside the library's
        (["my_hooks"], ["my_hooks"]),
    ],
)
def test_names_of_the_library_are_mended_and_others_are_not(given, found, tmp_path, monkeypatch):
    (tmp_path / "engine.py").write_text("raise RuntimeError('a user own engine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "engine", raising=False)
    full = lambda names: [name.replace("+", "spectral_backbones.") for name in names]  # noqa: E731
    given = given if isinstance(given, str) else full(given)
    assert custom_imports(Config(dict(custom_imports=dict(imports=given)))) == full(found)


def test_engine_alone_is_the_librarys_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path or ".") / "engine").is_dir()])
    monkeypatch.delitem(sys.modules, "engine", raising=False)
    cfg = Config(dict(custom_imports=dict(imports=["engine"])))
    assert custom_imports(cfg) == ["spectral_backbones.engine"]


def test_types_by_their_former_paths_are_mended(tmp_path):
    """As mmengine writes down a config of its new style."""
    path = tmp_path / "config.py"
    path.write_text(
        "custom_imports = dict(imports='detection')\n"
        "model = dict(type='mmdet.RetinaNet', neck=dict(type='a.B'))\n"
        "model['backbone'] = dict(type='detection.backbone.TimmBackbone')\n"
    )
    cfg = load(str(path))
    assert cfg.model.backbone.type == "spectral_backbones.toolboxes.backbone.TimmBackbone"
    assert [cfg.model.type, cfg.model.neck.type] == ["mmdet.RetinaNet", "a.B"]


FORMER = ("backbones", "classification", "detection", "engine", "segmentation")


def classifier(folder):
    return small_config(folder, make_folder(folder / "data", per_class=8), max_epochs=2)


def detector(folder):
    return detection.small_detector(folder, detection.make_small_digits(folder / "data"))


def segmenter(folder):
    return segmentation.small_config(folder, folder / "data")


def with_former_names(text):
    return text.replace("spectral_backbones.", "")


@pytest.mark.parametrize(
    ("make", "imports", "last"),
    [
        (classifier, "'classification'", "epoch_2.pth"),
        (detector, "'detection.hooks'", "epoch_2.pth"),
        (segmenter, "'segmentation.hooks'", "iteration_4.pth"),
    ],
)
def test_a_run_from_before_trains_resumes_tests_and_predicts(make, imports, last, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in FORMER:  # what a user calls so is not in the way
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the user')\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    config, work_dir = make(tmp_path), tmp_path / "run"
    config.write_text(with_former_names(load(str(config)).pretty_text))
    assert "spectral_backbones" not in config.read_text() and imports in config.read_text()
    run_here("train.py", config, "--work-dir", work_dir)

    # As it would have been left: the config, and its text in each checkpoint.
    written = work_dir / config.name
    written.write_text(with_former_names(written.read_text()))
    for path in work_dir.glob("*.pth"):
        checkpoint = torch.load(path, weights_only=False)
        checkpoint["meta"]["cfg"] = with_former_names(checkpoint["meta"]["cfg"])
        assert imports in checkpoint["meta"]["cfg"]
        torch.save(checkpoint, path)
    (work_dir / last).unlink()
    resumed = run_here("train.py", written, "--work-dir", work_dir, "--resume")
    assert (work_dir / last).is_file() and "with another config" not in resumed
    assert ": " in run_here("test.py", written, work_dir / last)
    picture(0, 0).save(tmp_path / "picture.png")
    assert "picture.png: " in run_here("predict.py", work_dir / last, tmp_path / "picture.png")
