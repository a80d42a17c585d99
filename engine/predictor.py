"""What predictors of mmdet's and mmseg's models share: what a checkpoint has to hold for them, and reading it."""

from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from . import checkpoint as files
from .config import BANDS_LOADER, LOADER, metainfo, plain, read_alike, unwrapped, without_weights
from .errors import UserError, told_plainly
from .images import Colour
from .names import agree, class_names, in_order

Palette = Sequence[Tuple[int, int, int]]


def describe(task: str, cfg: Config, meta: Dict[str, Any]) -> Dict[str, Any]:
    """Returns what a checkpoint has to hold for `Predictor.load`, in plain types.

    Args:
        task: "detection" or "segmentation".
        cfg: Of the run.
        meta: Classes and palette of its data set.

    Raises:
        UserError: The config does not say how pictures are prepared.
    """
    palette = meta.get("palette")
    return {
        "task": task,
        "model": plain(cfg.model),
        "pipeline": plain(_test_dataset(cfg).pipeline),
        "classes": list(meta["classes"]),
        "palette": palette and [[int(part) for part in colour] for colour in palette],
    }


class Predictor:
    """A model, the preparation of its pictures, and the names of its classes. It works on the GPU where there is one.

    Args:
        model: A detector of mmdet or a segmenter of mmseg.
        pipeline: Reads a file, by the reader of all tasks, and turns it into inputs.
        classes: Names.
        palette: A colour for each, 0 to 255, or None.

    Attributes:
        steps: The config of the pipeline, where it is loaded.
    """

    steps: Sequence[Dict[str, Any]] = ()
    task: ClassVar[str]
    scope: ClassVar[str]  # mmengine's name of the toolbox

    def __init__(self, model: nn.Module, pipeline: Compose, classes: Sequence[str], palette: Optional[Palette]) -> None:
        self.model = model.to(get_device()).eval()
        self.pipeline = pipeline
        self.classes = classes
        self.palette = palette

    @property
    def takes_numbers(self) -> bool:
        """Whether it reads the numbers of any number of bands, and no pictures for people."""
        return bool(self.steps) and self.steps[0]["type"] == BANDS_LOADER

    @classmethod
    def load(cls, source: str, cfg: Optional[Config] = None) -> "Predictor":
        """Makes a predictor.

        Args:
            source: A checkpoint of `spectral train`, which holds all that is needed, or any of the toolbox, with `cfg`.
            cfg: The config of such a checkpoint.

        Raises:
            UserError: The checkpoint cannot be read, does not say its model, or does not fit it.
        """
        checkpoint = files.read(source)
        known = checkpoint.get("predictor")
        if cfg is not None:
            meta = files.dataset_meta(checkpoint)
            if meta is None or not meta["palette"]:
                meta = _named_by(checkpoint, metainfo(_test_dataset(cfg), cls.scope))
            known = describe(cls.task, cfg, meta)
        if known is None:
            raise UserError(f"{source} does not say which model it belongs to: add --config, the one it was trained by")
        init_default_scope(cls.scope)
        with told_plainly():
            model = revert_sync_batchnorm(MODELS.build(without_weights(ConfigDict(known["model"]))))
            steps = _without_annotations(known["pipeline"])
            pipeline = Compose(steps)
        files.load_strictly(model, files.unwrap(checkpoint), source)
        predictor = cls(model, pipeline, known["classes"], known["palette"])
        predictor.steps = steps
        return predictor

    def predict(self, path: Path) -> Tuple[np.ndarray, Any]:
        """Reads one picture and gives it to the model.

        Returns:
            The picture (H, W, 3), and the toolbox's sample with the prediction.

        Raises:
            UserError: The file cannot be read as a picture.
        """
        load, *rest = self.pipeline.transforms
        data = load({"img_id": 0, "img_path": str(path)})
        image = load.displayed(data["img"])
        for step in rest:
            data = step(data)
        (sample,) = self.model.test_step({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]})
        return image, sample

    def lay_on(self, background: Colour) -> None:
        """Lets transparent pixels lie on another colour than in training.

        Raises:
            UserError: It takes numbers, none of which are transparent.
        """
        if self.takes_numbers:
            raise UserError("this model takes the numbers of the files, and no background: leave it out")
        self.pipeline.transforms[0].background = background


def _named_by(checkpoint: Dict[str, Any], meta: Dict[str, Any]) -> Dict[str, Any]:
    """The classes as the checkpoint's head has them, where it says them: a config may have others, or another order."""
    meta = {key.lower(): value for key, value in meta.items()}
    names, given = class_names(checkpoint), [str(name) for name in meta["classes"]]
    if names is None or names == given:
        return meta
    palette = meta.get("palette") if len(names) == len(given) else None
    return {**meta, "classes": names, "palette": in_order(palette, given, names) if agree(names, given) else palette}


def _test_dataset(cfg: Config) -> ConfigDict:
    for key in ("test_dataloader", "val_dataloader"):
        if cfg.get(key):
            dataset = next(unwrapped(cfg[key].dataset))
            if dataset.get("pipeline"):
                return dataset
    raise UserError(
        f"{cfg.filename} does not say how pictures are prepared for prediction: add a test_dataloader or a "
        "val_dataloader, whose data set has a pipeline"
    )


def _without_annotations(pipeline: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """A test pipeline that takes files and no annotations."""
    steps = [dict(step) for step in pipeline if not step["type"].endswith("Annotations")]
    read_alike(steps)
    if steps[0]["type"] not in (LOADER, BANDS_LOADER):
        raise UserError(
            f"the test pipeline has to start with LoadImageFromFile or {BANDS_LOADER}, not with {steps[0]['type']}"
        )
    return steps
