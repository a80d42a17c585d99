"""The registered models as tests need them: by name, drawn once, or one for each code path, as small as shows it.

What can be said without values runs on the meta device. To draw the weights of a large model takes longer than a test
with it, so they are drawn once for each name and shared: tests of one name should follow one another, as they do with
`parametrize("name", REPRESENTATIVES, scope="module")`.
"""

import copy
import functools
import inspect
import re

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

_DAT = dict(embed_dims=(16, 32, 64), depths=(2, 2, 1), num_heads=(1, 2, 4), offset_kernel_sizes=(9, 5, 3))
_DAT_PP = dict(_DAT, mixers=("ND", "ND", "D"), num_groups=(1, 2, 4), kv_strides=(8, 4, 1))
_HALONET = dict(stem_dim=16, dims=(16, 32, 64), depths=(2, 1, 1), attention=(True, True, True), num_heads=(2, 4, 8))
_HALONET_OF_TIMM = dict(_HALONET, depths=(2, 2, 1), attention=(False, (1,), True))
_FFNET_MIXERS = ("ffnified(kernel_size=3)", "ffnified(kernel_size=3)", "ffnified(kernel_size=7)")
_FFNET = dict(stem_dim=16, embed_dims=(16, 32, 64), depths=(2, 1, 1), mixers=_FFNET_MIXERS)

# Arguments of a representative under which it is narrow and shallow and still has every kind of module that it has by
# its own: three stages, or three blocks, of which some are alike. test_names.py holds them to it.
SMALLEST = {
    "axial_26s": dict(stem_dim=16, dims=(16, 32, 64), depths=(1, 2, 1), num_heads=(2, 4, 8)),
    "convit_ti": dict(embed_dim=32, depth=3, local_up_to_layer=2),
    "dat_p": _DAT_PP,
    "dat_pp_t": _DAT_PP,
    "dat_t": dict(_DAT, mixers=("LS", "LD", "LD"), num_groups=(1, 2, 4), kv_strides=(1, 1, 1)),
    "eca_halonext_26ts": dict(_HALONET_OF_TIMM, head_dim=4),
    "ffnet_1": _FFNET,
    "ffnet_3": _FFNET,
    "fit_ti": dict(embed_dim=32, group_size=3, num_latents=2, num_heads=2, latent_heads=2),
    "gfnet_h_ti": dict(embed_dims=(16, 32, 64), depths=(2, 1, 1), mixers="spectral"),
    "gfnet_ti": dict(embed_dim=32, depth=3),
    "halonet_26t": _HALONET_OF_TIMM,
    "halonet_50ts": dict(_HALONET, depths=(2, 2, 2), attention=(False, (1,), (1,))),
    "halonet_h0_256": _HALONET,
    "halonet_h3_320": dict(_HALONET, final_dim=96),
    "pyramidtnt_ti": dict(
        embed_dims=(16, 32, 64),
        inner_dims=(4, 8, 16),
        depths=(2, 2, 1),
        num_heads=(1, 2, 4),
        inner_num_heads=(1, 2, 4),
        reductions=(2, 1, 1),
    ),
    "sehalonet_33ts": dict(_HALONET_OF_TIMM, out_ratio=(4.0, 4.0, 3.0), final_dim=96),
    "sgformer_s": dict(
        embed_dims=(16, 32, 64),
        depths=(2, 2, 1),
        num_heads=(2, 4, 8),
        reductions=(4, 2, 1),
        group_sizes=((49, 14, 7), (2, 1), ()),
    ),
    "spectformer_h_s": dict(
        stem_dim=16,
        embed_dims=(16, 32, 64),
        depths=(2, 1, 1),
        mlp_ratios=(8.0, 4.0, 4.0),
        mixers=("spectral", "attention", "attention"),
    ),
    "spectformer_ti": dict(embed_dim=32, depth=3, num_heads=2, mixers="spectral:2, attention"),
    "tnt_s_legacy": dict(embed_dim=32, inner_dim=8, depth=3, num_heads=2),
    "tnt_ti": dict(embed_dim=32, inner_dim=8, depth=3, num_heads=2),
    "vitae_b": dict(embed_dim=32, depth=3, num_heads=2, groups=8),
    "vitae_ti": dict(
        embed_dims=(16, 16, 64),
        depths=(0, 0, 3),
        num_heads=(1, 1, 2),
        groups=(1, 1, 16),
        reduction_dims=(16, 16, 32),
    ),
    "vitaev2_s": dict(
        embed_dims=(16, 32, 64),
        depths=(2, 1, 1),
        num_heads=(1, 2, 4),
        mixers="WAA",
        groups=(1, 8, 16),
        reductions="WAA",
        reduction_dims=(16, 16, 32),
        reduction_heads=(1, 1, 2),
        reduction_groups=(1, 4, 8),
    ),
}


def build(name, **kwargs):
    """The model as timm makes it, a representative at its smallest, for images of SIZE pixels and 5 classes."""
    return timm.create_model(name, **{"img_size": SIZE, "num_classes": 5, **SMALLEST.get(name, {}), **kwargs})


@functools.lru_cache(maxsize=1)
def drawn(name):
    """The model as `build` makes it, in evaluation. It is shared: nothing may change it.

    Parameters that begin as zeros are drawn too, because biases and whole blocks could not be told from missing ones.
    """
    with torch.random.fork_rng(devices=[]):  # a test sees the same numbers whether it is the first of its name or not
        torch.manual_seed(0)
        model = build(name).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def create(name, **kwargs):
    """A model of its own with the weights of `drawn`, which `kwargs` must leave in their shapes. In training mode."""
    source = drawn(name)
    model = on_meta(name, **kwargs)
    owner = getattr(model, "model", model)  # of features_only
    weights = {key: source.get_parameter(key).detach() for key, _ in owner.named_parameters()}
    buffers = {key: source.get_buffer(key).clone() for key, _ in owner.named_buffers()}  # training writes to them
    owner.load_state_dict({**weights, **buffers}, assign=True)
    return model


@functools.lru_cache(maxsize=1)
def _built_on_meta(name):
    return build(name, device="meta")


def on_meta(name, **kwargs):
    """A model without values: shapes, names and errors are the same."""
    return build(name, **{"device": "meta", **kwargs}) if kwargs else copy.deepcopy(_built_on_meta(name))


def kinds(model):
    """What modules a model has: of a leaf how it is built, of others their children, both without numbers."""
    return {
        re.sub(r"\d[\d.e-]*", "n", repr(module) if _is_leaf(module) else f"{type(module)} {_children(module)}")
        for module in model.modules()
    }


def _is_leaf(module):
    return next(module.children(), None) is None


def _children(module):
    return sorted({(re.sub(r"\d+", "n", key), type(child).__name__) for key, child in module.named_children()})


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
