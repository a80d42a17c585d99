"""Measure what images of thousands of pixels take, and draw it: time and memory of a pass against the image's side.

python tools/large_images.py --measure        # adds to docs/large-images.json, draws docs/images/large-images.png
python tools/large_images.py --segmenter      # measures a segmenter too, in training and prediction
torchrun --nproc-per-node=2 tools/large_images.py --split      # and what two processes take that share a model
python tools/large_images.py                  # only draws what was measured

One pass a point, in evaluation, on one thread, whose CPU seconds other programs change little; a model is not measured
further once a pass takes a minute, but for the first one. Memory is what a pass adds at its peak to weights and image;
that of a training step has gradients and the averages of AdamW in it. Each figure is kept as soon as it is there, and
not measured again with the same versions: the same command goes on where it was stopped.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from spectral_backbones import backbones  # noqa: F401  registers our models
from spectral_backbones.tools.arguments import model_name
from spectral_backbones.tools.benchmark import growth, make_model, run_once
from spectral_backbones.tools.records import Records, versions

DOCS = Path(__file__).resolve().parents[1] / "docs"
MEASURED = DOCS / "large-images.json"
PICTURE = DOCS / "images" / "large-images.png"

MODELS = ("fit_s", "vit_small_patch16_224")
SIDES = (512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 6400)
PATCH_SIZE = 16
MINUTE = 60.0
SEGMENTER = "segmentation/digits/fit-s_fpn_digits-2048x2048"
SEGMENTER_SIDE = 2048
SPLIT, SPLIT_SIDE = "fit_b", 1024


def timed_growth(step: Callable[[], object]) -> dict[str, float | int | None]:
    """CPU seconds of a step, and the bytes by which it makes the process grow at its peak."""
    found = run_once(step, torch.device("cpu"), time.process_time)
    return {**found, "seconds": round(found["seconds"], 3)}


@torch.inference_mode()
def measure(name: str, side: int) -> dict[str, float | int | None]:
    """Figures of one pass of a model with one image."""
    model = make_model(name, (side, side)).eval()
    image = torch.randn(1, 3, side, side)
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), image))
    return {**timed_growth(lambda: model(image)), "held_bytes": held}


def measure_segmenter(config: str, side: int) -> dict[str, Any]:
    """Figures of a whole segmenter with one image: of a training step with AdamW, and of a prediction."""
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from spectral_backbones.engine.config import load
    from spectral_backbones.tools.tasks import build_model

    init_default_scope("mmseg")
    model = build_model(config)
    optim_wrapper = build_optim_wrapper(model, load(config).optim_wrapper)
    sample = SegDataSample(metainfo=dict(img_shape=(side, side), ori_shape=(side, side)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, model.decode_head.num_classes, (1, side, side)))
    data = dict(inputs=[torch.randint(0, 256, (3, side, side), dtype=torch.uint8)], data_samples=[sample])
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "train": timed_growth(lambda: model.train().train_step(data, optim_wrapper)),
        "predict": timed_growth(lambda: model.eval().test_step(data)),
    }


def measure_split(name: str, side: int) -> dict[str, Any]:
    """Bytes by which each process of torchrun grows at its peak in two training steps with AdamW and an image each, the
    model's weights included, where every process holds the whole model and where it is split over them.
    """
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from spectral_backbones.engine.sharding import shard

    def train(split: bool) -> None:
        torch.manual_seed(0)
        model = make_model(name, (side, side)).train()
        model.set_grad_checkpointing()
        model = shard(model) if split else DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        image = torch.randn(1, 3, side, side)
        for _ in range(2):
            model(image).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    dist.init_process_group("gloo")
    found: dict[str, Any] = {"processes": dist.get_world_size()}
    for key, split in (("whole", False), ("split", True)):
        memories: list[int | None] = [None] * dist.get_world_size()
        dist.all_gather_object(memories, growth(lambda split=split: train(split)))
        found[key] = memories
    dist.barrier()
    dist.destroy_process_group()
    return found


def kept(records: Records, of: dict[str, Any], measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of what `of` says, measured where they are not there yet."""
    of = {**of, "threads": 1, "dtype": "float32", **versions()}
    record = records.find(of) or records.keep(of, measured())
    return record["found"]


def measure_all(records: Records, names: Sequence[str], sides: Sequence[int]) -> None:
    """Figures of models by side."""
    timm.create_model("test_vit").eval()(torch.randn(1, 3, 160, 160))  # what a process does once
    for name in names:
        for side in sides:
            row = kept(records, {"pass": name, "side": side}, lambda name=name, side=side: measure(name, side))
            print(name, side, row, flush=True)
            if name != names[0] and row["seconds"] > MINUTE:
                break


def passes(records: Records) -> dict[str, dict[int, dict[str, float]]]:
    """Figures of passes, by model and side; of several versions the latest."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for record in records.all:
        if "pass" in record["of"]:
            found.setdefault(record["of"]["pass"], {})[record["of"]["side"]] = record["found"]
    return {name: dict(sorted(rows.items())) for name, rows in found.items()}


def exponent(rows: dict[int, dict[str, float]]) -> float:
    """The power of the number of tokens that time grows with between the smallest and the largest image."""
    (small, first), *_, (large, last) = rows.items()
    return math.log(last["seconds"] / first["seconds"]) / math.log((large / small) ** 2)


def draw(measured: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Seconds and memory against tokens, both logarithmic, a line for each model and one that grows as L^(4/3)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), dpi=110)
    titles = {"seconds": "CPU seconds of a pass", "memory_bytes": "memory of a pass (GiB)"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        scale = 1 if key == "seconds" else 2**30
        for name, rows in measured.items():
            tokens = [(side / PATCH_SIZE) ** 2 for side in rows]
            label = f"{name}: L^{exponent(rows):.2f}" if key == "seconds" and len(rows) > 1 else name
            axes.loglog(tokens, [row[key] / scale for row in rows.values()], marker="o", markersize=4, label=label)
            if key == "seconds" and name == MODELS[0]:
                first = next(iter(rows.values()))["seconds"]
                rule = [first * (count / tokens[0]) ** (4 / 3) for count in tokens]
                axes.loglog(tokens, rule, "k:", linewidth=1, label="L^(4/3)")
        sides = [side for side in SIDES if math.log2(side).is_integer() or side == SIDES[-1]]
        axes.set_xticks([(side / PATCH_SIZE) ** 2 for side in sides], [str(side) for side in sides])
        axes.minorticks_off()
        axes.set_xlabel("side of a square image in pixels (L tokens, patches of 16)")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure first, in ten minutes and up to 8 GiB")
    parser.add_argument("--segmenter", action="store_true", help=f"measure a step of {SEGMENTER} with one image")
    parser.add_argument("--split", action="store_true", help=f"under torchrun: measure {SPLIT} split over processes")
    parser.add_argument("--models", nargs="+", type=model_name, default=list(MODELS), metavar="NAME")
    parser.add_argument("--sides", nargs="+", type=int, default=list(SIDES), metavar="N", help="in pixels")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = Records(MEASURED)
    if args.measure:
        measure_all(records, args.models, args.sides)
    if args.segmenter:
        of = {"segmenter": SEGMENTER, "side": SEGMENTER_SIDE}
        print(kept(records, of, lambda: measure_segmenter(SEGMENTER, SEGMENTER_SIDE)))
    if args.split:
        found = measure_split(SPLIT, SPLIT_SIDE)  # all processes measure, and the first one keeps it
        if int(os.environ["RANK"]) == 0:
            print(kept(records, {"split": SPLIT, "side": SPLIT_SIDE}, lambda: found))
    elif measured := passes(records):
        draw(measured, PICTURE)


if __name__ == "__main__":
    main()
