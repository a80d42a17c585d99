"""A model that another one learns from."""

from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from torch import nn

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.names import differences

from .predictor import Predictor


class Teacher(NamedTuple):
    """A trained model.

    Attributes:
        model: In evaluation.
        mean: Of its pictures, for each channel.
        std: Likewise.
        classes: Their names, numbers where nobody knows them.
        names_classes: Whether `classes` are those of its data, and not timm's.
    """

    model: nn.Module
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    classes: List[str]
    names_classes: bool

    @classmethod
    def load(cls, source: str, name: Optional[str] = None) -> "Teacher":
        """Loads one: a checkpoint of `spectral train`, an official checkpoint with the `name` of its timm model, or the
        name of a timm model with weights.

        Raises:
            UserError: See `Predictor.load`.
        """
        known = Predictor.load(source, name, option="--teacher-name")
        arguments = known.transform.arguments
        is_ours = Path(source).is_file() and name is None
        mean, std = tuple(arguments["mean"]), tuple(arguments["std"])
        return cls(known.model, mean, std, list(known.classes), is_ours)

    def prepare(self, cfg: Any) -> None:
        """Lets the pictures of a config have this teacher's mean and std.

        Raises:
            UserError: The config says others, or the pictures have other channels.
        """
        channels = cfg.model.get("in_chans", 3)
        if len(self.mean) != channels:
            raise UserError(
                f"the teacher takes pictures of {len(self.mean)} channels, the student of {channels}: set "
                "model.in_chans"
            )
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            transform = (cfg.get(loader) or {}).get("dataset", {}).get("transform")
            for key, value in (("mean", self.mean), ("std", self.std)) if transform else ():
                given: Optional[Any] = transform.get(key)
                if given is not None and any(abs(a - b) > 1e-6 for a, b in zip(given, value, strict=True)):
                    raise UserError(
                        f"{loader} prepares pictures with {key} {tuple(given)}, the teacher was trained with {value}: "
                        "leave it out of the config"
                    )
                transform[key] = value

    def check_classes(self, classes: Sequence[str]) -> None:
        """Compares the classes of data with those it was trained for.

        Raises:
            UserError: They are others, or in another order.
        """
        if len(classes) != self.model.num_classes:
            raise UserError(
                f"the teacher tells {self.model.num_classes} classes apart, the data have {len(classes)}: fine-tune it "
                "on these data first by `spectral train CONFIG --model NAME --weights FILE`, or learn --by features "
                "or --by relations"
            )
        if self.names_classes and list(classes) != self.classes:
            known, given = sorted(self.classes), sorted(classes)
            what = differences(self.classes, list(classes)) if known != given else "they have another order"
            raise UserError(f"the teacher was trained for other classes than the data have: {what}")
