"""Segmenters leave Python, whole and by sliding windows."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from spectral_backbones.engine import UserError, deploy
from spectral_backbones.tools import export, predict, test
from spectral_backbones.tools.check_task_exports import made

from .fixtures import small_config

KINDS = {
    "whole": "",
    "slide": 'model["test_cfg"] = dict(mode="slide", crop_size=(64, 48), stride=(40, 30))',
    "binary": 'model["decode_head"].update(num_classes=2, out_channels=1, threshold=0.4, loss_decode=dict('
    '_delete_=True, type="CrossEntropyLoss", use_sigmoid=True))',
    "upernet": """
model["neck"] = None
model["decode_head"] = dict(
    _delete_=True, type="UPerHead", in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=8, num_classes=11,
    pool_scales=(1, 2), norm_cfg=dict(type="SyncBN"), loss_decode=dict(type="CrossEntropyLoss"),
)
model["data_preprocessor"] = dict(test_cfg=dict(size_divisor=32))
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    for name, extra in KINDS.items():
        small_config(folder, folder / "data", extra).rename(folder / f"{name}.py")
        made(str(folder / f"{name}.py"), folder / f"{name}.pth")
    return folder


def exported(folder, kind, out, *options):
    return export.main([str(folder / f"{kind}.py"), str(folder / f"{kind}.pth"), "--out", str(out), *options])


@pytest.mark.parametrize(
    "kind, name, options",
    [
        ("upernet", "a.onnx", ["--size", "80x72", "--dtype", "float16"]),
        ("binary", "a.pt2", ["--size", "64x64", "--format", "pt2", "--batch", "dynamic"]),
        ("slide", "a.xml", ["--size", "100x75", "--format", "openvino"]),
        ("whole", "a.pt2", ["--size", "64x64", "--format", "pt2", "--dtype", "bfloat16", "--batch", "2"]),
    ],
)
def test_every_way_is_exported(folder, kind, name, options, tmp_path):
    program = deploy.open_program(exported(folder, kind, tmp_path / name, *options))
    assert program.metadata["task"] == "segmentation" and program.outputs == ["segmentation"]
    photo = Image.fromarray(load_sample_image("flower.jpg")).resize(program.shape[:1:-1])
    found = program(np.stack([photo] * 3).transpose(0, 3, 1, 2))["segmentation"]
    assert found.shape == (3, *program.shape[2:]) and len(np.unique(found)) > 1


def test_a_file_predicts_and_is_tested_as_the_model_is(folder, tmp_path):
    file = exported(folder, "whole", tmp_path / "a.pt2", "--format", "pt2")
    figures, expected = (
        test.main([str(folder / "whole.py"), str(model), "--work-dir", str(tmp_path / "test")])
        for model in (file, folder / "whole.pth")
    )
    assert figures.keys() == expected.keys() and figures["aAcc"] == pytest.approx(expected["aAcc"], abs=2)
    picture = str(sorted((folder / "data" / "images" / "validation").iterdir())[0])
    options = [picture, "--out-dir", str(tmp_path / "out")]
    (found,) = predict.main([str(file), *options])
    (expected,) = predict.main([str(folder / "whole.pth"), "--config", str(folder / "whole.py"), *options])
    assert found.shape == expected.shape and (found == expected).mean() > 0.9  # the file is at twice their size


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 48), (100, 75), (104, 108), (30, 90)])
def test_windows_are_those_of_mmseg(folder, size):
    from spectral_backbones.engine.config import load
    from spectral_backbones.segmentation.deploy import subject
    from spectral_backbones.segmentation.predictor import Predictor
    from spectral_backbones.tools.tasks import complete

    cfg = complete(load(str(folder / "slide.py")))
    one = subject(Predictor.load(str(folder / "slide.pth"), cfg))
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert np.mean(one.graph(images)[0].numpy() != one.eager(images)["segmentation"]) < 1e-3


def test_mask2former_is_refused_by_name(tmp_path):
    from spectral_backbones.engine.library import find_config

    config = find_config("spectformer-h-s_mask2former_8xb2-160k_ade20k-512x512")
    with pytest.raises(UserError, match="EncoderDecoder with a Mask2FormerHead cannot be exported") as error:
        made(str(config), tmp_path / "made.pth")
    assert "\n" not in str(error.value)
