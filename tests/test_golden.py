"""Outputs of the official code on weights made from tensor names (tests/golden/weights.py): ours must agree."""

import json

import numpy as np
import pytest
import timm
import torch

from .golden import weights
from .golden_models import ARGUMENTS, FILES, GOLDEN, TOLERANCE, create, is_resampled, load, our_name, reference


def assert_agrees(actual, expected):
    expected = torch.as_tensor(np.asarray(expected))
    error = (actual.detach() - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE, f"off by {error:.1e} of the scale"


def assert_samples_agree(tensor, golden, key):
    """The golden files hold a tap's shape, standard deviation and first 64 values."""
    assert tuple(tensor.shape) == tuple(golden[f"{key}_shape"])
    flat = tensor.detach().flatten()
    assert_agrees(flat[:64], reference(golden, f"{key}_sample"))
    assert float(flat.std(unbiased=False)) == pytest.approx(float(golden[f"{key}_std"]), rel=1e-3)


@pytest.mark.parametrize("file", FILES)
def test_official_state_dict_gives_official_logits(file):
    golden, model, images = load(file)
    with torch.no_grad():
        assert_agrees(model(images), reference(golden, "logits"))


@pytest.mark.parametrize("file", ["spectformer_ti", "spectformer_h_s", "gfnet_h_ti"])
@pytest.mark.parametrize("wrap", [lambda sd: {"model": sd, "epoch": 299}, lambda sd: {"model": {"state_dict": sd}}])
def test_official_checkpoint_file_gives_official_logits(file, wrap, tmp_path):
    golden = np.load(GOLDEN / f"{file}.npz")
    torch.save(wrap(weights.state_dict(golden["names"], golden["shapes"])), tmp_path / "official.pth")
    model = create(file, golden, dict(file=str(tmp_path / "official.pth")))
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits"])


@pytest.mark.parametrize("file", [file for file in FILES if not is_resampled(file)])
def test_parameter_count_equals_the_official_one(file):
    golden = np.load(GOLDEN / f"{file}.npz")
    model = timm.create_model(our_name(file), device="meta", **ARGUMENTS.get(file, {}))
    shapes = dict(zip(map(str, golden["names"]), json.loads(str(golden["shapes"]))))
    # Averages, what TNT's checkpoints hold and nothing uses, and ViTAE's random features, which are a buffer here
    left_out = ("running_", "outer_tokens", ".RC.attn.w")
    official = sum(int(np.prod(shape)) for name, shape in shapes.items() if not any(n in name for n in left_out))
    assert sum(parameter.numel() for parameter in model.parameters()) == official


@pytest.mark.parametrize("file", FILES)
def test_features_are_taken_where_the_official_taps_are(file):
    golden, model, images = load(file)
    taps = [key.removesuffix("_shape") for key in golden.files if key.endswith("_shape") and key != "image_shape"]
    assert taps, "the golden file has no taps"
    entering_norm = []
    model.norm.register_forward_pre_hook(lambda module, args: entering_norm.append(args[0]))
    with torch.no_grad():
        features = model.forward_intermediates(images, intermediates_only=True)
        for tap in taps:
            if tap == "tokens":  # the sequence that enters the final norm, a class token first
                assert_samples_agree(entering_norm[0].flatten(1, -2), golden, tap)
            elif tap.removeprefix("feature_").isdigit():
                assert_samples_agree(features[int(tap.removeprefix("feature_"))], golden, tap)


def test_spectformer_h_normalises_the_last_map_on_request():
    golden, model, images = load("spectformer_h_s")
    with torch.no_grad():
        (last,) = model.forward_intermediates(images, indices=[3], norm=True, intermediates_only=True)
    assert_samples_agree(last, golden, "feature_3_norm4")


def test_spectformer_h_without_token_labelling_classifies_by_the_class_token_alone():
    golden, model, images = load("spectformer_h_s", aux_head=False)
    with torch.no_grad():
        assert_agrees(model(images), golden["logits_cls_only"])


def test_spectformer_h_takes_a_checkpoint_that_was_trained_without_token_labelling():
    golden = np.load(GOLDEN / "spectformer_h_s.npz")
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    state_dict = {name: value for name, value in state_dict.items() if not name.startswith("aux_head")}
    overlay = dict(state_dict=state_dict)
    model = timm.create_model("spectformer_h_s", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_777_928
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits_cls_only"])
