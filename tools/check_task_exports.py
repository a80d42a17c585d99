"""Exports detectors and segmenters of configs with made weights, and prints how the files agree with eager.

    python tools/check_task_exports.py retinanet_spectformer-h-s_fpn_1x_coco --size 480x640 640x448
    python tools/check_task_exports.py retinanet_spectformer-h-s_fpn_1x_coco --dynamic
    python tools/check_task_exports.py CONFIG --size 480x640 --int8 data/coco/val2017 --data-root data/coco

Weights are drawn, and those of last layers scaled so that scores spread and many boxes pass the threshold: a head that
is merely drawn finds nothing, and nothing would be compared.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List, Optional

import torch
from torch import Tensor, nn

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load, metainfo, unwrapped
from spectral_backbones.engine.deploy.photos import batch_of, find_photos
from spectral_backbones.engine.library import find_config
from spectral_backbones.tools import export
from spectral_backbones.tools.arguments import image_size
from spectral_backbones.tools.script import run
from spectral_backbones.tools.tasks import build_model, complete, import_of, task_of

# Mean and deviation that the outputs of last layers get, about what training makes of them; in the order in which a
# layer sees what those before it have made.
_SPREAD = {
    "rpn_cls": (-2.0, 2.0),
    "rpn_reg": (0.0, 0.3),
    "retina_cls": (-7.0, 2.0),
    "retina_reg": (0.0, 0.3),
    "gfl_cls": (-7.0, 2.0),
    "gfl_reg": (0.0, 1.0),
    "fc_cls": (0.0, 2.5),
    "fc_reg": (0.0, 1.0),
    "conv_logits": (0.0, 2.0),
    "conv_seg": (0.0, 2.0),
}


def main(arguments: Optional[List[str]] = None) -> None:
    """Checks.

    Raises:
        UserError: A file does not agree.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="as `spectral export` takes them")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--size", nargs="+", type=image_size, metavar="HxW", help="pixels")
    size.add_argument("--dynamic", action="store_true", help="one file for any size")
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--photos", help="folder of pictures; some are made by default")
    parser.add_argument("--int8", help="folder of pictures that eight bits are calibrated by")
    parser.add_argument("--data-root", help="of the test set that eight bits are judged by")
    args = parser.parse_args(arguments)
    options = ["--format", args.format]
    options += ["--photos", args.photos] if args.photos else []
    options += ["--int8", args.int8] if args.int8 else []
    options += ["--data-root", args.data_root] if args.data_root else []
    ways = [["--dynamic"]] if args.dynamic else [["--size", f"{height}x{width}"] for height, width in args.size]
    failures = []
    for config in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "made.pth"
            made(config, checkpoint)
            for way in ways:
                print(f"== {config}, {args.format}, {' '.join(way)}", flush=True)
                start = time.perf_counter()
                out = Path(folder) / f"checked{export.deploy.SUFFIXES[args.format]}"
                try:
                    export.main([config, str(checkpoint), *way, *options, "--out", str(out)])
                except UserError as error:
                    failures.append(f"{config}, {' '.join(way)}: {error}")
                    print(f"failed: {error}")
                print(f"{time.perf_counter() - start:.0f} s", flush=True)
    if failures:
        raise UserError(f"{len(failures)} exports failed, first {failures[0]}")


@torch.no_grad()
def made(config: str, checkpoint: Path) -> None:
    """Writes a checkpoint of made weights."""
    torch.manual_seed(0)
    path = str(find_config(config))
    model = build_model(path)
    cfg = load(path)
    dataset = next(unwrapped(cfg.test_dataloader.dataset))
    meta = {key.lower(): value for key, value in metainfo(dataset, cfg.default_scope).items()}
    meta = {"classes": meta["classes"], "palette": meta.get("palette")}
    torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": meta}}, checkpoint)
    task = task_of(cfg)
    predictor = import_of(task, "predictor").Predictor.load(str(checkpoint), complete(cfg))
    subject = import_of(task, "deploy").subject(predictor)
    photos = find_photos(None, 3, checkpoint.parent)
    images = torch.from_numpy(batch_of(subject, photos, (256, 320), 2))
    for name, (mean, deviation) in _SPREAD.items():
        for module in [part for key, part in predictor.model.named_modules() if key.rpartition(".")[2] == name]:
            _spread(module, lambda: subject.graph(images), mean, deviation)
    torch.save({"state_dict": predictor.model.state_dict(), "meta": {"dataset_meta": meta}}, checkpoint)


def _spread(layer: nn.Module, forward: Callable[[], Any], mean: float, deviation: float) -> None:
    """Gives the outputs of a linear layer or a convolution a mean and a deviation, each channel by itself."""
    outputs: List[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: outputs.append(output.transpose(0, 1).flatten(1)))
    forward()
    hook.remove()
    if not outputs:  # an auxiliary head, of training alone
        return
    found = torch.cat(outputs, 1)  # (channels, N)
    factor = deviation / found.std(1).clamp(min=1e-6)
    layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(mean + (layer.bias - found.mean(1)) * factor)


if __name__ == "__main__":
    run(main)
