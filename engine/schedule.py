"""How long a run is and how fast it learns, changed as a whole: what hangs together in a config goes along."""

from typing import Any, Dict, Iterator, List, Optional

from mmengine.config import Config, ConfigDict
from mmengine.optim import ConstantParamScheduler, LinearParamScheduler
from mmengine.registry import LOOPS, PARAM_SCHEDULERS
from mmengine.runner import IterBasedTrainLoop

from .errors import UserError

# What hooks count of a run, beside intervals: where they begin, and how much before the end.
_PLACES = ("switch_epoch", "switch_iter", "begin_epoch", "begin_iter", "num_last_epochs")


def goes_by_iterations(loop: Dict[str, Any]) -> bool:
    """Whether a `train_cfg` counts iterations, and not epochs."""
    kind = loop.get("type")
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        return "max_iters" in loop
    return issubclass(kind, IterBasedTrainLoop)


def set_length(cfg: Config, epochs: Optional[int] = None, iters: Optional[int] = None) -> None:
    """Gives a run another length.

    Warm-ups stay as they are. What comes after them, decays with their milestones and periods, is stretched or
    shortened in proportion. A shorter run is validated and saved as often as before, a longer one at the same
    intervals.

    Args:
        cfg: Changed in place.
        epochs: Of a run by epochs.
        iters: Of a run by iterations.

    Raises:
        UserError: The run counts the other one, or its config does not say how long it is.
    """
    loop = cfg.get("train_cfg")
    if not loop:
        raise UserError(f"{cfg.filename} has no train_cfg: it trains nothing whose length could be set")
    by_iterations = goes_by_iterations(loop)
    key, option, unit = (
        ("max_iters", "--iters", "iterations") if by_iterations else ("max_epochs", "--epochs", "epochs")
    )
    length = iters if by_iterations else epochs
    before = loop.get(key)
    if length is None:
        raise UserError(f"{cfg.filename} trains by {unit}, {before} of them: its length is set by {option}")
    if not before:
        raise UserError(f"train_cfg of {cfg.filename} has no {key}, against which its schedule could be scaled")
    loop[key] = length
    ratio = length / before
    warmed_up = _warm_up_of(cfg.get("param_scheduler"))
    for part in _schedulers(cfg.get("param_scheduler")):
        _fit(part, before, length, not by_iterations, warmed_up)
    if loop.get("val_begin"):
        loop.val_begin = _scaled(loop.val_begin, ratio)
    if loop.get("val_interval"):
        loop.val_interval = _interval(loop.val_interval, ratio)
    if loop.get("dynamic_intervals"):
        loop.dynamic_intervals = [
            (_scaled(begin, ratio) if begin else begin, _interval(interval, ratio))
            for begin, interval in loop.dynamic_intervals
        ]
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    for hook in (hook for hook in hooks if isinstance(hook, dict)):
        counts_epochs = hook.get("by_epoch", _name(hook) == "CheckpointHook" or not by_iterations)
        if "Checkpoint" in _name(hook) and hook.get("interval", 0) > 0 and counts_epochs != by_iterations:
            hook.interval = _interval(hook.interval, ratio)
        for place in _PLACES:
            if hook.get(place):
                hook[place] = _scaled(hook[place], ratio)


def _fit(scheduler: ConfigDict, before: int, now: int, by_epoch: bool, warmed_up: Dict[bool, int]) -> None:
    """Stretches a scheduler of a run of one length to that of another, both in the unit that the run counts."""
    if is_warm_up(scheduler):
        return
    counts_epochs = scheduler.get("by_epoch", True)
    ratio = now / before
    is_own_unit = counts_epochs == by_epoch
    begin, end = scheduler.get("begin", 0), scheduler.get("end")
    if end is None and is_own_unit:
        end = before
    new_begin = begin if begin <= warmed_up[counts_epochs] else round(begin * ratio)
    if end is not None:
        new_end = now if is_own_unit and end == before else round(end * ratio)
        if new_end > new_begin and end > begin:
            ratio = (new_end - new_begin) / (end - begin)
    if "begin" in scheduler:
        scheduler.begin = new_begin
    if scheduler.get("end") is not None:
        scheduler.end = new_end
    scheduler.update(stretched(scheduler, ratio))


def stretched(scheduler: Dict[str, Any], ratio: float) -> Dict[str, Any]:
    """What a scheduler counts from its begin on, multiplied by a ratio; a factor for each step is raised to its
    inverse.

    Args:
        scheduler: Its config.
        ratio: New length to old.

    Returns:
        The settings that change.
    """
    changed: Dict[str, Any] = {}
    for key in ("T_max", "total_steps", "step_size"):
        if scheduler.get(key):
            changed[key] = _scaled(scheduler[key], ratio)
    for key in ("milestones", "periods"):
        if scheduler.get(key):
            changed[key] = [_scaled(count, ratio) for count in scheduler[key]]
    if "gamma" in scheduler and not {"milestones", "step_size"} & scheduler.keys():
        changed["gamma"] = scheduler["gamma"] ** (1 / ratio)
    return changed


def is_warm_up(scheduler: Dict[str, Any]) -> bool:
    """Whether the config of a scheduler brings a value to its base at the beginning of a run."""
    if scheduler.get("begin", 0) or "end" not in scheduler:
        return False
    kind = scheduler.get("type")
    kind = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind
    if isinstance(kind, type) and issubclass(kind, LinearParamScheduler):
        return scheduler.get("end_factor", 1.0) >= scheduler.get("start_factor", 1 / 3)
    is_constant = isinstance(kind, type) and issubclass(kind, ConstantParamScheduler)
    return is_constant or "Warmup" in _name(scheduler)


def _warm_up_of(part: Any) -> Dict[bool, int]:
    """Where the warm-ups end, by whether they count epochs."""
    ends = {True: 0, False: 0}
    for scheduler in _schedulers(part):
        if is_warm_up(scheduler):
            unit = scheduler.get("by_epoch", True)
            ends[unit] = max(ends[unit], scheduler.end)
    return ends


def _schedulers(part: Any) -> Iterator[ConfigDict]:
    """Lists schedulers, of one optimiser or of several, see `mmengine.runner.Runner.build_param_scheduler`."""
    if isinstance(part, dict) and "type" in part:
        yield part
    elif part:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _schedulers(inner)


def _scaled(count: int, ratio: float) -> int:
    return max(round(count * ratio), 1)


def _interval(interval: int, ratio: float) -> int:
    return min(interval, _scaled(interval, ratio))


def _name(part: Dict[str, Any]) -> str:
    kind = part.get("type", "")
    return kind if isinstance(kind, str) else kind.__name__


# The learning rate ---------------------------------------------------------------------------------------------------


def set_batch_size(cfg: Config, size: int, loader: str = "train_dataloader") -> None:
    """Sets how many pictures a process takes at once.

    Where the config says for how many in all its learning rate is (`auto_scale_lr.base_batch_size`), the rate is scaled
    in proportion when training begins, as mmengine does it; else it stays. `learning_rate` says which.

    Args:
        cfg: Changed in place.
        size: Pictures a process.
        loader: Which of its loaders.

    Raises:
        UserError: It has no such loader, or another part of it decides.
    """
    part = cfg.get(loader)
    if not part:
        raise UserError(f"{cfg.filename} has no {loader}, so it takes no --batch-size")
    decides = next((key for key in ("batch_sampler", "sampler") if "batch_size" in (part.get(key) or {})), None)
    if decides or "batch_size" not in part:
        where = f"{loader}.{decides}" if decides else f"something else than {loader}.batch_size"
        raise UserError(f"the batch size of {cfg.filename} is set by {where}: set it there by --cfg-options")
    part.batch_size = size
    if loader == "train_dataloader" and (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
        cfg.auto_scale_lr.enable = True


def set_learning_rate(cfg: Config, rate: float) -> None:
    """Sets the learning rate of the run, whatever its batch size.

    Raises:
        UserError: The config has no optimiser, or several.
    """
    _optimizer(cfg).lr = rate
    if cfg.get("auto_scale_lr"):
        cfg.auto_scale_lr.enable = False


def learning_rate(cfg: Config, processes: int) -> str:
    """Tells which learning rate a run has, and why.

    Args:
        cfg: Of the run.
        processes: How many share a batch.
    """
    rate, size = _optimizer(cfg).get("lr"), (cfg.get("train_dataloader") or {}).get("batch_size")
    if rate is None:
        return "learning rate: the optimiser's own"
    scale = cfg.get("auto_scale_lr") or {}
    base, total = scale.get("base_batch_size"), processes * (size or 0)
    if scale.get("enable") and base and size:
        each = f" ({size} in each of {processes} processes)" if processes > 1 else ""
        return (
            f"learning rate: {rate * total / base:g}, in proportion to {total} pictures a step{each}; "
            f"the config's {rate:g} is for {base}"
        )
    return f"learning rate: {rate:g}, whatever the batch size"


def _optimizer(cfg: Config) -> ConfigDict:
    wrapper = cfg.get("optim_wrapper") or {}
    if not isinstance(wrapper.get("optimizer"), dict):
        several: List[str] = [name for name, part in wrapper.items() if isinstance(part, dict) and "optimizer" in part]
        raise UserError(
            f"{cfg.filename} has no optim_wrapper.optimizer whose learning rate could be told or set"
            + (f": it has several optimisers, {', '.join(several)}; set theirs by --cfg-options" if several else "")
        )
    return wrapper.optimizer
