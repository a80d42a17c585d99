"""The parts of mmcv's synchronised batch norm (`MMSyncBN`) between its own reductions over processes.

Shapes: maps (N, C, S), statistics (C,) in float32.
"""

from torch import Tensor

from .registry import operator


@operator
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Writes the mean of each channel to `mean`."""
    mean.copy_(input.mean((0, 2), dtype=mean.dtype))


@operator
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Writes the mean squared distance to `mean` of each channel to `var`."""
    var.copy_((input.to(mean.dtype) - mean[:, None]).square().mean((0, 2)))


@operator
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float,
    group_size: int,
) -> None:
    """Writes the normalised map to `norm`, with weight and bias to `output`, and moves the running statistics.

    Args:
        input: Maps (N, C, S).
        mean: Mean of each channel over all processes.
        var: Variance of each channel over all processes, biased.
        weight: Factor of each channel.
        bias: Summand of each channel.
        running_mean: Moved towards `mean`.
        running_var: Moved towards the unbiased variance.
        norm: Receives the normalised maps in float32.
        std: Receives the standard deviation.
        output: Receives the result.
        eps: Added to the variance.
        momentum: Share of the new statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.to(norm.dtype) - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * count / (count - 1) if count > 1 else var
    running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
    running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


@operator
def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Writes this process' gradients of weight and bias."""
    upstream = grad_output.to(norm.dtype)
    grad_weight.copy_((upstream * norm).sum((0, 2)))
    grad_bias.copy_(upstream.sum((0, 2)))


@operator
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Writes the gradient of the maps to `grad_input`; those of weight and bias are the mean over all processes."""
    count = grad_output.shape[0] * grad_output.shape[2]
    through_statistics = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.to(norm.dtype) - through_statistics))
