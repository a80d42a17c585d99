"""What the contract promises of a model's code, whatever its sizes: graphs, autocast in training, doors of checkpoints.

The rule: of models that have the same class, and the same constructor arguments but for the values of numbers, the
first in its table is tested, which is the smallest. See `code_path` in models.py.
"""

import functools
import json

import pytest
import timm
import torch

from .models import REPRESENTATIVES, SIZE, SMALLEST, assert_close, build, create, drawn, images
from .test_dynamic_graphs import MODELS as ANY_SIZE

by_name = pytest.mark.parametrize("name", REPRESENTATIVES, scope="module")


# Compilation and export -------------------------------------------------------------------------------------------


@by_name
def test_compiles_as_one_graph(name):
    torch.compiler.reset()  # what is compiled is counted by function, and models share those
    model = create(name).eval()
    x = images()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(x), model(x))


@functools.lru_cache(maxsize=1)
def exported(name):
    """A model and its program: exporters take their time for each block of a model."""
    model = create(name).eval()
    batch = torch.export.Dim("batch", min=1)
    return model, torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))


# Programs for any batch, height and width, and ONNX files of them, are those of test_dynamic_graphs.py. A program of
# one size differs where a table is a constant in it: filters and their transforms, positions, neighbourhoods, groups.
OF_ONE_SIZE = ["dat_pp_t", "eca_halonext_26ts", "sgformer_s", "spectformer_h_s"]


@pytest.mark.parametrize("name", sorted({*REPRESENTATIVES} - ANY_SIZE.keys() | {*OF_ONE_SIZE}), scope="module")
@torch.no_grad()
def test_exports_with_a_dynamic_batch(name):
    model, program = exported(name)
    x = images(3)
    assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ONE_SIZE, scope="module")
@torch.no_grad()
def test_onnx_equals_eager(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "model.onnx")
    model, program = exported(name)
    # Which would export the model as we do. What the optimiser does is shown by the files of `spectral export`.
    torch.onnx.export(program, (), path, dynamo=True, verbose=False, optimize=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = images(3)
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(output), model(x))


@by_name
def test_scripts(name):
    model = create(name).eval()
    x = images()
    assert_close(torch.jit.script(model)(x), model(x))


# Training ---------------------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trains_under_autocast(name, dtype):
    model = create(name)
    with torch.autocast("cpu", dtype):
        loss = model(images()).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


# Checkpoints ------------------------------------------------------------------------------------------------------


def load(name, source, **kwargs):
    return build(name, pretrained=True, pretrained_cfg_overlay=dict(num_classes=5, **source), **kwargs).eval()


@by_name
@torch.no_grad()
def test_own_checkpoint_is_loaded_as_it_is(name, tmp_path):
    model = drawn(name)
    x = images()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    assert torch.equal(load(name, dict(file=str(tmp_path / "own.pth")))(x), model(x))
    shuffled = dict(sorted(model.state_dict().items()))
    assert torch.equal(load(name, dict(state_dict=shuffled))(x), model(x))


@by_name
@torch.no_grad()
def test_checkpoint_adapts_to_classes_channels_and_size(name):
    state_dict = drawn(name).state_dict()
    other = load(name, dict(state_dict=dict(state_dict)), num_classes=3, in_chans=1, img_size=(128, 64))
    assert other(images(channels=1)).shape == (2, 3)
    trunk = dict(create(name, num_classes=0).state_dict())
    features = load(name, dict(state_dict=trunk), num_classes=0)
    x = images()
    assert torch.equal(features.forward_features(x), drawn(name).forward_features(x))
    assert torch.equal(features(x), drawn(name).forward_head(drawn(name).forward_features(x), pre_logits=True))


@by_name
@torch.no_grad()
def test_local_dir_is_a_source_too(name, tmp_path):
    from safetensors.torch import save_file

    model = drawn(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model_args = dict(SMALLEST.get(name, {}), img_size=SIZE)
    config = dict(architecture=name, num_classes=5, pretrained_cfg=dict(num_classes=5), model_args=model_args)
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = images()
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))
