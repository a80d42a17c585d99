"""Losses on large images at a head's own stride, and the config that has them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from ..classification_fixtures import ROOT

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.engine.errors import UserError
from spectral_backbones.segmentation.coarse_labels import CoarseLabels
from spectral_backbones.segmentation.hooks.check import check_channels
from spectral_backbones.segmentation.toolbox import mmseg
from spectral_backbones.toolboxes.digits import Recipe, make_digits

LARGE = ROOT / "configs" / "segmentation" / "digits" / "fit-small_fpn_digits-2048x2048.py"


@pytest.fixture(autouse=True, scope="module")
def _scope():
    init_default_scope("mmseg")
    yield
    init_default_scope("mmengine")


def test_one_label_of_each_square_is_taken_from_its_middle():
    labels = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    results = CoarseLabels(4, (6, 9)).transform(dict(img=np.zeros((6, 9, 3)), gt_seg_map=labels))
    assert results["gt_seg_map"].tolist() == [[20, 24, 26], [47, 51, 53]]  # rows 2 and 5, columns 2, 6 and 8


def test_images_that_would_be_padded_are_refused():
    with pytest.raises(UserError, match=r"images of \(8, 8\).*got one of \(6, 9\)"):
        CoarseLabels(4, (8, 8)).transform(dict(img=np.zeros((6, 9, 3)), gt_seg_map=np.zeros((6, 9))))
    with pytest.raises(UserError, match="stride is 0"):
        CoarseLabels(0, (8, 8))


def small(path):
    """A config of 2048 pixels for canvases of 64."""
    cfg = Config.fromfile(path)
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.img_size = 64
    for step in cfg.train_dataloader.dataset.pipeline:
        for key in {"crop_size", "size"} & set(step):
            step[key] = (64, 64)
    return cfg


def test_the_loss_on_large_canvases_is_taken_where_the_logits_are(tmp_path):
    cfg = small(LARGE)
    make_digits(tmp_path / "set", Recipe("segmentation", train=1, val=1, size=64))
    names = {kind: str(tmp_path / "set" / kind / "training" / "000000") for kind in ("images", "annotations")}
    packed = Compose(cfg.train_dataloader.dataset.pipeline)(
        dict(
            img_path=f"{names['images']}.jpg",
            seg_map_path=f"{names['annotations']}.png",
            reduce_zero_label=False,
            seg_fields=[],
        )
    )
    model = mmseg.registry.MODELS.build(cfg.model)
    model.decode_head.dropout = torch.nn.Identity()
    check_channels(model)
    packed["inputs"], packed["data_samples"] = [packed["inputs"]] * 2, [packed["data_samples"]] * 2  # for batch norm
    data = model.data_preprocessor(packed, True)
    logits = model.decode_head(model.extract_feat(data["inputs"]))
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]]).long()
    assert logits.shape[2:] == labels.shape[1:] == (16, 16)
    expected = F.cross_entropy(logits, labels, torch.tensor([0.3] + [1.0] * 10))
    loss = model.loss(**data)["decode.loss_ce"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("path", sorted(LARGE.parent.glob("fit-*.py")), ids=lambda path: path.stem)
def test_configs_of_large_canvases_fit(path):
    cfg = Config.fromfile(path)
    with torch.device("meta"):
        check_channels(mmseg.registry.MODELS.build(cfg.model))
    stride = mmseg.registry.MODELS.build(dict(cfg.model.neck)).strides[0]
    (coarse,) = (step for step in cfg.train_dataloader.dataset.pipeline if step.type == "CoarseLabels")
    assert coarse.stride == stride == cfg.model.decode_head.feature_strides[0]
    size = cfg.model.data_preprocessor.size
    assert tuple(coarse.size) == tuple(size) == tuple(cfg.model.backbone.img_size)
    assert cfg.train_dataloader.dataset.recipe.size == 2048
    crops = [step.crop_size for step in cfg.train_dataloader.dataset.pipeline if step.type == "RandomCrop"]
    assert tuple(*crops) == tuple(size) if crops else size == (2048, 2048)
    assert "CoarseLabels" not in str(cfg.val_dataloader.dataset.pipeline)
