"""Outputs of the official code on weights made from tensor names (tests/golden/weights.py): ours must agree.

Every file of `tests/golden` is tested and, where the environment variable GOLDEN_EXTRA names a folder, every file in
it; what is not ours yet is skipped and said. Tests of these files, here and elsewhere, have `golden` in their names and
the file's in their ids, and no other test has: `pytest -k golden` runs them.
"""

import functools

import numpy as np
import pytest
import timm
import torch

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.weights import trunk_weights

from .golden import weights
from .golden_models import (
    DENSE,
    FILES,
    FIT,
    GOLDEN,
    MODELS,
    PARTS,
    TOLERANCE,
    create,
    is_resampled,
    load,
    load_fit,
    model_of,
    official_parameters,
    reference,
)


def each(paths):
    """Runs a test on each of the files, whose name stands in the test's."""
    paths = [GOLDEN / f"{path}.npz" if isinstance(path, str) else path for path in paths]
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem, scope="module")


@functools.lru_cache(maxsize=1)
def loaded(path):
    """As `load`, once for the tests of a file, which must leave it as it is."""
    return load(path)


@functools.lru_cache(maxsize=1)
def passed(path):
    """The logits of a file's model, its maps and what enters its last norm, once for the tests of the file.

    That a whole pass gives the same logits as one that is stopped for its maps holds for any weights, and is shown of
    each model in test_contract.py.
    """
    _, model, images = loaded(path)
    entering_norm = []
    handle = model.norm.register_forward_pre_hook(lambda module, args: entering_norm.append(args[0]))
    with torch.no_grad():
        final, maps = model.forward_intermediates(images)
        logits = model.forward_head(final)
    handle.remove()
    return logits, maps, entering_norm[0]


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


@each([path for path in FILES if path not in [*PARTS, *DENSE, *FIT]])  # PARTS: see tests/mixers/test_official.py
def test_golden_outputs_are_ours(path):
    if path not in MODELS:
        pytest.skip(f"{path.name} is {of_what(path)}, which is not ours yet")
    golden, _, _ = loaded(path)
    logits, _, _ = passed(path)
    assert_agrees(logits, reference(golden, "logits"))


def of_what(path):
    """What a file that is of no model of ours says of itself."""
    golden = np.load(path)
    for key in ("mixer", "config"):
        if key in golden.files:
            options = f" with {golden['options']}" if "options" in golden.files else ""
            return f"of {key} {golden[key]}{options}"
    return f"of {path.stem}"


@each(MODELS)
def test_golden_features_are_taken_at_the_official_taps(path):
    golden, _, _ = loaded(path)
    taps = [key.removesuffix("_shape") for key in golden.files if key.endswith("_shape") and key != "image_shape"]
    assert taps, "the golden file has no taps"
    _, features, entering_norm = passed(path)
    for tap in taps:
        if tap == "tokens":  # the sequence that enters the final norm, a class token first
            assert_samples_agree(entering_norm.flatten(1, -2), golden, tap)
        elif tap.removeprefix("feature_").isdigit():
            assert_samples_agree(features[int(tap.removeprefix("feature_"))], golden, tap)


@each([path for path in MODELS if not is_resampled(path.stem)])
def test_golden_parameters_are_as_many_as_ours(path):
    name, arguments = model_of(path.stem)
    model = timm.create_model(name, device="meta", **arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == official_parameters(np.load(path))


@each(FIT)
@torch.no_grad()
def test_golden_tokens_and_latents_are_ours(path):
    golden, model, images = load_fit(path)
    tokens, latents = model.forward_streams(images)
    for stream, expected in ((tokens.flatten(1, 2), golden["output"]), (latents.flatten(1, 2), golden["latents"])):
        expected = torch.from_numpy(expected)
        assert stream.shape == expected.shape
        assert (stream - expected).abs().max() < 1e-5 * expected.abs().max()
    assert sum(parameter.numel() for parameter in model.parameters()) == official_parameters(golden)


@each(DENSE)
def test_golden_maps_and_norms_of_official_detectors_are_ours(path):
    golden = np.load(path)
    name, arguments = model_of(path.stem.removesuffix("_dense"))
    backbone = DenseBackbone(name, out_norm="new", **arguments).eval()
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    loaded = backbone.load_weights(trunk_weights({f"backbone.{name}": state_dict[name] for name in state_dict}), path)
    assert (loaded.unneeded, loaded.unknown) == ([], [])
    assert sum(parameter.numel() for parameter in backbone.parameters()) == official_parameters(golden)
    with torch.no_grad():
        maps = backbone(weights.images(golden["image_shape"]))
    for i, feature in enumerate(maps):
        assert_samples_agree(feature, golden, f"feature_{i}")
        spread = np.linspace(0, feature.numel() - 1, 64).astype(int)
        assert_agrees(feature.flatten()[torch.from_numpy(spread)], golden[f"feature_{i}_spread"])


@each(["spectformer_ti", "spectformer_h_s", "gfnet_h_ti"])
@pytest.mark.parametrize("nested", [False, True], ids=["model", "nested"])
def test_golden_logits_come_from_an_official_file(path, nested, tmp_path):
    golden = np.load(path)
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    wrapped = {"model": {"state_dict": state_dict}} if nested else {"model": state_dict, "epoch": 299}
    torch.save(wrapped, tmp_path / "official.pth")
    model = create(path, golden, dict(file=str(tmp_path / "official.pth")))
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits"])


@each(["spectformer_h_s"])
def test_golden_last_map_is_normalised_on_request(path):
    golden, model, images = loaded(path)
    with torch.no_grad():
        (last,) = model.forward_intermediates(images, indices=[3], norm=True, intermediates_only=True)
    assert_samples_agree(last, golden, "feature_3_norm4")


@each(["spectformer_h_s"])
def test_golden_logits_of_the_class_token_are_those_without_token_labelling(path):
    golden, model, images = load(path, aux_head=False)
    with torch.no_grad():
        assert_agrees(model(images), golden["logits_cls_only"])


@each(["spectformer_h_s"])
def test_golden_checkpoint_without_token_labelling_is_taken(path):
    golden = np.load(path)
    state_dict = weights.state_dict(golden["names"], golden["shapes"])
    state_dict = {name: value for name, value in state_dict.items() if not name.startswith("aux_head")}
    overlay = dict(state_dict=state_dict)
    model = timm.create_model("spectformer_h_s", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_777_928
    with torch.no_grad():
        assert_agrees(model(weights.images(golden["image_shape"])), golden["logits_cls_only"])
