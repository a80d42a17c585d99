"""nnFormer's official outputs, on weights made from tensor names, are ours: logits, embeddings, both sides' maps."""

import json

import numpy as np
import pytest
import torch

from .golden_models import NETWORKS, created, is_in_suite, load

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the output's scale
PRECISIONS = [(path, dtype) for path in NETWORKS for dtype in TOLERANCES if is_in_suite(path, dtype)]
IDS = [f"{path.stem}-{dtype}".replace("torch.", "") for path, dtype in PRECISIONS]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_golden_volumes_are_built_by_their_config_whatever_they_are_called(path, tmp_path):
    other = tmp_path / "nnformer_other.npz"
    other.symlink_to(path)
    with torch.device("meta"):
        names, shapes = zip(*((name, list(value.shape)) for name, value in created(other).state_dict().items()))
    golden = np.load(path)
    known = dict(zip(golden["names"].tolist(), json.loads(str(golden["shapes"]))))
    assert all(known[name] == shape for name, shape in zip(names, shapes))


def outputs_of(model, volumes):
    """Logits of all heads and, under the names that golden files have for them, the maps on the way to them."""
    taps = {}

    def keep(name):
        return lambda module, args, output: taps.update({name: output})

    hooks = [model.model_down.patch_embed.register_forward_hook(keep("embed"))]
    for side, layers in (("encoder", model.model_down.layers), ("decoder", model.decoder.layers)):
        hooks += [
            layer.blocks[-1].register_forward_hook(keep(f"{side}_{i}"))  # B D H W C
            for i, layer in enumerate(layers)
        ]
    with torch.no_grad():
        logits = model.forward_deep(volumes)
    for hook in hooks:
        hook.remove()
    outputs = {name: tap.flatten(1, 3) for name, tap in taps.items() if name != "embed"}  # tokens
    outputs["embed"] = taps["embed"].movedim(-1, 1)
    return outputs | {f"logits_{i}": output for i, output in enumerate(logits)}


def assert_agree(outputs, golden, dtype):
    suffix = "_float64" if dtype == torch.float64 else ""
    names = [key.removesuffix("_shape") for key in golden.files if key.endswith("_shape") and key != "image_shape"]
    assert names and outputs.keys() == set(names)
    for name in names:
        output, expected = outputs[name], golden[f"{name}_sample{suffix}"]
        assert tuple(output.shape) == tuple(golden[f"{name}_shape"]), name
        ours = output.flatten()[:: int(golden[f"{name}_step"])][: len(expected)].numpy()
        error = np.abs(ours - expected).max() / np.abs(expected).max()
        assert error < TOLERANCES[dtype], f"{name} is off by {error:.1e} of its scale"
        if name.startswith("logits"):
            figures = output.mean(), output.std(unbiased=False)
            np.testing.assert_allclose(figures, golden[f"{name}_mean_std{suffix}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path, dtype", PRECISIONS, ids=IDS)
def test_golden_volumes_agree_in_logits_and_on_the_way(path, dtype):
    golden, model, volumes = load(path, dtype)
    assert_agree(outputs_of(model, volumes), golden, dtype)


@pytest.mark.parametrize("path", [p for p in NETWORKS if p.stem == "nnformer_tumor_small"], ids=lambda path: path.stem)
def test_golden_volumes_agree_with_the_right_index_too(path):
    golden, model, volumes = load(path, torch.float64, relative_index="right")
    assert_agree(outputs_of(model, volumes), golden, torch.float64)


@pytest.mark.parametrize("relative_index", ["official", "right"])
@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_golden_parameters_of_volumes_are_as_many_as_ours(path, relative_index):
    with torch.device("meta"):
        model = created(path, relative_index)
    assert sum(parameter.numel() for parameter in model.parameters()) == int(np.load(path)["parameters"])
