"""SpecDETR agrees with its official code, at every step, and is told what is wrong with its input."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch

from spectral_backbones import detection  # noqa: F401  supplies mmcv's operators before mmdet asks for them

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

import spectral_backbones.engine.checkpoint as files
from spectral_backbones.detection.config import complete
from spectral_backbones.detection.flops import count_detector
from spectral_backbones.detection.specdetr import PixelTokens
from spectral_backbones.detection.specdetr.stem import UNUSED
from spectral_backbones.engine import CarefulRunner, UserError
from spectral_backbones.engine.config import load as load_config
from spectral_backbones.engine.names import class_names

from ..classification_fixtures import ROOT
from ..golden import weights
from .specdetr_models import NETWORKS, TABLES, assigner, built, configured, load

each_network = pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
TOLERANCE = 1e-4  # of the scale of an output


@contextlib.contextmanager
def in_float64():
    """mmdet asks for float32 by name where it counts positions; the official outputs were computed without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@torch.no_grad()
def outputs_of(model, images, samples):
    """All that the golden files have of a forward pass, by the names there."""
    maps = model.extract_feat(images)
    encoder_inputs, decoder_inputs = model.pre_transformer(maps, samples)
    encoded = model.forward_encoder(**encoder_inputs)
    started, _ = model.pre_decoder(**encoded, batch_data_samples=samples)
    decoded = model.forward_decoder(**{**decoder_inputs, **started})
    scores, boxes = model.bbox_head(**decoded)
    outputs = {f"backbone_{i}": value for i, value in enumerate(maps)}
    return outputs | dict(
        position=encoder_inputs["feat_pos"],
        memory=encoded["memory"],
        reference_0=started["reference_points"],
        hidden=decoded["hidden_states"],
        references_last=decoded["references"][-1],
        scores_last=scores[-1],
        boxes_last=boxes[-1],
    )


@each_network
def test_golden_networks_agree_at_every_step(path):
    golden, model, images, samples = load(path)
    with in_float64():  # the official choice of queries hangs on differences of 2e-7
        outputs = outputs_of(model.double(), images.double(), samples)
    names = [key.removesuffix("_shape") for key in golden.files if key.endswith("_shape") and key != "image_shape"]
    assert outputs.keys() == set(names)
    for name in names:
        output, expected = outputs[name], golden[f"{name}_float64"]
        assert tuple(output.shape) == tuple(golden[f"{name}_shape"]), name
        ours = output.flatten()[:: int(golden[f"{name}_step"])][: len(expected)].numpy()
        error = np.abs(ours - expected).max() / np.abs(expected).max()
        assert error < TOLERANCE, f"{name} is off by {error:.1e} of its scale"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_golden_assignments_are_the_official_ones(path):
    golden = np.load(path)
    cases = [key.removesuffix("_gt_inds") for key in golden.files if key.endswith("_gt_inds")]
    assert cases
    for case in cases:
        assert_assigned(golden, case)


def assert_assigned(golden, case):
    boxes, scores, gt_boxes, gt_labels = (
        torch.from_numpy(golden[f"{case}_{name}"]) for name in ("boxes", "scores", "gt_boxes", "gt_labels")
    )
    result = assigner(**json.loads(str(golden[f"{case}_options"]))).assign(
        InstanceData(bboxes=boxes, scores=scores),
        InstanceData(bboxes=gt_boxes, labels=gt_labels),
        dict(img_shape=(32, 32)),
    )
    expected = torch.from_numpy(golden[f"{case}_gt_inds"])
    assert torch.equal(result.gt_inds, expected), case
    assert torch.equal(result.labels, torch.where(expected > 0, gt_labels[expected - 1], -1)), case


@each_network
def test_golden_losses_agree(path):
    golden, model, images, samples = load(path)
    model.dn_query_generator = None
    assert_losses_agree(model, images, samples, golden, "losses")


@each_network
def test_golden_losses_with_denoising_agree(path):
    golden, model, images, samples = load(path)
    assert_losses_agree(model, images, samples, golden, "losses_dn")


def assert_losses_agree(model, images, samples, golden, key):
    torch.manual_seed(0)
    with torch.no_grad():
        losses = model.train().loss(images, samples)
    assert losses.keys() == set(golden[f"{key}_names"].tolist())
    for name, expected in zip(golden[f"{key}_names"].tolist(), golden[key].tolist()):
        assert float(losses[name].sum()) == pytest.approx(expected, rel=TOLERANCE), name


@each_network
def test_golden_noise_is_the_official_one(path):
    golden, model, _, samples = load(path)
    torch.manual_seed(0)
    contents, boxes, mask, meta = model.dn_query_generator(samples)
    assert meta == dict(num_denoising_queries=int(golden["dn_queries"]), num_denoising_groups=int(golden["dn_groups"]))
    expected = golden["dn_boxes"]
    np.testing.assert_allclose(boxes[:, : expected.shape[1]].numpy(), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert mask is None and not golden["dn_mask_any"]
    assert contents.unique().tolist() == golden["dn_label_unique"].tolist()


@each_network
def test_golden_predictions_agree(path):
    golden, model, images, samples = load(path)
    with torch.no_grad():
        found = [sample.pred_instances for sample in model.predict(images, samples)]
    for i, instances in enumerate(found):
        assert len(instances) == int(golden[f"predicted_{i}_count"])
        assert (instances.scores.diff() <= 0).all()
        ours = np.column_stack([instances.bboxes, instances.scores, instances.labels])
        expected = np.column_stack([golden[f"predicted_{i}_{name}"] for name in ("boxes", "scores", "labels")])
        # Of scores that are closer than this either comes first.
        distance = np.abs(expected[:, None] - ours) / np.maximum(np.abs(expected[:, None]), 1)
        assert distance.max(-1).min(1).max() < TOLERANCE


@each_network
def test_golden_parameters_are_as_many_but_for_those_that_nothing_reads(path):
    golden, model, _, _ = load(path)
    shapes = dict(zip(golden["names"].tolist(), json.loads(str(golden["shapes"]))))
    unused = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(DEAD))
    assert sum(parameter.numel() for parameter in model.parameters()) + unused == int(golden["parameters"])


DEAD = tuple(f"backbone.{name}" for name in UNUSED)


def test_the_published_detector_has_the_published_parameters_and_operations():
    """16,091,732 parameters, of which 82,176 are never read, and 139.7 GMACs at 128x128 pixels."""
    model = built(load_config(str(ROOT / "configs" / "detection" / "specdetr" / "specdetr_100e_spod.py")).model).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) + 82_176 == 16_091_732
    sides = (30, 32)  # pixels; the rest follows, for a cost is one of queries and one of each pixel
    small, large = (count_detector(model, (side, side))[0] for side in sides)
    assert not large.uncounted and not large.uncalled
    of_pixel = (large.macs - small.macs) / (sides[1] ** 2 - sides[0] ** 2)
    assert large.macs + of_pixel * (128**2 - sides[1] ** 2) == pytest.approx(139.7e9, rel=0.02)


SMALL = dict(embed=32, encoder=1, decoder=2, queries=12, classes=3, in_channels=5, max_per_img=30)


def official(**options):
    """A checkpoint as the official code writes it: mmdet 3's, with what nothing reads."""
    cfg = configured(**{**SMALL, **options})
    state = built(cfg).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    bands, channels = cfg.backbone.in_channels, cfg.backbone.embed_dims
    shapes |= {
        f"backbone.patch_embed.projection.{name}": shapes[f"backbone.conv.{name}"] for name in ("weight", "bias")
    }
    shapes |= {f"backbone.patch_embed.norm.{name}": (channels,) for name in ("weight", "bias")}
    shapes |= {"backbone.mlp.0.weight": (channels, bands), "backbone.mlp.2.weight": (channels, channels)}
    shapes |= {f"backbone.mlp.{i}.bias": (channels,) for i in (0, 2)}
    # Whatever set a model is for, the official data set has these names and 20 more.
    names = ("CB", "MP", "VO", "ZO", "TO", "FG", "GS")
    meta = dict(dataset_meta=dict(classes=names, palette=[(220, 20, 60)] * len(names)), epoch=100)
    return cfg, dict(meta=meta, state_dict=weights.state_dict(shapes.keys(), shapes.values()))


def test_an_official_checkpoint_loads_by_every_door_with_nothing_missing_or_left(tmp_path):
    cfg, checkpoint = official()
    path = tmp_path / "official.pth"
    torch.save(checkpoint, path)
    state = files.unwrap(files.read(path))
    said, models = [], []
    for door in (files.load_strictly, files.load_fitting):
        models.append(built(cfg))
        assert not door(models[-1], dict(state), path, said.append)
    models.append(built({**cfg, "init_cfg": dict(type="Pretrained", checkpoint=str(path))}))
    models[-1].init_weights()
    models.append(built(cfg))
    load_checkpoint(models[-1], str(path), strict=True)  # mmengine's, of mmdet's own tools
    assert not said
    for model in models:
        own = model.state_dict()
        assert own.keys() == {name for name in state if not name.startswith(DEAD)}
        assert all(torch.equal(value, state[name]) for name, value in own.items())
    with pytest.raises(UserError, match=r"backbone\.mlb\.0\.bias is unknown"):
        files.load_strictly(models[0], {**state, "backbone.mlb.0.bias": torch.zeros(32)}, path)


def test_names_of_more_classes_than_a_head_has_are_not_taken_for_its_own():
    _, checkpoint = official()
    assert files.dataset_meta(checkpoint) is None and class_names(checkpoint) is None
    checkpoint["meta"]["dataset_meta"]["classes"] = ("CB", "MP", "FG")
    assert class_names(checkpoint) == ["CB", "MP", "FG"]
    _, whole = official(classes=7)
    assert len(class_names(whole)) == 7


def test_the_loss_of_what_is_no_number_is_none_so_that_its_guard_tells():
    images, samples = made()
    images[1, 0, 3, 3] = torch.nan
    with torch.no_grad():
        losses = initialized().train().loss(images, samples)
    assert sum(value.sum() for value in losses.values()).isnan()


def made(num_images=2, size=(9, 7), valid=None, objects=2, seed=0, bands=5, classes=3):
    """Images of made numbers, and samples with that many objects each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(num_images, bands, *size, generator=generator)
    samples = []
    for i in range(num_images):
        shape = tuple((valid or [size] * num_images)[i])
        corner = torch.rand(objects, 2, generator=generator) * 4
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=tuple(size), scale_factor=(1.0, 1.0))
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + 1 + torch.rand(objects, 2, generator=generator)], 1),
            labels=torch.randint(classes, (objects,), generator=generator),
        )
        samples.append(sample)
    return images, samples


def initialized(**options):
    model = built(configured(**{**SMALL, **options}))
    model.init_weights()
    return model


@pytest.mark.parametrize("objects", [0, 1, 3])
@pytest.mark.parametrize("denoising", [True, False], ids=["denoised", "matched"])
def test_every_parameter_learns(objects, denoising):
    model = initialized().train()
    if not denoising:
        model.dn_query_generator = None
    with torch.no_grad():  # what begins with zeros lets no gradient through to what is before it
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    losses = model.loss(*made(objects=objects))
    total = sum(value.sum() for value in losses.values())
    total.backward()
    assert total.isfinite()
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not still
    if objects:
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_few_steps_find_the_object_of_an_image():
    torch.manual_seed(0)
    model = initialized().train()
    images, samples = made(1, objects=1)
    left, top, right, bottom = samples[0].gt_instances.bboxes[0].round().int().tolist()
    samples[0].gt_instances.bboxes = torch.tensor([[left, top, right, bottom]]).float()
    images[..., top:bottom, left:right] += 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(value.sum() for value in model.loss(images, samples).values()).backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = model.eval().predict(images, samples)
    best = found.pred_instances[0]
    assert best.labels == samples[0].gt_instances.labels
    assert bbox_overlaps(best.bboxes, samples[0].gt_instances.bboxes).item() > 0.5


@torch.no_grad()
def test_a_query_does_not_depend_on_the_others():
    model, (images, samples) = initialized().eval(), made()
    maps = model.extract_feat(images)
    encoder_inputs, decoder_inputs = model.pre_transformer(maps, samples)
    started, _ = model.pre_decoder(**model.forward_encoder(**encoder_inputs))
    whole = model.forward_decoder(**{**decoder_inputs, **started})["hidden_states"]
    some = {name: started[name][:, [7, 2]] for name in ("query", "reference_points")}
    part = model.forward_decoder(**{**decoder_inputs, **started, **some})["hidden_states"]
    torch.testing.assert_close(part, whole[:, :, [7, 2]])


@torch.no_grad()
def test_padding_beside_an_image_changes_its_pixels_no_more_than_their_mean():
    """The official mean takes in the padding, so without it, on one level, there is no difference at all."""
    model = initialized(levels=1).eval()
    images, samples = made(1, size=(9, 7))
    _, padded = made(1, size=(12, 10), valid=[(9, 7)])
    wide = torch.full((1, 5, 12, 10), 9.0)
    wide[..., :9, :7] = images
    (alone,), (beside,) = model.predict(images, samples), model.predict(wide, padded)
    torch.testing.assert_close(beside.pred_instances.scores, alone.pred_instances.scores)
    torch.testing.assert_close(beside.pred_instances.bboxes, alone.pred_instances.bboxes)


@torch.no_grad()
@pytest.mark.parametrize("options", [dict(levels=1), dict(remove_last_candidate=False), dict(points=8)], ids=str)
def test_published_variants_train_and_predict(options):
    model = initialized(**options)
    images, samples = made(12)  # as many images as queries, too
    assert all(value.isfinite().all() for value in model.train().loss(images, samples).values())
    assert all(len(sample.pred_instances) for sample in model.eval().predict(images, samples))


@torch.no_grad()
def test_every_pixel_and_the_global_token_can_be_chosen():
    pixels = 9 * 7
    images, samples = made()
    initialized(queries=pixels).eval().predict(images, samples)
    initialized(queries=pixels + 1, remove_last_candidate=False).eval().predict(images, samples)
    for options in (dict(queries=pixels + 1), dict(queries=pixels + 2, remove_last_candidate=False)):
        with pytest.raises(ValueError, match=r"num_queries is 6\d, but an image of \[9, 7\] pixels has only 6\d"):
            initialized(**options).eval().predict(images, samples)


@torch.no_grad()
def test_half_precision_gives_nearly_the_boxes_of_single():
    model, (images, samples) = initialized(queries=63).eval(), made(1)
    _, boxes = model(images, samples, mode="tensor")
    with torch.autocast("cpu", torch.bfloat16):
        _, close = model(images, samples, mode="tensor")
    assert close.dtype == torch.float32
    for one in boxes[-1, 0]:
        assert (close[-1, 0] - one).abs().amax(1).min() < 1e-2


def test_losses_under_autocast_are_nearly_those_of_single_precision():
    torch.manual_seed(0)
    model, given = initialized(queries=63).train(), made()
    model.dn_query_generator = None
    single = model.loss(*given)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(*given)
    sum(value.sum() for value in half.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    for name, value in half.items():
        assert float(value) == pytest.approx(float(single[name]), rel=0.05), name


@torch.no_grad()
def test_corners_are_rounded_in_pixels_that_the_network_sees():
    images, samples = made(1)
    samples[0].set_metainfo(dict(scale_factor=(2.0, 2.0)))
    (found,) = initialized(pre_bboxes_round=True).eval().predict(images, samples)
    twice = found.pred_instances.bboxes * 2
    assert torch.equal(twice, twice.round()) and (twice % 2 == 1).any()


@torch.no_grad()
def test_of_boxes_that_overlap_one_stays_whatever_its_class():
    images, samples = made(1)
    (found,) = initialized().eval().predict(images, samples)
    overlaps = bbox_overlaps(found.pred_instances.bboxes, found.pred_instances.bboxes).fill_diagonal_(0)
    assert len(found.pred_instances) and overlaps.max() <= 0.01


def test_what_does_not_fit_is_told_at_once():
    with pytest.raises(ValueError, match=r"the image has 4 bands, the model takes 5 \(in_channels\)"):
        initialized().extract_feat(torch.zeros(1, 4, 9, 7))
    with pytest.raises(ValueError, match="num_levels is 3; allowed are 2"):
        PixelTokens(5, 8, num_levels=3)
    with pytest.raises(ValueError, match="max_per_img is 37, but 12 queries for 3 classes give 36 answers"):
        initialized(max_per_img=37)
    for key in ("self_attn_cfg", "cross_attn_cfg"):
        cfg = configured(**SMALL)
        (cfg.encoder if key == "self_attn_cfg" else cfg.decoder).layer_cfg[key].num_levels = 1
        with pytest.raises(ValueError, match=rf"{key[:-4]}.num_levels is 1, but num_feature_levels is 2"):
            built(cfg)
    cfg = configured(**SMALL)
    cfg.backbone.num_levels = 1
    with pytest.raises(ValueError, match=r"backbone.num_levels is 1, but num_feature_levels is 2"):
        built(cfg)
    with pytest.raises(ValueError, match="match_num and base_match_num are 0 and 1"):
        assigner(match_num=0)


def test_an_object_gets_more_queries_the_more_lie_on_it():
    boxes = torch.tensor([[2.0, 2, 6, 6], [2.05, 2, 6, 6], [2, 2.05, 6, 6], [3, 3, 6, 6], [9, 9, 12, 12]])
    given = InstanceData(bboxes=boxes, scores=torch.zeros(5, 3))
    objects = InstanceData(bboxes=boxes[:1].clone(), labels=torch.tensor([2]))
    shape = dict(img_shape=(16, 16))
    assert assigner().assign(given, objects, shape).gt_inds.tolist() == [1, 1, 1, 0, 0]
    assert assigner(match_num=1).assign(given, objects, shape).gt_inds.tolist() == [1, 0, 0, 0, 0]
    assert assigner(iou_loss_th=0.6).assign(given, objects, shape).gt_inds.tolist() == [1, 1, 1, 1, 0]
    empty = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
    assert assigner().assign(given, empty, shape).gt_inds.tolist() == [0] * 5


@DATASETS.register_module()
class MadeCubes(BaseDetDataset):
    """Cubes of made numbers, in memory."""

    METAINFO = {"classes": ("CB", "MP", "FG")}  # noqa: RUF012  mmengine's own way

    def load_data_list(self):
        images, samples = made(4, size=(10, 8))
        return [
            dict(
                img=image.permute(1, 2, 0).numpy(),
                img_id=i,
                img_path="",
                ori_shape=(10, 8),
                img_shape=(10, 8),
                scale_factor=(1.0, 1.0),
                gt_bboxes=sample.gt_instances.bboxes,
                gt_bboxes_labels=sample.gt_instances.labels.numpy(),
                instances=[
                    dict(bbox=box, bbox_label=label, ignore_flag=0)
                    for box, label in zip(sample.gt_instances.bboxes.tolist(), sample.gt_instances.labels.tolist())
                ],
            )
            for i, (image, sample) in enumerate(zip(images, samples))
        ]


def test_a_training_runs_and_its_checkpoint_detects(tmp_path):
    cfg = load_config(str(ROOT / "configs" / "detection" / "specdetr" / "specdetr_100e_spod.py"))
    cfg.model = configured(**SMALL)
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
    dataset = dict(
        type="MadeCubes", pipeline=[dict(type="PackDetInputs", meta_keys=keys)], serialize_data=False, test_mode=True
    )
    sampler = dict(type="DefaultSampler", shuffle=True)
    cfg.train_dataloader = dict(batch_size=2, num_workers=0, sampler=sampler, dataset=dataset)
    cfg.val_dataloader = dict(batch_size=2, num_workers=0, sampler={**sampler, "shuffle": False}, dataset=dataset)
    cfg.val_evaluator = dict(type="CocoMetric", metric="bbox")
    cfg.val_cfg = dict(type="ValLoop")
    cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.launcher = 1, 1, "none"
    cfg.param_scheduler = None
    cfg.work_dir = str(tmp_path)
    runner = CarefulRunner.from_cfg(complete(cfg))
    runner.train()
    rates = [group["lr"] for group in runner.optim_wrapper.param_groups]
    assert set(rates) == {1e-4, 1e-5} and rates.count(1e-5) == len(list(runner.model.backbone.parameters()))
    assert runner.message_hub.get_scalar("val/coco/bbox_mAP").current() >= 0
    (path,) = tmp_path.glob("epoch_1.pth")
    checkpoint = files.read(path)
    assert checkpoint["predictor"]["classes"] == ["CB", "MP", "FG"]
    model = initialized()
    files.load_strictly(model, files.unwrap(checkpoint), path)
    batch = runner.train_dataloader.collate_fn([runner.train_dataloader.dataset[0]])
    with torch.no_grad():
        (ours,), (trained,) = model.eval().test_step(batch), runner.model.eval().test_step(batch)
    assert torch.equal(ours.pred_instances.bboxes, trained.pred_instances.bboxes)
