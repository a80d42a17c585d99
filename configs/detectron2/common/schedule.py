"""Learning rates that fall twice to a tenth after a short warm-up."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def multi_step(max_iter, milestones, warmup=500):
    """The multiplier of the learning rate; all arguments in iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones, num_updates=max_iter),
        warmup_length=warmup / max_iter,
        warmup_factor=0.001,
    )
