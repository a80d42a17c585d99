"""The registry route: build functions for `MODEL.BACKBONE.NAME`, and the node `MODEL.TIMM` that they read.

cfg = get_cfg()
add_timm_config(cfg)
cfg.merge_from_file(...)  # MODEL.BACKBONE.NAME: build_timm_fpn_backbone, MODEL.TIMM.NAME: spectformer_h_s
use_timm_input(cfg)
"""

import logging

import torch.nn as nn
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from .backbone import TimmBackbone
from .normalization import INPUT_FORMAT, pixel_mean, pixel_std
from .simple_feature_pyramid import SimpleFeaturePyramid

logger = logging.getLogger(__name__)


def add_timm_config(cfg: CfgNode) -> None:
    """Adds the node MODEL.TIMM, and lets MODEL.BACKBONE.FREEZE_AT begin at 0: nothing of a transformer is frozen.

    Call it before a file or options are merged.
    """
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.TIMM = CfgNode()
    node.NAME = "spectformer_h_s"  # any model of timm or of this library
    node.PRETRAINED = ""  # "timm" for the weights that belong to the name, else a file
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]  # ["last_feat"] of a model with one resolution
    node.OUT_NORM = ""  # "final" for the model's own last norm, "new" for one after each map
    node.DROP_PATH_RATE = 0.0
    node.NORM_EVAL = False  # keep the running statistics of batch norms as they were trained
    node.GRAD_CHECKPOINTING = False
    node.SQUARE_PAD = 0  # pad every batch to squares of so many pixels, 0 for as little as is needed
    node.KWARGS = CfgNode(new_allowed=True)  # further arguments of the model, such as img_size
    node.PYRAMID = CfgNode()  # of build_timm_simple_pyramid_backbone; its width is MODEL.FPN.OUT_CHANNELS
    node.PYRAMID.STRIDES = [4, 8, 16, 32]
    node.PYRAMID.NUM_OUTS = 5  # p6 as every second cell of p5


def use_timm_input(cfg: CfgNode) -> None:
    """Sets channel order, mean and std to those that MODEL.TIMM.NAME was trained with."""
    cfg.INPUT.FORMAT = INPUT_FORMAT
    cfg.MODEL.PIXEL_MEAN = pixel_mean(cfg.MODEL.TIMM.NAME)
    cfg.MODEL.PIXEL_STD = pixel_std(cfg.MODEL.TIMM.NAME)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The model MODEL.TIMM.NAME, frozen as MODEL.BACKBONE.FREEZE_AT says."""
    node = cfg.MODEL.TIMM
    _warn_of_other_input(cfg)
    return TimmBackbone(
        node.NAME,
        out_features=node.OUT_FEATURES,
        pretrained=True if node.PRETRAINED == "timm" else node.PRETRAINED or False,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        square_pad=node.SQUARE_PAD,
        out_norm=node.OUT_NORM or None,
        norm_eval=node.NORM_EVAL,
        grad_checkpointing=node.GRAD_CHECKPOINTING,
        in_chans=input_shape.channels,
        drop_path_rate=node.DROP_PATH_RATE,
        **node.KWARGS,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid, p2 to p6, over the stages MODEL.FPN.IN_FEATURES: for Faster, Mask and Cascade R-CNN."""
    return _fpn(cfg, build_timm_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid whose p6 and p7 are convolved from res5: for RetinaNet and FCOS."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _fpn(cfg, bottom_up, top_block)


def _fpn(cfg: CfgNode, bottom_up: TimmBackbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES or cfg.MODEL.TIMM.OUT_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        square_pad=cfg.MODEL.TIMM.SQUARE_PAD,
    )


@BACKBONE_REGISTRY.register()
def build_timm_simple_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """A simple feature pyramid over a model of one resolution, with MODEL.TIMM.OUT_FEATURES ["last_feat"]."""
    node = cfg.MODEL.TIMM
    return SimpleFeaturePyramid(
        build_timm_backbone(cfg, input_shape),
        in_feature=node.OUT_FEATURES[-1],
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        strides=node.PYRAMID.STRIDES,
        num_outs=node.PYRAMID.NUM_OUTS,
        square_pad=node.SQUARE_PAD,
    )


def _warn_of_other_input(cfg: CfgNode) -> None:
    """Another channel order or scale trains to a worse result, and nothing else shows it."""
    right = cfg.clone()
    use_timm_input(right)
    pairs = {
        "INPUT.FORMAT": (cfg.INPUT.FORMAT, right.INPUT.FORMAT),
        "MODEL.PIXEL_MEAN": (list(cfg.MODEL.PIXEL_MEAN), right.MODEL.PIXEL_MEAN),
        "MODEL.PIXEL_STD": (list(cfg.MODEL.PIXEL_STD), right.MODEL.PIXEL_STD),
    }
    for key, (given, expected) in pairs.items():
        if given != expected:
            logger.warning(
                f"{cfg.MODEL.TIMM.NAME} was trained with {key} {expected}, not {given}: use_timm_input(cfg) sets it"
            )
