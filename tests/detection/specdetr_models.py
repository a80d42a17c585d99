"""SpecDETR as the golden files of the official code describe it."""

import copy
import json

import numpy as np
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from spectral_backbones.detection import specdetr  # noqa: F401  registers it

from ..classification_fixtures import ROOT
from ..golden import weights
from ..golden_models import files

PATHS = [path for path in files() if path.stem.startswith("specdetr_")]
NETWORKS = [path for path in PATHS if "names" in np.load(path).files]
TABLES = [path for path in PATHS if path not in NETWORKS]  # of assignments
BASE = ROOT / "configs" / "_base_" / "detection" / "specdetr.py"


def configured(
    *,
    embed=256,
    encoder=6,
    decoder=6,
    queries=900,
    classes=8,
    in_channels=30,
    levels=2,
    points=4,
    remove_last_candidate=True,
    pre_bboxes_round=False,
    max_per_img=300,
):
    """The config of the base with other numbers; their names are those of the golden files."""
    cfg = Config.fromfile(BASE).model
    attention = dict(embed_dims=embed, num_levels=levels, num_points=points)
    feedforward = dict(embed_dims=embed, feedforward_channels=8 * embed)
    cfg.num_queries, cfg.num_feature_levels = queries, levels
    cfg.propose_globally = not remove_last_candidate
    cfg.backbone.update(in_channels=in_channels, embed_dims=embed, num_levels=levels)
    cfg.positional_encoding.num_feats = embed // 2
    cfg.encoder.num_layers, cfg.decoder.num_layers = encoder, decoder
    for layer, name in ((cfg.encoder.layer_cfg, "self_attn_cfg"), (cfg.decoder.layer_cfg, "cross_attn_cfg")):
        layer[name].update(attention)
        layer.ffn_cfg.update(feedforward)
    cfg.bbox_head.update(num_classes=classes, embed_dims=embed, round_boxes=pre_bboxes_round)
    cfg.test_cfg.max_per_img = max_per_img
    return cfg


def built(cfg, registry=MODELS):
    init_default_scope("mmdet")
    try:
        return registry.build(copy.deepcopy(cfg))  # mmdet writes into it
    finally:
        init_default_scope("mmengine")


def assigner(**options):
    """The assigner of the base with other options."""
    return built({**Config.fromfile(BASE).model.train_cfg.assigner, **options}, TASK_UTILS)


def load(path):
    """A file's outputs, the detector with its weights, its images and their objects."""
    golden = np.load(path)
    model = built(configured(**json.loads(str(golden["config"]))))
    model.load_state_dict(weights.state_dict(golden["names"], golden["shapes"]))
    images = weights.images(golden["image_shape"])
    return golden, model.eval(), images, samples(golden)


def samples(golden):
    """What mmdet knows of each image: its shape without padding, its objects."""
    given = []
    for i, shape in enumerate(golden["valid_shapes"].tolist()):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=tuple(shape),
                ori_shape=tuple(shape),
                batch_input_shape=tuple(golden["image_shape"][-2:].tolist()),
                scale_factor=(1.0, 1.0),
            )
        )
        boxes, labels = (torch.from_numpy(golden[f"gt_{i}_{name}"]) for name in ("boxes", "labels"))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        given.append(sample)
    return given
