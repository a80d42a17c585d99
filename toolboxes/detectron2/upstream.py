"""detectron2's own lazy configs, by their path."""

from importlib.util import find_spec
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig


def get_config(path: str) -> DictConfig:
    """Loads a lazy config that detectron2 installs with itself, as its `model_zoo.get_config` does.

    `detectron2.model_zoo` imports `pkg_resources`, which setuptools no longer has since its version 82.

    Args:
        path: File relative to detectron2's "configs/", such as "common/models/mask_rcnn_fpn.py".

    Raises:
        FileNotFoundError: There is no such file.
    """
    # Found by the package's place alone: the import of model_zoo is what fails.
    root = Path(find_spec("detectron2").submodule_search_locations[0]) / "model_zoo" / "configs"
    file = root / path
    if not file.is_file():
        near = sorted(str(other.relative_to(root)) for other in file.parent.glob("*.py"))
        raise FileNotFoundError(
            f"detectron2 has no config {path!r} in {root}; beside it: {', '.join(near) or 'nothing'}"
        )
    return LazyConfig.load(str(file))
