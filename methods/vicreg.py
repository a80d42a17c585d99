"""VICReg: features without labels, from two views of each picture (arXiv 2105.04906)."""

from typing import Any, NamedTuple, Sequence, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Terms(NamedTuple):
    """The three terms of the loss, without their weights; scalars.

    Attributes:
        invariance: Mean squared difference of the two views' embeddings.
        variance: How far the standard deviation of each dimension is below 1, mean over dimensions and views.
        covariance: Squared covariances of different dimensions, summed, over the number of dimensions; summed over
            views.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def gather(x: Tensor) -> Tensor:
    """Embeddings of all processes, (B, D) -> (processes B, D), in the order of their ranks.

    Gradients flow to every process and are summed there, so that a loss over all embeddings, averaged over processes as
    DDP does, has the gradient of one process that holds the whole batch.
    """
    return x if _processes() == 1 else _Gather.apply(x)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """What torch.distributed.nn.functional.all_gather is, which torch calls deprecated without naming a public heir."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(_processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.narrow(0, dist.get_rank() * ctx.size, ctx.size)


class GatheredBatchNorm1d(nn.BatchNorm1d):
    """Batch norm of features (B, D) with the statistics of all processes' batches, which must be of one size.

    torch's SyncBatchNorm, which takes its place on GPUs, does the same with less traffic, and not on CPUs.
    """

    gathers = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalises; gradients flow to all processes."""
        processes = _processes() if self.training else 1
        if processes == 1:
            return super().forward(x)
        return super().forward(gather(x)).narrow(0, dist.get_rank() * len(x), len(x))


def terms(x: Tensor, y: Tensor, eps: float = 1e-4) -> Terms:
    """The three terms for embeddings of two views, (B, D) each.

    Variances and covariances are unbiased, and of the batches of all processes together; the invariance is this
    process's own. The variance is halved and the covariance is not, as in the official code and against the paper's
    sums.

    Args:
        x: One view of each picture.
        y: The other.
        eps: Added to variances.

    Raises:
        ValueError: Shapes differ or are no (B, D), or there is only one picture, which has no variance.
    """
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"embeddings of two views are (B, D) both, got {tuple(x.shape)} and {tuple(y.shape)}")
    invariance = F.mse_loss(x, y)
    views = [gather(view) for view in (x, y)]
    if len(views[0]) < 2:
        raise ValueError("VICReg needs at least two pictures: one has no variance")
    views = [view - view.mean(0) for view in views]
    variance = sum(F.relu(1 - (view.var(0) + eps).sqrt()).mean() for view in views) / 2
    covariance = sum(_off_diagonal(view.T @ view / (len(view) - 1)).square().sum() / view.shape[1] for view in views)
    return Terms(invariance, variance, covariance)


def _off_diagonal(square: Tensor) -> Tensor:
    return square - torch.diag(square.diagonal())


class VICRegLoss(nn.Module):
    """Variance, invariance and covariance of two views' embeddings, weighted and summed (equation 6).

    Args:
        invariance: Weight of the term of that name; the paper's 25.
        variance: Likewise, 25.
        covariance: Likewise, 1.
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.weights = Terms(invariance, variance, covariance)

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Terms]:
        """The loss of embeddings (B, D) each, and its terms without weights."""
        each = terms(x, y)
        return sum(weight * term for weight, term in zip(self.weights, each)), each


class Expander(nn.Sequential):
    """Features to embeddings, (B, in_features) -> (B, widths[-1]): linear layers, batch norm over the batches of
    all processes and ReLU between them.

    Args:
        in_features: Width of the features.
        widths: Of the layers; the paper has three of 8192.
    """

    def __init__(self, in_features: int, widths: Sequence[int] = (8192, 8192, 8192), device=None, dtype=None) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths of an expander must be positive and at least one, got {tuple(widths)}")
        dd = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        for width in widths[:-1]:
            layers += [nn.Linear(in_features, width, **dd), GatheredBatchNorm1d(width, **dd), nn.ReLU(inplace=True)]
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, widths[-1], bias=False, **dd))
