"""Trains what a config describes, on one machine or on many.

python tools/train.py CONFIG [--cfg-options k=v ...] [--data-root D] [--work-dir D] [--resume | --overwrite] [--amp]
torchrun --nproc-per-node=2 tools/train.py CONFIG ...
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.config import Config

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import CarefulRunner
from spectral_backbones.engine.config import load
from spectral_backbones.engine.launch import join_torchrun
from spectral_backbones.engine.resuming import SCHEDULES, check_work_dir
from spectral_backbones.tools.arguments import ConfigOptions
from spectral_backbones.tools.script import run
from spectral_backbones.tools.tasks import complete


def parse(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a file under configs/")
    parser.add_argument("--work-dir", help="where checkpoints, logs and pictures go; work_dirs/<config> by default")
    parser.add_argument("--data-root", help="folder of the data set, in place of the config's")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last whole checkpoint of the work directory"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier run in the work directory, whose checkpoints are removed",
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of a resumed run: let the learning rate go on as the checkpoint has it, or follow the config from here "
        "on, stretched to the run's new length",
    )
    parser.add_argument(
        "--amp", action="store_true", help="bfloat16 autocast (float16 with loss scaling on older GPUs)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions, help="values of the config, as key.key=value")
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace) -> Config:
    """Turns the command line into the config of a run."""
    cfg = load(args.config, args.cfg_options, args.data_root)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    cfg.resume = args.resume or cfg.get("resume", False)
    cfg.overwrite = args.overwrite or cfg.get("overwrite", False)
    cfg.resume_schedule = args.schedule or cfg.get("resume_schedule")
    check_work_dir(cfg.work_dir, cfg)  # before data are looked for and weights are read
    cfg = complete(cfg)
    if args.amp:
        cfg.optim_wrapper.type = amp_wrapper()
    return cfg


def amp_wrapper() -> str:
    """Names the optimiser wrapper of mixed precision; GPUs that only emulate bfloat16 are faster with float16."""
    emulates = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "AmpOptimWrapper" if emulates else "Bfloat16OptimWrapper"


def main(arguments: Optional[List[str]] = None) -> CarefulRunner:
    """Trains; returns the runner for programs that go on with it."""
    args = parse(arguments)
    launcher = join_torchrun()
    cfg = configure(args)
    cfg.launcher = launcher
    runner = CarefulRunner.from_cfg(cfg)
    runner.train()
    return runner


if __name__ == "__main__":
    run(main)
