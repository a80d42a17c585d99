"""Detectors that know no more than the spectra of targets: a matched filter, and the spectral angle.

They learn from the training boxes what the network learns from: the mean spectrum of each class, and from which score
on a pixel belongs to a target. Pixels above it that touch make a box.
"""

import contextlib
import io
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.structures import InstanceData
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou, nms

from spectral_backbones.engine.config import BANDS_LOADER, plain, unwrapped
from spectral_backbones.engine.errors import UserError

_TOUCHING = np.ones((3, 3))  # also at corners
_OVERLAP = 0.01  # largest IoU of two boxes that both stay, as in SpecDETRHead
_FOUND = 0.25  # IoU from which a box of the training counts as found
_THRESHOLDS = 25  # that are tried for each class


def matched_filter(image: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """How much of each target a pixel holds, as the filter that is best against Gaussian backgrounds says it.

    Args:
        image: (H, W, bands); its own mean and covariance are those of the background.
        spectra: (targets, bands).

    Returns:
        (H, W, targets): 0 for the mean background, 1 for a target; 0 where all pixels are alike.
    """
    from spectral import MatchedFilter, calc_stats

    background = calc_stats(image)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = [MatchedFilter(background, spectrum)(image) for spectrum in spectra]
    return np.nan_to_num(np.stack(scores, -1), posinf=0, neginf=0)


def spectral_angle(image: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """How nearly a pixel's spectrum has the shape of a target's, whatever its brightness.

    Args:
        image: (H, W, bands).
        spectra: (targets, bands).

    Returns:
        (H, W, targets): the cosine of the angle between them; 0 where a pixel is black.
    """
    from spectral import spectral_angles

    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.cos(spectral_angles(image, spectra)))


BASELINES: Dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "matched_filter": matched_filter,
    "spectral_angle": spectral_angle,
}


class Scene(NamedTuple):
    """Numbers of an image (H, W, channels) with its boxes, left, top, right and bottom in pixels, (N, 4), and their
    classes (N,).
    """

    values: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    def inside(self, label: int) -> List[np.ndarray]:
        """The numbers in each box of a class, (height, width, channels)."""
        chosen = self.boxes[self.labels == label]
        corners = np.column_stack([np.floor(chosen[:, :2]), np.ceil(chosen[:, 2:])]).astype(int).clip(0)
        return [self.values[top:bottom, left:right] for left, top, right, bottom in corners]


@MODELS.register_module()
class SignatureDetector(BaseModel):
    """A detector by spectra, in the place of a network in mmengine's test loop.

    Args:
        kind: "matched_filter" or "spectral_angle".
        dataset: Config of the data set whose boxes it learns from.
        data_preprocessor: mmdet's.
        max_per_img: Most boxes in an image.

    Raises:
        UserError: There is no such detector, or a class has no box to learn from.
    """

    def __init__(
        self, kind: str, dataset: Dict[str, Any], data_preprocessor: Any = None, max_per_img: int = 300
    ) -> None:
        super().__init__(data_preprocessor)
        if kind not in BASELINES:
            raise UserError(f"there is no baseline {kind!r}; there are {', '.join(BASELINES)}")
        self.score, self.max_per_img = BASELINES[kind], max_per_img
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
            data = DATASETS.build(dataset)
        classes = data.metainfo["classes"]
        # Images are read twice, since all of them may be more than memory holds.
        self.spectra = _mean_spectra(map(_scene, map(data.__getitem__, range(len(data)))), len(classes))
        lacking = [name for name, spectrum in zip(classes, self.spectra) if np.isnan(spectrum).any()]
        if lacking:
            raise UserError(f"{data.ann_file} has no box of {', '.join(lacking)}, whose spectrum could be learned")
        scored = []
        for scene in map(_scene, map(data.__getitem__, range(len(data)))):
            scored.append(scene._replace(values=self.score(scene.values, self.spectra)))
        self.thresholds = [_threshold(scored, label) for label in range(len(classes))]

    def forward(self, inputs: Tensor, data_samples: Sequence[Any], mode: str = "predict") -> Sequence[Any]:
        """Detects.

        Args:
            inputs: (B, bands, H, W).
            data_samples: Get what is found, in pixels of the files.
            mode: mmengine's name of what is asked for, "predict" alone.
        """
        for image, sample in zip(inputs, data_samples):
            height, width = sample.img_shape
            sample.pred_instances = self.detect(image[:, :height, :width].permute(1, 2, 0).cpu().numpy())
        return data_samples

    def detect(self, image: np.ndarray) -> InstanceData:
        """Finds boxes, the surest first, in an image (H, W, bands)."""
        maps = self.score(image.astype(np.float64), self.spectra)
        found = [_boxes(maps[..., label], threshold) for label, threshold in enumerate(self.thresholds)]
        boxes = torch.from_numpy(np.concatenate([boxes for boxes, _ in found])).float()
        scores = torch.from_numpy(np.concatenate([scores for _, scores in found])).float()
        labels = torch.from_numpy(np.repeat(np.arange(len(found)), [len(scores) for _, scores in found]))
        kept = nms(boxes, scores, _OVERLAP)[: self.max_per_img]
        return InstanceData(bboxes=boxes[kept], scores=scores[kept], labels=labels[kept])


def _scene(item: Dict[str, Any]) -> Scene:
    instances = item["data_samples"].gt_instances
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes)
    return Scene(item["inputs"].permute(1, 2, 0).double().numpy(), boxes.numpy(), instances.labels.numpy())


def _mean_spectra(scenes: Iterable[Scene], classes: int) -> np.ndarray:
    """The mean over the pixels in the boxes of each class, (classes, bands); NaN without a box."""
    totals, counts = 0.0, np.zeros((classes, 1))
    for scene in scenes:
        bands = scene.values.shape[-1]
        pixels = [
            np.concatenate([np.zeros((0, bands)), *(part.reshape(-1, bands) for part in scene.inside(label))])
            for label in range(classes)
        ]
        totals = totals + np.stack([part.sum(0) for part in pixels])
        counts += np.array([[len(part)] for part in pixels])
    with np.errstate(invalid="ignore"):
        return totals / counts


def _boxes(scores: np.ndarray, threshold: float) -> Any:
    """Boxes (N, 4) around pixels above a threshold that touch, and the highest score in each, (N,)."""
    marks, count = ndimage.label(scores >= threshold, _TOUCHING)
    places = ndimage.find_objects(marks)
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in places]
    peaks = ndimage.maximum(scores, marks, np.arange(1, count + 1))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(peaks, dtype=np.float64)


def _threshold(scenes: Sequence[Scene], label: int) -> float:
    """The score from which on most boxes of the training are found for the fewest that are none, by their F1.

    Args:
        scenes: Whose values are scores, (H, W, classes).
        label: A class.
    """
    peaks = [part[..., label].max() for scene in scenes for part in scene.inside(label)]
    tried = np.unique(np.quantile(peaks, np.linspace(0, 0.95, _THRESHOLDS)))

    def f1(threshold: float) -> float:
        hits = found = 0
        for scene in scenes:
            boxes, _ = _boxes(scene.values[..., label], threshold)
            found += len(boxes)
            there = scene.boxes[scene.labels == label]
            if len(boxes) and len(there):
                overlaps = box_iou(torch.from_numpy(there).double(), torch.from_numpy(boxes))
                hits += int((overlaps.amax(1) >= _FOUND).sum())
        return 2 * hits / (found + len(peaks))

    return float(max(tried, key=f1))


def baseline(cfg: Config, kind: str) -> Config:
    """Puts a detector by spectra in the place of a config's model.

    Args:
        cfg: Complete, changed in place.
        kind: One of `BASELINES`.

    Raises:
        UserError: There is no such detector, or the config has no training data of boxes to learn from.
    """
    if kind not in BASELINES:
        raise UserError(f"there is no baseline {kind!r}; there are {', '.join(BASELINES)}")
    if not cfg.get("train_dataloader"):
        raise UserError(f"{cfg.filename} has no train_dataloader, whose boxes a baseline learns from")
    # Each image as a test has it: as it lies.
    pipeline = plain(next(unwrapped(cfg.test_dataloader.dataset)).pipeline)
    if pipeline[0]["type"] != BANDS_LOADER:
        raise UserError(
            f"the test pipeline of {cfg.filename} has to start with {BANDS_LOADER}: baselines go by spectra"
        )
    dataset = {**plain(next(unwrapped(cfg.train_dataloader.dataset))), "pipeline": pipeline}
    cfg.model = {
        "type": "SignatureDetector",
        "kind": kind,
        "dataset": dataset,
        "data_preprocessor": plain(cfg.model.get("data_preprocessor")),
        "max_per_img": (cfg.model.get("test_cfg") or {}).get("max_per_img", 300),
    }
    return cfg
