"""Focal losses (RetinaNet, arXiv 1708.02002), one value for each logit or example."""

from typing import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .precision import at_least_float32
from .registry import operator

LOGITS_AT_ONCE = 2**22  # 16 MiB in single precision, of which a loss holds up to nine


@operator
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of C independent classes to `output`.

    Args:
        input: Logits (N, C).
        target: Class (N,) of each example; C is the background.
        weight: Weights (C,) of the examples of each class, or empty. That of the background is 1.
        output: Result, (N, C).
        gamma: Exponent that lowers the loss of easy examples.
        alpha: Weight of a class's own examples; that of all others is 1 - alpha.
    """
    for logits, classes, losses in _parts(input, target, output):
        logits, _, scale = _as_positive(at_least_float32(logits), classes, weight, alpha)
        losses.copy_(-scale * (-logits).sigmoid() ** gamma * logsigmoid(logits))


@operator
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivatives of `sigmoid_focal_loss_forward` to `grad_input` (N, C)."""
    for logits, classes, gradients in _parts(input, target, grad_input):
        logits, sign, scale = _as_positive(at_least_float32(logits), classes, weight, alpha)
        right, wrong = logits.sigmoid(), (-logits).sigmoid()
        gradients.copy_(sign * scale * wrong**gamma * (gamma * right * logsigmoid(logits) - wrong))


@operator
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of C exclusive classes to `output`.

    Args:
        input: Probabilities (N, C), after the softmax.
        target: Class (N,) of each example; one of a negative class has no loss.
        weight: Weights (C,) of the examples of each class, or empty.
        output: Result, (N,).
        gamma: Exponent that lowers the loss of easy examples.
        alpha: Factor of the loss.
    """
    right = _probability(input, target)
    output.copy_(_example_weights(right, target, weight, alpha) * -((1 - right) ** gamma) * right.log())


@operator
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivatives of `softmax_focal_loss_forward` by the logits to `grad_input`.

    Args:
        input: Probabilities (N, C), after the softmax.
        target: Class (N,) of each example.
        weight: Weights (C,) of the examples of each class, or empty.
        buff: Result, (N,): the derivative by the logarithm of the right class's probability.
        grad_input: Result, (N, C).
        gamma: Exponent that lowers the loss of easy examples.
        alpha: Factor of the loss.
    """
    right = _probability(input, target)
    wrong = (1 - right).clamp(min=torch.finfo(right.dtype).tiny)  # gamma below 1 raises it to a negative power
    slope = _example_weights(right, target, weight, alpha) * (
        gamma * wrong ** (gamma - 1) * right * right.log() - wrong**gamma
    )
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (_one_hot(target, input.shape[1]).to(slope) - input))


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """(N,) -> (N, C), nothing for the background."""
    return target[:, None] == torch.arange(classes, device=target.device)


def _parts(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows at a time of tensors (N, ...): all anchors of a batch by all classes are too many at once."""
    rows = LOGITS_AT_ONCE // max(logits.shape[1], 1)
    return zip(*(tensor.split(rows) for tensor in (logits, *others)))


def _as_positive(logits: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C) that make every element a positive example, their signs, and the elements' weights.

    The loss of a negative example is that of a positive one with the opposite logit. Logarithms of the sigmoid then
    stay exact where the probability rounds to 0 or 1.
    """
    positive = _one_hot(target, logits.shape[1])
    sign = positive.to(logits) * 2 - 1
    scale = torch.where(positive, logits.new_full((), alpha), logits.new_full((), 1 - alpha))
    if weight.numel():
        foreground = (target >= 0) & (target < len(weight))
        scale = scale * weight.to(logits)[target.where(foreground, 0)].where(foreground, 1)[:, None]
    return sign * logits, sign, scale


def _probability(input: Tensor, target: Tensor) -> Tensor:
    """Probability (N,) of each example's class, large enough for a logarithm."""
    right = at_least_float32(input).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    return right.clamp(min=torch.finfo(torch.float32).tiny)


def _example_weights(like: Tensor, target: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Weights (N,) of the examples, 0 without a class, in the dtype of a tensor (N,)."""
    weights = weight.to(like)[target.clamp(min=0)] if weight.numel() else torch.ones_like(like)
    return alpha * weights.where(target >= 0, 0)
