"""What a registered name can break where its code path is sound; see test_contract.py for the code paths.

Its counts, from a forward pass at its own size, are compared in test_model_table.py, its tensors' names and values with
those of the official code in test_golden.py.
"""

from pathlib import Path

import pytest
import timm

from .models import NAMES, REPRESENTATIVES, SMALLEST, build, classifier_names, kinds

pytestmark = pytest.mark.parametrize("name", NAMES, scope="module")


@pytest.fixture(scope="module")
def model(name):
    return timm.create_model(name, device="meta")


def test_name_is_not_one_of_timms(name):
    assert Path(timm.__file__).parent not in Path(timm.model_entrypoint(name).__code__.co_filename).parents


def test_default_cfg_describes_the_model(model):
    cfg = model.default_cfg
    assert model.num_classes == cfg["num_classes"] == 1000
    assert model.in_chans == cfg["input_size"][0] == 3
    for field in ("mean", "std", "interpolation", "crop_pct", "license", "origin_url", "paper_ids"):
        assert cfg[field], f"default_cfg has no {field}"
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3
    classifiers = model.get_classifier()
    classifiers = classifiers if isinstance(classifiers, tuple) else (classifiers,)
    assert tuple(model.get_submodule(key) for key in classifier_names(model)) == classifiers
    assert [classifier.out_features for classifier in classifiers] == [1000] * len(classifiers)
    assert len(model.feature_info) >= 3


def test_the_smallest_model_of_a_code_path_has_all_kinds_of_its_modules(name, model):
    """What is promised of code paths is tested on these."""
    assert set(SMALLEST) <= set(REPRESENTATIVES)
    if name in SMALLEST:
        assert kinds(build(name, device="meta")) == kinds(model)
