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
from .preparation import build_transforms, plain_tensor, resample, resampled_size


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
        if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
            raise UserError(f"spacing is {spacing}, it has to be three positive numbers of millimetres (W, H, D)")
        self.spacing = spacing
        self.transforms = build_transforms(transforms)
        self.keep = keep
        self._kept: Dict[int, Dict[str, torch.Tensor]] = {}

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
            sample = self._prepared(self._training_sample(index), index)
            return {"inputs": sample["image"], "labels": sample["label"].to(torch.uint8)}
        volume, labels = self.read(index)
        size = resampled_size(labels.shape, volume.spacing, self.spacing)
        return {
            "inputs": self._prepared({"image": resample(volume.data, size, "trilinear")}, index)["image"],
            "labels": torch.from_numpy(labels[None]),
            "index": torch.tensor(index),
            "spacing": torch.tensor(volume.spacing, dtype=torch.float64),
        }

    def _training_sample(self, index: int) -> Dict[str, torch.Tensor]:
        """A volume and its labels, resampled, in memory that transforms may write to."""
        sample = self._kept.get(index)
        if sample is None:
            volume, labels = self.read(index)
            size = resampled_size(labels.shape, volume.spacing, self.spacing)
            sample = {
                "image": resample(volume.data, size, "trilinear"),
                "label": resample(labels[None], size, "nearest-exact").to(torch.uint8),
            }
            if self.keep:
                self._kept[index] = sample
        return {key: value.clone() for key, value in sample.items()}

    def _prepared(self, sample: Dict[str, torch.Tensor], index: int) -> Dict[str, torch.Tensor]:
        sample = self.transforms(sample)
        if isinstance(sample, list):  # of transforms that cut several crops
            if len(sample) != 1:
                raise UserError(
                    f"the transforms of {self} make {len(sample)} samples of one: set num_samples to 1, and "
                    "train_dataloader.batch_size to more"
                )
            sample = sample[0]
        sample = {key: plain_tensor(sample[key]) for key in ("image", "label") if key in sample}
        if not sample["image"].isfinite().all():
            raise UserError(
                f"volume {self.cases[index].image} has voxels that are no numbers once it is prepared: a transform "
                "divides by nothing, or its range is empty"
            )
        return sample

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.root} ({self.split})"
