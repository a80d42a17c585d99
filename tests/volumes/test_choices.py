"""Options of `spectral train` on configs of volumes."""

import pytest

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.volumes.choices import set_model, set_size, set_weights


@pytest.fixture
def cfg():
    return load("volumes/nnformer/nnformer-small_digits")


def test_another_network_comes_with_its_own_crop_and_widths(cfg):
    set_model(cfg, "nnformer_acdc")
    assert cfg.model.name == "nnformer_acdc" and not cfg.model["kwargs"]


def test_weights_are_those_that_training_begins_from(cfg, tmp_path):
    (tmp_path / "official.pth").touch()
    set_weights(cfg, str(tmp_path / "official.pth"))
    assert cfg.model.pretrained == str(tmp_path / "official.pth")


@pytest.mark.parametrize(
    ("choose", "value", "message"),
    [
        (set_model, "spectformer_s", "networks of volumes are nnformer_synapse"),
        (set_size, (64, 64), "model.kwargs.crop_size"),
        (set_weights, True, "takes a file of a network of volumes, got timm"),
        (set_weights, "missing.pth", "got missing.pth"),
    ],
)
def test_what_has_no_meaning_for_volumes_is_refused(cfg, choose, value, message):
    with pytest.raises(UserError, match=message):
        choose(cfg, value)
