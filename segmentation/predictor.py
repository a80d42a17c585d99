"""Segmenting single pictures."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import ImageOps
from torch import nn

from engine import checkpoint as files
from engine.config import plain, without_weights
from engine.errors import UserError, told_plainly
from engine.images import open_image

from . import toolbox  # noqa: F401  quietly, before anything else brings it in
from .pictures import Palette


def describe(cfg: Config, metainfo: Dict[str, Any]) -> Dict[str, Any]:
    """Returns what a checkpoint has to hold for `Predictor.load`, in plain types.

    Args:
        cfg: Of the run.
        metainfo: Of its data set.
    """
    return {
        "task": "segmentation",
        "model": plain(cfg.model),
        "pipeline": plain(cfg.test_dataloader.dataset.pipeline),
        "classes": list(metainfo["classes"]),
        "palette": [[int(part) for part in colour] for colour in metainfo["palette"]],
    }


class Predictor:
    """A segmenter, the preparation of its pictures, and the names of its classes.

    Args:
        model: An mmseg segmenter.
        pipeline: Turns an array (H, W, 3) into its inputs.
        classes: Names.
        palette: A colour for each, 0 to 255.
    """

    def __init__(self, model: nn.Module, pipeline: Compose, classes: Sequence[str], palette: Palette) -> None:
        self.model = model.eval()
        self.pipeline = pipeline
        self.classes = classes
        self.palette = palette

    @classmethod
    def load(cls, source: str, cfg: Optional[Config] = None) -> "Predictor":
        """Makes a predictor.

        Args:
            source: A checkpoint of `tools/train.py`, which holds all that is needed, or any of mmseg, with `cfg`.
            cfg: The config of such a checkpoint.

        Raises:
            UserError: The checkpoint cannot be read, does not say its model, or does not fit it.
        """
        checkpoint = files.read(source)
        known = checkpoint.get("predictor")
        if cfg is not None:
            from .config import metainfo

            meta = checkpoint.get("meta", {}).get("dataset_meta") or metainfo(cfg.test_dataloader.dataset)
            known = describe(cfg, meta)
        if known is None:
            raise UserError(f"{source} does not say which model it belongs to: add --config, the one it was trained by")
        init_default_scope("mmseg")
        with told_plainly():
            model = revert_sync_batchnorm(MODELS.build(without_weights(ConfigDict(known["model"]))))
            pipeline = Compose(_for_arrays(known["pipeline"]))
        files.load_strictly(model, files.evaluated_weights(checkpoint), source)
        return cls(model, pipeline, known["classes"], known["palette"])

    @torch.inference_mode()
    def __call__(self, path: Path) -> Tuple[np.ndarray, np.ndarray]:
        """Segments one picture.

        Args:
            path: An image file.

        Returns:
            The picture (H, W, 3), and the class of each of its pixels (H, W).

        Raises:
            UserError: The file cannot be read as a picture.
        """
        # As mmcv reads files: turned as the camera was held, colours in OpenCV's order.
        image = np.asarray(ImageOps.exif_transpose(open_image(path)).convert("RGB"))
        data = self.pipeline({"img": np.ascontiguousarray(image[..., ::-1]), "img_path": str(path)})
        (sample,) = self.model.test_step({"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]})
        return image, sample.pred_sem_seg.data[0].cpu().numpy()


def _for_arrays(pipeline: Any) -> List[Dict[str, Any]]:
    """A test pipeline that takes arrays in place of files, and no annotations."""
    steps = [dict(step) for step in pipeline if not step["type"].endswith("Annotations")]
    if steps[0]["type"] != "LoadImageFromFile":
        raise UserError(f"the test pipeline has to start with LoadImageFromFile, not with {steps[0]['type']}")
    return [{"type": "LoadImageFromNDArray"}, *steps[1:]]
