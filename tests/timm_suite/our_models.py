"""Pytest plugin under which timm's `tests/test_models.py` tests the models that `--model` names, and no others.

timm parametrises its tests at import, by `timm.list_models`, with lists of name patterns that say what a timm model can
do. Names of another package are in none of these lists, so here the patterns are answered by looking at the models.
"""

import json

import pytest
import timm
import torch

from spectral_backbones import backbones  # noqa: F401  registers the models with timm

# timm's list of models whose features are not a map holds this pattern; no other of its lists does
NOT_A_MAP = "vit_*"

# Tests that timm runs on a few names of its own, though what they promise holds for any model.
FOR_ANY_MODEL = {"test_prune_intermediate_layers_params_used"}

# Tests that take long and depend on a model's code, not on its sizes.
OF_CODE = {
    "test_model_forward_torchscript",
    "test_model_forward_fx",
    "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
    "test_prune_intermediate_layers_contract",
}


# Tests of a configuration, which belongs to the model as it is registered.
OF_CONFIGURATION = {"test_model_default_cfgs", "test_model_default_cfgs_non_std"}


def pytest_addoption(parser):
    """Add two options, to be given once for each model, and one for all."""
    parser.addoption("--model", action="append", default=[], help="name of a registered model to test")
    parser.addoption("--code-of", action="append", default=[], help="one of these, whose code is tested too")
    parser.addoption("--arguments", type=json.loads, default={}, help="arguments of models by name, as JSON")


def pytest_configure(config):
    """Let timm's test modules, which are imported later, list the chosen models.

    Which modules have a feature, and which names are excused from a test, is ignored: ours have all and are excused
    from none.
    """
    timm_list_models = timm.list_models
    names = config.getoption("model")

    def list_models(filter="", module="", pretrained=False, exclude_filters="", **kwargs):
        chosen = names
        if pretrained:
            return []  # these would be downloaded
        if NOT_A_MAP in filter:
            filter, chosen = "", [name for name in names if not features_are_a_map(name)]
        if NOT_A_MAP in exclude_filters:
            chosen = [name for name in names if features_are_a_map(name)]
        return [tag for tag in timm_list_models(filter, **kwargs) if tag.partition(".")[0] in chosen]

    timm.list_models = list_models


@pytest.fixture(autouse=True)
def _arguments(request, monkeypatch):
    """Create models with the arguments that `--arguments` gives them."""
    arguments = request.config.getoption("arguments")
    if request.node.originalname not in OF_CONFIGURATION:
        monkeypatch.setattr(
            request.module,
            "create_model",
            lambda name, **kwargs: timm.create_model(name, **{**arguments.get(name, {}), **kwargs}),
        )


def features_are_a_map(name: str) -> bool:
    """Whether `forward_features` gives (B, C, H, W) or (B, H, W, C), and not tokens (B, N, C)."""
    model = timm.create_model(name, device="meta").eval()
    return model.forward_features(torch.empty(1, *model.default_cfg["input_size"], device="meta")).ndim == 4


def pytest_pycollect_makeitem(collector, name, obj):
    """Give the tests that fit any model our names in the place of timm's."""
    if name in FOR_ANY_MODEL:
        obj.pytestmark = [pytest.mark.parametrize("model_name", collector.config.getoption("model"))]


def pytest_collection_modifyitems(config, items):
    """Leave out what timm tests on its own models only, and tests of code where it was not asked for."""
    ours, others = [], []
    for item in items:
        tag = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
        names = config.getoption("code_of" if item.originalname in OF_CODE else "model")
        (ours if str(tag).partition(".")[0] in names else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = ours
