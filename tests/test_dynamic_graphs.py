"""Graphs for any batch, height and width: exported once, they equal eager at sizes that the example did not have.

A family is represented by two stages (two or three blocks, if it has one resolution) of few channels: what its code
does with sizes is all there, and an exporter's time grows with the blocks and with every halving of the map.
"""

import functools

import pytest
import timm
import torch
import torch.nn as nn
from torch.export import Dim

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.backbones.mixers import AFNO, FNet, HaloAttention, SpectralGating

from .models import assert_close, images

EXAMPLE = (2, 64, 96)
# More and fewer pixels than the example, square and not, divisible by patches and windows and not; a window, a group of
# tokens or a neighbourhood may be larger than a map.
SIZES = [(3, 48, 48), (1, 53, 130), (2, 128, 112)]

PYRAMID = dict(embed_dims=(16, 32), depths=(1, 1))
MODELS = {
    "spectformer_ti": dict(embed_dim=16, depth=2, num_heads=2, mixers="spectral:1, attention"),
    "spectformer_h_s": dict(PYRAMID, stem_dim=8, num_heads=(1, 2), mlp_ratios=(2, 2), mixers=("spectral", "attention")),
    "gfnet_ti": dict(embed_dim=16, depth=1),
    "gfnet_h_ti": dict(PYRAMID),
    "convit_ti": dict(embed_dim=16, depth=2, local_up_to_layer=1),
    "tnt_ti": dict(embed_dim=16, inner_dim=4, depth=1, num_heads=2, inner_num_heads=2),
    "pyramidtnt_ti": dict(PYRAMID, inner_dims=(4, 8), num_heads=(2, 2), inner_num_heads=(1, 2), reductions=(4, 1)),
    "halonet_h0_256": dict(dims=(8, 16), depths=(1, 1), attention=(True, True), num_heads=(2, 2), stem_dim=8),
    "halonet_26t": dict(dims=(8, 16), depths=(1, 1), attention=(False, True), num_heads=(2, 2), stem_dim=8),
    "axial_26s": dict(dims=(8, 16), depths=(1, 1), num_heads=(2, 2), stem_dim=8),
    "ffnet_1": dict(PYRAMID, stem_dim=8, mixers=("ffnified(kernel_size=3)", "ffnified")),
    "fit_ti": dict(embed_dim=16, layout="(1)1(1)", group_size=3, num_latents=2),
    "dat_t": dict(
        PYRAMID,
        depths=(2, 1),
        mixers=("LS", "D"),
        num_heads=(2, 2),
        num_groups=(1, 2),
        kv_strides=(1, 1),
        offset_kernel_sizes=(3, 3),
    ),
    "dat_pp_t": dict(
        PYRAMID, mixers=("N", "D"), num_heads=(2, 2), num_groups=(1, 2), kv_strides=(4, 2), offset_kernel_sizes=(5, 3)
    ),
    "sgformer_s": dict(PYRAMID, depths=(2, 1), num_heads=(2, 2), reductions=(4, 1), group_sizes=((49, 14, 7), ())),
    "vitae_ti": dict(
        embed_dims=(16, 48),
        depths=(0, 1),
        num_heads=(1, 2),
        mixers="AA",
        groups=(1, 4),
        reductions="PC",
        reduction_dims=(8, 16),
        reduction_heads=(1, 1),
        reduction_groups=(1, 1),
    ),
    "vitaev2_s": dict(
        PYRAMID,
        num_heads=(1, 2),
        mixers="WA",
        groups=(1, 4),
        reductions="WA",
        reduction_dims=(8, 16),
        reduction_heads=(1, 1),
        reduction_groups=(1, 1),
    ),
    "vitae_b": dict(embed_dim=16, depth=1, num_heads=2, groups=4),
}


def tiny(name):
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=64, num_classes=5, **MODELS[name]).eval()
    for parameter in model.parameters():
        if not parameter.any():  # biases and whole blocks could not be told from missing ones
            nn.init.normal_(parameter, std=0.1)
    return model


def exported(module, x, dims):
    """The program of a module for any batch and two sides of `x`, which are axes `dims` of it."""
    with torch.no_grad():
        return torch.export.export(module, (x,), dynamic_shapes=({dim: Dim.DYNAMIC for dim in (0, *dims)},))


@functools.lru_cache(maxsize=len(MODELS))
def program_of(name):
    model = tiny(name)
    return model, exported(model, images(*EXAMPLE), (2, 3))


def run_onnx(program, path, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(program, (), str(path), dynamo=True, verbose=False, optimize=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: what it cannot fold beforehand is no matter
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [[torch.from_numpy(output) for output in session.run(None, {name: x.numpy()})] for x in inputs]


# GFNet and its pyramid are exported by the tests further down; HaloNet with convolutions is one of convolutions.
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("gfnet_ti", "gfnet_h_ti", "halonet_26t")])
@torch.no_grad()
def test_one_program_is_for_any_size(name):
    model, program = program_of(name)
    assert not [node for node in program.graph.nodes if "fft" in str(node.target)]
    for size in SIZES:
        x = images(*size)
        assert_close(program.module()(x), model(x))


# SpectFormer's pyramid has a gate as GFNet's, which has a file as a detector's, and attention as SpectFormer, ViTAE-B
# the cells of ViTAE; FFNet and axial attention are of convolutions and products, HaloNet with convolutions is one of
# convolutions.
NO_ONNX_OF_THEIR_OWN = (
    *("spectformer_h_s", "gfnet_ti", "gfnet_h_ti", "halonet_26t", "axial_26s", "ffnet_1", "vitae_b"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in NO_ONNX_OF_THEIR_OWN])
@torch.no_grad()
def test_one_onnx_file_is_for_any_size(name, tmp_path):
    model, program = program_of(name)
    inputs = [images(*size) for size in SIZES]
    for x, (output,) in zip(inputs, run_onnx(program, tmp_path / "model.onnx", inputs)):
        assert_close(output, model(x), tolerance=1e-3 if name == "sgformer_s" else 1e-4)  # ties in the order of tokens


@pytest.mark.parametrize(
    "layer, sizes",
    [
        (lambda: SpectralGating(8, (14, 14)), [(3, 9, 14), (1, 14, 14), (2, 30, 25)]),
        (lambda: AFNO(8, 2), [(3, 9, 14), (1, 14, 14), (2, 30, 25)]),
        (lambda: FNet(), [(3, 9, 14), (1, 14, 14), (2, 12, 15)]),
        (lambda: HaloAttention(8, 2, block_size=5, halo_size=2, stride=2, mask_padding=True), [(3, 4, 11), (1, 20, 7)]),
    ],
    ids=["spectral gate", "AFNO", "FNet", "halo, averaged"],
)
@torch.no_grad()
def test_layers_that_no_family_has_by_default_are_for_any_grid_too(layer, sizes, tmp_path):
    layer = layer().eval()
    program = exported(layer, torch.randn(2, 14, 16, 8), (1, 2))
    inputs = [torch.randn(*size, 8) for size in sizes]
    for x, (output,) in zip(inputs, run_onnx(program, tmp_path / "layer.onnx", inputs)):
        assert_close(program.module()(x), layer(x))
        assert_close(output, layer(x))


@torch.no_grad()
def test_gates_of_one_grid_share_its_matrices():
    layers = nn.Sequential(SpectralGating(8, (14, 14)), AFNO(8, 2), SpectralGating(8, (7, 7))).eval()
    program = exported(layers, torch.randn(2, 14, 16, 8), (1, 2))
    assert sum("aten.cos" in str(node.target) for node in program.graph.nodes) == 2  # along rows and along columns
    x = torch.randn(3, 9, 14, 8)
    assert_close(program.module()(x), layers(x))
    again = exported(layers, torch.randn(2, 14, 16, 8), (1, 2))  # a graph of its own
    assert_close(again.module()(x), layers(x))
    dynamic = ({dim: Dim.DYNAMIC for dim in (0, 1, 2)},)
    strict = torch.export.export(layers, (torch.randn(2, 14, 16, 8),), dynamic_shapes=dynamic, strict=True)
    assert_close(strict.module()(x), layers(x))


@functools.lru_cache(maxsize=1)
def pyramid_of_a_detector():
    """A backbone with the maps of all its stages, and its program."""
    backbone = DenseBackbone("gfnet_h_ti", img_size=64, pad_size_divisor=32, **MODELS["gfnet_h_ti"]).eval()
    return backbone, exported(backbone, images(*EXAMPLE), (2, 3))


@torch.no_grad()
def test_pyramids_of_detectors_are_for_any_size():
    backbone, program = pyramid_of_a_detector()
    for size in SIZES:
        x = images(*size)
        for feature, expected in zip(program.module()(x), backbone(x), strict=True):
            assert_close(feature, expected)


@pytest.mark.slow
@torch.no_grad()
def test_one_onnx_file_of_a_detectors_pyramid_is_for_any_size(tmp_path):
    backbone, program = pyramid_of_a_detector()
    inputs = [images(*size) for size in SIZES]
    for x, outputs in zip(inputs, run_onnx(program, tmp_path / "pyramid.onnx", inputs)):
        for output, expected in zip(outputs, backbone(x), strict=True):
            assert_close(output, expected)


@torch.no_grad()
def test_sides_may_have_bounds():
    model = tiny("gfnet_ti")
    side = Dim.DYNAMIC(min=32, max=512)
    bounded = {0: Dim.DYNAMIC(max=16), 2: side, 3: side}
    program = torch.export.export(model, (images(*EXAMPLE),), dynamic_shapes=(bounded,))
    x = images(1, 50, 33)
    assert_close(program.module()(x), model(x))
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] >= 32"):  # an ONNX file of it says nothing
        program.module()(images(1, 16, 33))


@torch.no_grad()
def test_sides_may_have_names():
    model = tiny("gfnet_ti")
    named = {2: Dim("height", min=33, max=512), 3: Dim("width", min=33, max=512)}
    # What torch cannot prove of every size, such as whether a side divides twice itself, it then looks at when it runs.
    program = torch.export.export(
        model, (images(*EXAMPLE),), dynamic_shapes=(named,), prefer_deferred_runtime_asserts_over_guards=True
    )
    x = images(2, 130, 53)
    assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", ["dat_pp_t", "halonet_26t", "pyramidtnt_ti", "dat_t"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_trace_is_the_same_with_gradients_and_without(name, gradients):
    model, x = tiny(name), images(*EXAMPLE)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, (x,))  # which compares with a second trace, without gradients
        assert_close(traced(x), model(x))
