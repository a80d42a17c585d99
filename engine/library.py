"""The configs that come with the library: found by name, wherever it is installed."""

import difflib
from pathlib import Path
from typing import List

from .errors import UserError

LIBRARY = __name__.partition(".")[0]
PREFIX = f"{LIBRARY}::"  # before the path of a config, in `_base_`
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
if not CONFIGS.is_dir():  # installed from a wheel, where the folder lies as mm's own tools look for it
    CONFIGS = Path(__file__).resolve().parents[1] / ".mim" / "configs"
_TASKS = ("classification", "pretraining", "detection", "segmentation", "volumes")


def list_configs() -> List[str]:
    """Names of the configs that can be trained: their paths below `configs/`, without the ending."""
    return [
        path.relative_to(CONFIGS).with_suffix("").as_posix()
        for task in _TASKS
        for path in sorted((CONFIGS / task).rglob("*.py"))
    ]


def find_config(text: str) -> Path:
    """The file that a user means.

    Args:
        text: A file; or one of `list_configs`, its last part where only one ends so, or as a `_base_` names it,
            "spectral_backbones::detection/dat/....py".

    Raises:
        UserError: There is none, or there are several.
    """
    if Path(text).is_file():
        return Path(text)
    wanted = text.removeprefix(PREFIX).removeprefix("./").removeprefix("configs/").removesuffix(".py").strip("/")
    names = list_configs()
    found = [name for name in names if name == wanted] or [name for name in names if name.endswith(f"/{wanted}")]
    if len(found) == 1:
        return CONFIGS / f"{found[0]}.py"
    if found:
        raise UserError(f"config {text} could be any of {', '.join(found)}: name more of its path")
    alike = near(wanted, names)
    hint = f"did you mean {' or '.join(alike)}?" if alike else "`spectral configs` lists the library's own"
    raise UserError(f"config {text} does not exist: it is no file, and no config of the library; {hint}")


def near(wanted: str, names: List[str]) -> List[str]:
    """Up to three names like the wanted one, whole or by their last parts."""
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.8)
    by_last = {name.rpartition("/")[2]: name for name in names}
    last = wanted.rpartition("/")[2]
    near += [by_last[key] for key in difflib.get_close_matches(last, by_last, n=3, cutoff=0.7)]
    return list(dict.fromkeys(near))[:3]
