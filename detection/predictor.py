"""Detecting in single pictures."""

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import ImageOps
from torch import nn

from engine import checkpoint as files
from engine.config import plain, without_weights
from engine.errors import UserError, told_plainly
from engine.images import open_image

from .pictures import Detections, Palette
from .toolbox import mmdet


def describe(cfg: Config, metainfo: Dict[str, Any]) -> Dict[str, Any]:
    """Returns what a checkpoint has to hold for `Predictor.load`, in plain types.

    Args:
        cfg: Of the run.
        metainfo: Of its data set.
    """
    return {
        "task": "detection",
        "model": plain(cfg.model),
        "pipeline": plain(cfg.test_dataloader.dataset.pipeline),
        "classes": list(metainfo["classes"]),
        "palette": plain(metainfo.get("palette")),
    }


class Predictor:
    """A detector, the preparation of its pictures, and the names of its classes.

    Args:
        model: An mmdet detector.
        pipeline: Turns an array (H, W, 3) into its inputs.
        classes: Names.
        palette: A colour for each, or None.
    """

    def __init__(self, model: nn.Module, pipeline: Compose, classes: Any, palette: Palette) -> None:
        self.model = model.eval()
        self.pipeline = pipeline
        self.classes = classes
        self.palette = palette

    @classmethod
    def load(cls, source: str, cfg: Optional[Config] = None) -> "Predictor":
        """Makes a predictor.

        Args:
            source: A checkpoint of `tools/train.py`, which holds all that is needed, or any of mmdet, with `cfg`.
            cfg: The config of such a checkpoint.

        Raises:
            UserError: The checkpoint cannot be read, does not say its model, or does not fit it.
        """
        checkpoint = files.read(source)
        known = checkpoint.get("predictor")
        if cfg is not None:
            meta = checkpoint.get("meta", {})
            known = describe(cfg, meta.get("dataset_meta") or _metainfo(cfg))
        if known is None:
            raise UserError(f"{source} does not say which model it belongs to: add --config, the one it was trained by")
        init_default_scope("mmdet")
        with told_plainly():
            model = mmdet.registry.MODELS.build(without_weights(ConfigDict(known["model"])))
            pipeline = Compose(_for_arrays(known["pipeline"]))
        files.load_strictly(model, files.evaluated_weights(checkpoint), source)
        return cls(model, pipeline, known["classes"], known["palette"])

    @torch.inference_mode()
    def __call__(self, path: Path, threshold: float = 0.3) -> Tuple[np.ndarray, Detections]:
        """Detects in one picture.

        Args:
            path: An image file.
            threshold: Least score of what is returned.

        Returns:
            The picture (H, W, 3), and what was found, the surest first.

        Raises:
            UserError: The file cannot be read as a picture.
        """
        # As mmcv reads files: turned as the camera was held, colours in OpenCV's order.
        image = np.asarray(ImageOps.exif_transpose(open_image(path)).convert("RGB"))
        data = self.pipeline({"img": np.ascontiguousarray(image[..., ::-1]), "img_id": 0, "img_path": str(path)})
        (sample,) = self.model.test_step({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]})
        return image, Detections.of(sample.pred_instances, threshold)


def _for_arrays(pipeline: Any) -> list:
    """A test pipeline that takes arrays in place of files, and no annotations."""
    steps = [dict(step) for step in pipeline if step["type"] != "LoadAnnotations"]
    if steps[0]["type"] != "LoadImageFromFile":
        raise UserError(f"the test pipeline has to start with LoadImageFromFile, not with {steps[0]['type']}")
    return [{"type": "LoadImageFromNDArray"}, *steps[1:]]


def _metainfo(cfg: Config) -> Dict[str, Any]:
    dataset = cfg.test_dataloader.dataset
    return {**mmdet.registry.DATASETS.get(dataset.type).METAINFO, **dataset.get("metainfo", {})}
