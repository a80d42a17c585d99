"""Where results go: a place that cannot be written to is told before anything is computed."""

import os
from pathlib import Path
from typing import Sequence

from .errors import UserError


def check_file(path: Path, option: str) -> None:
    """Sees that a file can be written, its folder made if need be.

    Args:
        path: The file.
        option: What names it, for the message.

    Raises:
        UserError: It is a folder, or cannot be made.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder")
    _check_folder(path, path.absolute().parents, option)


def check_folder(path: Path, option: str) -> None:
    """Sees that a folder can be written to, and made if need be. Arguments as in `check_file`.

    Raises:
        UserError: It is no folder, or cannot be made.
    """
    _check_folder(path, (path.absolute(), *path.absolute().parents), option)


def _check_folder(path: Path, folders: Sequence[Path], option: str) -> None:
    there = next(folder for folder in folders if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        kind = "a folder that cannot be written to" if there.is_dir() else "no folder"
        raise UserError(f"{option} {path} cannot be written: {there} is {kind}")
