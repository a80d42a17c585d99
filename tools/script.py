"""What a tool needs to be run: by `spectral` or as a script of a clone."""

import argparse
import inspect
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, TextIO, Tuple

import spectral_backbones

PACKAGES = Path(spectral_backbones.__file__).resolve().parents[1]  # the folder that this very package lies in


def make_parser(doc: Optional[str]) -> argparse.ArgumentParser:
    """A parser whose help is a tool's docstring, and whose usage says how it was called.

    Args:
        doc: Written for `spectral NAME`; as a script of a clone, the tool says its own name.
    """
    name = Path(sys.argv[0]).name  # "spectral train", or "train.py"
    return argparse.ArgumentParser(
        prog=name, description=inspect.cleandoc(doc or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )


def process_of(command: str, *arguments: str) -> Tuple[List[str], Dict[str, str]]:
    """How to run a command of this very package in a process of its own, whatever lies in the working directory.

    Args:
        command: As `spectral` names it.
        arguments: What follows it.

    Returns:
        The command line, and the environment.
    """
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    return [sys.executable, "-m", spectral_backbones.__name__, command, *arguments], environment


def run(main: Callable[[], Any]) -> None:
    """Call a tool's `main`; mistakes that a user can mend end in one line and status 1, without a traceback, as does an
    interruption, with status 130.

    A number that it returns is the exit status.
    """
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # as shells tell it
    except BrokenPipeError:
        if _is_read(sys.stdout):
            raise
        sys.exit(1)  # what read the output has ended, as `head` does
    except ValueError as error:
        # A tool that has met such an error has imported its module; to import it here would bring in mmengine.
        errors = sys.modules.get("spectral_backbones.engine.errors")
        if errors is None or not isinstance(error, errors.UserError):
            raise
        sys.exit(f"error: {errors.plain_message(error)}")
    if isinstance(status, int):
        sys.exit(status)


def _is_read(stream: TextIO) -> bool:
    """Whether somebody is still there at the other end of an output; if not, nothing more is written to it."""
    if not hasattr(select, "poll"):  # Windows, which has no such error
        return True
    asked = select.poll()
    asked.register(stream.fileno(), 0)
    is_read = not any(state & select.POLLERR for _, state in asked.poll(0))
    if not is_read:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python would complain once more as it ends
    return is_read
