"""LARS as VICReg's authors have it (facebookresearch/vicreg, after arXiv 1708.03888)."""

from typing import Any, Callable, Iterable, Optional

import torch
from torch.optim import Optimizer


class LARS(Optimizer):
    """Stochastic gradient descent whose steps are as large as a layer's weights allow.

    A gradient with weight decay, g = grad + weight_decay w, is scaled by trust_coefficient |w| / |g|, then goes into
    the momentum. Vectors, such as norms and biases, are neither decayed nor scaled. timm's `lars` divides by
    |grad| + weight_decay |w| in place of |g|, which is more by the triangle inequality.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Factor of the momentum.
        weight_decay: L2 decay of tensors of two dimensions and more.
        trust_coefficient: Step over weight at a learning rate of 1.

    Raises:
        ValueError: An argument is negative.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
    ) -> None:
        settings = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient)
        for name, value in settings.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:
        """Makes one step; returns what `closure`, if any, does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                update = param.grad
                if param.ndim > 1:
                    update = update.add(param, alpha=group["weight_decay"])
                    update = update * self._trust(param, update, group["trust_coefficient"])
                state = self.state[param]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(param)
                momentum = state["momentum"].mul_(group["momentum"]).add_(update)
                param.add_(momentum, alpha=-group["lr"])
        return loss

    @staticmethod
    def _trust(param: torch.Tensor, update: torch.Tensor, coefficient: float) -> torch.Tensor:
        weight, step = torch.linalg.vector_norm(param), torch.linalg.vector_norm(update)
        return torch.where((weight > 0) & (step > 0), coefficient * weight / step, 1.0)
