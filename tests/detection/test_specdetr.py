"""SpecDETR agrees with its official code, at every step, and is told what is wrong with its input."""

import contextlib
import json

import numpy as np
import pytest
import torch

from spectral_backbones import detection  # noqa: F401  supplies mmcv's operators before mmdet asks for them

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmengine.structures import InstanceData

from .specdetr_models import NETWORKS, TABLES, assigner, load

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
        for ours, name in ((instances.bboxes, "boxes"), (instances.scores, "scores"), (instances.labels, "labels")):
            expected = golden[f"predicted_{i}_{name}"]
            np.testing.assert_allclose(ours[: len(expected)].numpy(), expected, rtol=TOLERANCE, atol=TOLERANCE)
