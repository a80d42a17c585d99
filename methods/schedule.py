"""The learning rate of VICReg's authors (facebookresearch/vicreg)."""

import math


def warmup_cosine(
    step: int, steps: int, warmup_steps: int, base: float, floor: float = 1e-3, batch_size: int = 256
) -> float:
    """The learning rate of a step: linear warm-up from 0, then half a cosine down to `floor` of its height.

    Args:
        step: From 0 to steps - 1.
        steps: Of the whole run.
        warmup_steps: Of the warm-up, 10 epochs of 100 and more in the paper.
        base: Learning rate for a batch of 256.
        floor: The last rate, as a fraction of the highest.
        batch_size: Of all processes together, by which the rate grows.

    Raises:
        ValueError: There is no step after the warm-up.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"the warm-up must end before the run of {steps} steps, got {warmup_steps}")
    peak = base * batch_size / 256
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))
    return peak * (share + floor * (1 - share))
