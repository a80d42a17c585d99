"""Segmenters as graphs, and exported ones in the places of models."""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from spectral_backbones.engine.deploy import Normalise, Program, Subject, samples
from spectral_backbones.engine.deploy.model import Deployed
from spectral_backbones.engine.deploy.subject import Arrays, Size
from spectral_backbones.engine.errors import UserError

from .predictor import Predictor
from .toolbox import mmseg

SegDataSample = mmseg.structures.SegDataSample
_REFUSED = {"Mask2FormerHead": "mmdet's pixel decoder takes the sizes of maps as tensors, which torch.export refuses"}


class SegmenterGraph(nn.Module):
    """Pictures (B, C, H, W) -> the class of each pixel (B, H, W).

    Args:
        model: A segmenter of mmseg.
        normalise: What stands before it.

    Raises:
        UserError: It cannot be exported; the message names it.
    """

    def __init__(self, model: nn.Module, normalise: Normalise) -> None:
        super().__init__()
        _check(model)
        self.model = model
        self.normalise = normalise
        self.cfg = model.test_cfg

    def forward(self, images: Tensor) -> Tuple[Tensor]:
        """Segments."""
        x = self.normalise(images)
        logits = self._windows(x) if self.cfg.get("mode", "whole") == "slide" else self._logits(x)
        height, width = images.shape[-2:]
        logits = logits[..., :height, :width].float()
        if logits.shape[1] == 1:
            labels = logits.sigmoid()[:, 0] > self.model.decode_head.threshold
        else:
            labels = logits.argmax(1)
        return (labels.to(torch.int32),)

    def _logits(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes, H, W)."""
        size = x.shape[-2:]
        # The first says it for all pictures, whose number may be dynamic.
        return self.model.encode_decode(x, [dict(img_shape=size, ori_shape=size, pad_shape=size)])

    def _windows(self, x: Tensor) -> Tensor:
        """The mean over windows that overlap, all of them in one batch; see mmseg's `slide_inference`."""
        images, _, height, width = x.shape
        rows = _places(height, self.cfg.crop_size[0], self.cfg.stride[0], x.device)  # (M, h)
        columns = _places(width, self.cfg.crop_size[1], self.cfg.stride[1], x.device)  # (N, w)
        windows = x[:, :, rows][..., columns]  # B C M h N w
        windows = windows.permute(0, 2, 4, 1, 3, 5)
        logits = self._logits(windows.flatten(0, 2))  # B*M*N K h w
        logits = logits.unflatten(0, (images, rows.shape[0], columns.shape[0])).permute(0, 3, 1, 4, 2, 5)  # B K M h N w
        total = _add_up(logits.flatten(4), columns, width)  # B K M h W
        total = _add_up(total.flatten(2, 3), rows, height, dim=2)  # B K H W
        return total / (_counts(rows, height)[:, None] * _counts(columns, width))


def _places(side: int, crop: int, stride: int, device: torch.device) -> Tensor:
    """Pixels (windows, length) of each window along a side, the last one moved back to end where the side does."""
    crop = min(crop, side)
    count = max(side - crop + stride - 1, 0) // stride + 1
    starts = (torch.arange(count, device=device) * stride).clamp(max=side - crop)
    return starts[:, None] + torch.arange(crop, device=device)


def _add_up(values: Tensor, places: Tensor, side: int, dim: int = -1) -> Tensor:
    """Sums what windows have along a dimension, (..., windows * length, ...) -> (..., side, ...)."""
    shape = list(values.shape)
    shape[dim] = side
    return values.new_zeros(shape).index_add(dim, places.flatten(), values)


def _counts(places: Tensor, side: int) -> Tensor:
    """In how many windows each pixel of a side is, (side,)."""
    return _add_up(torch.ones_like(places.flatten(), dtype=torch.float32), places, side)


def _check(model: nn.Module) -> None:
    kind = type(getattr(model, "decode_head", None)).__name__
    if kind in _REFUSED:
        raise UserError(f"{type(model).__name__} with a {kind} cannot be exported: {_REFUSED[kind]}")
    if type(model) is not mmseg.models.EncoderDecoder:
        raise UserError(f"{type(model).__name__} cannot be exported: EncoderDecoder can")
    if not isinstance(model.decode_head, mmseg.models.decode_heads.decode_head.BaseDecodeHead):
        raise UserError(f"a {kind} cannot be exported: heads of mmseg's BaseDecodeHead can")
    test_cfg = model.data_preprocessor.test_cfg or {}
    if test_cfg.get("size"):
        raise UserError(
            f"data_preprocessor.test_cfg pads to size={test_cfg['size']}: set size_divisor instead, and give the size "
            "of the file by --size"
        )


def subject(predictor: Predictor, size: Optional[Size] = None) -> Subject:
    """Says what is exported of a segmenter.

    Args:
        predictor: The model and the preparation of its pictures.
        size: Height and width in pixels that are asked for, which every segmenter takes.

    Raises:
        UserError: It cannot be exported.
    """
    model, steps = predictor.model.cpu(), predictor.steps
    preprocessor = model.data_preprocessor
    divisor = (preprocessor.test_cfg or {}).get("size_divisor") or 1
    normalise = samples.normalise_of(preprocessor, divisor, preprocessor.pad_val)
    fill = samples.fill_of(normalise)

    def eager(images: Tensor) -> Arrays:
        size = tuple(images.shape[-2:])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
        data = dict(
            inputs=list(samples.swapped(images)), data_samples=[SegDataSample(metainfo=dict(meta)) for _ in images]
        )
        return {"segmentation": np.concatenate([sample.pred_sem_seg.data.numpy() for sample in model.test_step(data)])}

    def prepare(path: Path, size: Optional[Size]) -> np.ndarray:
        return samples.read(Compose(samples.fixed(steps, size, fill)), path)

    def describe(size: Optional[Size]) -> Dict[str, Any]:
        pipeline = samples.fixed(steps, size, fill)
        head = model.decode_head
        return {
            "task": predictor.task,
            "model": f"{type(model).__name__} with a {type(head).__name__}",
            "classes": list(predictor.classes),
            "palette": [list(colour) for colour in predictor.palette],
            "thresholds": {"score": head.threshold} if head.out_channels == 1 else {},
            "pipeline": pipeline,
            "resize": samples.resizing(pipeline),
        }

    return Subject(
        graph=SegmenterGraph(model, normalise).eval(),
        outputs=("segmentation",),
        channels=len(normalise.mean),
        size=samples.default_size(steps, preprocessor),
        eager=eager,
        prepare=prepare,
        describe=describe,
    )


# Exported segmenters in the places of models --------------------------------------------------------------------------


@MODELS.register_module()
class DeployedSegmenter(Deployed):
    """An exported segmenter for mmengine's test loop, and for prediction.

    Args:
        file: Of `spectral export`.
    """

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Sequence[SegDataSample], mode: str = "predict"
    ) -> Sequence[SegDataSample]:
        """Segments, see mmseg's segmenters.

        Args:
            inputs: Pictures (C, H, W) of a pipeline.
            data_samples: Get what is found, at the size of the files.
            mode: mmengine's name of what is asked for, "predict" alone.
        """
        for outputs, sample in zip(samples.run(self.program, inputs), data_samples):
            height, width = sample.img_shape
            labels = torch.from_numpy(outputs["segmentation"])[None, :height, :width]
            if tuple(sample.ori_shape) != (height, width):
                labels = F.interpolate(labels[None].float(), size=tuple(sample.ori_shape), mode="nearest-exact")[0]
            sample.pred_sem_seg = PixelData(data=labels.long())
        return data_samples


def predictor_of(program: Program) -> Predictor:
    """Predicts with an exported file."""
    known = program.metadata
    model = DeployedSegmenter(str(program.path))
    return Predictor(model, Compose(known["pipeline"]), known["classes"], known["palette"])


def evaluated(cfg: Config, program: Program) -> Config:
    """Puts an exported file in the place of a config's model, see `engine.deploy.samples.evaluated`."""
    return samples.evaluated(cfg, program, "DeployedSegmenter")
