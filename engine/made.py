"""Data sets that are made and not downloaded: written in one step, and told by what they were made with."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Union

from .errors import UserError

# Colours that are told apart, for the classes of a made set (red, green, blue).
PALETTE = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 205, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 220, 220),
    (240, 50, 230),
    (150, 200, 40),
    (190, 120, 90),
)
DIGITS = "digits"  # what a set holds, and the name of the file that says what it was made with


def check_least(recipe: Any, **least: int) -> None:
    """Refuses numbers of a recipe that are too small.

    Args:
        recipe: A dataclass.
        **least: What each of its numbers has to be, or more.

    Raises:
        UserError: One is smaller.
    """
    for name, number in least.items():
        if getattr(recipe, name) < number:
            raise UserError(f"{name} is {getattr(recipe, name)}, it has to be {number} or more")


def make(folder: Union[str, Path], recipe: Any, write: Callable[[Path, Any], None], thing: str = DIGITS) -> bool:
    """Writes a set, unless it is there already.

    It is written beside the folder and moved there in one step: an interrupted call leaves no folder.

    Args:
        folder: Where to; must not exist yet, be empty, or hold a set of the same recipe.
        recipe: What to make, a dataclass.
        write: Writes it into an empty folder.
        thing: What it holds, in one word of the plural.

    Returns:
        Whether it was written now.

    Raises:
        UserError: The folder holds something else.
    """
    folder = Path(folder).absolute()
    if _holds(folder, recipe, thing):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)  # temporary folders are private
        write(part, recipe)
        (part / f"{thing}.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
        try:
            os.rename(part, folder)
        except OSError:
            if not _holds(folder, recipe, thing):  # if it does, another process was quicker
                raise
            return False
        return True
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_missing(
    folder: Union[str, Path],
    recipe: Any,
    write: Callable[[Path, Any], None],
    keys: Sequence[str],
    thing: str = DIGITS,
) -> None:
    """Writes a set where there is none; one that differs in other values of its recipe than `keys` is taken as it is.

    Args:
        folder: As for `make`.
        recipe: What to make, a dataclass.
        write: Writes it into an empty folder.
        keys: What has to agree.
        thing: What it holds, in one word of the plural.

    Raises:
        UserError: The folder holds something else, or a set that differs in one of `keys`.
    """
    folder = Path(folder)
    found = _made_with(folder, thing)
    if found is None:
        make(folder, recipe, write, thing)
        return
    for key in keys:
        if found.get(key) != getattr(recipe, key):
            raise UserError(
                f"{folder} holds {thing} made with {key}={found.get(key)}, needed are those with "
                f"{key}={getattr(recipe, key)}: remove it, or choose another folder"
            )


def _made_with(folder: Path, thing: str) -> Optional[Dict[str, Any]]:
    """Reads the recipe of a set; None where there is no set."""
    mark = folder / f"{thing}.json"
    if not mark.is_file():
        return None
    try:
        return dict(json.loads(mark.read_text()))
    except ValueError as error:
        raise UserError(f"{mark} does not say what the {thing} were made with: remove {folder}") from error


def _holds(folder: Path, recipe: Any, thing: str) -> bool:
    found = _made_with(folder, thing)
    if found is not None:
        # A set of an earlier version does not say what was no choice then.
        found = {**{field.name: field.default for field in fields(recipe)}, **found}
        if found == asdict(recipe):
            return True
        differing = ", ".join(f"{key}={value}" for key, value in found.items() if value != asdict(recipe).get(key))
        raise UserError(f"{folder} holds {thing} made with {differing}: remove it, or choose another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and holds no {thing}: choose another folder")
    return False
