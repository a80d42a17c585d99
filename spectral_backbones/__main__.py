"""The command line: `spectral COMMAND ARGUMENTS`, and `python -m spectral_backbones SCRIPT ARGUMENTS` for any script.

A command is a file of `tools/`, imported when it is asked for: this page and its help need no toolbox.
"""

import difflib
import importlib
import sys
from pathlib import Path
from typing import List, Optional

from . import __version__

COMMANDS = {
    "train": "train a classifier, a detector or a segmenter, as a config describes it",
    "test": "evaluate a checkpoint on a config's test set",
    "predict": "classify pictures, find objects in them, or segment them; segment volumes",
    "distill": "train a model to do what another does: a spectral one of a vision transformer with public weights",
    "visualize": "draw what models look at: spectral gates, attention, features, class activation",
    "export": "write a model as ONNX, pt2 or OpenVINO, and prove that the file computes the same",
    "flops": "count parameters, MACs, FLOPs and activations of models, detectors and segmenters",
    "benchmark": "measure how fast models run and how much memory they take",
    "compare": "compare models as pictures grow, mixers of one trunk, checkpoints, and what mixers learn",
    "models": "list the models, with their parameters, MACs and published weights",
    "mixers": "list the token mixers, with their papers and options",
    "configs": "list the configs, print one whole, or copy one to edit",
    "run": "run a script, timm's train.py for instance, that then knows our models by name",
    "demo": "train small models on handwritten digits, in minutes and without a download",
    "make-digits": "write handwritten digits as a data set: on canvases, COCO-style or ADE20K-style, or in volumes",
    "make-hyperspectral": "write images of many bands with targets below one pixel as a data set for detection",
    "measure-channels": "compute mean and standard deviation of pictures with any number of channels",
    "check-gpu": "check and measure the library on one GPU, in five minutes",
}

# Which extra brings what a command may find missing.
_EXTRAS = {
    **dict.fromkeys(("mmengine", "matplotlib", "cv2", "sklearn", "scipy", "tifffile", "torchmetrics"), "train"),
    **dict.fromkeys(("mmcv", "mmdet", "mmseg"), "mm"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    "openvino": "openvino",
    **dict.fromkeys(("monai", "nibabel"), "volumes"),
    "pytorch_grad_cam": "visualize",
    "spectral": "hyperspectral",  # that of PyPI, which has no command
}

_RUN = """usage: spectral run SCRIPT [ARGUMENTS]
       python -m spectral_backbones SCRIPT [ARGUMENTS]
       torchrun --nproc-per-node=N -m spectral_backbones SCRIPT [ARGUMENTS]

Runs a Python file as `python SCRIPT ARGUMENTS` does, with this library's models registered with timm, in its worker
processes too: timm's own train.py, validate.py, inference.py, benchmark.py and onnx_export.py know them by name.

spectral run train.py --data-dir photos --model gfnet_xs"""


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
            "spectral COMMAND --help tells more of one. `python -m spectral_backbones` is the same command; on several",
            "processes: torchrun --nproc-per-node=N -m spectral_backbones train ...",
        ]
    )


def main(arguments: Optional[List[str]] = None) -> None:
    """Run a command of `COMMANDS`, or a script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"spectral-backbones {__version__}")
    elif name == "run":
        if not rest:
            sys.exit(_RUN)
        if rest[0] in ("-h", "--help"):
            print(_RUN)
        else:
            run_script(rest)
    elif name in COMMANDS:
        run_command(name, rest)
    else:
        run_script(arguments)


def run_command(name: str, arguments: List[str]) -> None:
    """Run a file of `tools/`; mistakes that a user can mend end in one line."""
    from .tools.script import run

    sys.argv = [f"spectral {name}", *arguments]  # the parsers take their name from here
    try:
        run(importlib.import_module(f"{__package__}.tools.{name.replace('-', '_')}").main)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        extra = f"pip install 'spectral-backbones[{_EXTRAS[missing]}]'"
        sys.exit(f"error: spectral {name} needs the package {missing}: {extra}")


def run_script(arguments: List[str]) -> None:
    """Run a Python file with our models registered, see `script`."""
    if not Path(arguments[0]).exists():
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(COMMANDS)}"
        sys.exit(f"error: {arguments[0]!r} is neither a command of spectral nor a file; {hint}")
    from . import script

    script.run(arguments)


if __name__ == "__main__":
    main()
