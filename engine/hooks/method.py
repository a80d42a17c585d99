"""Puts a method of training to use in a run."""

from typing import Any, Callable, ClassVar, Dict, Optional

import torch.nn as nn
from mmengine.hooks import Hook

from ..errors import UserError
from ..models import trunk


class MethodHook(Hook):
    """Applies one of `spectral_backbones.methods` to the model that looks at the pictures, as long as the run lasts.

    Args:
        **kwargs: Of the method.
    """

    name: ClassVar[str]  # of the method, in the plural
    refuses: ClassVar[Dict[str, str]] = {}  # keys of a config that it does not go with, and what to do

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs
        self.undo: Optional[Callable[[], None]] = None

    def apply(self, model: nn.Module, **kwargs: Any) -> Callable[[], None]:
        """Applies the method; returns what takes it back."""
        raise NotImplementedError

    def before_run(self, runner: Any) -> None:
        """Applies it.

        Raises:
            UserError: It does not fit the model, its arguments or the rest of the config.
        """
        self.after_run(runner)  # of a run before that has failed
        for key, advice in self.refuses.items():
            if runner.cfg.get(key):
                raise UserError(f"{self.name} do not go with {key}: {advice}")
        try:
            self.undo = self.apply(trunk(runner.model), **self.kwargs)
        except (TypeError, ValueError) as error:
            raise UserError(f"{type(self).__name__}: {error}") from error

    def after_run(self, runner: Any) -> None:
        """Takes it back."""
        if self.undo is not None:
            self.undo()
            self.undo = None
