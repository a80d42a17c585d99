"""Evaluates a checkpoint, or an exported file, on a config's test set.

spectral test work_dirs/folder/folder.py work_dirs/folder/best.pth
spectral test detection/dat/mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco dat.pth --data-root data/coco --tta
spectral test work_dirs/folder/folder.py classifier.onnx         # a file of `spectral export`
spectral test detection/specdetr/specdetr-small_made --baseline matched_filter

CONFIG is one of the library's, see `spectral configs`, or a file: a training leaves its own in its work directory.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from spectral_backbones import backbones  # noqa: F401  registers the models
from spectral_backbones.engine import CarefulRunner, UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.deploy import exported, open_program
from spectral_backbones.engine.exports import exported as written
from spectral_backbones.engine.figures import spelt
from spectral_backbones.engine.launch import join_torchrun
from spectral_backbones.engine.tta import augment_test
from spectral_backbones.tools import choices
from spectral_backbones.tools.arguments import ConfigOptions
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import complete, import_of, task_of


def main(arguments: Optional[List[str]] = None) -> Dict[str, Any]:
    """Evaluates; prints and returns the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("config", help="one of the library's, or a file")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="best.pth, epoch_N.pth or iteration_N.pth of a training run; or a file of `spectral export`",
    )
    parser.add_argument("--work-dir", help="where log and pictures go; a folder test beside the checkpoint by default")
    choices.add_to(parser)
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions, help=choices.CFG_OPTIONS)
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation by tta_model and tta_pipeline of the config; mirror images where it has none, of "
        "volumes along the axes that training mirrors",
    )
    parser.add_argument(
        "--baseline",
        metavar="KIND",
        help="in place of a checkpoint, a detector by the spectra of the training boxes: matched_filter or "
        "spectral_angle, for images of many bands",
    )
    args = parser.parse_args(arguments)
    if (args.checkpoint is None) == (args.baseline is None):
        raise UserError("name a checkpoint, or by --baseline what stands in its place, and not both")

    launcher = join_torchrun()
    said: List[str] = []
    choose = choices.chooser(args, said, "test_dataloader")
    cfg = load(args.config, args.cfg_options, args.data_root, choose)
    if args.tta:
        cfg = import_of("volumes", "config").mirror_test(cfg) if task_of(cfg) == "volumes" else augment_test(cfg)
    cfg = complete(cfg)
    if not cfg.get("test_dataloader"):
        raise UserError(f"{cfg.filename} has no test_dataloader, so there is nothing to evaluate on")
    cfg.launcher = launcher
    if args.baseline:
        if args.tta or launcher != "none" or task_of(cfg) != "detection":
            raise UserError("--baseline is for detection, by one process and without --tta")
        cfg = import_of("detection", "hyperspectral.baselines").baseline(cfg, args.baseline)
        cfg.load_from = None
        cfg.work_dir = args.work_dir or str(Path("work_dirs") / Path(cfg.filename).stem / args.baseline)
    elif exported(args.checkpoint):
        if args.tta:
            raise UserError(f"--tta changes the model, and {args.checkpoint} is an exported file: leave it out")
        if launcher != "none":
            raise UserError(
                f"{args.checkpoint} is an exported file, which is tested by one process: leave out torchrun"
            )
        program, task = open_program(args.checkpoint), task_of(cfg)
        if program.metadata["task"] != task:
            raise UserError(f"{args.checkpoint} is for {program.metadata['task']}, {args.config} for {task}")
        cfg.load_from = None
        cfg = import_of(task, "deploy").evaluated(cfg, program)
    else:
        cfg.load_from = args.checkpoint
    if not args.baseline:
        cfg.work_dir = args.work_dir or str(Path(args.checkpoint).parent / "test")
    runner = CarefulRunner.from_cfg(cfg)
    if runner.rank == 0:
        print("".join(f"{line}\n" for line in said), end="")
    begun = time.time()
    metrics = runner.test()
    if runner.rank == 0:
        for name, value in metrics.items():
            print(f"{name}: {spelt(name, value)}")
        files = written(runner.test_evaluator, begun)
        if files:
            print(f"written: {', '.join(files)}")
        if not metrics and not files:  # of a detector that found nothing, COCO's evaluation gives no figures
            print("figures: none, nothing was found")
        print(f"pictures: {cfg.work_dir}")
    return metrics


if __name__ == "__main__":
    run(main)
