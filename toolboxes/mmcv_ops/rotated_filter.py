"""Active rotated filters (ORN, arXiv 1701.01833; S2A-Net, arXiv 2008.09397, section 3.3)."""

from torch import Tensor

from .registry import operator


@operator
def active_rotated_filter_forward(input: Tensor, indices: Tensor, output: Tensor) -> None:
    """Writes the filter at every rotation to `output` (O R, I A, H, W).

    Args:
        input: Filter (O, I, A, H, W) of A orientations.
        indices: For each of its A H W entries and each of R rotations the entry it moves to, from 1: (A, H, W, R).
        output: Receives the rotated filters.
    """
    entries = input.flatten(2)  # (O, I, A H W)
    index = _index(indices)  # (R, A H W)
    target = output.view(len(input), len(index), *entries.shape[1:])  # (O, R, I, A H W)
    target.scatter_(3, index[:, None].expand_as(target), entries[:, None].expand_as(target))


@operator
def active_rotated_filter_backward(grad_out: Tensor, indices: Tensor, grad_in: Tensor) -> None:
    """Writes the gradient of the filter to `grad_in` (O, I, A, H, W)."""
    outputs, inputs = grad_in.shape[:2]
    index = _index(indices)
    upstream = grad_out.reshape(outputs, len(index), inputs, -1)  # (O, R, I, A H W)
    grad_in.copy_(upstream.gather(3, index[:, None].expand_as(upstream)).sum(1).view_as(grad_in))


def _index(indices: Tensor) -> Tensor:
    return indices.flatten(0, 2).transpose(0, 1).long() - 1
