"""Detectors and segmenters read pictures by the one reader, and 8-bit ones as mmcv does."""

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS
from PIL import Image

from spectral_backbones.detection.config import complete
from spectral_backbones.detection.hooks import DetectionsHook
from spectral_backbones.detection.predictor import Predictor
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load, nodes, read_alike
from spectral_backbones.engine.images import displayed, read_upright
from spectral_backbones.toolboxes.loading import LoadUprightImage

from ..classification_fixtures import run_here
from ..detection.fixtures import make_small_digits, needs_mmdet, small_detector

pytestmark = needs_mmdet
NOISE = np.random.RandomState(0).randint(0, 255, (40, 60, 3)).astype(np.uint8)


def write_plain(folder):
    smooth = Image.fromarray(NOISE).resize((90, 70))
    smooth.save(folder / "rgb.jpg", quality=80)
    smooth.convert("L").save(folder / "grey.jpg")
    smooth.convert("CMYK").save(folder / "cmyk.jpg")
    smooth.save(folder / "rgb.png")
    smooth.convert("L").save(folder / "grey.png")
    smooth.quantize().save(folder / "palette.png")
    smooth.convert("1").save(folder / "bits.png")
    smooth.save(folder / "rgb.bmp")
    smooth.save(folder / "lossless.webp", lossless=True)
    (folder / "tail.jpg").write_bytes((folder / "rgb.jpg").read_bytes() + b"what a camera adds")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"to_float32": True},
        {"color_type": "grayscale"},
        {"color_type": "unchanged"},
        {"color_type": "color_ignore_orientation"},
        {"imdecode_backend": "pillow"},
    ],
    ids=str,
)
def test_plain_pictures_are_those_of_mmcv(tmp_path, settings):
    for path in write_plain(tmp_path):
        theirs = LoadImageFromFile(**settings)({"img_path": str(path)})
        ours = LoadUprightImage(**settings)({"img_path": str(path)})
        assert ours["img"].dtype == theirs["img"].dtype and ours["img_shape"] == theirs["img_shape"], path
        # Of a picture that only Pillow decodes, shades are taken out of colours and not out of the file.
        tolerance = 4 if path.name in ("cmyk.jpg", "rgb.bmp", "lossless.webp") else 0
        assert np.abs(ours["img"].astype(int) - theirs["img"].astype(int)).max() <= tolerance, path
        assert ours["ori_shape"] == theirs["ori_shape"] and ours["img"].flags.c_contiguous


def test_deep_clear_and_turned_pictures_are_those_of_all_tasks(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), NOISE.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "grey.tif"), NOISE[..., 0].astype(np.uint16) * 257)
    Image.fromarray(np.dstack([NOISE, NOISE[..., :1]])).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("jpg", "png", "webp", "tif"):
        Image.fromarray(NOISE).save(tmp_path / f"turned.{ending}", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        image = LoadUprightImage()({"img_path": str(path)})["img"]
        assert np.array_equal(image[..., ::-1], read_upright(path)), path
        assert image.shape == ((60, 40, 3) if path.stem == "turned" else (40, 60, 3))
        grey = LoadUprightImage(color_type="grayscale")({"img_path": str(path)})["img"]
        assert grey.shape == image.shape[:2]
    for ending in ("jpg", "png", "tif", "webp"):
        settings = dict(color_type="color_ignore_orientation")
        assert LoadUprightImage(**settings)({"img_path": str(tmp_path / f"turned.{ending}")})["img_shape"] == (40, 60)
    assert np.array_equal(displayed(cv2.imread(str(tmp_path / "deep.png")))[..., ::-1], NOISE)
    raw = LoadUprightImage(color_type="unchanged")({"img_path": str(tmp_path / "deep.png")})["img"]
    assert raw.dtype == np.uint16 and displayed(raw).dtype == np.uint8  # as mmcv: nothing is done to numbers
    blue = LoadUprightImage(background=[0, 0, 255])({"img_path": str(tmp_path / "clear.png")})["img"]
    assert np.array_equal(blue[..., ::-1], read_upright(tmp_path / "clear.png", (0, 0, 255)))


def test_a_jpeg_cut_short_is_refused_and_what_may_be_empty_is_passed_over(tmp_path):
    """OpenCV fills the rest with grey, and a detector would be trained on that."""
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).resize((300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    for content in (path.read_bytes(), b"", b"no picture"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read image .*a\.jpg"):
            LoadUprightImage()({"img_path": str(path)})
        assert LoadUprightImage(ignore_empty=True)({"img_path": str(path)}) is None
    with pytest.raises(FileNotFoundError):
        LoadUprightImage()({"img_path": str(tmp_path / "absent.jpg")})


def test_files_come_from_any_backend(tmp_path, monkeypatch):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    asked = []
    get = mmcv.transforms.loading.fileio.get
    monkeypatch.setattr("mmengine.fileio.get", lambda path, backend_args=None: asked.append(backend_args) or get(path))
    LoadUprightImage(backend_args=dict(backend="local"))({"img_path": str(tmp_path / "a.png")})
    assert asked == [dict(backend="local")]


def test_a_completed_config_reads_by_it_everywhere_and_leaves_other_loaders(tmp_path):
    data = make_small_digits(tmp_path / "digits")
    cfg = load(str(small_detector(tmp_path, data)))
    mosaic = [dict(type="Mosaic", img_scale=(64, 64)), dict(type="PackDetInputs")]
    inner = {**cfg.train_dataloader.dataset, "pipeline": [dict(type="mmcv.LoadImageFromFile", to_float32=True)]}
    cfg.train_dataloader.dataset = dict(type="MultiImageMixDataset", dataset=inner, pipeline=mosaic)
    cfg.tta_pipeline = [dict(type=LoadImageFromFile, backend_args=None), dict(type="TestTimeAug", transforms=[[]])]
    others = ["LoadImageFromNDArray", "LoadMultiChannelImageFromFiles", "LoadAnnotations", "mmdet.LoadAnnotations"]
    cfg.custom_hooks = [
        dict(type="PipelineSwitchHook", switch_epoch=1, switch_pipeline=[dict(type="LoadImageFromFile")]),
        dict(type="Other", pipeline=[dict(type=other) for other in others]),
    ]
    complete(cfg)
    kinds = [node.get("type") for node in nodes(cfg._cfg_dict)]
    assert "LoadImageFromFile" not in kinds and "mmcv.LoadImageFromFile" not in kinds
    assert set(others) <= set(kinds)
    assert cfg.train_dataloader.dataset.dataset.pipeline[0] == dict(type="LoadUprightImage", to_float32=True)
    assert cfg.tta_pipeline[0].type == cfg.custom_hooks[0].switch_pipeline[0].type == "LoadUprightImage"
    cfg.dump(tmp_path / "dumped.py")
    assert "LoadUprightImage" in (tmp_path / "dumped.py").read_text()
    assert isinstance(TRANSFORMS.build(cfg.tta_pipeline[0]), LoadUprightImage)


def test_an_old_checkpoints_pipeline_is_read_alike():
    pipeline = Config(dict(steps=[dict(type="LoadImageFromFile"), dict(type="mmseg.LoadImageFromFile")])).steps
    read_alike(pipeline)
    assert [step.type for step in pipeline] == ["LoadUprightImage"] * 2


def test_deep_pictures_train_predict_and_are_drawn_alike(tmp_path):
    """A detector on canvases of 16 bits sees, and its predictions and pictures show, what it would of 8 bits."""
    data = make_small_digits(tmp_path / "digits")
    config = small_detector(tmp_path, data)
    plain = {path: np.asarray(Image.open(path).convert("RGB")) for path in (data / "val").iterdir()}
    for path in [*(data / "train").iterdir(), *plain]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        path.write_bytes(cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes())
    run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.val_interval=2")
    predictor = Predictor.load(str(tmp_path / "run" / "epoch_2.pth"))
    path, pixels = next(iter(plain.items()))
    image, deep = predictor.predict(path)
    assert np.array_equal(image, pixels)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    same = predictor.predict(tmp_path / "plain.png")[1].pred_instances
    assert torch.equal(deep.pred_instances.scores, same.scores) and torch.equal(deep.pred_instances.bboxes, same.bboxes)
    hook = DetectionsHook()
    hook.load = LoadUprightImage()
    assert np.array_equal(hook.read(str(path)), pixels)
    assert isinstance(predictor.pipeline, Compose)
    predictor.lay_on((0, 0, 9))
    Image.new("RGBA", (64, 64)).save(tmp_path / "clear.png")
    assert predictor.predict(tmp_path / "clear.png")[0][5, 5].tolist() == [0, 0, 9]
