"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), by torchvision."""

import pickle
from pathlib import Path
from typing import Any, Type

from mmengine.registry import DATASETS
from PIL import Image
from torchvision import datasets

from spectral_backbones.engine.errors import UserError

from .base import ImageDataset
from .download import describe, fetch


class _CIFAR(ImageDataset):
    source: Type[datasets.CIFAR10]

    def __init__(self, root: str, split: str, transform: Any = None, check_integrity: bool = True) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self} has the splits train and test, got {split!r}")
        folder = Path(root) / self.source.base_folder
        lists = self.source.train_list + self.source.test_list
        files = [*(name for name, _ in lists), self.source.meta["filename"]]

        def present() -> bool:
            if check_integrity:
                return self.source._check_integrity(probe)
            return all((folder / name).is_file() for name in files)

        probe = self.source.__new__(self.source)  # torchvision's check needs no more of itself than the root
        probe.root = root
        fetch(
            present,
            lambda: self.source(root, download=True),
            describe(
                str(self), folder, files, f"{self.source.url} (checked by md5; check_integrity=False for a subset)"
            ),
        )
        opened = type("Opened", (self.source,), {"_check_integrity": lambda self: True})
        try:
            data = opened(root, train=split == "train")
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise UserError(f"{self}: a file in {folder} cannot be read: {error}") from error
        self.pixels, self.split, self.folder = data.data, split, folder
        super().__init__(data.targets, data.classes, transform)

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        return f"number {index} of the {self.split} split in {self.folder}"


@DATASETS.register_module()
class CIFAR10(_CIFAR):
    """60,000 pictures of 32x32 in 10 classes; downloads where it is missing.

    Args:
        root: Holds (or receives) the folder `cifar-10-batches-py`.
        split: "train" (50,000) or "test" (10,000).
        transform: See `ImageDataset`.
        check_integrity: Demand the files of the full set by their md5; False takes a subset in the same layout.
    """

    source = datasets.CIFAR10


@DATASETS.register_module()
class CIFAR100(_CIFAR):
    """60,000 pictures of 32x32 in 100 classes; arguments as for `CIFAR10`, folder `cifar-100-python`."""

    source = datasets.CIFAR100
