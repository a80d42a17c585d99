"""What `CheckSegmenterHook` lets pass and what it refuses, over a backbone of four maps."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.engine.errors import UserError
from spectral_backbones.segmentation.hooks.check import check_channels, check_classes
from spectral_backbones.segmentation.toolbox import mmseg

CHANNELS = [64, 128, 256, 512]  # of a ResNet-18
BACKBONE = dict(type="TimmBackbone", name="resnet18", out_indices=[1, 2, 3, 4])
LOSS = dict(type="CrossEntropyLoss")
UPERNET = dict(
    type="UPerHead", in_channels=CHANNELS, in_index=[0, 1, 2, 3], channels=8, num_classes=3, loss_decode=LOSS
)
CONCAT = dict(
    type="FCNHead",
    in_channels=CHANNELS,
    in_index=[0, 1, 2, 3],
    input_transform="resize_concat",
    channels=8,
    num_convs=1,
    num_classes=3,
    loss_decode=LOSS,
)
OCR = dict(type="OCRHead", in_channels=512, in_index=3, channels=8, ocr_channels=8, num_classes=3, loss_decode=LOSS)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmseg")
    yield
    init_default_scope("mmengine")


def build(type="EncoderDecoder", **parts):
    cfg = ConfigDict(dict(type=type, backbone=BACKBONE, test_cfg=dict(mode="whole"), **parts))
    with torch.device("meta"):
        return mmseg.registry.MODELS.build(cfg)


def cascade(*heads):
    return build("CascadeEncoderDecoder", num_stages=len(heads), decode_head=list(heads))


@pytest.mark.parametrize(
    "neck",
    [
        dict(type="Feature2Pyramid", embed_dim=64, norm_cfg=dict(type="BN")),
        dict(type="MLANeck", in_channels=CHANNELS, out_channels=8),
        dict(type="ICNeck", in_channels=CHANNELS[:3], out_channels=8),
        dict(type="JPU", in_channels=tuple(CHANNELS[1:]), mid_channels=8),
    ],
    ids=lambda neck: neck["type"],
)
def test_heads_over_necks_that_do_not_tell_their_maps_pass(neck):
    taken = neck.get("in_channels", CHANNELS)
    backbone = {**BACKBONE, "out_indices": [1 + CHANNELS.index(width) for width in taken]}
    head = dict(UPERNET, in_channels=[7], in_index=[0])
    with torch.device("meta"):
        model = mmseg.registry.MODELS.build(
            ConfigDict(dict(type="EncoderDecoder", backbone=backbone, neck=neck, decode_head=head))
        )
    check_channels(model)


def test_what_such_a_neck_takes_is_compared():
    model = build(neck=dict(type="MLANeck", in_channels=[64, 128, 256, 7], out_channels=8), decode_head=UPERNET)
    with pytest.raises(UserError, match=r"MLANeck, takes maps of \[64, 128, 256, 7\] channels, but the backbone resn"):
        check_channels(model)


def test_maps_that_a_head_concatenates_are_compared_by_their_sum():
    check_channels(build(decode_head=CONCAT))
    with pytest.raises(UserError) as error:
        check_channels(build(decode_head={**CONCAT, "in_channels": [64, 128, 256, 7]}))
    assert "takes maps of [455] channels in all, but the backbone resnet18 gives [64, 128, 256, 512]" in str(
        error.value
    )


def test_each_head_of_a_cascade_is_checked():
    check_channels(cascade(CONCAT, OCR))
    with pytest.raises(UserError, match=r"set model.decode_head.1.in_channels to 512"):
        check_channels(cascade(CONCAT, {**OCR, "in_channels": 256}))
    data = torch.nn.Module()
    data.metainfo = dict(classes=["one", "two"])
    with pytest.raises(UserError, match=r"model.decode_head.0 has 3 classes, the data 2 \(one, two"):
        check_classes(cascade(CONCAT, OCR), data)


@pytest.mark.parametrize("index", [4, -5])
def test_a_map_that_is_not_there_is_told(index):
    head = dict(type="FCNHead", in_channels=512, in_index=index, channels=8, num_classes=3, loss_decode=LOSS)
    with pytest.raises(
        UserError, match=f"model.auxiliary_head.1.in_index is {index}, but the backbone resnet18 gives 4"
    ):
        check_channels(build(decode_head=UPERNET, auxiliary_head=[{**head, "in_index": 3}, head]))


def test_models_without_a_backbone_and_backbones_that_do_not_tell_pass():
    model = torch.nn.Module()
    model.text_encoder = model.decode_head = torch.nn.Identity()
    check_channels(model)
    check_classes(model, model)
    model = build(decode_head=UPERNET)
    model.backbone = torch.nn.Identity()
    model.backbone.channels = 64  # as DDRNet's, the width of its stem
    check_channels(model)
