"""Mixers, MLPs and poolings against the outputs of public code (tests/golden), by their official weights.

Files are named after what they hold, and say which options that has. Whatever is registered by the name is tested, also
in the folder that the environment variable GOLDEN_EXTRA names; tests/test_golden.py tells which files are not ours yet.
"""

import numpy as np
import pytest
import torch

from spectral_backbones.backbones.mixers import load_official
from spectral_backbones.backbones.mixers.lmu import impulse_response

from ..golden import weights
from ..golden_models import PARTS, create_part

TOLERANCE = 1e-5  # of the output's standard deviation


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def load(path, dtype):
    """The file, what it is of with its weights, and the map, or the tokens of what takes no map."""
    golden = np.load(path)
    part = create_part(golden)
    load_official(part, weights.state_dict(golden["names"], golden["shapes"]))
    return golden, part.to(dtype).eval(), weights.images(golden["image_shape"]).to(dtype)


def as_map(tokens, golden):
    grid = golden["map"] if "map" in golden.files else golden["grid"] if "grid" in golden.files else (1, -1)
    return tokens.unflatten(1, tuple(int(side) for side in grid))


def assert_agrees(actual, expected):
    expected = torch.from_numpy(np.asarray(expected))
    assert actual.shape == expected.shape
    error = (actual.detach().double() - expected.double()).abs().max() / expected.double().std()
    assert error < TOLERANCE, f"off by {error:.1e} of the standard deviation"


@each(PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_golden_outputs_of_parts_are_ours(path, dtype):
    golden, part, x = load(path, dtype)
    outputs = [key for key in golden.files if key == "output" or (key.startswith("output_") and key[7:].isdigit())]
    with torch.no_grad():
        y = part(as_map(x, golden))
    for key, actual in zip(outputs, y if isinstance(y, list) else [y], strict=True):
        assert_agrees(actual if actual.dim() == 3 else actual.flatten(1, 2), golden[key])


@each([path for path in PARTS if "filter" in np.load(path).files])
def test_golden_filters_are_ours(path):
    golden, mixer, _ = load(path, torch.float64)
    assert_agrees(mixer.filter(*golden["grid"].tolist(), torch.float64)[0].movedim(-1, 0)[:2], golden["filter"])


@each([path for path in PARTS if "attention" in np.load(path).files])
def test_golden_weights_of_pooling_are_ours(path):
    golden, pool, x = load(path, torch.float64)
    assert_agrees(pool.weights(x), golden["attention"])


@each([path for path in PARTS if any(key.startswith("output_own") for key in np.load(path).files)])
def test_golden_outputs_with_the_own_summary_too_are_those_of_the_public_code(path):
    golden, mixer, x = load(path, torch.float64)
    (key,) = (key for key in golden.files if key.startswith("output_own"))
    mixer.own_summary = True
    assert_agrees(mixer(as_map(x, golden)).flatten(1, 2), golden[key])


@each([path for path in PARTS if "new_means" in np.load(path).files])
def test_golden_centroids_learn_as_those_of_the_public_code(path):
    golden, mixer, x = load(path, torch.float64)
    mixer.decay = 0.999
    q, k, _ = mixer.tokens(as_map(x, golden))
    assert_agrees(mixer.means(q if mixer.shared_qk else torch.cat([q, k], 2)), golden["new_means"])
    loss = mixer.commitment_loss(as_map(x, golden)).item()
    assert 1e-4 * loss == pytest.approx(float(golden["commitment_loss"]), rel=1e-4)
    mixer.train()(as_map(x, golden)).sum().backward()
    assert_agrees(mixer.centroids, golden["means_after"])


@each([path for path in PARTS if "impulse" in np.load(path).files])
def test_golden_memory_answers_an_impulse_as_that_of_the_public_code(path):
    golden, mixer, x = load(path, torch.float64)
    response = impulse_response(mixer.dim, x.shape[1], x.device)
    # The public code multiplies matrices in float32.
    torch.testing.assert_close(response[:4], torch.from_numpy(golden["impulse"]).double(), atol=1e-5, rtol=1e-4)


@each([path for path in PARTS if "attention_sample" in np.load(path).files])
def test_golden_weights_of_composed_heads_are_ours(path):
    golden, mixer, x = load(path, torch.float64)
    weights = []
    mixer.attn_drop.register_forward_pre_hook(lambda module, args: weights.append(args[0]))
    mixer(as_map(x, golden))
    assert_agrees(weights[0][0, :, 0], golden["attention_sample"])


@each([path for path in PARTS if "logits_sample" in np.load(path).files])
def test_golden_logits_cascade_as_those_of_the_public_code(path):
    golden, cascade, x = load(path, torch.float64)
    x, logits = as_map(x, golden), None
    for mixer in cascade:
        y, logits = mixer(x, logits)
        x = x + y
    assert_agrees(logits[0, :, 0], golden["logits_sample"])


@each([path for path in PARTS if "coda" not in path.stem])
def test_golden_weights_that_are_missing_or_left_over_are_refused(path):
    golden = np.load(path)
    state = weights.state_dict(golden["names"], golden["shapes"])
    part = create_part(golden)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    with pytest.raises(ValueError, match="nonsense"):
        load_official(part, {**state, "nonsense.weight": torch.zeros(1)})
    name = next(name for name, value in state.items() if value.numel())
    with pytest.raises(ValueError, match=r"missing|lack"):
        load_official(part, {key: value for key, value in state.items() if key != name})
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


def test_constants_and_counts_of_full_official_state_dicts_are_taken_too():
    """Golden files list parameters and averages alone."""
    constants = {
        "mixer_axial_deeplab": ["hight_block.flatten_index", "hight_block.bn_qkv.num_batches_tracked"],
        "mixer_hyenapixel": ["long_conv.distance_map"],
        "mixer_hyena_bidirectional": ["filter_fn.pos_emb.t", "filter_fn.modulation.deltas"],
        "mixer_hyena_nd": ["filter_fn.pos_emb.t", "filter_fn.modulation.Xdeltas", "filter_fn.implicit_filter.3.freq"],
        "mixer_ffnified_7": ["conv1.conv1.bn.num_batches_tracked"],
        "mlp_lmuformer": ["fc1_bn.num_batches_tracked"],
    }
    for path in [path for path in PARTS if path.stem in constants]:
        golden = np.load(path)
        state = weights.state_dict(golden["names"], golden["shapes"])
        load_official(create_part(golden), {**state, **{name: torch.tensor(1) for name in constants[path.stem]}})


def test_a_module_without_official_weights_is_refused():
    with pytest.raises(ValueError, match="Linear stands for no public code"):
        load_official(torch.nn.Linear(2, 2), {})
