"""What only the training of classifiers needs, each idea a hook of its own."""

from .describe import DescribeClassifierHook
from .outcome import OutcomeHook

__all__ = ["DescribeClassifierHook", "OutcomeHook"]
