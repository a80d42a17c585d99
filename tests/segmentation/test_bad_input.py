"""What a user can get wrong, and what the tools then say."""

import importlib.util
import shutil

import numpy as np
import pytest
from PIL import Image

from spectral_backbones.engine import UserError
from spectral_backbones.toolboxes.digits import Recipe, make_digits

from ..classification_fixtures import run_fresh, run_here
from .fixtures import small_config

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones import segmentation


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    make_digits(folder, Recipe("segmentation", train=6, val=4, size=64))
    return folder


def said(config, *arguments):
    with pytest.raises(UserError) as error:
        run_here("train.py", config, "--work-dir", config.parent / "run", *arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model['backbone']['name'] = 'spectformr_h_s'", "no model is called 'spectformr_h_s'; near it: "),
        ("model['backbone']['out_indices'] = (0, 1, 2, 4)", "out_indices must be between -4 and 3 for spectformer_h_s"),
        (
            "model['neck']['in_channels'] = [8, 16, 24, 48]",
            "gives [8, 16, 24, 32]: set model.neck.in_channels to [8, 16, 24, 32]",
        ),
        (
            "model['decode_head']['in_channels'] = [8, 8, 8, 16]",
            "model.decode_head takes maps of [8, 8, 8, 16] channels, but the neck FPN gives [8, 8, 8, 8]",
        ),
        (
            "model['decode_head']['num_classes'] = 10",
            "model.decode_head has 10 classes, the data 11 (ground, 0, 1, ...)",
        ),
        ("model['decode_head']['type'] = 'FPNHaed'", "FPNHaed is not in the registry"),
        ("model['decode_head']['chanels'] = 8", "the config gives an argument that is not known: "),
        (
            "custom_imports = dict(_delete_=True, imports=['spectral_backbones.backbones'])",
            'add custom_imports = dict(imports=["spectral_backbones.segmentation"]',
        ),
        ("custom_imports = None", 'add custom_imports = dict(imports=["spectral_backbones.segmentation"]'),
        ("train_dataloader['dataset']['type'] = 'DigitDataset'", "there is no data set 'DigitDataset'"),
        (
            "train_dataloader['dataset'] = dict(_delete_=True, type='BaseSegDataset')",
            "data set BaseSegDataset names no classes: set metainfo=dict(classes=..., palette=...)",
        ),
        (
            "train_dataloader['dataset'] = dict(_delete_=True, type='PascalVOCDataset', data_root='away', "
            "ann_file='train.txt', data_prefix=dict(img_path='photos'), pipeline=[dict(type='LoadAnnotations')])",
            "data set PascalVOCDataset has no away/train.txt, away/photos: name the folder of the data set with --data",
        ),
        (
            "param_scheduler.append(dict(type='PolyLR', by_epoch=False, begin=4))",
            "param_scheduler 1, PolyLR, begins at iteration 4, but train_cfg.max_iters is 4: raise that, or shorten",
        ),
        (
            "val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None",
            "does not say how pictures are prepared for prediction: add a test_dataloader or a val_dataloader",
        ),
    ],
)
def test_a_mistake_in_the_config_is_told_with_what_to_change(digits, tmp_path, line, message):
    assert message in said(small_config(tmp_path, digits, extra=line))


@pytest.fixture
def broken(digits, tmp_path):
    """A copy of the set for a test to break, and a config on it."""
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    return data, small_config(tmp_path, data)


def test_files_that_are_missing_are_named(broken):
    data, config = broken
    annotation = data / "annotations" / "training" / "000003.png"
    annotation.unlink()
    assert said(config).startswith(f"{annotation} does not exist: ")
    shutil.rmtree(data / "images" / "validation")
    assert f"{data}/images/validation does not exist: name the folder of the data set with --data-root" in said(config)


def test_pictures_that_cannot_be_read_are_named(broken):
    data, config = broken
    image = data / "images" / "training" / "000002.jpg"
    image.write_bytes(image.read_bytes()[:100])
    assert f"cannot read image {image}: it is damaged or no picture" in said(config)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda labels: b"no picture", "cannot read annotation {path}: "),
        (
            lambda labels: np.stack([labels] * 3, axis=-1),
            "annotation {path} has 3 channels: it has to be a picture of one",
        ),
        (lambda labels: labels[:, :50], "annotation {path} has 50x64 pixels, its image 64x64"),
        (
            lambda labels: labels + 1,
            "annotation {path} holds label 11; with 11 classes and reduce_zero_label=False labels go from 0 to 10",
        ),
        (
            lambda labels: np.where(labels == 10, np.uint16(300), labels),
            "annotation {path} holds label 300; labels go up to 255, which is ignored",
        ),
    ],
    ids=["damaged", "colours", "size", "labels", "more than eight bits"],
)
def test_annotations_that_do_not_fit_are_named(broken, spoil, message):
    data, config = broken
    for path in (data / "annotations" / "training").iterdir():
        labels = np.asarray(Image.open(path)).copy()
        labels[0, 0] = 10
        spoilt = spoil(labels)
        if isinstance(spoilt, bytes):
            path.write_bytes(spoilt)
        else:
            Image.fromarray(spoilt).save(path)
    told = said(config)
    assert any(message.format(path=path) in told for path in (data / "annotations" / "training").iterdir())


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    config = small_config(tmp_path, tmp_path, extra="train_dataloader['dataset']['type'] = 'ADE20KDataset'")
    config.write_text(config.read_text() + "\ndel train_dataloader['dataset']['recipe']\n")
    assert "does not exist: name the folder of the data set with --data-root" in said(config)


def test_without_mmseg_the_package_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mmseg" else find_spec(name))
    with pytest.raises(ModuleNotFoundError, match=r"segmentation needs mmseg: pip install 'spectral-backbones\[mm\]'"):
        importlib.reload(segmentation)


def test_digits_of_another_task_are_refused(tmp_path):
    make_digits(tmp_path / "data", Recipe(train=1, val=1, size=64))
    told = said(small_config(tmp_path, tmp_path / "data"))
    assert "holds digits made with task=detection, needed are those with task=segmentation" in told


def test_a_config_can_inherit_from_mmseg_by_its_prefix(tmp_path):
    """mmengine itself knows mmseg by the name of upstream's distribution alone; tools read a config before they know
    that it is a segmenter's.
    """
    path = tmp_path / "config.py"
    path.write_text("_base_ = 'mmseg::_base_/models/upernet_swin.py'\n")
    code = f"from mmengine import Config; print(Config.fromfile({str(path)!r}).model.decode_head.type)"
    heads = run_fresh(
        f"import spectral_backbones.engine.config; {code}", f"import spectral_backbones.segmentation; {code}"
    )
    assert [head.split()[-1] for head in heads] == ["UPerHead", "UPerHead"]
