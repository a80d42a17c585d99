"""The registered models as tests need them: by name, drawn once, or one for each code path.

What can be said without values runs on the meta device. To draw the weights of a large model takes longer than a test
with it, so they are drawn once for each name and shared: tests of one name should follow one another, as they do with
`parametrize("name", REPRESENTATIVES, scope="module")`.
"""

import copy
import functools
import inspect

import timm
import torch

from spectral_backbones import backbones
from spectral_backbones.backbones.registry import variants

NAMES = backbones.list_models()
SIZE = 64  # pixels; three stages of a pyramid still have more than one token


def _kind(value):
    if isinstance(value, (list, tuple)):
        return tuple(map(_kind, value))
    is_size = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "a number" if is_size else value


def code_path(name):
    """What the code of a model depends on: its class, and its arguments but for the values of numbers."""
    model_cls, model_args = variants()[name]
    defaults = {p.name: p.default for p in inspect.signature(model_cls).parameters.values()}
    return model_cls, repr(sorted((key, _kind(value)) for key, value in {**defaults, **model_args}.items()))


# The first of a table, which is its smallest, where several have the same code path.
REPRESENTATIVES = sorted({code_path(name): name for name in reversed(variants())}.values())
ONE_OF_EACH_CLASS = sorted({variants()[name][0]: name for name in reversed(variants())}.values())


def drawn(name, short=False):
    """The model of 5 classes for images of SIZE pixels, in evaluation. It is shared: nothing may change it.

    Parameters that begin as zeros are drawn too, because biases and whole blocks could not be told from missing ones.

    Args:
        name: A registered model.
        short: Leave out the blocks of a pyramid that repeat one before in their stage, see `without_repetitions`: the
            same code in a fraction of the time.
    """
    return _drawn(name, short)


@functools.lru_cache(maxsize=1)
def _drawn(name, short):
    with torch.random.fork_rng(devices=[]):  # a test sees the same numbers whether it is the first of its name or not
        torch.manual_seed(0)
        if short:
            model = on_meta(name, short).to_empty(device="cpu").eval()
            model.init_weights()
        else:
            model = timm.create_model(name, img_size=SIZE, num_classes=5).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def create(name, short=False, **kwargs):
    """A model of its own with the weights of `drawn`, which `kwargs` must leave in their shapes. In training mode."""
    source = drawn(name, short)
    model = on_meta(name, short, **kwargs)
    owner = getattr(model, "model", model)  # of features_only
    weights = {key: source.get_parameter(key).detach() for key, _ in owner.named_parameters()}
    buffers = {key: source.get_buffer(key).clone() for key, _ in owner.named_buffers()}  # training writes to them
    owner.load_state_dict({**weights, **buffers}, assign=True)
    return model


@functools.lru_cache(maxsize=1)
def _built_on_meta(name):
    return timm.create_model(name, device="meta", img_size=SIZE, num_classes=5)


def on_meta(name, short=False, **kwargs):
    """A model without values: shapes, names and errors are the same."""
    if kwargs:
        model = timm.create_model(name, **{"device": "meta", "img_size": SIZE, "num_classes": 5, **kwargs})
    else:
        model = copy.deepcopy(_built_on_meta(name))
    if short:
        owner = getattr(model, "model", model)
        for stage, kept in zip(getattr(owner, "stages", []), _first_of_each_kind(name)):
            stage.blocks = torch.nn.ModuleList([stage.blocks[i] for i in kept])
    return model


@functools.lru_cache(maxsize=1)
def _first_of_each_kind(name):
    """For each stage the places of the blocks that are built as none before. Rates of drop path are no difference."""
    return [_places(stage.blocks) for stage in getattr(_built_on_meta(name), "stages", [])]


def _places(blocks):
    kinds = [repr(block) for block in blocks]
    return [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]


def without_repetitions(model):
    """The model without the blocks that are built as one before in their stage: the same code in a smaller graph."""
    if hasattr(model, "local_up_to_layer"):
        return model  # ConViT's class token joins at a block of this number
    for owner in getattr(model, "stages", [model]):
        owner.blocks = torch.nn.ModuleList([owner.blocks[i] for i in _places(owner.blocks)])
    return model


def classifier_names(model):
    """The classifiers that a model names in its configuration, as a tuple."""
    names = model.default_cfg["classifier"]
    return (names,) if isinstance(names, str) else tuple(names)


def images(batch=2, height=SIZE, width=SIZE, channels=3, **kwargs):
    """A batch of noise (B, channels, height, width)."""
    return torch.randn(batch, channels, height, width, **kwargs)


def assert_close(actual, expected, tolerance=1e-4):
    """Shapes are equal, and no value is off by more than `tolerance` of the largest one."""
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    assert error < tolerance, f"off by {error:.1e} of the scale"
