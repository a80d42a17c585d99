"""Oxford Flowers-102 (Nilsback and Zisserman, 2008), by torchvision."""

from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS
from torchvision import datasets

from spectral_backbones.engine.errors import UserError

from .download import describe, fetch
from .files import FileDataset
from .flower_names import FLOWER_NAMES


@DATASETS.register_module()
class Flowers102(FileDataset):
    """8,189 pictures in 102 classes; downloads where it is missing.

    Args:
        root: Holds (or receives) the folder `flowers-102` with `jpg/`, `imagelabels.mat` and `setid.mat`.
        split: "train" (1,020), "val" (1,020), "test" (6,149), or several joined by a plus sign: the papers of this
            library train on "train+val".
        transform: See `ImageDataset`.
        setid: The file of the splits; another name than the official one takes a subset that lists its own pictures.
    """

    def __init__(self, root: str, split: str, transform: Any = None, setid: str = "setid.mat") -> None:
        parts = split.split("+")
        if not set(parts) <= {"train", "val", "test"}:
            raise UserError(f"{self} has the splits train, val and test, also joined as train+val, got {split!r}")
        files = dict(datasets.Flowers102._file_dict)
        if setid != files["setid"][0]:  # a subset answers for its files itself: no md5
            files |= {"setid": (setid, None), "label": (files["label"][0], None)}
        folder = Path(root) / "flowers-102"
        source = type("Opened", (datasets.Flowers102,), {"_file_dict": files})
        probe = source.__new__(source)
        probe._base_folder, probe._images_folder = folder, folder / "jpg"
        fetch(
            probe._check_integrity,
            lambda: source(root, download=True),
            describe(str(self), folder, ["jpg/image_*.jpg", "imagelabels.mat", setid], source._download_url_prefix),
        )
        opened = [source(root, part) for part in parts]
        super().__init__(
            [path for part in opened for path in part._image_files],
            [label for part in opened for label in part._labels],
            FLOWER_NAMES,
            transform,
        )
