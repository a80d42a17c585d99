"""The command line: `spectral COMMAND ARGUMENTS`, and `python -m spectral_backbones SCRIPT ARGUMENTS` for any script.

A command is a file of `tools/`, imported when it is asked for: this page and its help need no toolbox.
"""

import difflib
import importlib
import runpy
import sys
from pathlib import Path
from typing import List, Optional

from . import __version__

COMMANDS = {
    "train": "train a classifier, a detector or a segmenter, as a config describes it",
    "test": "evaluate a checkpoint on a config's test set",
    "predict": "classify pictures, find objects in them, or segment them; segment volumes",
    "flops": "count parameters, MACs, FLOPs and activations of models, detectors and segmenters",
    "benchmark": "measure how fast models run and how much memory they take",
    "models": "list the models, with their parameters, MACs and published weights",
    "configs": "list the configs, print one whole, or copy one to edit",
    "run": "run a script, timm's train.py for instance, that then knows our models by name",
    "make-digits": "write handwritten digits as a data set: on canvases, COCO-style or ADE20K-style, or in volumes",
    "demo": "train small models on handwritten digits, in minutes and without a download",
}


def usage() -> str:
    """What `spectral --help` shows."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: spectral COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "spectral COMMAND --help tells more of one.",
            "On several processes: torchrun --nproc-per-node=N -m spectral_backbones train ...",
        ]
    )


def main(arguments: Optional[List[str]] = None) -> None:
    """Run a command of `COMMANDS`, or a script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    elif arguments[0] == "--version":
        print(f"spectral-backbones {__version__}")
    elif arguments[0] in COMMANDS and arguments[0] != "run":
        run_command(arguments[0], arguments[1:])
    else:
        run_script(arguments[1:] if arguments[0] == "run" else arguments)


def run_command(name: str, arguments: List[str]) -> None:
    """Run a file of `tools/`; mistakes that a user can mend end in one line."""
    from .tools.script import run

    sys.argv = [f"spectral {name}", *arguments]  # argparse takes the program's name from here
    run(importlib.import_module(f"{__package__}.tools.{name.replace('-', '_')}").main)


def run_script(arguments: List[str]) -> None:
    """Run a Python file as if it had been called itself, with our models registered."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit("usage: spectral run SCRIPT [ARGUMENTS]")
    script = Path(arguments[0])
    if not script.is_file():
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(COMMANDS)}"
        sys.exit(f"spectral: {arguments[0]!r} is neither a command nor a Python file; {hint}")
    sys.argv = arguments
    sys.path[0] = str(script.resolve().parent)  # where Python looks first for what a script imports
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
