"""Whole detectors and segmenters as mmdet 2 and mmseg 0 wrote them: official names and shapes, values from names."""

from pathlib import Path

import numpy as np
import torch

from .golden import weights

GOLDEN = Path(__file__).parent / "golden"


def backbone_of(file, without=(), norms=None):
    """The official state dict of a golden file, as a detector has it.

    Args:
        file: Name of the file.
        without: Beginnings of the names that a detector's backbone does not have.
        norms: Channels of the norms of its maps by their stages, as DAT's detectors have them.
    """
    golden = np.load(GOLDEN / f"{file}.npz")
    state = weights.state_dict(golden["names"], golden["shapes"])
    state = {name: value for name, value in state.items() if not name.startswith(tuple(without))}
    for stage, channels in (norms or {}).items():
        state |= values(norm(f"norms.{stage}.norm", channels))
    return state


def checkpoint(backbone, parts, classes, place="backbone."):
    """What their runners saved.

    Args:
        backbone: State dict.
        parts: Shapes of neck and heads by name.
        classes: Names.
        place: Where the backbone stands.
    """
    state = {f"{place}{name}": value for name, value in backbone.items()} | values(parts)
    meta = {"mmdet_version": "2.26.0", "epoch": 12, "CLASSES": tuple(classes), "PALETTE": None, "config": "..."}
    return {"meta": meta, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def values(shapes):
    state = {name: torch.from_numpy(np.asarray(weights.tensor(name, shape))) for name, shape in shapes.items()}
    counts = {name: torch.tensor(7) for name in shapes if name.endswith("num_batches_tracked")}
    return state | counts


def conv(name, out, given, kernel, bias=True):
    return {f"{name}.weight": (out, given, kernel, kernel)} | ({f"{name}.bias": (out,)} if bias else {})


def linear(name, out, given):
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name, channels):
    running = {f"{name}.{kind}": (channels,) for kind in ("running_mean", "running_var")}
    return {**norm(name, channels), **running, f"{name}.num_batches_tracked": ()}


def conv_module(name, out, given, kernel):
    """A convolution and its batch norm."""
    return conv(f"{name}.conv", out, given, kernel, bias=False) | batch_norm(f"{name}.bn", out)


def fpn(channels, width, extra=()):
    """Of the maps that it takes, and `extra` input channels of the convolutions that go on from the last."""
    shapes = {}
    for i, given in enumerate(channels):
        shapes |= conv(f"neck.lateral_convs.{i}.conv", width, given, 1)
    for i, given in enumerate([width] * len(channels) + list(extra)):
        shapes |= conv(f"neck.fpn_convs.{i}.conv", width, given, 3)
    return shapes


def retina(width, classes):
    shapes = {}
    for i in range(4):
        for branch in ("cls", "reg"):
            shapes |= conv(f"bbox_head.{branch}_convs.{i}.conv", width, width, 3)
    return shapes | conv("bbox_head.retina_cls", 9 * classes, width, 3) | conv("bbox_head.retina_reg", 36, width, 3)


def rpn(width):
    shapes = conv("rpn_head.rpn_conv", width, width, 3)
    return shapes | conv("rpn_head.rpn_cls", 3, width, 1) | conv("rpn_head.rpn_reg", 12, width, 1)


def mask(name, width, classes):
    shapes = {}
    for i in range(4):
        shapes |= conv(f"{name}.convs.{i}.conv", width, width, 3)
    return shapes | conv(f"{name}.upsample", width, width, 2) | conv(f"{name}.conv_logits", classes, width, 1)


def two_stage(width, hidden, classes):
    box = "roi_head.bbox_head"
    shapes = linear(f"{box}.fc_cls", classes + 1, hidden) | linear(f"{box}.fc_reg", 4 * classes, hidden)
    shapes |= linear(f"{box}.shared_fcs.0", hidden, 49 * width) | linear(f"{box}.shared_fcs.1", hidden, hidden)
    return rpn(width) | shapes | mask("roi_head.mask_head", width, classes)


def cascade(width, hidden, classes):
    """With four convolutions in each box head, as transformers are trained since Swin."""
    shapes = rpn(width)
    for i in range(3):
        box = f"roi_head.bbox_head.{i}"
        for j in range(4):
            shapes |= conv_module(f"{box}.shared_convs.{j}", width, width, 3)
        shapes |= linear(f"{box}.shared_fcs.0", hidden, 49 * width)
        shapes |= linear(f"{box}.fc_cls", classes + 1, hidden) | linear(f"{box}.fc_reg", 4 * classes, hidden)
        shapes |= mask(f"roi_head.mask_head.{i}", width, classes)
    return shapes


def upernet(channels, width, classes):
    """With its auxiliary head on the third map."""
    head = "decode_head"
    shapes = conv(f"{head}.conv_seg", classes, width, 1) | conv_module(f"{head}.fpn_bottleneck", width, 4 * width, 3)
    for i in range(4):
        shapes |= conv_module(f"{head}.psp_modules.{i}.1", width, channels[-1], 1)
    shapes |= conv_module(f"{head}.bottleneck", width, channels[-1] + 4 * width, 3)
    for i, given in enumerate(channels[:-1]):
        shapes |= conv_module(f"{head}.lateral_convs.{i}", width, given, 1)
        shapes |= conv_module(f"{head}.fpn_convs.{i}", width, width, 3)
    shapes |= conv_module("auxiliary_head.convs.0", 256, channels[2], 3)
    return shapes | conv("auxiliary_head.conv_seg", classes, 256, 1)


def semantic_fpn(given, width, classes):
    shapes = conv("decode_head.conv_seg", classes, width, 1)
    for i, places in enumerate(((0,), (0,), (0, 2), (0, 2, 4))):
        for place in places:
            shapes |= conv_module(f"decode_head.scale_heads.{i}.{place}", width, given if place == 0 else width, 3)
    return shapes
