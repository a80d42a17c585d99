"""mmengine's Runner, made careful with checkpoints and quiet on the console."""

import io
import logging
import random
import shutil
import traceback
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Optional, Set, Union

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from spectral_backbones.backbones.weights import some_names

from . import checkpoint as files
from . import resuming, sharding
from .config import nodes, without_weights
from .errors import UserError, told_plainly
from .hooks import (
    CatchUpHook,
    ClassOrderHook,
    FreshWorkersHook,
    KeepCheckpointsHook,
    PlainStateHook,
    TimmStateHook,
)
from .models import bare
from .names import ClassOrder, agree, class_names, classes_of, differences, rows_by_name
from .sampler import SeededDataset
from .workers import end_with_parent

_TOOLBOXES = {"mmengine", "mmcv", "mmdet", "mmseg"}
_MMENGINES_HOOKS = {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"}  # by default


@RUNNERS.register_module()
class CarefulRunner(Runner):
    """Reads checkpoints as data and strictly, replaces them in one step, and resumes from the last whole one.

    mmengine writes a checkpoint in place, loads one that does not fit with a warning, and runs what is pickled in it.
    The whole log is in the work directory; the console gets warnings and what `ConsoleHook` prints.

    A model may have two things to say. `check_data(dataset)` is called with each data set and raises a UserError where
    the two don't fit; `loads_strictly` refuses weights with another head at the start of a training, too.
    """

    evaluates_only = False  # set by `test`: what is evaluated must be all of what was trained
    _timestamps: ClassVar[Set[str]] = set()  # of the runs of this process
    _known: Optional[List[str]] = None  # classes of the checkpoint that was loaded, and of the model
    _known_by: str = ""  # that checkpoint

    def setup_env(self, env_cfg: Dict) -> None:
        """Joins the other processes, and gives the run a timestamp that no run of this process had before.

        mmengine keeps log, message hub and visualizer by the run's name, which is the config's with a timestamp to the
        second: the second of two quick runs would go on with the losses of the first and log into its folder.
        """
        super().setup_env(env_cfg)
        second, count = self._timestamp, 1
        while self._timestamp in self._timestamps:
            count += 1
            self._timestamp = f"{second}_{count}"
        self._timestamps.add(self._timestamp)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Builds mmengine's logger with a console that shows this library's warnings and nobody's chatter."""
        logger = super().build_logger(*args, **kwargs)
        if not (self.cfg.get("default_hooks") or {}).get("console"):  # nothing else would speak
            return logger
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(max(handler.level, logging.WARNING))  # other processes than the first say less
                handler.addFilter(lambda record: not _TOOLBOXES & set(Path(record.pathname).parts))
        return logger

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Registers the config's hooks, and last those that every run has."""
        super().register_hooks(*args, **kwargs)
        for hook in (PlainStateHook(), TimmStateHook(), FreshWorkersHook(), CatchUpHook()):
            self.register_hook(hook, priority="LOWEST")

    def register_default_hooks(self, hooks: Optional[Dict[str, Any]] = None) -> None:
        """Registers mmengine's hooks and the config's; one that is None is left out, also where it is none of
        mmengine's own.
        """
        hooks = hooks or {}
        super().register_default_hooks(
            {name: hook for name, hook in hooks.items() if hook is not None or name in _MMENGINES_HOOKS}
        )

    def wrap_model(self, model_wrapper_cfg: Optional[Dict], model: nn.Module) -> nn.Module:
        """Wraps for distribution, on GPUs as mmengine does, on CPUs without the device that it insists on."""
        if self.distributed and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            if torch.cuda.is_available():
                # torch's own conversion, which mmengine calls, would lose the activation of timm's BatchNormAct2d.
                if self.cfg.get("sync_bn", "torch") == "torch":
                    model = convert_sync_batchnorm(model)
                    self.cfg.sync_bn = None
            else:
                model = revert_sync_batchnorm(model)
                norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
                if not all(getattr(one, "gathers", False) for one in norms):
                    self.logger.warning(
                        "batch norm takes its statistics from each process alone, because torch synchronises it on "
                        "CUDA only: losses differ from those of one process with the same total batch"
                    )
        if self.distributed and self.cfg.get("fsdp"):
            # Before the split, from one seed in all processes: torch has no way to draw or to broadcast parts.
            if hasattr(model, "init_weights"):
                model.init_weights()
            return sharding.shard(model.to(get_device()))
        if self.distributed and not torch.cuda.is_available():
            model_wrapper_cfg = {
                "type": "MMDistributedDataParallel",
                "broadcast_buffers": False,  # SyncBuffersHook averages them; torch would take those of one process
                "find_unused_parameters": self.cfg.get("find_unused_parameters", False),
                **(model_wrapper_cfg or {}),
                "device_ids": None,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        # Sharded models have theirs since before they were split.
        if not isinstance(self.model, FSDPModule):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Resumes from the last whole checkpoint of the work directory; `load_from` is where a run begins.

        Until here nothing of an earlier run has been touched. Now the run's config is written, and with `overwrite`
        the checkpoints of the earlier run are removed.

        Raises:
            UserError: The run cannot go on; the work directory is left as it was.
        """
        try:
            self._load_or_resume()
        except UserError:
            if self._resume:
                self._forget()
            raise
        if isinstance(self._train_loop, BaseLoop):  # and no mere evaluation
            resuming.warn_of_the_end(self)
            if self.cfg.get("overwrite") and self.rank == 0:
                for path in resuming.left_by_a_run(self.work_dir):
                    self.logger.info(f"removing {path}, which an earlier run has left")
                    path.unlink()
        self._dump_config()

    def _load_or_resume(self) -> None:
        if self._resume:
            # One process looks, so that all take the same file.
            found = [files.latest_whole(self.work_dir, self.logger.warning) if self.rank == 0 else None]
            broadcast_object_list(found)
            if found[0] is None:
                self.logger.warning(
                    resuming.none_to_resume(self.work_dir, self._load_from, self.cfg.get("overwrite", False))
                )
                self._resume = False
            else:
                self._load_from = str(found[0])
        super().load_or_resume()

    def _forget(self) -> None:
        """Removes what a run that could not be resumed has written so far, its log."""
        for handler in [handler for handler in self.logger.handlers if isinstance(handler, logging.FileHandler)]:
            handler.close()
            self.logger.removeHandler(handler)
        if self.rank == 0:
            shutil.rmtree(self.log_dir, ignore_errors=True)

    def dump_config(self) -> None:
        """Called by mmengine while the runner is built: too early, the run may still be refused."""

    def _dump_config(self) -> None:
        path = Path(self.work_dir) / Path(self.cfg.filename or "").name
        # A user may keep the config in the work directory: what its bases and the command line make of it would take
        # its place. The log's folder has that, too.
        if not (self.cfg.filename and path.exists() and path.samefile(self.cfg.filename)):
            super().dump_config()

    def load_checkpoint(
        self, filename: str, map_location: Union[str, Callable] = "cpu", strict: bool = True, **kwargs: Any
    ) -> Dict[str, Any]:
        """Loads what training goes on from when resuming, what is evaluated otherwise. Classes are matched by name.

        Raises:
            UserError: The file cannot be read, or does not fit the model, the data or what is left of the run.
        """
        checkpoint = files.read(filename, map_location)
        if self._resume and not files.has_state(checkpoint):
            raise UserError(
                f"checkpoint {filename} has weights but no state of training: a run begins from it without --resume, "
                f"by --cfg-options load_from={filename}"
            )
        renamed = self._match_classes(class_names(checkpoint), filename)
        if self._resume:
            self._resumption = resuming.Resumption(self, checkpoint, filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = bare(self.model)
        weights = checkpoint["state_dict"] if self._resume else files.unwrap(checkpoint)
        if renamed:
            weights = self._carry_over(model, weights, class_names(checkpoint), renamed, filename)
        if self._resume or self.evaluates_only or getattr(model, "loads_strictly", False):
            files.load_strictly(model, weights, filename, self.logger.warning)
        else:  # detectors and segmenters are fine-tuned from weights with another head
            unknown = files.load_fitting(model, weights, filename, self.logger.warning)
            if unknown:
                self.logger.warning(f"{filename} holds what the model does not have: {some_names(unknown)}")
        if self._resume:
            self._resumption.plan_schedule()
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint

    def _match_classes(self, known: Optional[List[str]], filename: str) -> Optional[List[str]]:
        """Compares the classes of a checkpoint with those of the data, and lets them be translated where only their
        order differs. A training that begins from it may have others. Loops that are built later are compared then.

        Returns:
            The classes of the data where they are others.

        Raises:
            UserError: They are others, and what was trained for the checkpoint's is evaluated or trained further.
        """
        self._orders = {}  # of a checkpoint that was loaded before
        if any(hasattr(part, "language_model") for part in self.model.modules()):
            known = None  # where classes are words, a model finds any
        self._known, self._known_by = known, filename
        loops = dict(train=self._train_loop, val=self._val_loop, test=self._test_loop)
        renamed = None
        for step, loop in loops.items():
            if hasattr(loop, "dataloader") and (renamed := self._match_loop(step, loop)):
                self._known = None  # the model will have those of the data
                break
        for hook in self.hooks:
            if isinstance(hook, ClassOrderHook) and (known or renamed):
                hook.classes = renamed or known
        return renamed

    def _match_loop(self, step: str, loop: Any) -> Optional[List[str]]:
        known, filename, dataset = self._known, self._known_by, loop.dataloader.dataset
        given = classes_of(dataset)
        if known is None or given in (None, known):
            return None
        if not agree(known, given):
            if step == "train" and not self._resume:
                return given
            raise UserError(
                f"{filename} was trained for other classes than the data of {step}_dataloader have: "
                f"{differences(known, given)}"
                + (f"; a new run begins from it by --cfg-options load_from={filename}" if self._resume else "")
            )
        if "thing_classes" in dataset.metainfo:
            raise UserError(
                f"{filename} has the classes of {step}_dataloader in another order, which is not translated for "
                f"panoptic data: give its data set the checkpoint's, {', '.join(known)}"
            )
        if not self._orders:
            self.logger.warning(
                f"{filename} has the classes of the data in another order: they are matched by name, and the model's "
                "order stays"
            )
        self._orders[step] = ClassOrder(known, given)
        self._translate(step)
        if not any(isinstance(hook, ClassOrderHook) for hook in self.hooks):
            self.register_hook(ClassOrderHook(known), priority="VERY_LOW")
        return None

    def _translate(self, step: str) -> None:
        """Lets a step of the model go through the order of its classes, whichever checkpoint is loaded by then."""
        name = f"{step}_step"
        if getattr(vars(self.model).get(name), "translates", False):
            return
        call = getattr(self.model, name)

        def translated(data: Any, *args: Any, **kwargs: Any) -> Any:
            order = self._orders.get(step)
            if order is None:
                return call(data, *args, **kwargs)
            if step == "train":
                return call(order.batch(data), *args, **kwargs)
            return order.predictions(call(data, *args, **kwargs))

        translated.translates = True
        setattr(self.model, name, translated)

    def _carry_over(
        self, model: nn.Module, weights: Dict[str, torch.Tensor], known: List[str], given: List[str], filename: str
    ) -> Dict[str, torch.Tensor]:
        """Fits the head of a checkpoint to other classes, see `engine.names.rows_by_name`, and says so.

        Raises:
            UserError: The model does not show which of its weights belong to classes, such as one whose two classes
                share one channel.
        """
        cfg = without_weights(self.cfg.model)
        for node in nodes(cfg):
            if node.get("num_classes") == len(given):
                keys = [key for key in ("num_classes", "out_channels") if node.get(key) == len(given)]
                node.update({key: len(given) + 1 for key in keys})
        try:
            with torch.random.fork_rng(devices=[]):
                wider = self.build_model(cfg).state_dict()
        except UserError:
            wider = {}
        own = model.state_dict()
        if all(key not in wider or wider[key].shape == value.shape for key, value in own.items()):
            raise UserError(
                f"{filename} was trained for other classes: {differences(known, given)}. Which of its weights know "
                "them does not show in this model: give the data its names, or begin from its backbone alone"
            )
        weights, kept, renewed = rows_by_name(weights, own, wider, known, given)
        self.logger.warning(
            f"{filename} was trained for other classes: {differences(known, given)}. Of the {len(given)} classes "
            f"{len(kept)} keep their weights in the head, the others are new"
            + (f"; new as a whole are {', '.join(renewed)}" if renewed and kept else "")
        )
        return weights

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resumes, says what differs from the checkpoint, and splits the optimiser's state where parameters are split.

        Raises:
            UserError: The run cannot go on from it with this config, see `engine.resuming`.
        """
        # mmengine reads all of the file to the device. Read to the CPU, what belongs there is copied, and curves and an
        # optimiser's counts of steps stay where they belong.
        super().resume(filename, *args, **{"map_location": "cpu", **kwargs, "resume_param_scheduler": False})
        sharding.split_optimizer(self.optim_wrapper.optimizer)
        self._resumption.finish()
        if lines := self._resumption.lines:
            more = [f"and {len(lines) - 30} more, see the two configs"] if len(lines) > 30 else []
            title = f"resuming {filename} with another config than it was written by:"
            self.logger.warning("\n    ".join([title, *lines[:30], *more]))

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Writes beside the old file, then takes its place in one step."""
        if isinstance(self.model, FSDPModule):  # all processes hold a part
            self.whole_state = {
                "state_dict": sharding.gather(self.model.state_dict()),
                "optimizer": sharding.gather(self.optim_wrapper.state_dict()),
            }
        told = {"facts": resuming.measure(self), "optimizers": resuming.optimizer_types(self)}
        kwargs["meta"] = {**(kwargs.get("meta") or {}), **told}
        if self.rank == 0:
            part = f".{filename}.part"
            super().save_checkpoint(out_dir, part, *args, **kwargs)
            files.replace(Path(out_dir) / part, Path(out_dir) / filename)

    def build_model(self, model: Union[nn.Module, Dict]) -> nn.Module:
        """Builds the model; a mistake in its config is told as one.

        Raises:
            UserError: A type or an argument is not known, or a value is refused.
        """
        with told_plainly():
            try:
                return super().build_model(model)
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"the model cannot be built: {error}") from error

    @staticmethod
    def build_dataloader(dataloader: Union[DataLoader, Dict], *args: Any, **kwargs: Any) -> DataLoader:
        """Builds the loader, around a `SeededDataset` where the sampler deals out seeds.

        Raises:
            UserError: A file of the data set is missing.
        """
        with told_plainly(), _printed_to_the_log():
            if isinstance(dataloader, dict) and dataloader["sampler"]["type"] in ("EpochSampler", "EndlessSampler"):
                dataset = DATASETS.build(dataloader["dataset"])
                if hasattr(dataset, "full_init"):
                    dataset.full_init()
                dataloader = {**dataloader, "dataset": SeededDataset(dataset)}
            return end_with_parent(Runner.build_dataloader(dataloader, *args, **kwargs))

    def build_evaluator(self, evaluator: Union[Dict, list, Evaluator]) -> Evaluator:
        """Builds an evaluator whose metrics print to the log; COCO's tables would break the progress bar."""
        with told_plainly(), _printed_to_the_log():
            built = super().build_evaluator(evaluator)
        evaluate = built.evaluate

        def quietly(size: int) -> Dict[str, float]:
            with _printed_to_the_log():
                return evaluate(size)

        built.evaluate = quietly
        return built

    def train(self) -> nn.Module:
        """Trains; see `mmengine.runner.Runner.train`.

        Raises:
            UserError: Something stands in the way that a user can mend.
        """
        if not isinstance(self._train_loop, BaseLoop):  # and not called once more
            resuming.check_work_dir(self.work_dir, self.cfg)
        with told_plainly():
            try:
                return super().train()
            except Exception as error:
                self._save_before(error)
                raise

    def _save_before(self, error: Exception) -> None:
        """Saves what was trained where a file that the data need, met late, ends a run by iterations.

        The error came from between two iterations, so that the run goes on from here once the file is mended. Of a run
        by epochs an unfinished one cannot be gone on with.
        """
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        loop = self._train_loop
        if "__next__" not in names or not isinstance(loop, IterBasedTrainLoop) or loop.iter == 0:
            return
        if "run_iter" in names or "after_val_iter" in names or "before_train" in names:  # no batch to train with
            return
        hook = next((hook for hook in self.hooks if isinstance(hook, KeepCheckpointsHook)), None)
        if hook and self.rank == 0 and not isinstance(self.model, FSDPModule):  # whose parts the others hold
            hook.save_now(self)
            self.logger.warning(f"iteration {loop.iter} is saved: mend what is told below, and go on with --resume")

    def test(self) -> Dict[str, float]:
        """Evaluates on the test set; see `mmengine.runner.Runner.test`.

        Raises:
            UserError: Something stands in the way that a user can mend.
        """
        self.evaluates_only = True
        with told_plainly():
            return super().test()

    def build_train_loop(self, loop: Any) -> Any:
        """Builds the loop and checks that model and data fit each other.

        Raises:
            UserError: An epoch would have no batch or no end, or the head has another number of classes than the data.
        """
        loop = super().build_train_loop(loop)
        loader = loop.dataloader
        if len(loader) == 0:
            raise UserError(
                f"{len(loader.dataset)} training images make no batch of {loader.batch_size} in each of "
                f"{get_world_size()} processes: lower train_dataloader.batch_size"
            )
        if isinstance(loop, EpochBasedTrainLoop) and _is_endless(loader.sampler):
            raise UserError(
                f"the sampler {type(loader.sampler).__name__} never ends, and {type(loop).__name__} waits for the end "
                "of its epoch: set train_dataloader.sampler.type=EpochSampler, or train by iterations with "
                "train_cfg=dict(type='IterBasedTrainLoop', max_iters=..., val_interval=...)"
            )
        self._check_data(loader.dataset)
        if self._match_loop("train", loop):
            self.logger.warning(
                f"{self._known_by} was loaded before the data, which have other classes: its head is taken as it is"
            )
            self._known = None
        return loop

    def build_val_loop(self, loop: Any) -> Any:
        """Builds the loop and checks that the data fit the model, see `build_train_loop`."""
        loop = super().build_val_loop(loop)
        self._check_data(loop.dataloader.dataset)
        self._match_loop("val", loop)
        return loop

    def build_test_loop(self, loop: Any) -> Any:
        """Builds the loop and checks that the data fit the model, see `build_train_loop`."""
        loop = super().build_test_loop(loop)
        self._check_data(loop.dataloader.dataset)
        self._match_loop("test", loop)
        return loop

    def _check_data(self, dataset: Any) -> None:
        model = bare(self.model)
        if hasattr(model, "check_data"):
            model.check_data(dataset)


def _is_endless(sampler: Any) -> bool:
    """Says whether a sampler has more to give than its length, and leaves what is random as it was."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        return sum(1 for _ in islice(iter(sampler), len(sampler) + 1)) > len(sampler)
    finally:
        for restore, state in zip((random.setstate, np.random.set_state, torch.set_rng_state), states, strict=True):
            restore(state)


@contextmanager
def _printed_to_the_log() -> Iterator[None]:
    """Sends what is printed to the log file; pycocotools prints whatever it does."""
    with redirect_stdout(io.StringIO()) as printed:
        yield
    if printed.getvalue().strip():
        MMLogger.get_current_instance().info("\n" + printed.getvalue().rstrip())
