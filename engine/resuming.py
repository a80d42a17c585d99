"""Which run a work directory holds, and what a resumed run takes from its checkpoint and what from its config.

From the checkpoint: the weights and their average, the state of the optimiser with learning rate, weight decay and the
like, the schedules, the seed, the place in the run, curves and best score, and the order of the classes.
From the config: everything else, such as the model's and the data's settings, batch size, accumulation of gradients,
number of processes, mixed precision, hooks, and the length of the run.

`Resumption` tells what differs, before anything is changed, and refuses what cannot go on. A schedule made for another
length of the run than it has now is refused unless `resume_schedule` (`--schedule`) says what is to become of it:

    "checkpoint"  the learning rate goes on as the checkpoint has it: flat after its schedule's end, or cut off before
    "config"      from here on it is what a run from its start with this config would have here. A scheduler that ended
                  with the run as it was, and that the config gives as before, ends with it as it is now: what it counts
                  (milestones, periods, steps) is stretched in proportion. Warm-ups keep their length.
"""

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import EMAHook
from mmengine.optim import ConstantParamScheduler, LinearParamScheduler, OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import IterBasedTrainLoop

from . import checkpoint as files
from .config import flatten, parse
from .errors import UserError
from .hooks import ModelEmaHook
from .schedule import stretched

SCHEDULES = ("checkpoint", "config")
_LEFT = re.compile(r"(best.*|latest|(epoch|iteration|iter)_\d+)\.pth|curve\.png")


def left_by_a_run(work_dir: str) -> List[Path]:
    """Lists what an earlier run has left in a work directory that another one would replace or mix up with its own."""
    kept = files.list_kept(work_dir)
    others = (path for path in sorted(Path(work_dir).glob("*")) if _LEFT.fullmatch(path.name) and path not in kept)
    return [*kept, *others]


def check_work_dir(work_dir: str, cfg: Config) -> None:
    """Refuses a run that would replace what an earlier one has left, before anything of it is built or written.

    Args:
        work_dir: Where the run is to write.
        cfg: Has `resume`, `overwrite` and `resume_schedule`, where they are set.

    Raises:
        UserError: It would; or `resume`, `overwrite` and `resume_schedule` of the config contradict one another.
    """
    for key in ("resume", "overwrite"):
        if not isinstance(cfg.get(key, False), (bool, type(None))):
            raise UserError(
                f"{key} is {cfg[key]!r}, allowed are True and False: a run resumes from the last checkpoint of its "
                "--work-dir, and load_from names the weights that a new one begins from"
            )
    resume, overwrite, schedule = (cfg.get(key) for key in ("resume", "overwrite", "resume_schedule"))
    if schedule not in (None, *SCHEDULES):
        raise UserError(f"resume_schedule is {schedule!r}, allowed are {' and '.join(SCHEDULES)}")
    if schedule and not resume:
        raise UserError("resume_schedule (--schedule) is for a run that is resumed: add --resume")
    if resume and overwrite:
        raise UserError("--resume goes on with an earlier run and --overwrite replaces it: choose one of them")
    # One process looks: another one might come when the first has begun to write.
    left = [left_by_a_run(work_dir) if is_main_process() else []]
    broadcast_object_list(left)
    if left[0] and not overwrite and not (resume and _can_be_resumed(left[0][0])):
        raise UserError(_told(work_dir, left[0], resume))


def _can_be_resumed(path: Path) -> bool:
    return path in files.list_kept(path.parent)


def _told(work_dir: str, left: List[Path], resume: bool) -> str:
    if resume or not _can_be_resumed(left[0]):
        return (
            f"{work_dir} holds {left[0].name} of an earlier run, but no checkpoint that --resume could go on from: "
            "begin a new run in another --work-dir, from weights by --cfg-options load_from=FILE, or replace what is "
            "there with --overwrite"
        )
    return (
        f"{work_dir} holds checkpoints of an earlier run (last {left[0].name}): go on with --resume, replace them with "
        "--overwrite, or choose another --work-dir"
    )


def none_to_resume(work_dir: str, load_from: Optional[str], overwrite: bool) -> str:
    """Says that a run begins anew where no whole checkpoint was found.

    Raises:
        UserError: Something of an earlier run lies there nevertheless, such as damaged checkpoints.
    """
    left = left_by_a_run(work_dir)
    if left and not overwrite:
        raise UserError(_told(work_dir, left, resume=True))
    begun = f" from the weights of {load_from}; a run goes on from a checkpoint that lies there" if load_from else ""
    return f"{work_dir} holds no checkpoint to resume from: starting anew{begun}"


class Length(NamedTuple):
    """How long a run is.

    Attributes:
        epochs: Of a run by epochs; one of a run by iterations.
        iterations: In all.
    """

    epochs: int
    iterations: int

    def of(self, by_epoch: bool) -> int:
        """The length in the unit that a scheduler counts in."""
        return self.epochs if by_epoch else self.iterations


class Resumption:
    """A checkpoint and the run that is to go on from it, compared before anything is changed.

    Args:
        runner: With loops, optimiser and schedulers as the config has them.
        checkpoint: What `runner` resumes from.
        path: Its file.

    Attributes:
        lines: What differs, with both values, and which of them is used.

    Raises:
        UserError: The run cannot go on so; the message says how it can.
    """

    def __init__(self, runner: Any, checkpoint: Dict[str, Any], path: str) -> None:
        self.runner, self.checkpoint, self.path = runner, checkpoint, path
        self.meta = checkpoint["meta"]
        self.before = parse(self.meta.get("cfg", ""))
        self.now = parse(runner.cfg.pretty_text)
        self.follows_config = runner.cfg.get("resume_schedule") == "config"
        loop = runner.train_loop
        self.length = Length(loop.max_epochs, loop.max_iters)
        info = checkpoint.get("message_hub", {}).get("runtime_info", {})
        told = info.get("max_epochs"), info.get("max_iters")
        self.old_length = Length(*told) if all(told) else None
        self.scheduled = {"lr", *(one.param_name for one in schedulers(runner))}
        self.lines: List[str] = []
        self._check_loop()
        self._check_optimizers()
        self._check_average()
        self._check_schedule()
        self._tell_settings()

    @property
    def by_iterations(self) -> bool:
        """Whether the run counts iterations alone."""
        return isinstance(self.runner.train_loop, IterBasedTrainLoop)

    def _check_loop(self) -> None:
        before = self.before.get("train_cfg")
        if before and ("max_iters" in before) != self.by_iterations:
            units = ["epochs", "iterations"]
            raise UserError(
                f"{self.path} is of a run by {units['max_iters' in before]}, the config trains by "
                f"{units[self.by_iterations]}: {_begin_anew(self.path)}, or set train_cfg back"
            )
        unit, done = ("iterations", self.meta["iter"]) if self.by_iterations else ("epochs", self.meta["epoch"])
        total = self.length.of(not self.by_iterations)
        if done > total:
            raise UserError(
                f"{self.path} has {done} {unit} behind it, the config asks for {total}: raise train_cfg.max_"
                f"{'iters' if self.by_iterations else 'epochs'}"
            )

    def _check_optimizers(self) -> None:
        types = self.meta.get("optimizers", {})
        states = self.checkpoint["optimizer"]
        for name, wrapper in optimizers(self.runner):
            state = states.get(name, {}) if name else states
            own, groups = wrapper.optimizer.param_groups, state.get("param_groups", [])
            place = f"optim_wrapper.{name}" if name else "optim_wrapper"
            type_now = type(wrapper.optimizer).__name__
            type_before = types.get(name)
            both = [{key for key in group if not self._is_scheduled(key)} for group in (groups or [{}])[:1] + own[:1]]
            if type_before is None and both[0] - both[1] and both[1] - both[0]:
                type_before = f"an optimiser with {', '.join(sorted(both[0] - both[1]))}"
            if type_before not in (None, type_now):
                raise UserError(
                    f"{self.path} has the state of {type_before}, from which {type_now}, the optimiser of the config, "
                    f"cannot go on: set {place} back, or {_begin_anew(self.path)}"
                )
            sizes = [[len(group["params"]) for group in part] for part in (groups, own)]
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"the optimiser of {self.path} has {sum(sizes[0])} parameters in {len(groups)} groups, that of the "
                    f"config {sum(sizes[1])} in {len(own)}, or otherwise divided (layer decay, frozen stages and "
                    f"paramwise_cfg divide them): set {place} and the model back, or {_begin_anew(self.path)}"
                )
            self._tell_optimizer(name, groups, own)

    def _tell_optimizer(self, name: str, groups: List[Dict[str, Any]], own: List[Dict[str, Any]]) -> None:
        for key in dict.fromkeys(key for group in own for key in group):
            if key == "params" or (self._is_scheduled(key) and key not in self.scheduled):
                continue
            # The rate that a schedule starts from, where there is one.
            pairs = [(_base(old, key), _base(new, key)) for old, new in zip(groups, own, strict=True)]
            pairs = [(old, new) for old, new in pairs if old is not None and not _equal(old, new)]
            if pairs:
                pair = max(pairs, key=lambda one: one[1]) if key == "lr" else pairs[0]  # not of a layer with decay
                taken = "config" if self.follows_config and key in self.scheduled else "checkpoint"
                self._tell(f"optimizer {name + ' ' if name else ''}{key}", *pair, taken)

    def _is_scheduled(self, key: str) -> bool:
        """Whether an entry of a group of parameters is a schedule's: the value itself, or what it goes from and to."""
        return any(key in (name, f"initial_{name}", f"max_{name}", f"min_{name}") for name in self.scheduled)

    def _check_average(self) -> None:
        average = self.checkpoint.get("ema_state_dict")
        theirs = isinstance(average, dict) and "steps" in average  # as mmengine's EMAHook writes it
        keeps = [isinstance(hook, (ModelEmaHook, EMAHook)) for hook in self.runner.hooks]
        other = any(isinstance(hook, ModelEmaHook if theirs else EMAHook) for hook in self.runner.hooks)
        if average is not None and other:
            raise UserError(
                f"the average of the weights in {self.path} was kept by {'EMAHook' if theirs else 'ModelEmaHook'}, "
                f"which the config does not have: set the hook back, or {_begin_anew(self.path)}"
            )
        if average is not None and not any(keeps):
            self.lines.append("average of the weights: in the checkpoint; the config keeps none, so it ends here")
        if average is None and any(keeps):
            self.lines.append("average of the weights: none in the checkpoint; it begins from the weights resumed")

    def _check_schedule(self) -> None:
        own, states = schedulers(self.runner), flat(self.checkpoint.get("param_schedulers"))
        if self.follows_config:
            if any(getattr(scheduler, "need_val_args", False) for scheduler in own):
                raise UserError(
                    "a schedule that follows the validation (ReduceOnPlateau) is no function of the place in a run: it "
                    "goes on with --schedule checkpoint only"
                )
            return
        parts = [*states, *(scheduler.state_dict() for scheduler in own)]
        forms = [
            {key for key, value in part.items() if isinstance(value, _PLAIN) and not key.startswith("_")}
            for part in parts
        ]
        if own and forms[: len(states)] != forms[len(states) :]:
            raise UserError(
                f"the config has other schedulers ({', '.join(type(one).__name__ for one in own)}) than {self.path}, "
                f"which has {len(states)}: set param_scheduler back, or follow the config's from here on with "
                "--schedule config"
            )
        if self.runner.cfg.get("resume_schedule") == "checkpoint":
            return
        # A run of the length that it had goes on as it would have, also where its schedule ended elsewhere.
        ends = [
            (state["end"], self.length.of(by_epoch), self.old_length and self.old_length.of(by_epoch), by_epoch)
            for scheduler, state in zip(own, states, strict=True)
            if not _is_warm_up(scheduler)
            for by_epoch in [state["by_epoch"]]
            if self.old_length is None or self.old_length.of(by_epoch) != self.length.of(by_epoch)
        ]
        unfit = [one for one in ends if one[0] < one[1]] if all(end < total for end, total, *_ in ends) else []
        unfit = unfit or [one for one in ends if one[1] < one[0] <= (one[2] or one[0])]
        if unfit:
            end, total, _, by_epoch = max(unfit, key=lambda one: one[0] / one[1])
            unit = "epoch" if by_epoch else "iteration"
            raise UserError(
                f"the schedule of the learning rate, as {self.path} has it, ends at {unit} {end}, the run at {unit} "
                f"{total}{self._why()}: --schedule config follows the config's from here on, stretched to the run; "
                "--schedule checkpoint leaves it as it is, "
                + ("flat from its end on" if end < total else "cut off where the run ends")
            )

    def _why(self) -> str:
        if self.by_iterations or self.old_length is None:
            return ""
        before, now = (one.iterations // one.epochs for one in (self.old_length, self.length))
        return f" (an epoch had {before} batches and has {now})" if before != now else ""

    def _tell_settings(self) -> None:
        facts = self.meta.get("facts", {})
        for key, value in measure(self.runner).items():
            if key in facts and facts[key] != value:
                self._tell(key, facts[key], value, "config")
        if (
            self.meta.get("seed") not in (None, self.runner.seed)
            and self.runner._randomness_cfg.get("seed") is not None
        ):
            self._tell("seed", self.meta["seed"], self.runner.seed, "checkpoint")
        before, now = (flatten({key: part.get(key) for key in _COMPARED}) for part in (self.before, self.now))
        if not self.before or not self.now:  # of a runner that was built without a config
            return
        for key in {**before, **now}:
            if before.get(key) == now.get(key) or key.rpartition(".")[2] in _INDIFFERENT or key.startswith(_TOLD):
                continue
            taken = "checkpoint" if key.startswith("param_scheduler") and not self.follows_config else "config"
            self._tell(key, before.get(key), now.get(key), taken)

    def _tell(self, name: str, before: Any, now: Any, taken: str) -> None:
        ends = [", which is used" if source == taken else "" for source in SCHEDULES]
        self.lines.append(f"{name}: {_show(before)} in the checkpoint{ends[0]}; {_show(now)} in the config{ends[1]}")

    # What follows from it, once the checkpoint is loaded

    def plan_schedule(self) -> None:
        """Moves the config's schedulers, if they are to be followed, to the place that the run resumes at; called
        before the optimiser's state is loaded over the values that they set.
        """
        if not self.follows_config:
            return
        runner = self.runner
        if runner.param_schedulers and self._may_stretch():
            given = runner.cfg.param_scheduler
            given = given if isinstance(given, (list, tuple)) or "type" not in given else [given]
            fitted = {
                name: [stretch(one, self.old_length, self.length) for one in _listed(part)]
                for name, part in (given.items() if isinstance(given, dict) else [("", given)])
            }
            for _, wrapper in optimizers(runner):
                for group in wrapper.param_groups:
                    group.update(
                        {key.removeprefix("initial_"): group[key] for key in group if key.startswith("initial_")}
                    )
            runner.param_schedulers = runner.build_param_scheduler(fitted.get("", fitted))
        follow(runner, self.place())
        groups = [group for _, wrapper in optimizers(runner) for group in wrapper.param_groups]
        self.planned = [{key: value for key, value in group.items() if self._is_scheduled(key)} for group in groups]

    def _may_stretch(self) -> bool:
        is_as_before = self.before.get("param_scheduler") == self.now.get("param_scheduler")
        return is_as_before and self.old_length not in (None, self.length)

    def place(self) -> int:
        """Returns the iteration that the run resumes at, counted in epochs of the length that they have now."""
        epoch, iteration = self.meta["epoch"], self.meta["iter"]
        if self.by_iterations or self.old_length is None:
            return iteration
        before, now = (one.iterations // one.epochs for one in (self.old_length, self.length))
        return epoch * now if iteration == epoch * before else iteration

    def finish(self) -> None:
        """Sets place, schedule and seed once model and optimiser are loaded."""
        runner = self.runner
        runner.train_loop._iter = self.place()
        if self.follows_config:
            groups = [group for _, wrapper in optimizers(runner) for group in wrapper.param_groups]
            for group, own in zip(groups, self.planned, strict=True):
                group.update(own)
        else:
            for scheduler, state in zip(schedulers(runner), flat(self.checkpoint.get("param_schedulers"))):
                # What is no plain value, as the function that OneCycle anneals by, is not kept or not read.
                scheduler.load_state_dict({key: value for key, value in state.items() if isinstance(value, _PLAIN)})
        loader = runner.train_dataloader
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if hasattr(sampler, "seed"):  # it was built before the checkpoint was read
                sampler.seed = runner.seed


_PLAIN = (int, float, str, list, tuple, dict, type(None))
# What a run reads of its config, and in it what makes no difference or is told in another way.
_COMPARED = (
    "model",
    "data_preprocessor",
    "train_dataloader",
    "val_dataloader",
    "val_evaluator",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "default_hooks",
    "custom_hooks",
    "fsdp",
    "sync_bn",
)
_INDIFFERENT = {"num_workers", "persistent_workers", "prefetch_factor", "pin_memory", "pretrained", "checkpoint"}
_TOLD = ("optim_wrapper.optimizer", "optim_wrapper.paramwise_cfg")


def measure(runner: Any) -> Dict[str, int]:
    """Returns what a run consists of and no config says; checkpoints keep it in `meta["facts"]`."""
    loader = runner.train_dataloader
    facts = {"processes": runner.world_size, "training images": len(loader.dataset)}
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        facts["batches of an epoch"] = len(loader)
    return facts


def optimizer_types(runner: Any) -> Dict[str, str]:
    """Names the types of a runner's optimisers; checkpoints keep them in `meta["optimizers"]`."""
    return {name: type(wrapper.optimizer).__name__ for name, wrapper in optimizers(runner)}


def optimizers(runner: Any) -> Iterator[Tuple[str, OptimWrapper]]:
    """Lists a runner's optimisers; where there is one only, its name is empty."""
    wrapper = runner.optim_wrapper
    yield from wrapper.items() if isinstance(wrapper, OptimWrapperDict) else [("", wrapper)]


def schedulers(runner: Any) -> List[_ParamScheduler]:
    """Lists a runner's schedulers, of all its optimisers."""
    return flat(runner.param_schedulers)


def flat(parts: Any) -> List[Any]:
    """Joins lists that are given by the name of an optimiser; there may be none at all."""
    return [one for part in parts.values() for one in part] if isinstance(parts, dict) else list(parts or [])


def _listed(part: Any) -> List[Any]:
    return list(part) if isinstance(part, (list, tuple)) else [part]


def warn_of_the_end(runner: Any) -> None:
    """Warns, once, where the schedule of the learning rate ends before the run or never moves."""
    loop, unit = runner.train_loop, ("iteration", "epoch")
    length = Length(loop.max_epochs, loop.max_iters)
    rates = [one for one in schedulers(runner) if one.param_name == "lr" and not _is_warm_up(one)]
    idle = [one for one in rates if one.by_epoch and isinstance(loop, IterBasedTrainLoop)]
    if idle:
        runner.logger.warning(
            f"{type(idle[0]).__name__} counts epochs and the run iterations: it never moves the learning rate; set its "
            "by_epoch to False"
        )
    elif rates and all(one.end < length.of(one.by_epoch) for one in rates):
        last = max(rates, key=lambda one: one.end / length.of(one.by_epoch))
        runner.logger.warning(
            f"the schedule of the learning rate ends at {unit[last.by_epoch]} {last.end}, the run at "
            f"{unit[last.by_epoch]} {length.of(last.by_epoch)}: in between it stays what it is then"
        )


def stretch(scheduler: Dict[str, Any], before: Length, now: Length) -> Dict[str, Any]:
    """Fits the config of a scheduler that ended with a run of one length to a run of another.

    What it counts from its begin on is multiplied by the ratio of both lengths from there; a factor for each step is
    raised to its inverse. A scheduler that ended elsewhere, such as a warm-up, stays as it is.
    """
    by_epoch = scheduler.get("by_epoch", True)
    old, new, begin = before.of(by_epoch), now.of(by_epoch), scheduler.get("begin", 0)
    if scheduler.get("end", old) != old or not begin < min(old, new):
        return scheduler
    ratio = (new - begin) / (old - begin)
    return {**scheduler, "end": new, **stretched(scheduler, ratio)}


def follow(runner: Any, iterations: int) -> None:
    """Moves freshly built schedulers on as so many iterations of training would have."""
    epoch = None if isinstance(runner.train_loop, IterBasedTrainLoop) else len(runner.train_dataloader)
    for _, wrapper in optimizers(runner):
        wrapper._global_step = 0  # or they would warn that nothing was optimised in between
    for iteration in range(1, iterations + 1):
        ends_epoch = epoch is not None and iteration % epoch == 0
        for scheduler in schedulers(runner):
            if not scheduler.by_epoch or ends_epoch:
                scheduler.step()


def _is_warm_up(scheduler: _ParamScheduler) -> bool:
    """A scheduler that brings a value to its base, where it may stay, and so need not last as long as the run."""
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.end_factor >= scheduler.start_factor
    return isinstance(scheduler, ConstantParamScheduler) or "Warmup" in type(scheduler).__name__


def _base(group: Dict[str, Any], key: str) -> Any:
    return group.get(f"initial_{key}", group.get(key))


def _equal(one: Any, other: Any) -> bool:
    return list(one) == list(other) if isinstance(one, (list, tuple)) else one == other


def _show(value: Any) -> str:
    text = "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _begin_anew(path: str) -> str:
    return f"begin a new run from its weights in another --work-dir by --cfg-options load_from={path}"
