"""What the parts of a detector or segmenter cost."""

from typing import Dict

from torch import nn

from spectral_backbones.backbones.flops import Cost, Share


def parts_of(cost: Cost, model: nn.Module, prefix: str) -> Dict[str, Share]:
    """Splits a count by the children of a model.

    Args:
        cost: Of something that contains the model.
        model: What is split.
        prefix: Its name there.

    Returns:
        Shares by the names of the children, and "outside" if there is something outside of them. They add up to the
        whole.
    """
    parts = {name: cost.by_module[f"{prefix}.{name}"] for name, _ in model.named_children()}
    parts = {name: part for name, part in parts.items() if part.params or part.flops}
    rest = Share(
        *(
            getattr(cost, key) - sum(getattr(part, key) for part in parts.values())
            for key in ("params", "flops", "activations")
        )
    )
    if rest.params or rest.flops or rest.activations:
        parts["outside"] = rest
    return parts
