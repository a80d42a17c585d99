"""Detectors of mmdet's own zoo train and predict on the operators of this package, with random weights.

Widths, depths and numbers of boxes are reduced where that leaves the operators that run as they are.
"""

import logging

import pytest
import torch

from spectral_backbones import detection  # noqa: F401

pytest.importorskip("mmdet")
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm

WIDTH = 16  # channels of a ResNet's first stage, instead of 64
REDUCED = dict(
    fc_out_channels=32,
    feedforward_channels=32,
    filter_thr=0.0,  # random weights are not sure of anything
    max_per_img=10,
    nms_pre=50,
    num_convs=1,
    num_layers=2,
    num_queries=20,
    score_thr=0.0,
    stacked_convs=1,
)

CORNERNET = {
    "backbone": dict(stage_channels=[32] * 6, stage_blocks=[1] * 6, feat_channel=32),
    "bbox_head": dict(in_channels=32),
}
SOLOV2 = {"mask_head": dict(num_grids=[10, 9, 6, 4, 3])}
MASK2FORMER = {
    "data_preprocessor": dict(batch_augments=None),  # pads to 1024 pixels
    "train_cfg": dict(num_points=500),
}
ZOO = {
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco": {},
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco": {},
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco": {},
    "retinanet/retinanet_r50_fpn_1x_coco": {},
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": {},
    "atss/atss_r50_fpn_1x_coco": {},
    "gfl/gfl_r50_fpn_1x_coco": {},
    "dino/dino-4scale_r50_8xb2-12e_coco": {},
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco": {},
    "rtmdet/rtmdet_tiny_8xb32-300e_coco": {},
    "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco": CORNERNET,
    "guided_anchoring/ga-retinanet_r50_fpn_1x_coco": {},
    "guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco": {},
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco": {},
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco": {},
    "dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco": {},
    "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco": {},
    "dyhead/atss_r50_fpn_dyhead_1x_coco": {},
    "carafe/mask-rcnn_r50_fpn-carafe_1x_coco": {},
    "solov2/solov2-light_r50-dcn_fpn_ms-3x_coco": SOLOV2,
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco": MASK2FORMER,
}


def reduce(config: ConfigDict) -> None:
    """Makes a detector, or any part of it, small and free of published weights, in place."""
    for key, value in config.items():
        if key in REDUCED:
            config[key] = REDUCED[key]
        elif key == "sampler" and "num" in value:
            value.num = 16
        elif key == "in_channels" and isinstance(value, list) and value[-1] == 2048:  # the maps of a ResNet-50
            config[key] = [channels * WIDTH // 64 for channels in value]
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, ConfigDict):
                reduce(part)
    if config.get("type") == "ResNet":
        config.update(base_channels=WIDTH, stem_channels=WIDTH)
    for key, value in dict(init_cfg=None, frozen_stages=-1, norm_eval=False).items():
        if key in config:
            config[key] = value


def build(name: str, overrides: dict) -> torch.nn.Module:
    """A reduced detector of the zoo."""
    config = get_config(f"mmdet::{name}.py")
    register_all_modules(init_default_scope=True)
    reduce(config.model)
    config.merge_from_dict(dict(model=overrides))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return revert_sync_batchnorm(model)


@pytest.fixture
def quiet():
    """Without mmengine's line for every parameter that is initialised."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ZOO)
def test_trains_a_step_and_predicts(name):
    model = build(name, ZOO[name])
    with_mask = "mask" in name or "solo" in name
    shapes = [(3, 128, 128), (3, 96, 128)]

    data = demo_mm_inputs(2, shapes, num_items=[3, 2], with_mask=with_mask)
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.train().parse_losses(model(**data, mode="loss"))
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert loss.isfinite() and loss > 0
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    torch.optim.SGD(model.parameters(), lr=1e-4).step()

    with torch.no_grad():
        (prediction,) = model.eval().test_step(demo_mm_inputs(1, shapes[1:], num_items=[2]))
    assert isinstance(prediction, DetDataSample)
    instances = prediction.pred_instances
    assert len(instances) > 0 and instances.scores.isfinite().all()
    assert instances.bboxes.shape == (len(instances), 4) and instances.bboxes.isfinite().all()
    if with_mask:
        assert instances.masks.shape == (len(instances), 96, 128)
