"""SpecDETR agrees with its official code, at every step, and is told what is wrong with its input."""

import contextlib
import json

import numpy as np
import pytest
import torch

from spectral_backbones import detection  # noqa: F401  supplies mmcv's operators before mmdet asks for them

pytest.importorskip("mmdet", reason="mmdet is not installed")

from .specdetr_models import NETWORKS, load

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
