"""Focal losses against torchvision's, their definition and autograd."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import sigmoid_focal_loss as torchvision_sigmoid_focal_loss

from spectral_backbones.toolboxes.mmcv_ops import focal_loss

pytest.importorskip("mmcv")
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss


@pytest.fixture
def logits():
    """Logits (10, 4) in float64."""
    torch.manual_seed(0)
    return torch.randn(10, 4, dtype=torch.float64, requires_grad=True)


CLASSES = torch.arange(10) % 4
WITH_BACKGROUND = torch.arange(10) % 5
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.0, 0.5), (0.5, 0.4)])
def test_sigmoid_focal_loss(logits, gamma, alpha):
    targets = torch.nn.functional.one_hot(WITH_BACKGROUND, 5)[:, :4].double()
    expected = torchvision_sigmoid_focal_loss(logits, targets, alpha, gamma)
    result = sigmoid_focal_loss(logits, WITH_BACKGROUND, gamma, alpha, None, "none")
    torch.testing.assert_close(result, expected)
    weighted = sigmoid_focal_loss(logits, WITH_BACKGROUND, gamma, alpha, WEIGHT, "sum")
    weights = torch.cat([WEIGHT, torch.ones(1)])[WITH_BACKGROUND]
    torch.testing.assert_close(weighted, (expected * weights[:, None]).sum())
    assert gradcheck(lambda x: sigmoid_focal_loss(x, WITH_BACKGROUND, gamma, alpha, WEIGHT, "mean"), logits)


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.0, 0.5), (0.5, 0.4)])
def test_softmax_focal_loss(logits, gamma, alpha):
    right = logits.softmax(1).gather(1, CLASSES[:, None]).squeeze(1)
    expected = -alpha * (1 - right) ** gamma * right.log()
    torch.testing.assert_close(softmax_focal_loss(logits, CLASSES, gamma, alpha, None, "none"), expected)
    weighted = softmax_focal_loss(logits, CLASSES, gamma, alpha, WEIGHT, "sum")
    torch.testing.assert_close(weighted, (expected * WEIGHT[CLASSES]).sum())
    assert gradcheck(lambda x: softmax_focal_loss(x, CLASSES, gamma, alpha, WEIGHT, "mean"), logits)


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_alpha_is_not_rounded_in_double_precision(logits, loss):
    """0.4 in single precision is off by 6e-9."""
    with torch.no_grad():
        losses = {alpha: loss(logits, CLASSES, 2.0, alpha, None, "none") for alpha in (0.4, 0.5)}
    factors = torch.full_like(losses[0.5], 0.4 / 0.5)
    if loss is sigmoid_focal_loss:
        factors = factors.where(CLASSES[:, None] == torch.arange(4), 0.6 / 0.5)
    torch.testing.assert_close(losses[0.4], losses[0.5] * factors, rtol=1e-12, atol=0)


def test_many_logits_are_worked_through_in_parts(monkeypatch, logits):
    results = []
    for logits_at_once in (40, 12):  # three rows, and one in the last part
        monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", logits_at_once)
        loss = sigmoid_focal_loss(logits, WITH_BACKGROUND, 2.0, 0.25, WEIGHT, "mean")
        results.append((loss, *torch.autograd.grad(loss, logits)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_does_not_grow_with_the_logits(monkeypatch, backward):
    """RetinaNet has 80 logits for each of 200,000 anchors of an image."""
    monkeypatch.setattr(focal_loss, "LOGITS_AT_ONCE", 2**15)
    logits, target = torch.zeros(2**13, 80), torch.zeros(2**13, dtype=torch.long)
    function = focal_loss.sigmoid_focal_loss_backward if backward else focal_loss.sigmoid_focal_loss_forward
    result = torch.empty_like(logits)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function(logits, target, logits.new_empty(0), result, 2.0, 0.25)
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert max(itertools.accumulate(changes)) < result.nbytes


def test_examples_without_a_class_have_no_softmax_loss(logits):
    loss = softmax_focal_loss(logits, CLASSES - 1, 2.0, 0.25, None, "none")
    softmax_focal_loss(logits, CLASSES - 1, 2.0, 0.25, None, "sum").backward()
    assert (loss[CLASSES == 0] == 0).all()
    assert (loss[CLASSES > 0] > 0).all()
    assert not logits.grad[CLASSES == 0].any()


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_certain_answers_have_finite_losses(loss):
    logits = (torch.eye(4) * 400 - 200)[CLASSES].requires_grad_()
    for target in (CLASSES, (CLASSES + 1) % 4):  # all right, all wrong
        for gamma in (0.0, 0.5, 2.0):
            value = loss(logits, target, gamma, 0.25, None, "mean")
            (gradient,) = torch.autograd.grad(value, logits)
            assert value.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision(logits, loss, dtype):
    low = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(low, CLASSES, 2.0, 0.25, None, "sum")
    result.backward()
    expected = loss(logits, CLASSES, 2.0, 0.25, None, "sum")
    torch.testing.assert_close(result.double(), expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(low.grad.double(), torch.autograd.grad(expected, logits)[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_no_examples(loss):
    logits = torch.empty(0, 4, requires_grad=True)
    loss(logits, torch.empty(0, dtype=torch.long), 2.0, 0.25, None, "sum").backward()
    assert logits.grad.shape == (0, 4)
