"""What token mixers learn on small data: the same short training for each, from several seeds."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.backbones.mixers import get_mixer, list_mixers
from spectral_backbones.engine import CarefulRunner
from spectral_backbones.engine.config import load
from spectral_backbones.engine.schedule import set_length
from spectral_backbones.tools.benchmark import device_name
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.tasks import complete

SEEDS = (0, 1, 2)
REFERENCES = ("spectral", "attention", "identity")  # which all others are seen against
BEST = 5  # so many others are looked at more closely


@dataclass(frozen=True)
class Data:
    """A data set and how it is learnt.

    Attributes:
        config: Whose trunk, pictures and recipe are taken: the demonstration's, or the like of it.
        epochs: How long; the config's schedule is shortened in proportion.
        options: Of the config.
    """

    config: str
    epochs: int
    options: dict[str, Any]


_SUBSET = {f"{loader}_dataloader.dataset.check_integrity": False for loader in ("train", "val", "test")}
_HERE = {"train_dataloader.num_workers": 0, "val_dataloader.num_workers": 0, "test_dataloader.num_workers": 0}
DATA = {
    "digits": Data("classification/spectformer/spectformer_ti_digits", 5, {}),
    "cifar10": Data("classification/spectformer/spectformer_ti_cifar10_small", 5, {**_SUBSET, **_HERE}),
}
DEPTH = 4  # blocks of both configs' trunk


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: One of DATA.
        mixer: Which is looked at.
        form: One of FORMS.
        seed: Of weights, order and augmentation.
    """

    data: str
    mixer: str
    form: str
    seed: int


FORMS = {
    "pure": "in all blocks",
    "spectral first": "in the second half, spectral gating in the first",
    "attention last": "in the first half, attention in the second",
}


def pattern(mixer: str, form: str, depth: int = DEPTH) -> str:
    """The `mixers` of a trunk of `depth` blocks with `mixer` in one of FORMS. One that needs what another hands on
    alternates with the first of these.
    """
    half = depth // 2
    if form == "spectral first":
        return ", ".join(["spectral"] * half + _blocks(mixer, depth - half))
    if form == "attention last":
        return ", ".join(_blocks(mixer, half) + ["attention"] * (depth - half))
    return ", ".join(_blocks(mixer, depth))


def _blocks(mixer: str, depth: int) -> list[str]:
    cls = get_mixer(mixer.partition("(")[0].strip()).factory
    if not getattr(cls, "needs_handed", False):
        return [mixer] * depth
    giver = next(name for name in list_mixers() if getattr(get_mixer(name).factory, "gives", None) == cls.takes)
    return ([giver, mixer] * depth)[:depth]


@dataclass
class Study:
    """Trainings whose results are kept: each is run once, whoever asks for it.

    Attributes:
        records: Where they are kept.
        roots: Folders of data sets that have one.
    """

    records: Records
    roots: dict[str, str]

    def plan(self, mixers: Sequence[str], data: Sequence[str]) -> Iterator[Run]:
        """The trainings in their order: each mixer once, on the first data set; then from all SEEDS, in all FORMS and
        on all data REFERENCES and the BEST of the others, as far as they have been run by then.
        """
        for mixer in mixers:
            yield Run(data[0], mixer, "pure", SEEDS[0])
        chosen = [*(name for name in REFERENCES if name in mixers), *self.best(mixers, data[0])]
        yield from (
            Run(name, mixer, form, seed) for name in data for form in FORMS for mixer in chosen for seed in SEEDS
        )

    def best(self, mixers: Sequence[str], data: str) -> list[str]:
        """The BEST of the mixers that are no REFERENCES, by top-1 of the first seed, and loss where that is equal."""
        found = {}
        for mixer in mixers:
            record = self.found(Run(data, mixer, "pure", SEEDS[0]))
            if mixer not in REFERENCES and record is not None:
                found[mixer] = (-record["top1"], record["loss"])
        return sorted(found, key=found.get)[:BEST]

    def found(self, run: Run) -> dict[str, float] | None:
        """What a training has come to, None if it was not run yet."""
        record = self.records.find(self._of(run))
        return record and record["found"]

    def learn(self, run: Run) -> dict[str, float]:
        """What a training comes to: `top1` in per cent, `loss`, `params`, and `seconds` of the processor. Runs it only
        if nobody did so far.

        Raises:
            UserError: The data are not there, or the loss is no number.
        """
        if (found := self.found(run)) is None:
            with tempfile.TemporaryDirectory() as folder:
                found = _train(self._config(run), folder)
            self.records.keep(self._of(run), found)
        return found

    def _config(self, run: Run) -> Config:
        data = DATA[run.data]
        options = {
            **data.options,
            "model.kwargs.mixers": pattern(run.mixer, run.form),
            "randomness.seed": run.seed,
        }
        return load(data.config, options, self.roots.get(run.data), lambda cfg: set_length(cfg, epochs=data.epochs))

    def _of(self, run: Run) -> dict[str, Any]:
        device = torch.device(get_device())
        return {
            "learnt": run.data,
            "mixers": pattern(run.mixer, run.form),
            "seed": run.seed,
            "config": DATA[run.data].config,
            "epochs": DATA[run.data].epochs,
            **versions(),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
        }


def _train(cfg: Config, folder: str) -> dict[str, float]:
    """Trains without a word and without pictures, evaluates once at the end."""
    cfg.work_dir = folder
    cfg.log_level = "ERROR"
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    for hook in ("logger", "checkpoint", "curve", "outcome", "describe"):
        cfg.default_hooks[hook] = None
    cfg.default_hooks.console = None
    runner = CarefulRunner.from_cfg(complete(cfg))
    start = time.process_time()
    runner.train()
    seconds = time.process_time() - start
    figures = {name: runner.message_hub.get_scalar(f"val/{name}").current() for name in ("top1", "loss")}
    return {**figures, "seconds": seconds, "params": sum(p.numel() for p in runner.model.parameters())}
