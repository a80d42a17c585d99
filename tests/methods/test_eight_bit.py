"""Activations in eight bits: an exact forward pass, gradients near the exact ones, and what stays as it is."""

import gc
import runpy

import pytest
import timm
import torch
import torch.nn.functional as F

from spectral_backbones.methods import eight_bit
from spectral_backbones.methods.eight_bit import Codes, eight_bit_activations, keep_eight_bits

from ..classification_fixtures import ROOT

SPECTFORMER = dict(img_size=32, patch_size=4, embed_dim=64, depth=3, num_heads=2, mixers="spectral:1, attention")
VIT = dict(img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2)
MODELS = {
    "spectformer_ti": SPECTFORMER,
    "convit_ti": dict(img_size=32, patch_size=4, embed_dim=64, depth=3, num_heads=4, local_up_to_layer=2),
    "deit_tiny_patch16_224": VIT,
    "resnet18": {},
}


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **{**MODELS[name], **kwargs}).train()


def step(model, x):
    """Loss and whole gradient of a step."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(x).float().square().mean()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture
def kept(monkeypatch):
    """The codes that are made."""
    made = []

    class Counted(Codes):
        def __init__(self, *args):
            super().__init__(*args)
            rows = args[0]
            made.append((rows.nbytes, self.nbytes))

    monkeypatch.setattr(eight_bit, "Codes", Counted)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_equal_and_the_gradient_is_near(name, kept):
    side = 64 if name == "resnet18" else 32
    model, x = build(name), torch.randn(4, 3, side, side)
    loss, gradient = step(model, x)
    undo = keep_eight_bits(model)
    same, near = step(model, x)
    assert same == loss
    assert 0 < distance(near, gradient) < 0.05
    assert sum(after for _, after in kept) < 0.3 * sum(before for before, _ in kept)
    count = len(kept)
    with torch.no_grad():
        model(x)
    model.eval()(x)
    undo()
    exact = step(model.train(), x)
    assert len(kept) == count and exact[0] == loss and torch.equal(exact[1], gradient)


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_composes_with_checkpointing(reentrant):
    model, x = build("spectformer_ti"), torch.randn(4, 3, 32, 32)
    loss, gradient = step(model, x)
    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        model.set_grad_checkpointing()
        keep_eight_bits(model)
        same, near = step(model, x)
    finally:
        timm.layers.set_reentrant_ckpt(False)
    assert same == loss and distance(near, gradient) < 0.02


@pytest.mark.parametrize("name", ["spectformer_ti", "deit_tiny_patch16_224"])
def test_it_composes_with_mixed_precision_and_leaves_cast_weights(name, monkeypatch):
    model, x = build(name), torch.randn(5, 3, 32, 32)  # as many tokens as no weight has rows
    packed = []
    pack = eight_bit._Keeper.pack
    monkeypatch.setattr(
        eight_bit._Keeper, "pack", lambda self, x: (packed.append((x, pack(self, x))), packed[-1][1])[1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = step(model, x)
        keep_eight_bits(model)
        same, near = step(model, x)
    assert same == loss and distance(near, gradient) < 0.03
    cast = [x for x, _ in packed if x.dtype == torch.bfloat16 and x.grad_fn and "ToCopy" in x.grad_fn.name()]
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2 and p.numel() >= eight_bit.LEAST_VALUES}
    weights = [result for x, result in packed if {tuple(x.shape), tuple(x.shape)[::-1]} & shapes]
    assert cast and weights and all(isinstance(result, torch.Tensor) for result in weights)


def test_what_two_operators_save_is_kept_once_in_whatever_shape(kept):
    x = torch.randn(8, 32, 64, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    with eight_bit_activations():
        y = x * 2
        results = F.gelu(y), F.linear(y, weight), F.silu(y.flatten(0, 1)), F.silu(y[:4])
        assert len(kept) == 2  # the last is another matrix
        y.add_(1)
        results += (F.gelu(y),)
        assert len(kept) == 3
    sum(result.sum() for result in results).backward()


def test_a_storage_that_is_gone_is_not_taken_for_another(kept):
    x = torch.randn(8, 1024, requires_grad=True)
    with eight_bit_activations():
        for number in range(5):
            F.gelu(x * number)
            gc.collect()
    assert len(kept) == 5


def test_statistics_parameters_and_what_needs_no_gradient_stay_as_they_are():
    layer, x = torch.nn.Linear(64, 64), torch.randn(256, 32, 64, requires_grad=True)
    places = torch.randint(64, (256, 32, 64))
    mask = torch.randn(256, 32, 64).masked_fill(places > 40, -torch.inf)
    with eight_bit_activations():
        y = x * 2
        normed = F.layer_norm(y, (64,))
        masked, gathered, linear = y * mask, y.gather(-1, places), layer(y)
        var, mean = torch.var_mean(y, -1)
        squared = mean * mean
    assert not torch.equal(normed.grad_fn._saved_input, y)
    _, *statistics = torch.native_layer_norm(y, (64,), None, None, 1e-5)
    for saved, statistic in zip((normed.grad_fn._saved_result1, normed.grad_fn._saved_result2), statistics):
        assert torch.equal(saved, statistic)
    assert torch.equal(squared.grad_fn._saved_self, mean)
    assert masked.grad_fn._saved_other.equal(mask)
    assert gathered.grad_fn._saved_index.equal(places)
    (masked.nan_to_num(0, 0, 0).sum() + gathered.sum() + linear.sum() + var.sum()).backward()
    torch.testing.assert_close(layer.weight.grad[0], y.sum((0, 1)), rtol=0.02, atol=3.0)


@pytest.mark.parametrize("name", ["amax", "amin", "max", "min"])
def test_comparisons_find_the_values_that_they_look_for(name):
    def gradient():
        x = torch.randn(64, 128, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        result = getattr(x * 2, name)(1)
        (result if isinstance(result, torch.Tensor) else result.values).square().sum().backward()
        return x.grad

    exact = gradient()
    with eight_bit_activations():
        assert torch.equal(gradient(), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("width", [1, 33, 300])
def test_rows_come_back_within_half_a_step(dtype, width):
    rows = (torch.randn(50, width) * torch.logspace(-3, 3, 50)[:, None] + 2).to(dtype)
    rows[7] = 5
    back = Codes(rows).restore()
    assert back.dtype == dtype and back.shape == rows.shape
    low, high = rows.double().aminmax(dim=1, keepdim=True)
    precision = torch.finfo(dtype).eps * rows.double().abs().amax(1, keepdim=True)
    bound = (high - low) / 510 * 1.01 + 2 * precision
    assert ((back.double() - rows.double()).abs() <= bound).all()
    assert (back[7] == 5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_relu_lets_the_same_gradients_pass(dtype):
    x = torch.randn(64, 1000, dtype=dtype, requires_grad=True)
    with eight_bit_activations():
        torch.relu(x * 2).sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_any_layout_comes_back_as_it_was():
    x = torch.randn(4, 32, 8, 8)
    layouts = {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 2),
        "a slice": torch.randn(4, 32, 8, 40)[..., 3:35],
        "complex": torch.view_as_complex(torch.randn(4, 32, 32, 2)),
        "conjugate": torch.view_as_complex(torch.randn(4, 32, 32, 2)).conj(),
    }
    keeper = eight_bit._Keeper()
    for name, layout in layouts.items():
        saved = layout.detach().requires_grad_()
        packed = keeper.pack(saved)
        assert isinstance(packed, eight_bit.Kept), name
        back = eight_bit._unpack(packed)
        assert back.shape == layout.shape and back.dtype == layout.dtype, name
        assert distance(back, layout) < 0.01, name
        if saved.is_contiguous(memory_format=torch.channels_last):
            assert back.is_contiguous(memory_format=torch.channels_last)


def test_an_error_in_the_forward_pass_leaves_nothing_behind(kept):
    model = build("deit_tiny_patch16_224")
    keep_eight_bits(model)
    with pytest.raises(AssertionError):
        model(torch.randn(1, 3, 31, 32))
    kept.clear()
    F.gelu(torch.randn(8, 1024, requires_grad=True) * 2)
    assert not kept


def test_the_example_measures_what_each_way_saves():
    example = runpy.run_path(ROOT / "examples" / "saved_memory.py")
    model, x = build("deit_tiny_patch16_224"), torch.randn(8, 3, 32, 32)
    kept = {way: example["saved"](model, x, way) for way in example["WAYS"]}
    assert kept["eight bits"] < 0.4 * kept["plain"] and kept["both"] < kept["checkpointed"] < kept["plain"]
    assert all(example["step"](model, x, way) > 0 for way in example["WAYS"])
