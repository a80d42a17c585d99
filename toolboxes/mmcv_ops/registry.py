"""The operators of `mmcv._ext` that this package computes, by name."""

import functools
from typing import Callable, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

OPERATORS: dict[str, Callable] = {}


def operator(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Registers a function as the operator of its name in `mmcv._ext`.

    As with a compiled operator nothing inside is recorded for autograd (mmcv's autograd functions pair each forward
    with a backward operator) or cast by autocast.

    Raises:
        ValueError: An operator of this name is registered already.
    """
    name = function.__name__
    if name in OPERATORS:
        raise ValueError(f"operator {name!r} is registered already, by {OPERATORS[name].__module__}")

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    OPERATORS[name] = run
    return run
