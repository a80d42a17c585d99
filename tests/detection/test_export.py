"""Detectors leave Python: decoding with fixed counts is mmdet's, and files compute what detectors do."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from spectral_backbones.engine import UserError, deploy
from spectral_backbones.engine.deploy import formats
from spectral_backbones.engine.deploy.compare import compare
from spectral_backbones.toolboxes.digits import Recipe, make_digits
from spectral_backbones.tools import export, predict, test
from spectral_backbones.tools.check_task_exports import made

from .fixtures import needs_mmdet, small_detector

pytestmark = needs_mmdet

KINDS = {
    "mask": "",
    "retinanet": """
_base_ = "small.py"
test_cfg_one = dict(
    nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=30
)
neck = dict(
    type="FPN", in_channels=[16, 16, 24, 24], out_channels=16, start_level=1, add_extra_convs="on_output", num_outs=4
)
head = dict(
    type="RetinaHead", num_classes=10, in_channels=16, stacked_convs=1, feat_channels=16,
    anchor_generator=dict(
        type="AnchorGenerator", octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0], strides=[8, 16, 32, 64]
    ),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    loss_cls=dict(type="FocalLoss", use_sigmoid=True), loss_bbox=dict(type="L1Loss"),
)
backbone = {{_base_.model.backbone}}
preprocessor = {{_base_.model.data_preprocessor}}
model = dict(
    _delete_=True, type="RetinaNet", data_preprocessor=preprocessor, backbone=backbone, neck=neck, bbox_head=head,
    test_cfg=test_cfg_one,
)
""",
    "gfl": """
_base_ = "retinanet.py"
model = dict(type="GFL", bbox_head=dict(
    _delete_=True, type="GFLHead", num_classes=10, in_channels=16, stacked_convs=1, feat_channels=16, reg_max=8,
    norm_cfg=dict(type="GN", num_groups=4),
    anchor_generator=dict(
        type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32, 64]
    ),
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True), loss_dfl=dict(type="DistributionFocalLoss"),
    loss_bbox=dict(type="GIoULoss"),
))
""",
    "faster": """
_base_ = "small.py"
model = dict(roi_head=dict(mask_head=None, mask_roi_extractor=None))
""",
    "cascade": """
_base_ = "small.py"
stage = dict(
    type="Shared2FCBBoxHead", in_channels=16, fc_out_channels=32, roi_feat_size=7, num_classes=10,
    reg_class_agnostic=True, bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
    loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False), loss_bbox=dict(type="SmoothL1Loss"),
)
model = dict(
    type="CascadeRCNN",
    roi_head=dict(type="CascadeRoIHead", num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=[stage, stage]),
    train_cfg=None,
)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_digits(folder / "data", Recipe(train=2, val=4, size=128))
    small_detector(folder, folder / "data")
    for name, text in KINDS.items():
        (folder / f"{name}.py").write_text(text or '_base_ = "small.py"\n')
    return folder


def exported(folder, kind, out, *options, size="64x64"):
    """Exports with weights under which every picture has boxes."""
    if not (folder / f"{kind}.pth").exists():
        made(str(folder / f"{kind}.py"), folder / f"{kind}.pth")
    arguments = [str(folder / f"{kind}.py"), str(folder / f"{kind}.pth"), "--out", str(out), *options]
    arguments += [] if "--dynamic" in options else ["--size", size]
    return export.main([*arguments, "--photos", str(folder / "data" / "val")])


@pytest.fixture(scope="module")
def mask_file(folder, tmp_path_factory):
    """Of Mask R-CNN at the size of the canvases, for any batch."""
    file = tmp_path_factory.mktemp("mask") / "a.onnx"
    return exported(folder, "mask", file, "--batch", "dynamic", size="128x128")


@pytest.fixture(scope="module")
def retinanet_file(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("retinanet") / "a.pt2"
    return exported(folder, "retinanet", file, "--format", "pt2", "--batch", "dynamic")


@pytest.mark.parametrize(
    "kind, options", [pytest.param("retinanet", ["--dynamic"], marks=pytest.mark.slow), ("cascade", [])]
)
def test_kinds_of_heads_are_exported_to_onnx(folder, kind, options, tmp_path, capsys):
    exported(folder, kind, tmp_path / "a.onnx", *options)
    counts = capsys.readouterr().out.partition(": ")[2].partition(" boxes")[0]
    assert min(map(int, counts.split(", "))) >= 10  # else nothing would have been compared


@pytest.mark.parametrize(
    "kind, name, options",
    [
        ("faster", "a.pt2", ["--format", "pt2"]),
        ("mask", "a.pt2", ["--format", "pt2", "--batch", "2", "--dtype", "bfloat16"]),
        ("gfl", "a.onnx", ["--dtype", "float16"]),
    ],
)
def test_the_other_formats_and_precisions(folder, kind, name, options, tmp_path):
    known = deploy.open_program(exported(folder, kind, tmp_path / name, *options)).metadata
    assert known["classes"] == [str(digit) for digit in range(10)] and known["thresholds"]["overlap"] == 0.5
    assert [step["step"] for step in known["resize"]] == ["fit", "pad"]


def test_openvino_computes_what_onnxruntime_does(folder, mask_file, tmp_path):
    program = deploy.open_program(mask_file)
    (file, _) = formats.to_openvino(mask_file, tmp_path / "a.xml", json.dumps(program.metadata))
    images = np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in list_canvases(folder)[:3]])
    found, expected = deploy.open_program(file)(images), program(images)
    assert (expected["labels"] >= 0).sum(1).min() >= 10 and expected["masks"].any()
    result = compare(found, expected)
    assert result.agrees, result.failures


def list_canvases(folder):
    return sorted((folder / "data" / "val").iterdir())


def test_a_file_predicts_and_is_tested_as_the_model_is(folder, mask_file, tmp_path):
    file = mask_file
    config, checkpoint = folder / "mask.py", folder / "mask.pth"
    picture = str(list_canvases(folder)[0])
    options = ["--threshold", "0.1", "--out-dir", str(tmp_path / "out")]
    (found,) = predict.main([str(file), picture, *options])
    (expected,) = predict.main([str(checkpoint), picture, "--config", str(config), *options])
    assert len(found) == len(expected) > 5 and (found.labels == expected.labels).all()
    assert np.abs(found.boxes - expected.boxes).max() < 0.5 and (found.masks == expected.masks).mean() > 0.999
    figures, expected = (
        test.main([str(config), str(model), "--work-dir", str(tmp_path / "test")]) for model in (file, checkpoint)
    )
    assert figures == pytest.approx(expected, abs=1e-3)


def test_pictures_that_do_not_fill_the_size_are_padded_and_found_where_they_are(folder, retinanet_file, tmp_path):
    file = retinanet_file
    assert deploy.open_program(file).shape == (None, 3, 64, 64)
    whole = list_canvases(folder)[0]
    Image.open(whole).crop((0, 0, 64, 40)).resize((128, 80)).save(tmp_path / "wide.png")
    (found,) = predict.main([str(file), str(tmp_path / "wide.png"), "--threshold", "0.05", "--out-dir", str(tmp_path)])
    assert len(found) and found.boxes[:, 2].max() > 64 and found.boxes[:, 3].max() <= 80


def test_suppression_is_mmcvs_for_every_picture_of_a_batch():
    from mmcv.ops import batched_nms

    from spectral_backbones.detection.deploy import Candidates, suppress

    corners = torch.rand(3, 200, 2) * 100
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(3, 200, 2)], -1)
    scores, labels = torch.rand(3, 200), torch.randint(0, 5, (3, 200))
    in_use = scores > 0.3
    found = suppress(Candidates(boxes, scores, labels, in_use), 0.5, 250)
    for image in range(3):
        use = in_use[image]
        kept, places = batched_nms(boxes[image][use], scores[image][use], labels[image][use], dict(iou_threshold=0.5))
        rows = len(kept)
        torch.testing.assert_close(torch.cat([found.boxes, found.scores[..., None]], -1)[image, :rows], kept)
        assert torch.equal(found.labels[image, :rows], labels[image][use][places])
        assert not found.boxes[image, rows:].any() and not found.scores[image, rows:].any()
        assert (found.labels[image, rows:] == -1).all()


def test_without_candidates_all_rows_are_unused():
    from spectral_backbones.detection.deploy import Candidates, suppress

    none = Candidates(torch.rand(2, 7, 4), torch.rand(2, 7), torch.zeros(2, 7).long(), torch.zeros(2, 7).bool())
    found = suppress(none, 0.5, 3)
    assert not found.boxes.any() and not found.scores.any() and (found.labels == -1).all()


def test_regions_are_pooled_and_masks_pasted_as_mmdet_does():
    from mmdet.models import SingleRoIExtractor
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    from spectral_backbones.detection.deploy import paste, pool

    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=0)
    extractor = SingleRoIExtractor(layer, out_channels=4, featmap_strides=[4, 8, 16])
    maps = [torch.randn(2, 4, 256 // stride, 320 // stride) for stride in (4, 8, 16)]
    corners = torch.rand(40, 2) * 100
    boxes = torch.cat([corners, corners + 2 ** (1 + 6 * torch.rand(40, 2))], 1)
    regions = torch.cat([torch.arange(40)[:, None] % 2, boxes], 1)
    torch.testing.assert_close(pool(extractor, maps, regions), extractor(maps, regions), atol=1e-5, rtol=1e-4)
    masks = torch.rand(40, 28, 28)
    expected, _ = _do_paste_mask(masks[:, None], boxes, 256, 320, skip_empty=False)
    torch.testing.assert_close(paste(masks, boxes, (256, 320)), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "change, message",
    [
        ('bbox_head=dict(type="ATSSHead", norm_cfg=dict(type="GN", num_groups=4))', "RetinaNet with a ATSSHead"),
        ('test_cfg=dict(nms=dict(type="soft_nms", iou_threshold=0.5))', "suppresses by .*soft_nms"),
        ("test_cfg=dict(max_per_img=-1)", "max_per_img=-1: an exported file needs fixed counts"),
    ],
)
def test_what_has_no_graph_is_refused_by_name(folder, tmp_path, change, message):
    path = tmp_path / "other.py"
    path.write_text(f'_base_ = "{folder / "retinanet.py"}"\nmodel = dict({change})\n')
    with pytest.raises(UserError, match=message) as error:
        made(str(path), tmp_path / "other.pth")
    assert "\n" not in str(error.value)
