"""Running any script with our models registered, in the processes that it starts too.

A worker process that is spawned, and not forked, runs its parent's script anew, under the name `__mp_main__`: it runs
this file first, which runs the script.
"""

import multiprocessing.spawn
import os
import runpy
import sys
from pathlib import Path
from typing import Any, Dict, List

_SCRIPT = "SPECTRAL_BACKBONES_SCRIPT"  # environment variable: what a spawned process is to run


def run(arguments: List[str]) -> None:
    """Run a Python file as if it had been called itself.

    Args:
        arguments: The file, and what it finds behind its name in `sys.argv`.
    """
    script = Path(arguments[0]).resolve()
    sys.argv = list(arguments)
    _look_first_beside(script)
    os.environ[_SCRIPT] = str(script)
    prepare_children()
    runpy.run_path(arguments[0], run_name="__main__")


def prepare_children() -> None:
    """Let processes that this one spawns run this file where they would run the script."""
    multiprocessing.spawn.get_preparation_data = _prepared_by_us


def _look_first_beside(script: Path) -> None:
    """Put the script's folder where Python puts it, in place of that of the command that runs it."""
    if getattr(sys.flags, "safe_path", False):
        return
    before, sys.path[0] = sys.path[0], str(script.parent)
    package = Path(__file__).resolve().parents[1]
    if Path(before or ".").resolve() == package:  # `python -m` in a clone's root: its package is to be found further on
        sys.path.insert(1, str(package))


_prepare = multiprocessing.spawn.get_preparation_data


def _prepared_by_us(name: str) -> Dict[str, Any]:
    """What a spawned process is told by its parent; see `multiprocessing.spawn.get_preparation_data`."""
    data = _prepare(name)
    if Path(data.get("init_main_from_path", "")).resolve() == Path(os.environ[_SCRIPT]):
        data["init_main_from_path"] = __file__
    return data


if __name__ == "__mp_main__":
    from spectral_backbones import script  # which registers the models

    script.prepare_children()
    globals().update(runpy.run_path(os.environ[_SCRIPT], run_name=__name__))
