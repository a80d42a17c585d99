"""The detectron2 entry point, on the real detectron2."""
# ruff: noqa: E402  what is skipped without detectron2 imports it

import json
import logging
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

detectron2 = pytest.importorskip("detectron2", reason="detectron2 is not installed, it is built from its sources")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from spectral_backbones.toolboxes.detectron2 import (
    SimpleFeaturePyramid,
    TimmBackbone,
    add_timm_config,
    get_config,
    layer_decay,
    optimizer_params,
    pixel_mean,
    pixel_std,
    use_timm_input,
)

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob("configs/detectron2/spectformer/*.py"))
PYRAMID = dict(stem_dim=8, embed_dims=[16, 32, 64, 64], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2])
ISOTROPIC = dict(embed_dim=64, depth=3, num_heads=2, mixers="spectral:1, attention")


def sample(height, width, objects=True):
    """An image as detectron2's loaders give it."""
    data = dict(image=torch.randint(256, (3, height, width), dtype=torch.uint8), height=height, width=width)
    if objects:
        data["instances"] = Instances(
            (height, width),
            gt_boxes=Boxes(torch.tensor([[4.0, 6.0, 60.0, 50.0]])),
            gt_classes=torch.tensor([1]),
            gt_masks=PolygonMasks([[np.array([4.0, 6.0, 60.0, 6.0, 60.0, 50.0, 4.0, 50.0])]]),
        )
    return data


def losses(model, *samples):
    with EventStorage(0):
        return model(list(samples))


def reduced(path, **backbone):
    """A config with a narrow backbone and narrow heads, of as many layers as before outside of the backbone."""
    cfg = LazyConfig.load(str(path))
    model = cfg.model
    if "net" in model.backbone:
        model.backbone.net.update(ISOTROPIC, img_size=128, **backbone)
    else:
        model.backbone.bottom_up.update(PYRAMID, **backbone)
    model.proposal_generator.update(batch_size_per_image=16, pre_nms_topk=(50, 20), post_nms_topk=(20, 10))
    model.roi_heads.update(batch_size_per_image=8, num_classes=3)
    cascade = "box_heads" in model.roi_heads
    for head in model.roi_heads.box_heads if cascade else [model.roi_heads.box_head]:
        head.update(fc_dims=[32], conv_dims=[16 for _ in head.conv_dims])
    for predictor in model.roi_heads.box_predictors if cascade else [model.roi_heads.box_predictor]:
        predictor.input_shape = detectron2.layers.ShapeSpec(channels=32)
        predictor.test_score_thresh = 0.0
    model.roi_heads.mask_head.conv_dims = [16, 16]
    cfg.train.device = "cpu"
    return cfg


# The backbone -----------------------------------------------------------------------------------------------------


def test_stages_are_called_res2_to_res5():
    backbone = TimmBackbone("spectformer_h_s", **PYRAMID).eval()
    shapes = backbone.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == dict(
        res2=(16, 4), res3=(32, 8), res4=(64, 16), res5=(64, 32)
    )
    maps = backbone(torch.rand(2, 3, 75, 113))
    assert {name: tuple(feature.shape[1:]) for name, feature in maps.items()} == dict(
        res2=(16, 19, 29), res3=(32, 10, 15), res4=(64, 5, 8), res5=(64, 3, 4)
    )


def test_maps_are_those_of_the_timm_model():
    torch.manual_seed(1)
    backbone = TimmBackbone("resnet10t", out_features=["res1", "res3"]).eval()
    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=0).eval()
    x = torch.rand(1, 3, 64, 96)
    first, third = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    maps = backbone(x)
    assert list(maps) == ["res1", "res3"]
    torch.testing.assert_close(maps["res1"], first)
    torch.testing.assert_close(maps["res3"], third)


def test_a_model_of_one_resolution_gives_its_last_map():
    backbone = TimmBackbone("vit_tiny_patch16_224", depth=2, out_features=["last_feat"])
    assert backbone.output_shape()["last_feat"].stride == 16
    assert backbone(torch.rand(1, 3, 64, 96))["last_feat"].shape == (1, 192, 4, 6)


@pytest.mark.parametrize(
    "strides, num_outs, shapes, divisibility",
    [
        ((4, 8, 16, 32), 5, dict(p2=4, p3=8, p4=16, p5=32, p6=64), 32),
        ((4, 16), 3, dict(p2=4, p4=16, p5=32), 16),
        ((16, 8), 2, dict(p4=16, p3=8), 16),
    ],
)
def test_maps_of_the_simple_pyramid_are_called_after_their_strides(strides, num_outs, shapes, divisibility):
    backbone = TimmBackbone("vit_tiny_patch16_224", depth=1, out_features=["last_feat"])
    pyramid = SimpleFeaturePyramid(backbone, out_channels=8, strides=strides, num_outs=num_outs)
    assert {name: shape.stride for name, shape in pyramid.output_shape().items()} == shapes
    assert pyramid.size_divisibility == divisibility
    maps = pyramid(torch.rand(1, 3, 128, 64))
    assert {name: feature.shape[2:] for name, feature in maps.items()} == {
        name: (128 // stride, 64 // stride) for name, stride in shapes.items()
    }


def test_maps_of_the_simple_pyramid_differ_in_stride():
    backbone = TimmBackbone("vit_tiny_patch16_224", depth=1, out_features=["last_feat"])
    with pytest.raises(ValueError, match=r"must differ in their strides, with num_outs=3 they have \[8, 4, 8\]"):
        SimpleFeaturePyramid(backbone, out_channels=8, strides=(8, 4), num_outs=3)


def test_what_the_maps_do_not_need_is_not_there():
    """detectron2 trains with DistributedDataParallel(find_unused_parameters=False)."""
    backbone = TimmBackbone("spectformer_h_s", out_features=["res2", "res3", "res4"], **PYRAMID)
    sum(feature.sum() for feature in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("freeze_at, stages", [(0, -1), (1, 0), (2, 1), (3, 2)])
def test_freeze_at_counts_as_detectron2_does(freeze_at, stages):
    """1 is the stem, 2 the stem and the first stage; their batch norms keep their statistics."""
    backbone = TimmBackbone("resnet10t", freeze_at=freeze_at).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.rand(2, 3, 64, 64))
    for name, parameter in backbone.named_parameters():
        stage = int(name.split(".")[1][-1]) if name.startswith("model.layer") else 0
        assert parameter.requires_grad == (stage > stages)
    for name, value in backbone.named_buffers():
        stage = int(name.split(".")[1][-1]) if name.startswith("model.layer") else 0
        assert torch.equal(value, before[name]) == (stage <= stages)


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"res2, res3, res4, res5 in this order, got \['res6'\]"):
        TimmBackbone("spectformer_h_s", out_features=["res6"])
    with pytest.raises(ValueError, match="must be some of last_feat"):
        TimmBackbone("spectformer_ti", out_features=["res4"])
    with pytest.raises(ValueError, match=r"near it: .*spectformer_h_s"):
        TimmBackbone("spectformerhs")
    with pytest.raises(ValueError, match=r"freeze_at must be 0 for nothing.* got -1"):
        TimmBackbone("spectformer_h_s", freeze_at=-1)
    with pytest.raises(FileNotFoundError, match=r"mask_rcnn_fpn\.py"):
        get_config("common/models/mask_rcnn.py")


# Padding and colours ----------------------------------------------------------------------------------------------


def test_images_are_padded_as_the_constraints_say():
    images = [torch.rand(3, 50, 70), torch.rand(3, 64, 40)]
    backbone = TimmBackbone("spectformer_ti", **ISOTROPIC)
    for padded, expected in (
        (backbone, (64, 70)),
        (SimpleFeaturePyramid(backbone, "last_feat", 8), (64, 96)),
        (SimpleFeaturePyramid(backbone, "last_feat", 8, square_pad=96), (96, 96)),
        (TimmBackbone("spectformer_ti", square_pad=80, **ISOTROPIC), (80, 80)),
    ):
        batch = ImageList.from_tensors(images, padded.size_divisibility, padding_constraints=padded.padding_constraints)
        assert tuple(batch.tensor.shape[-2:]) == expected


def test_a_file_is_normalised_as_timm_does(tmp_path):
    """Red stays red: the mapper's channel order, and mean and std on a scale of 255."""
    picture = Image.new("RGB", (64, 48), (250, 20, 3))
    picture.save(tmp_path / "red.png")
    cfg = reduced(ROOT / "configs/detectron2/spectformer/mask_rcnn_spectformer_h_s_fpn_1x_coco.py")
    model = instantiate(cfg.model)
    mapper = DatasetMapper(
        is_train=False, augmentations=[], image_format=instantiate(cfg.dataloader.test.mapper).image_format
    )
    data = mapper(dict(file_name=str(tmp_path / "red.png"), height=48, width=64))
    images = model.preprocess_image([data]).tensor[..., :48, :64]
    cfg = timm.get_pretrained_cfg("spectformer_h_s")
    transform = timm.data.create_transform((3, 48, 64), crop_pct=1.0, mean=cfg.mean, std=cfg.std)
    torch.testing.assert_close(images[0], transform(picture), atol=1e-5, rtol=0)


def test_mean_and_std_belong_to_the_name():
    upstream = get_config("common/models/mask_rcnn_fpn.py").constants
    assert pixel_mean("spectformer_h_s") == list(upstream.imagenet_rgb256_mean)
    assert pixel_std("spectformer_h_s") == list(upstream.imagenet_rgb256_std)
    assert pixel_mean("tnt_s") == pixel_std("tnt_s") == [127.5] * 3
    cfg = LazyConfig.load(str(ROOT / "configs/detectron2/spectformer/mask_rcnn_spectformer_h_s_fpn_1x_coco.py"))
    cfg = LazyConfig.apply_overrides(cfg, ["model.backbone.bottom_up.name=tnt_s"])
    assert instantiate(cfg.model.pixel_mean) == [127.5] * 3


# Optimisers -------------------------------------------------------------------------------------------------------


def test_layer_decay_is_detectron2s_for_a_vit():
    no_token = dict(class_token=False, global_pool="avg")  # detectron2's has none
    model = SimpleFeaturePyramid(TimmBackbone("vit_tiny_patch16_224", depth=3, **no_token), "last_feat", 8)
    detector = torch.nn.ModuleDict(dict(backbone=model, roi_heads=torch.nn.Linear(2, 2)))
    factor = layer_decay(detector, 0.7)
    for name, _ in detector.named_parameters():
        assert factor(name) == pytest.approx(get_vit_lr_decay_rate(name, 0.7, num_layers=3)), name
    assert factor("backbone.net.model.patch_embed.proj.weight") == pytest.approx(0.7**4)


def test_layer_decay_follows_the_stages_of_a_pyramid():
    backbone = TimmBackbone("spectformer_h_s", **dict(PYRAMID, depths=[1, 2, 1, 1]))
    factor = layer_decay(torch.nn.ModuleDict(dict(bottom_up=backbone)), 0.5)
    stem = next(name for name, _ in backbone.named_parameters())
    blocks = [
        f"model.stages.{stage}.blocks.{block}.norm1.weight" for stage, block in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))
    ]
    names = [*(f"bottom_up.{name}" for name in (stem, *blocks)), "roi_heads.weight"]
    factors = [factor(name) for name in names]
    assert factors == sorted(factors) and len(set(factors)) == len(factors) and factors[-2:] == [0.5, 1.0]
    with pytest.raises(ValueError, match=r"at most 1, got 1\.5"):
        layer_decay(backbone, 1.5)
    with pytest.raises(ValueError, match="Linear has no TimmBackbone"):
        layer_decay(torch.nn.Linear(2, 2), 0.7)


def test_what_timm_leaves_without_weight_decay_has_none():
    model = SimpleFeaturePyramid(TimmBackbone("spectformer_ti", **ISOTROPIC), "last_feat", 8)
    model.net.model.blocks[0].requires_grad_(False)
    groups = optimizer_params(model, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0)
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"] > 0}
    given = [id(p) for group in groups for p in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == {id(p) for p in model.parameters() if p.requires_grad}
    for name, parameter in model.net.model.named_parameters():
        if parameter.requires_grad and name != "pos_embed.weight":
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name
    assert id(model.net.model.pos_embed.weight) not in decayed


# Lazy configs -----------------------------------------------------------------------------------------------------


# Of the others only the backbone's name differs, which a reduced model does not show.
@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if "spectformer_s_" in path.stem or "_h_s_" in path.stem],
    ids=lambda path: path.stem,
)
def test_lazy_config_trains_and_predicts(path):
    cfg = reduced(path)
    model = instantiate(cfg.model)
    assert model.input_format == cfg.dataloader.train.mapper.image_format == "RGB"
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    scheduler = instantiate(cfg.lr_multiplier)
    assert scheduler(0) == pytest.approx(0.001) and scheduler(0.5) == 1 and scheduler(1 - 1e-6) == pytest.approx(0.01)
    stem = next(module for module in model.modules() if isinstance(module, TimmBackbone)).model.patch_embed
    before = [parameter.detach().clone() for parameter in stem.parameters()]
    values = losses(model, sample(97, 125), sample(64, 90))
    assert "loss_mask" in values and all(torch.isfinite(value) for value in values.values())
    sum(values.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert not all(torch.equal(parameter, old) for parameter, old in zip(stem.parameters(), before))
    model.eval()
    with torch.no_grad():
        (prediction,) = model([sample(75, 113, objects=False)])
    assert len(prediction["instances"]) > 0 and prediction["instances"].pred_masks.shape[1:] == (75, 113)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_lazy_config_has_the_whole_model(path):
    """The reduction above leaves sizes unseen: channels fit, and the recipe is for this name."""
    with torch.device("meta"):
        cfg = LazyConfig.load(str(path))
        backbone = instantiate(cfg.model.backbone)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    (name,) = [module.name for module in backbone.modules() if isinstance(module, TimmBackbone)]
    assert name in path.stem


def test_detectron2s_trainer_trains_resumes_and_evaluates(tmp_path, digits):
    """Its own tools/lazyconfig_train_net.py, on COCO files."""
    script = Path(detectron2.__file__).parents[1] / "tools" / "lazyconfig_train_net.py"
    if not script.is_file():
        pytest.skip("detectron2 is installed without its tools: there is no lazyconfig_train_net.py beside it")
    spec = spec_from_file_location("lazyconfig_train_net", script)
    trainer = module_from_spec(spec)
    spec.loader.exec_module(trainer)
    cfg = reduced(ROOT / "configs/detectron2/spectformer/mask_rcnn_spectformer_h_s_fpn_1x_coco.py")
    cfg.dataloader.train.update(total_batch_size=2, num_workers=0)
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = digits
    cfg.dataloader.test.num_workers = 0
    for loader in (cfg.dataloader.train, cfg.dataloader.test):
        loader.mapper.augmentations[0].update(short_edge_length=[64, 64], max_size=96)
    cfg.train.update(output_dir=str(tmp_path), max_iter=2, eval_period=2, log_period=1)
    trainer.do_train(SimpleNamespace(resume=False), cfg)
    first = (tmp_path / "metrics.json").read_text().splitlines()
    assert {"bbox/AP", "segm/AP"} <= set(json.loads(first[-1]))
    assert (tmp_path / "model_final.pth").is_file()
    cfg.train.update(max_iter=3, eval_period=0)
    trainer.do_train(SimpleNamespace(resume=True), cfg)
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert len(lines) > len(first)
    assert all(json.loads(line)["iteration"] >= 2 for line in lines[len(first) :])  # not from the start


@pytest.fixture
def digits(tmp_path):
    """The name of a registered COCO data set with two images."""
    images, annotations = [], []
    for i in range(2):
        Image.fromarray(np.full((60, 80, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
        images.append(dict(id=i + 1, file_name=f"{i}.png", height=60, width=80))
        annotations.append(
            dict(id=i + 1, image_id=i + 1, category_id=2, bbox=[5, 6, 40, 30], area=1200, iscrowd=0)
            | dict(segmentation=[[5, 6, 45, 6, 45, 36, 5, 36]])
        )
    categories = [dict(id=i, name=str(i)) for i in (1, 2, 3)]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(dict(info={}, images=images, annotations=annotations, categories=categories)))
    name = f"digits_of_{tmp_path.name}"
    register_coco_instances(name, {}, str(file), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


# The registry -----------------------------------------------------------------------------------------------------


def yacs_config(name, builder, **kwargs):
    cfg = get_cfg()
    add_timm_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.KWARGS.update(kwargs)
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.update(PRE_NMS_TOPK_TRAIN=50, POST_NMS_TOPK_TRAIN=20, BATCH_SIZE_PER_IMAGE=16)
    cfg.MODEL.ROI_HEADS.update(
        NAME="StandardROIHeads", IN_FEATURES=["p2", "p3", "p4", "p5"], NUM_CLASSES=3, BATCH_SIZE_PER_IMAGE=8
    )
    cfg.MODEL.ROI_BOX_HEAD.update(NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=32, POOLER_RESOLUTION=7)
    cfg.MODEL.ROI_MASK_HEAD.update(NAME="MaskRCNNConvUpsampleHead", NUM_CONV=1, CONV_DIM=16)
    return cfg


def train_and_predict(model, loss):
    values = losses(model.train(), sample(97, 131), sample(64, 90))
    assert loss in values and all(torch.isfinite(value) for value in values.values())
    sum(values.values()).backward()
    with torch.no_grad():
        (prediction,) = model.eval()([sample(75, 113, objects=False)])
    assert prediction["instances"].image_size == (75, 113)


def test_mask_rcnn_of_the_registry():
    cfg = yacs_config("spectformer_h_s", "build_timm_fpn_backbone", **PYRAMID)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    use_timm_input(cfg)
    model = build_model(cfg)
    assert [round(float(value), 3) for value in model.pixel_mean.flatten()] == [123.675, 116.28, 103.53]
    trunk = model.backbone.bottom_up.model
    assert not any(p.requires_grad for p in [*trunk.patch_embed.parameters(), *trunk.stages[0].parameters()])
    assert all(p.requires_grad for p in trunk.stages[1].parameters())
    train_and_predict(model, "loss_mask")


def test_retinanet_of_the_registry():
    cfg = yacs_config("spectformer_h_s", "build_retinanet_timm_fpn_backbone", **PYRAMID)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.TIMM.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.update(IN_FEATURES=["p3", "p4", "p5", "p6", "p7"], NUM_CLASSES=3, NUM_CONVS=1)
    use_timm_input(cfg)
    train_and_predict(build_model(cfg), "loss_box_reg")


def test_simple_pyramid_of_the_registry():
    cfg = yacs_config("spectformer_ti", "build_timm_simple_pyramid_backbone", **ISOTROPIC)
    cfg.MODEL.TIMM.OUT_FEATURES = ["last_feat"]
    cfg.MODEL.TIMM.SQUARE_PAD = 160
    use_timm_input(cfg)
    model = build_model(cfg)
    assert model.preprocess_image([sample(97, 131)]).tensor.shape == (1, 3, 160, 160)
    train_and_predict(model, "loss_mask")


def test_options_of_the_node_reach_the_model(caplog):
    """Merged as text from a command line; the default colours, BGR of Caffe, are warned about."""
    cfg = yacs_config("vit_tiny_patch16_224", "build_timm_backbone", depth=2)
    options = dict(OUT_FEATURES="('last_feat',)", DROP_PATH_RATE="0.2", OUT_NORM="new", GRAD_CHECKPOINTING="True")
    cfg.merge_from_list([text for key, value in options.items() for text in (f"MODEL.TIMM.{key}", value)])
    with caplog.at_level(logging.WARNING):
        backbone = detectron2.modeling.build_backbone(cfg)
    assert backbone.model.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert backbone.model.grad_checkpointing and len(backbone.model.blocks) == 2 and len(backbone.out_norms) == 1
    assert "INPUT.FORMAT RGB, not BGR" in caplog.text and "MODEL.PIXEL_STD" in caplog.text
    caplog.clear()
    use_timm_input(cfg)
    detectron2.modeling.build_backbone(cfg)
    assert not caplog.text


# Checkpoints ------------------------------------------------------------------------------------------------------


def same_weights(one, other):
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def trained():
    """A pyramid on a small model, with drawn weights."""
    return SimpleFeaturePyramid(TimmBackbone("spectformer_ti", **ISOTROPIC), "last_feat", 8)


def test_detectors_checkpoint_is_loaded_by_detectron2(trained, tmp_path):
    DetectionCheckpointer(trained, str(tmp_path)).save("model")
    torch.manual_seed(1)
    model = SimpleFeaturePyramid(TimmBackbone("spectformer_ti", **ISOTROPIC), "last_feat", 8)
    assert not same_weights(model, trained)
    DetectionCheckpointer(model).load(str(tmp_path / "model.pth"))
    assert same_weights(model, trained)


def test_backbone_is_taken_out_of_a_detectors_checkpoint(trained, tmp_path):
    detector = torch.nn.ModuleDict(dict(backbone=trained))
    DetectionCheckpointer(detector, str(tmp_path)).save("model")
    backbone = TimmBackbone("spectformer_ti", pretrained=tmp_path / "model.pth", **ISOTROPIC)
    assert same_weights(backbone, trained.net)


def test_weights_of_a_timm_model_are_matched_by_their_names(trained, tmp_path):
    """DetectionCheckpointer's own way, which train.init_checkpoint and MODEL.WEIGHTS take."""
    torch.manual_seed(1)
    model = timm.create_model("spectformer_ti", **ISOTROPIC)
    torch.save(model.state_dict(), tmp_path / "classifier.pth")
    pyramid = SimpleFeaturePyramid(TimmBackbone("spectformer_ti", **ISOTROPIC), "last_feat", 8)
    DetectionCheckpointer(pyramid).load(f"{tmp_path / 'classifier.pth'}?matching_heuristics=True")
    assert same_weights(pyramid.net.model, model)
