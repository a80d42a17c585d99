"""Fetching a public data set once, and saying plainly what to put where if that fails."""

import contextlib
import socket
from pathlib import Path
from typing import Callable, Iterator, Sequence
from urllib.error import URLError

from mmengine.dist import barrier, is_main_process

from spectral_backbones.engine.errors import UserError


def describe(name: str, root: Path, files: Sequence[str], source: str) -> str:
    """Lists the files that a data set consists of, below its root, and where they come from."""
    listing = "\n".join(f"  {root / file}" for file in files)
    return f"{name} needs these files:\n{listing}\nThey come from {source}"


def fetch(present: Callable[[], bool], download: Callable[[], None], needed: str) -> None:
    """Downloads a data set in the first process, while the others wait.

    Args:
        present: Says whether the files are there already.
        download: Fetches them.
        needed: The text of `describe`.

    Raises:
        UserError: The files are not there and cannot be fetched.
    """
    failure = ""
    if is_main_process() and not present():
        try:
            with _network_timeout(seconds=30):
                download()
        except (URLError, OSError, RuntimeError, ValueError) as error:
            failure = f"the download failed: {error}"
    barrier()
    if not present():
        raise UserError(f"data set not found. {needed}\n{failure}".strip())


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
