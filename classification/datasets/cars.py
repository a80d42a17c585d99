"""Stanford Cars (Krause et al., 2013), by torchvision."""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from torchvision import datasets

from spectral_backbones.engine.errors import UserError

from .download import describe
from .files import FileDataset


@DATASETS.register_module()
class StanfordCars(FileDataset):
    """16,185 pictures in 196 classes. Its home has closed: there is nothing to download from.

    Args:
        root: The folder `stanford_cars`, or the one above it (torchvision's meaning of root).
        split: "train" (8,144) or "test" (8,041).
        transform: See `ImageDataset`.
    """

    def __init__(self, root: str, split: str, transform: Any = None) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self} has the splits train and test, got {split!r}")
        folder = Path(root)
        if folder.name != "stanford_cars":
            folder = folder / "stanford_cars"
        files = ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_train/*.jpg"]
        if split == "test":
            files = ["devkit/cars_meta.mat", "cars_test_annos_withlabels.mat", "cars_test/*.jpg"]
        if not all(any(folder.glob(file)) for file in files):
            source = (
                "https://github.com/pytorch/vision/issues/7545, which tells of copies; there is no official download"
            )
            raise UserError(f"data set not found. {describe(str(self), folder, files, source)}")
        opened = datasets.StanfordCars(folder.parent, split)
        paths, labels = zip(*opened._samples, strict=True)
        super().__init__(paths, labels, opened.classes, transform)
