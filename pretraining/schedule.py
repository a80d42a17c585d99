"""The learning rate and the optimiser of VICReg's authors, for the runner."""

from typing import Any, List

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

from spectral_backbones.engine.errors import UserError
from spectral_backbones.methods.lars import LARS
from spectral_backbones.methods.schedule import warmup_cosine

OPTIMIZERS.register_module(name="LARS", module=LARS)


@PARAM_SCHEDULERS.register_module()
class VICRegLR(LRSchedulerMixin, _ParamScheduler):
    """`methods.schedule.warmup_cosine`, step by step over the whole run.

    Args:
        optimizer: Whose rate it sets.
        ramp: Length of the linear warm-up from 0, in the unit of `begin` and `end`.
        floor: The last rate, as a fraction of the highest.
        **kwargs: See `mmengine.optim.scheduler.param_scheduler._ParamScheduler`; `end` is that of the run.

    Raises:
        UserError: There is no step after the warm-up.
    """

    def __init__(self, optimizer: Any, ramp: int = 0, floor: float = 1e-3, **kwargs: Any) -> None:
        self.ramp, self.floor = ramp, floor
        super().__init__(optimizer, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args: Any, epoch_length: int, ramp: int = 0, begin: int = 0, end: int = INF, **kwargs: Any
    ) -> "VICRegLR":
        """Counts steps where a config counts epochs."""
        lengths = {"ramp": ramp * epoch_length, "begin": begin * epoch_length, "end": end * epoch_length}
        return cls(*args, **lengths, **{**kwargs, "by_epoch": False})

    def _get_value(self) -> List[float]:
        steps = self.end - self.begin
        try:
            return [warmup_cosine(self.last_step, steps, self.ramp, base, self.floor) for base in self.base_values]
        except ValueError as error:
            raise UserError(f"{error}: set param_scheduler.0.ramp") from error
