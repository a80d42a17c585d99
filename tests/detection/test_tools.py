"""tools/test.py, predict.py and flops.py on detectors, and all of them on COCO's own layout and pipeline."""

import inspect
import json

import mmcv
import numpy as np
import pytest
import timm
import torch
from mmengine.structures import InstanceData
from PIL import Image

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmdet.structures import DetDataSample

from spectral_backbones.detection.flops import PROPOSALS, count_detector
from spectral_backbones.detection.hooks import DetectionsHook
from spectral_backbones.detection.pictures import Detections, Scene, draw_detections, draw_scenes
from spectral_backbones.detection.predictor import Predictor
from spectral_backbones.engine import UserError

from ..classification_fixtures import ROOT, SAMPLES, load_tool, run_here
from .fixtures import DIGITS, make_small_digits, small_detector

COCO = SAMPLES / "coco"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config, checkpoint and data of a short run."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_small_digits(folder / "digits")
    config = small_detector(folder, data)
    run_here("train.py", config, "--work-dir", folder / "run")
    return config, folder / "run" / "epoch_2.pth", data


def figures(output):
    return dict(line.split(": ") for line in output.strip().splitlines())


def test_test_prints_cocos_figures_and_draws_what_was_found(trained):
    config, checkpoint, _ = trained
    said = figures(run_here("test.py", config, checkpoint))
    assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP"} <= said.keys()
    scores = torch.load(checkpoint, weights_only=True)["message_hub"]["log_scalars"]
    assert float(said["coco/bbox_mAP_50"]) == pytest.approx(scores["val/coco/bbox_mAP_50"][0][-1].item(), abs=1e-3)
    assert min(Image.open(f"{said['pictures']}/detections.png").size) > 200


def test_test_takes_data_from_elsewhere(trained, tmp_path):
    """The evaluator's own path to the annotations moves along."""
    config, checkpoint, data = trained
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    text = config.read_text().replace(str(data), "/nowhere")
    (tmp_path / "elsewhere.py").write_text(text)
    output = run_here("test.py", tmp_path / "elsewhere.py", checkpoint, "--data-root", moved, "--work-dir", tmp_path)
    assert "coco/bbox_mAP" in figures(output)


def test_predict_needs_nothing_but_the_checkpoint(trained, tmp_path, monkeypatch):
    config, checkpoint, data = trained
    images = sorted((data / "val").iterdir())[:2]
    monkeypatch.chdir(tmp_path)
    output = run_here("predict.py", checkpoint, *images, "--threshold", 0.0, "--out-dir", tmp_path / "out")
    lines = output.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{image}: ") for line, image in zip(lines, images))
    assert all(Image.open(path).width >= 480 for path in (tmp_path / "out").iterdir())
    # A checkpoint of mmdet says no model; then the config does.
    whole = torch.load(checkpoint, weights_only=True)
    torch.save({key: whole[key] for key in ("state_dict", "meta")}, tmp_path / "plain.pth")
    again = run_here("predict.py", tmp_path / "plain.pth", *images, "--threshold", 0.0, "--config", config)
    assert again.splitlines()[:2] == lines[:2]


def test_a_picture_that_cannot_be_resized_is_named_and_the_others_predicted(trained, tmp_path, capsys):
    _, checkpoint, data = trained
    Image.new("RGB", (4000, 1)).save(tmp_path / "a.png")
    Image.open(min((data / "val").iterdir())).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"^1 of 2 pictures failed, first .*a\.png: "):
        load_tool("predict.py").main([str(checkpoint), str(tmp_path), "--out-dir", str(tmp_path / "out")])
    assert f"1 annotated pictures: {tmp_path / 'out'}" in capsys.readouterr().out


def test_timm_takes_the_backbone_of_a_detector(trained):
    _, path, _ = trained
    checkpoint = torch.load(path, weights_only=True)
    backbone = Predictor.load(str(path)).model.backbone
    source = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    loaded = timm.create_model(backbone.name, features_only=True, **source, **backbone._kwargs).model.state_dict()
    for key, value in checkpoint["state_dict_ema"].items():
        assert torch.equal(value, checkpoint["state_dict"][f"backbone.model.{key}"])
        assert key not in loaded or torch.equal(value, loaded[key])
    assert loaded.keys() <= checkpoint["state_dict_ema"].keys()


def test_pictures_of_a_run_and_of_a_prediction_show_the_same(trained):
    """One threshold, unless another is given."""
    hook, call = (inspect.signature(function).parameters for function in (DetectionsHook, Predictor.__call__))
    assert hook["threshold"].default == call["threshold"].default == 0.5


def test_a_photo_that_a_camera_turned_is_drawn_as_the_detector_sees_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    path = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(path, exif=exif)
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    sample = DetDataSample(metainfo=dict(img_path=str(path)), pred_instances=nothing)
    assert DetectionsHook().scene(sample).image == pytest.approx(mmcv.imread(str(path)), abs=2)


def test_test_refuses_a_checkpoint_of_another_detector(trained, tmp_path):
    config, checkpoint, _ = trained
    options = ["--work-dir", tmp_path, "--cfg-options", "model.roi_head.mask_head.num_convs=2"]
    with pytest.raises(UserError, match=r"does not fit the model: roi_head.mask_head.convs.1.conv.weight is missing"):
        run_here("test.py", config, checkpoint, *options)


def test_pictures_show_boxes_masks_and_scores(tmp_path):
    """The mask is tinted, what lies outside is not, and boxes have the colour of their class."""
    image = np.full((200, 300, 3), 128, dtype=np.uint8)
    mask = np.zeros((1, 200, 300), dtype=bool)
    mask[0, 60:120, 50:150] = True
    found = Detections(np.array([[50.0, 60, 150, 120]]), np.array([1]), np.array([0.9]), mask)
    palette = [(0, 0, 255), (255, 0, 0)]
    draw_detections(image, found, ["one", "two"], palette, tmp_path / "one.png")
    drawn = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    scale = drawn.shape[1] / 300
    assert scale == pytest.approx(1.6, abs=0.02)

    def at(x, y):
        return drawn[round(y * scale), round(x * scale)]

    assert at(100, 90)[0] > 180 > 80 > at(100, 90)[2] and np.abs(at(250, 170) - 128).max() <= 2
    assert at(150, 90)[0] > 220 > 60 > at(150, 90)[1]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0))
    draw_scenes(
        [Scene(image, nothing, found), Scene(image, found, nothing)], ["one", "two"], None, tmp_path / "two.png"
    )
    assert min(Image.open(tmp_path / "two.png").size) > 400


def test_the_parts_of_a_detector_are_counted_by_hand(trained):
    from spectral_backbones.tools.tasks import build_model

    cost, parts = count_detector(build_model(str(trained[0])).eval(), (64, 64))
    assert list(parts) == ["backbone", "neck", "rpn_head", "roi_head"] and not cost.uncounted
    for key in ("params", "flops", "activations"):
        assert getattr(cost, key) == sum(getattr(part, key) for part in parts.values())
    pixels = [16 * 16, 8 * 8, 4 * 4, 2 * 2]
    lateral = sum(area * dim * 16 for area, dim in zip(pixels, (16, 16, 24, 24)))
    assert parts["neck"].macs == lateral + sum(pixels) * 9 * 16 * 16
    assert parts["rpn_head"].macs == sum(pixels) * (9 * 16 * 16 + 16 * 3 * (1 + 4))
    boxes = PROPOSALS * (16 * 49 * 32 + 32 * 32 + 32 * (11 + 4 * 10))
    masks = 100 * (196 * 9 * 16 * 16 + 196 * 16 * 16 * 4 + 784 * 16 * 10)
    assert parts["roi_head"].macs == boxes + masks


def test_flops_counts_the_detector_of_a_config(trained):
    rows = json.loads(run_here("flops.py", "--config", trained[0], "--size", "64x96", "--format", "json"))
    assert [row["part"] for row in rows] == ["backbone", "neck", "rpn_head", "roi_head", "whole"]
    assert rows[-1]["share"] == 1 and rows[-1]["size"] == "64x96"
    assert sum(row["macs"] for row in rows[:-1]) == rows[-1]["macs"]


def test_the_demonstrations_config_is_as_small_as_it_says():
    from spectral_backbones.tools.tasks import build_model

    (path,) = DIGITS.glob("mask-rcnn*_digits.py")
    assert sum(parameter.numel() for parameter in build_model(str(path)).parameters()) < 2e6


# Coco

NARROW = [
    "model.backbone.stem_dim=8",
    "model.backbone.embed_dims=[8,8,16,16]",
    "model.backbone.depths=[1,1,1,1]",
    "model.neck.in_channels=[8,8,16,16]",
    "model.neck.out_channels=8",
    "model.rpn_head.in_channels=8",
    "model.rpn_head.feat_channels=8",
    "model.roi_head.bbox_roi_extractor.out_channels=8",
    "model.roi_head.bbox_head.in_channels=8",
    "model.roi_head.bbox_head.fc_out_channels=32",
    "model.roi_head.mask_roi_extractor.out_channels=8",
    "model.roi_head.mask_head.in_channels=8",
    "model.roi_head.mask_head.conv_out_channels=8",
    "model.roi_head.mask_head.num_convs=1",
    "model.test_cfg.rcnn.max_per_img=10",
    "model.test_cfg.rcnn.score_thr=0",
    "train_dataloader.dataset.pipeline.2.scale=(333,200)",
    "val_dataloader.dataset.pipeline.1.scale=(333,200)",
    "test_dataloader.dataset.pipeline.1.scale=(333,200)",
    "train_dataloader.dataset.indices=8",
    "val_dataloader.dataset.indices=2",
    "test_dataloader.dataset.indices=2",
    "train_cfg.max_epochs=2",
    "param_scheduler.0.end=2",
    "optim_wrapper.optimizer.lr=2e-3",
    *(
        f"{loader}.{key}"
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader")
        for key in ("num_workers=0",)
    ),
]


@pytest.mark.skipif(not COCO.is_dir(), reason=f"no sample data at {COCO}")
def test_coco_as_it_is_trains_evaluates_resumes_and_predicts(tmp_path):
    """Real photographs, polygons and crowds through the pipeline of the configs, smaller and in a narrow network."""
    config = ROOT / "configs" / "detection" / "spectformer" / "mask-rcnn_spectformer-h-s_fpn_1x_coco.py"
    arguments = [config, "--data-root", COCO, "--cfg-options", *NARROW]
    work_dir = tmp_path / "run"
    run_here("train.py", *arguments, "--work-dir", work_dir)
    whole = torch.load(work_dir / "epoch_2.pth", weights_only=True)
    losses = whole["message_hub"]["log_scalars"]["train/loss"][0].tolist()
    assert len(losses) == 8 and np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])

    (work_dir / "epoch_2.pth").unlink()
    assert "for 2 epochs from epoch 2:" in run_here("train.py", *arguments, "--work-dir", work_dir, "--resume")
    resumed = torch.load(work_dir / "epoch_2.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(value, whole["state_dict"][key]) for key, value in resumed.items())

    said = figures(run_here("test.py", arguments[0], work_dir / "epoch_2.pth", *arguments[1:]))
    assert 0 <= float(said["coco/bbox_mAP"]) <= 1
    photo = min((COCO / "val2017").iterdir())
    run_here("predict.py", work_dir / "epoch_2.pth", photo, "--threshold", 0.01, "--out-dir", tmp_path / "out")
    (drawn,) = (tmp_path / "out").iterdir()
    assert Image.open(drawn).size == pytest.approx(Image.open(photo).size, abs=2)
