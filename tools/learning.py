"""What token mixers learn on small data: the same short training for each, from several seeds."""

import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.backbones.mixers import get_mixer, list_mixers
from spectral_backbones.engine import CarefulRunner
from spectral_backbones.engine.config import load
from spectral_backbones.engine.schedule import set_length
from spectral_backbones.tools.benchmark import device_name
from spectral_backbones.tools.records import Records, versions
from spectral_backbones.tools.tasks import complete

REFERENCES = ("spectral", "attention", "identity")  # which all others are seen against
BEST = 5  # so many others are looked at more closely


@dataclass(frozen=True)
class Data:
    """A data set and how it is learnt.

    Attributes:
        config: Whose trunk, pictures and recipe are taken: the demonstration's, or the like of it.
        epochs: How long, instead of the config's 15.
        options: Further ones of the config.
    """

    config: str
    epochs: int
    options: dict[str, Any]


BATCH = 16  # pictures a step: few epochs then have steps enough to learn something
# The warm-up is as short as the runs: half an epoch.
SHORT = {"train_dataloader.batch_size": BATCH, "param_scheduler.0.end": 0.5, "param_scheduler.1.begin": 0.5}
_PART = {
    f"{loader}_dataloader.{key}": value
    for loader in ("train", "val", "test")
    for key, value in (("dataset.check_integrity", False), ("num_workers", 0))
}
DATA = {
    "digits": Data("classification/spectformer/spectformer_ti_digits", 2, SHORT),
    "cifar10": Data("classification/spectformer/spectformer_ti_cifar10_small", 1, {**SHORT, **_PART}),
}
DEPTH = 4  # blocks of both configs' trunk


@dataclass(frozen=True)
class Training:
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
    "hybrid": "between spectral gating in the first block and attention in the last",
}


def pattern(mixer: str, form: str = "pure") -> str:
    """The `mixers` of a trunk with `mixer` in one of FORMS, of any depth if "pure", of DEPTH blocks otherwise. One that
    needs what another hands on alternates with the first of these.
    """
    giver = _giver(mixer)
    if form == "pure":
        return mixer if giver is None else f"{giver}, {mixer}, ..."
    between = DEPTH - 2
    blocks = f"{mixer}:{between}" if giver is None else ", ".join([f"{giver}:1, {mixer}:1"] * (between // 2))
    return f"spectral:1, {blocks}, attention:1"


def _giver(mixer: str) -> str | None:
    """The mixer that gives what `mixer` cannot do without, None if there is no such thing."""
    cls = get_mixer(mixer.partition("(")[0].strip()).factory
    if not getattr(cls, "needs_handed", False):
        return None
    return next(name for name in list_mixers() if getattr(get_mixer(name).factory, "gives", None) == cls.takes)


@dataclass(eq=False)
class Study:
    """Trainings whose results are kept: each is run once, whoever asks for it.

    Attributes:
        records: Where they are kept.
        roots: Folders of data sets that have one.
    """

    records: Records
    roots: dict[str, str]

    def plan(self, mixers: Sequence[str], data: Sequence[str], seeds: int) -> Iterator[Training]:
        """The trainings in their order: each mixer once, on the first data set; then REFERENCES and the BEST of the
        others by then, in all FORMS and on all data, seed by seed.
        """
        for mixer in mixers:
            yield Training(data[0], mixer, "pure", 0)
        chosen = [*(name for name in REFERENCES if name in mixers), *self.best(mixers, data[0])]
        yield from (
            Training(name, mixer, form, seed)
            for seed in range(seeds)
            for name in data
            for form in FORMS
            for mixer in chosen
        )

    def best(self, mixers: Sequence[str], data: str) -> list[str]:
        """The BEST of the mixers that are no REFERENCES, by top-1 of the first seed, and loss where that is equal."""
        found = {}
        for mixer in mixers:
            record = self.found(Training(data, mixer, "pure", 0))
            if mixer not in REFERENCES and record is not None:
                found[mixer] = (-record["top1"], record["loss"])
        return sorted(found, key=found.get)[:BEST]

    def found(self, training: Training) -> dict[str, float] | None:
        """What a training has come to, None if it was not run yet."""
        record = self.records.find(self._of(training))
        return record and record["found"]

    def learn(self, training: Training) -> dict[str, float]:
        """What a training comes to: `top1` in per cent, `loss`, `params`, and `seconds` of the processor. Runs it only
        if nobody did so far.

        Raises:
            UserError: The data are not there, or the loss is no number.
        """
        if (found := self.found(training)) is None:
            with tempfile.TemporaryDirectory() as folder:
                found = train_once(self._config(training), folder)
            self.records.keep(self._of(training), found)
        return found

    def _config(self, training: Training) -> Config:
        data = DATA[training.data]
        options = {
            **data.options,
            "model.kwargs.mixers": pattern(training.mixer, training.form),
            "randomness.seed": training.seed,
        }
        return load(
            data.config, options, self.roots.get(training.data), lambda cfg: set_length(cfg, epochs=data.epochs)
        )

    @functools.cache  # noqa: B019  a study lives as long as its command
    def _pictures(self, data: str) -> int:
        """Of the training set, which may be a part of the whole."""
        cfg = load(DATA[data].config, DATA[data].options, self.roots.get(data))
        return len(DATASETS.build({**cfg.train_dataloader.dataset, "transform": None}))

    def _of(self, training: Training) -> dict[str, Any]:
        device = torch.device(get_device())
        return {
            "learnt": training.data,
            "mixers": pattern(training.mixer, training.form),
            "seed": training.seed,
            "config": DATA[training.data].config,
            "epochs": DATA[training.data].epochs,
            "batch": BATCH,
            "pictures": self._pictures(training.data),
            **versions(),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
        }


def train_once(cfg: Config, folder: str) -> dict[str, float]:
    """Trains without a word and without pictures, evaluates once at the end.

    Args:
        cfg: Of classification, by epochs.
        folder: Where the run may write.

    Returns:
        `top1` in per cent and `loss` of the validation, `seconds` of the processor, and `params`.
    """
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
    figures = {name: float(runner.message_hub.get_scalar(f"val/{name}").current()) for name in ("top1", "loss")}
    return {**figures, "seconds": seconds, "params": sum(p.numel() for p in runner.model.parameters())}
