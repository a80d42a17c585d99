"""Trains what a config describes, on one machine or on many.

spectral train detection/dat/mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco --data-root data/coco
spectral train classification/folder --data-root photos --model gfnet_xs --weights gfnet-xs.pth --epochs 30
spectral train my_config.py --batch-size 4 --cfg-options model.backbone.drop_path_rate=0.3
torchrun --nproc-per-node=8 -m spectral_backbones train CONFIG ...

CONFIG is a path below the library's configs/, or its last part where that is enough; `spectral configs` lists them. Or
it is a file of your own, which may inherit from one by `_base_ = "spectral_backbones::detection/dat/....py"`.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import CarefulRunner
from spectral_backbones.engine.config import load
from spectral_backbones.engine.launch import join_torchrun
from spectral_backbones.engine.resuming import SCHEDULES, check_work_dir
from spectral_backbones.engine.schedule import learning_rate
from spectral_backbones.tools import choices
from spectral_backbones.tools.arguments import ConfigOptions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete


def parse(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("config", help="one of the library's, or a file")
    choices.add_to(parser)
    choices.add_to_training(parser)
    parser.add_argument("--work-dir", help="where checkpoints, logs and pictures go; work_dirs/<config> by default")
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
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions, help=choices.CFG_OPTIONS)
    return parser.parse_args(arguments)


def configure(args: argparse.Namespace, said: Optional[List[str]] = None) -> Config:
    """Turns the command line into the config of a run; lines on what the options have changed are added to `said`."""
    cfg = load(args.config, args.cfg_options, args.data_root, choices.chooser(args, [] if said is None else said))
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(cfg.filename).stem)
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
    said: List[str] = []
    cfg = configure(args, said)
    if args.batch_size or args.lr:
        said.append(learning_rate(cfg, get_world_size()))
    if is_main_process():
        print("".join(f"{line}\n" for line in said), end="", flush=True)
    cfg.launcher = launcher
    runner = CarefulRunner.from_cfg(cfg)
    runner.train()
    return runner


if __name__ == "__main__":
    run(main)
