"""What `CheckDetectorHook` lets pass and what it refuses, on detectors of mmdet's own zoo."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from spectral_backbones import detection  # noqa: F401

pytest.importorskip("mmdet", reason="mmdet is not installed")
from mmdet.datasets import CocoDataset, CocoPanopticDataset, MOTChallengeDataset
from mmdet.registry import MODELS

from spectral_backbones.detection.hooks.check import check_channels, check_classes, check_losses
from spectral_backbones.engine.config import without_weights
from spectral_backbones.engine.errors import UserError

COCO, PANOPTIC = (SimpleNamespace(metainfo=dataset.METAINFO) for dataset in (CocoDataset, CocoPanopticDataset))
CHANNELS = [64, 128, 256, 512]  # of a ResNet-18


@pytest.fixture(autouse=True, scope="module")
def _scope():
    init_default_scope("mmdet")
    yield
    init_default_scope("mmengine")


def build(name, **overrides):
    """A detector without values."""
    cfg = get_config(f"mmdet::{name}.py")
    cfg.merge_from_dict({f"model.{key}": value for key, value in overrides.items()})
    with torch.device("meta"):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize(
    "name, data",
    [
        ("htc/htc_r50_fpn_1x_coco", COCO),  # its semantic head knows the 183 classes of COCO-Stuff
        ("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco", PANOPTIC),  # 80 things, 54 of stuff and the rest, 133 in all
        ("mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic", PANOPTIC),
        ("mask2former/mask2former_r50_8xb2-lsj-50e_coco", COCO),
        ("rpn/rpn_r50_fpn_1x_coco", COCO),
        ("cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco", COCO),  # the stages of its rpn_head have 1
    ],
)
def test_classes_of_sound_detectors_pass(name, data):
    check_classes(build(name), data)


def test_classes_of_a_text_are_not_those_of_the_data():
    """As of Grounding DINO, whose language model is too large for a test."""
    detector = torch.nn.Module()
    detector.bbox_head = torch.nn.Module()
    detector.bbox_head.num_classes = 256
    with pytest.raises(UserError, match=r"model\.bbox_head has 256 classes, the data 80, such as person"):
        check_classes(detector, COCO)
    detector.language_model = torch.nn.Module()
    check_classes(detector, COCO)


@pytest.mark.parametrize(
    "name, overrides, data, says",
    [
        (
            "htc/htc_r50_fpn_1x_coco",
            {"roi_head.mask_head.1.num_classes": 7},
            COCO,
            "model.roi_head.mask_head.1 has 7 classes, the data 80",
        ),
        (
            "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco",
            {"roi_head.bbox_head.num_classes": 133},
            PANOPTIC,
            "model.roi_head.bbox_head has 133 classes, the data 80",
        ),
        (
            "mask2former/mask2former_r50_8xb2-lsj-50e_coco",
            {},
            PANOPTIC,
            "model.panoptic_head has 80 classes, the data 133",
        ),
    ],
)
def test_other_classes_than_the_datas_are_refused(name, overrides, data, says):
    with pytest.raises(UserError, match=says):
        check_classes(build(name, **overrides), data)


def test_trackers_of_mot_know_the_pedestrian_alone():
    """MOT's files name 13 classes; mmdet's own trackers on them have 1."""
    data = MOTChallengeDataset.__new__(MOTChallengeDataset)
    data._metainfo = MOTChallengeDataset.METAINFO
    cfg = get_config("mmdet::sort/sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py")
    with torch.device("meta"):
        tracker = MODELS.build(without_weights(cfg.model))
    assert len(data.metainfo["classes"]) == 13 and tracker.detector.roi_head.bbox_head.num_classes == 1
    check_classes(tracker, data)
    with pytest.raises(UserError, match="has 1 classes, the data 80"):
        check_classes(tracker, COCO)


@pytest.mark.parametrize(
    "name, place, count",
    [
        ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "roi_head.bbox_head", 81),
        ("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco", "roi_head.bbox_head.1", 81),
        ("retinanet/retinanet_r50_fpn_1x_coco", "bbox_head", 80),
        ("ssd/ssd300_coco", "bbox_head", 81),
        ("yolo/yolov3_d53_8xb8-320-273e_coco", "bbox_head", 80),
        ("mask2former/mask2former_r50_8xb2-lsj-50e_coco", "panoptic_head", 81),
    ],
)
def test_weights_of_classes_are_as_many_as_a_head_gives(name, place, count):
    model = build(name)
    check_losses(model)
    head = model.get_submodule(place)
    if not hasattr(head, "loss_cls"):  # SSD's weighs nothing
        head.loss_cls = torch.nn.Module()
    head.loss_cls.class_weight = [1.0] * count
    check_losses(model)
    head.loss_cls.class_weight = [1.0] * 79
    with pytest.raises(UserError, match=rf"model\.{place}\.loss_cls\.class_weight has 79 numbers, the head .*{count}"):
        check_losses(model)


NECKS = {
    "dino/dino-4scale_r50_8xb2-12e_coco": [1, 2, 3],  # a ChannelMapper, which keeps no in_channels
    "dyhead/atss_r50_fpn_dyhead_1x_coco": [0, 1, 2, 3],  # two necks in a row
    "centernet/centernet_r18_8xb16-crop512-140e_coco": [0, 1, 2, 3],  # in_channels is that of the last map
    "yolo/yolov3_d53_8xb8-320-273e_coco": [1, 2, 3],  # in_channels begins with the last map
}


@pytest.mark.parametrize("name", NECKS)
def test_channels_of_any_neck_are_compared(name):
    neck = get_config(f"mmdet::{name}.py").model.neck
    first = neck[0] if isinstance(neck, list) else neck
    backbone = dict(type="TimmBackbone", name="resnet18", out_indices=[index + 1 for index in NECKS[name]])
    with torch.device("meta"):
        model = torch.nn.ModuleDict(dict(backbone=MODELS.build(backbone)))
    channels = [CHANNELS[index] for index in NECKS[name]]
    right = {"CTResNetNeck": 512, "YOLOV3Neck": channels[::-1]}.get(first.type, channels)
    first.in_channels = 7 if isinstance(right, int) else [7, *right[1:]]
    place = "model.neck.0" if isinstance(neck, list) else "model.neck"
    with pytest.raises(UserError) as error:
        check_channels(model, neck)
    assert f"{first.type}, takes maps of {first.in_channels} channels" in str(error.value)
    assert f"set {place}.in_channels to {right}," in str(error.value)
    first.in_channels = right
    check_channels(model, neck)
