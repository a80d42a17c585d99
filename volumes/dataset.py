"""Volumes with their labels, as mmengine's loaders read them."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from spectral_backbones.engine.errors import UserError

from . import nifti
from .digits import Recipe, make_missing_digits
from .layouts import find_cases
from .preparation import build_transforms, check_spacing, prepare, prepare_whole, resample, resampled_size


@DATASETS.register_module()
class VolumeDataset(Dataset):
    """Cases of a data set in its published layout, see `volumes.layouts`.

    Args:
        root: The set's folder.
        layout: One of `volumes.layouts.LAYOUTS`; or "digits", which makes the set where it is missing.
        split: "train", "val" or "test".
        transforms: MONAI's dictionary transforms of "image" and, where `is_training`, "label".
        is_training: Whether samples are crops; otherwise whole volumes, with labels at the file's own resolution.
        channels: Channels of a volume; `volumes.config.complete` takes them from the model where None.
        least: Least size (W, H, D) of a volume in voxels, a patch of the model; likewise.
        spacing: Millimetres (W, H, D) that volumes are resampled to before the transforms; None leaves them.
        fold: Which fold is for validation, where the set has no split of its own.
        in_batches: Whether crops go into batches and so have to be of one size; likewise.
        keep: Whether training volumes stay in memory once they were read and resampled, in each worker.

    Raises:
        UserError: The set is not there or lacks files.
    """

    def __init__(
        self,
        root: str,
        layout: str,
        split: str,
        transforms: Sequence[Dict[str, Any]],
        is_training: bool = False,
        channels: Optional[int] = None,
        least: Sequence[int] = (1, 1, 1),
        spacing: Optional[Sequence[float]] = None,
        fold: int = 0,
        in_batches: bool = False,
        keep: bool = False,
    ) -> None:
        if layout == "digits":
            make_missing_digits(root, Recipe())
        self.root = Path(root)
        self.classes, self.cases = find_cases("decathlon" if layout == "digits" else layout, self.root, split, fold)
        self.split = split
        self.is_training = is_training
        self.channels = channels
        self.least = least
        check_spacing(spacing)
        self.spacing = spacing
        self.transforms = build_transforms(transforms)
        self.in_batches = in_batches
        self.keep = keep
        self._kept: Dict[int, Dict[str, torch.Tensor]] = {}
        self._first: Optional[Tuple[Tuple[int, ...], Path]] = None  # size of crops, and the volume that says so

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to evaluators and checkpoints."""
        return {"classes": tuple(self.classes)}

    def describe(self) -> List[str]:
        """Says what a user should know of these data at the start of a run, a line each."""
        return [f"{self}: {len(self)} volumes, {len(self.classes)} classes with the background"]

    def read(self, index: int) -> Tuple[nifti.Volume, np.ndarray]:
        """Reads a volume and its labels (W, H, D).

        Raises:
            UserError: A file is damaged, holds what is no number or no class, has other channels, is smaller than a
                patch, or the two lie at different places; the message names the file.
        """
        case = self.cases[index]
        volume = nifti.read(case.image)
        nifti.check_volume(volume, volume.data.shape[0] if self.channels is None else self.channels, self.least)
        return volume, nifti.read_labels(case.label, len(self.classes), volume)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Dict[str, torch.Tensor]:
        """Returns `inputs` (channels, W, H, D) and `labels` (1, W, H, D), to evaluate also `index` and `spacing`."""
        if self.is_training:
            # MONAI's transforms have generators of their own; the global one is seeded for this sample.
            self.transforms.set_random_state(int(np.random.randint(2**31)))
            sample = prepare(self.transforms, self._training_sample(index), self.cases[index].image)
            self._check_crop(sample, self.cases[index].image)
            return {"inputs": sample["image"], "labels": sample["label"].to(torch.uint8)}
        volume, labels = self.read(index)
        return {
            "inputs": prepare_whole(self.transforms, volume, self.spacing),
            "labels": torch.from_numpy(labels[None]),
            "index": torch.tensor(index),
            "spacing": torch.tensor(volume.spacing, dtype=torch.float64),
        }

    def _check_crop(self, sample: Dict[str, torch.Tensor], path: Path) -> None:
        """Raises UserError where image and label differ in size, or this crop and the first, which make no batch."""
        image, label = (tuple(sample[key].shape[1:]) for key in ("image", "label"))
        if image != label:
            raise UserError(
                f"the transforms make {nifti.times(image)} voxels of volume {path} and {nifti.times(label)} of its "
                'labels: name both by keys=["image", "label"]'
            )
        if self._first is None:
            self._first = image, path
        if self.in_batches and self._first[0] != image:
            raise UserError(
                f"the transforms make {nifti.times(image)} voxels of volume {path}, and {nifti.times(self._first[0])} "
                f"of {self._first[1]}: put SpatialPadd before the crop, which pads what is smaller"
            )

    def _training_sample(self, index: int) -> Dict[str, torch.Tensor]:
        """A volume and its labels, resampled, in memory that transforms may write to."""
        sample = self._kept.get(index)
        if sample is None:
            volume, labels = self.read(index)
            size = resampled_size(volume, self.spacing)
            sample = {
                "image": resample(volume.data, size, "trilinear"),
                "label": resample(labels[None], size, "nearest-exact").to(torch.uint8),
            }
            if self.keep:
                self._kept[index] = sample
        return {key: value.clone() for key, value in sample.items()}

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.root} ({self.split})"
