"""Depth-wise convolutions that are added to what they see."""

from typing import Type

import torch
import torch.nn as nn
import torch.nn.functional as F

from .tracing import untraced


@untraced  # the precision decides how it is computed
class ResidualDepthwiseConv(nn.Module):
    """x + DW(x), DW a depth-wise convolution: DAT++'s local perception unit (arXiv 2309.01430, section 3; CMT, arXiv
    2107.06263, equation 1).

    (B, H, W, C) -> (B, H, W, C). In full precision it is one convolution, x being added by a one at the centre of the
    kernel. In half precision, and under autocast, a kernel could not hold both, and the sum would lose the bits that a
    float32 input has.

    The parameters are those of the convolution DW, but the class is no nn.Conv2d: it is not called as one, and what
    replaces convolutions would lose x.

    Args:
        dim: Channels C.
        kernel_size: Side of the kernel in positions, odd.

    Raises:
        ValueError: `kernel_size` is not odd.
    """

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, to have a centre, got {kernel_size}")
        super().__init__()
        self.dim = dim
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel_size, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as torch draws those of a convolution, uniformly within 1 / sqrt(fan in)."""
        limit = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -limit, limit)
        nn.init.uniform_(self.bias, -limit, limit)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            x = self._sum(x)
        else:
            x = self._fused(x)
        return x

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        convolved = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=self.padding, groups=self.dim)
        return x + convolved.permute(0, 2, 3, 1)

    @torch.jit.unused
    def _fused(self, x: torch.Tensor) -> torch.Tensor:
        autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        # ONNX's older exporter takes no kernel that is computed.
        if autocast or x.dtype not in (torch.float32, torch.float64) or torch.onnx.is_in_onnx_export():
            return self._sum(x)
        weight = self.weight + F.pad(self.weight.new_ones(1, 1, 1, 1), [self.padding] * 4)
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, self.bias, padding=self.padding, groups=self.dim)
        return x.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"{self.dim}, kernel_size={self.weight.shape[-1]}"


class ResidualDepthwiseMlp(nn.Module):
    """An MLP whose hidden channels also see their neighbours: fc2(act(h + DW3x3(h))), h = fc1(x) (DAT++, arXiv
    2309.01430, section 3; SG-Former, arXiv 2308.12216).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        in_features: Channels C.
        hidden_features: Channels between the two linear layers.
        act_layer: Activation.
        drop: Dropout after each linear layer, as DAT++ has it; the official SG-Former has the first one behind the
            activation. Neither was trained with any.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, hidden_features, **dd)
        self.drop1 = nn.Dropout(drop)
        self.dwconv = ResidualDepthwiseConv(hidden_features, **dd)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.dwconv(self.drop1(self.fc1(x))))
        return self.drop2(self.fc2(x))
