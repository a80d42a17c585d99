"""A model computes from the weights that it holds now, in whatever memory layout: one model of each code path."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.func import functional_call, grad, vmap

from .models import REPRESENTATIVES, SIZE, assert_close, build, create, drawn, images, on_meta

SIZES = [(SIZE, SIZE), (40, 56)]  # a model's own and another, for which it resamples
SPECTRAL = [name for name in REPRESENTATIVES if name.startswith(("gfnet", "spectformer"))]
by_name = pytest.mark.parametrize("name", REPRESENTATIVES, scope="module")


def own(name):
    """A model that may be changed, unlike `drawn`."""
    return copy.deepcopy(drawn(name))


def fresh(name, model):
    """A model that has never run, with copies of the weights of another."""
    other = on_meta(name).train(model.training)
    other.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    return other.requires_grad_(False)


def answers(model):
    torch.manual_seed(0)  # a model may have dropout by default
    return [model(torch.randn(2, 3, *size)) for size in SIZES]


@by_name
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "a frozen teacher in training mode"])
def test_answers_follow_weights_changed_through_data(name, training):
    """As averaging, federated learning, pruning and fused optimisers write, which moves no version counter."""
    model = own(name).requires_grad_(False).train(training)
    before = answers(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.mul_(1 + 0.2 * torch.rand_like(tensor))
    expected = answers(fresh(name, model))
    for old, new, right in zip(before, answers(model), expected):
        assert torch.equal(new, right)
        assert not torch.allclose(new, old)


def _functional(model, weights):
    return lambda x: functional_call(model, weights, (x,))


def _assigned(model, weights):
    model.load_state_dict(weights, assign=True)
    return model


def _swapped(model, weights):
    for key, tensor in model.named_parameters():
        torch.utils.swap_tensors(tensor, torch.nn.Parameter(weights[key], requires_grad=False))
    return model


def _shared(model, weights):
    """As another process would write into the memory that `share_memory` gives both."""
    for tensor in model.share_memory().state_dict().values():
        tensor.numpy()[...] = weights.pop(next(iter(weights))).numpy()
    return model


@pytest.mark.parametrize("name", ["spectformer_ti", "convit_ti", "halonet_26t", "dat_t", "pyramidtnt_ti"])
@pytest.mark.parametrize("change", [_functional, _assigned, _swapped, _shared])
def test_answers_follow_weights_however_they_were_changed(name, change):
    model = own(name).requires_grad_(False)
    with torch.inference_mode():
        answers(model)
    weights = {
        key: value * 1.2 if value.is_floating_point() and "running" not in key else value.clone()
        for key, value in model.state_dict().items()
    }
    other = own(name).requires_grad_(False)
    other.load_state_dict(weights)
    expected = answers(other)
    changed = change(model, weights)
    assert all(torch.equal(*pair) for pair in zip(answers(changed), expected))


@by_name
def test_channels_last_changes_nothing(name):
    """Which timm's scripts ask for: it gives every tensor of four dimensions a kernel's layout."""
    methods = ["fft", "matmul"] if name in SPECTRAL else [None]
    for method in methods:
        kwargs = {} if method is None else dict(spectral_method=method)
        results = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            model = create(name, **kwargs).double().to(memory_format=memory_format)
            x = images(2, 40, 72, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            x = x.contiguous(memory_format=memory_format)
            torch.manual_seed(0)
            loss = model(x).square().mean()
            loss.backward()
            gradients = [parameter.grad for parameter in model.parameters()]
            with torch.no_grad():
                model.eval()
                results.append([loss.detach(), model(x[:1]), *gradients])
        for plain, other in zip(*results):
            assert_close(other, plain, tolerance=1e-6)


@pytest.mark.parametrize("name", SPECTRAL)
@torch.no_grad()
def test_channels_last_after_a_pass_changes_nothing(name):
    model = create(name, spectral_method="fft").eval()
    x = images()
    before = model(x)
    assert_close(model.to(memory_format=torch.channels_last)(x), before)


@by_name
def test_gradients_of_each_image_on_its_own(name):
    """torch.func.vmap over grad, which differentially private training asks for."""
    model = create(name).eval().double()
    weights = {key: value.detach() for key, value in model.named_parameters()}
    x, target = images(2, 40, 48, dtype=torch.float64), torch.tensor([1, 3])

    def loss(weights, image, label):
        logits = functional_call(model, weights, (image[None],))
        return torch.nn.functional.cross_entropy(logits, label[None])

    for_each = vmap(grad(loss), (None, 0, 0))(weights, x, target)
    expected = grad(loss)(weights, x[1], target[1])
    for key, gradient in expected.items():
        torch.testing.assert_close(for_each[key][1], gradient, rtol=1e-5, atol=1e-7, msg=key)


@by_name
def test_another_size_of_its_own_leaves_whole_parameters(name, tmp_path):
    """The same objects, which an optimiser holds, contiguous and of their dtype, as writers of safetensors ask."""
    model = own(name).to(torch.bfloat16)
    before = dict(model.named_parameters())
    model.set_input_size((96, 80))
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(before[key] is after[key] for key in after)
    assert all(p.is_contiguous() and p.dtype == torch.bfloat16 and p.requires_grad for p in after.values())
    save_file(model.state_dict(), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@torch.no_grad()
def test_all_doors_of_sizes_give_one_answer(name, interpolation):
    """The forward pass, `set_input_size`, and loading a checkpoint of another size."""
    x = images(1, 96, 80)
    kwargs = dict(spectral_interpolation=interpolation)
    overlay = dict(state_dict=dict(sorted(drawn(name).state_dict().items())), num_classes=5)
    loaded = build(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=(96, 80), **kwargs)
    model = create(name, **kwargs).eval()
    expected = model(x)
    assert_close(loaded.eval()(x), expected)
    model.set_input_size((96, 80))
    assert_close(model(x), expected)


@by_name
def test_an_empty_batch_gives_an_empty_answer(name):
    if name == "eca_halonext_26ts":
        pytest.skip("timm's EcaModule takes no empty batch")
    model = create(name).eval()
    for size in SIZES:
        x = torch.zeros(0, 3, *size, requires_grad=True)
        y = model(x)
        y.sum().backward()
        assert y.shape == (0, 5) and x.grad.shape == x.shape
