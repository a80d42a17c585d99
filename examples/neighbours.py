"""What features are worth by their nearest neighbours: of pixels, of a model that has learnt nothing, of checkpoints.

python neighbours.py CONFIG [CHECKPOINT ...] [--data-root DIR] [--seeds N]

CONFIG is one of `configs/pretraining` with a `val_dataloader`: a bank of pictures whose classes are known, and queries.
The model that has learnt nothing has the mean and the range of so many seeds.
"""

import argparse
from typing import Iterator, List

import torch
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader, Dataset

from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import load
from spectral_backbones.pretraining.neighbours import nearest
from spectral_backbones.tools.tasks import complete


@torch.no_grad()
def accuracy(data: Dataset, features: torch.nn.Module) -> float:
    """Per cent of the queries that their neighbours in the bank tell right."""
    found, labels = [], []
    for batch in DataLoader(data, batch_size=100):
        found.append(features(batch["inputs"]).flatten(1))
        labels.append(batch["labels"])
    rows, known, bank = torch.cat(found), torch.cat(labels), data.metainfo["bank"]
    return 100 * (nearest(rows[bank:], rows[:bank], known[:bank]) == known[bank:]).float().mean().item()


def random(cfg, data: Dataset, seeds: int) -> Iterator[float]:
    """The accuracy of models that have learnt nothing."""
    for seed in range(seeds):
        torch.manual_seed(seed)
        yield accuracy(data, MODELS.build(cfg.model).eval())


def main(arguments: List[str] | None = None) -> None:
    """Prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--data-root")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    cfg = complete(load(args.config, data_root=args.data_root))
    data = DATASETS.build(cfg.val_dataloader.dataset)
    print(f"pixels: {accuracy(data, torch.nn.Identity()):.1f} %", flush=True)
    values = list(random(cfg, data, args.seeds))
    print(f"random features: {sum(values) / len(values):.1f} %, {min(values):.1f} to {max(values):.1f}", flush=True)
    for path in args.checkpoints:
        model = MODELS.build(cfg.model)
        files.load_strictly(model, files.unwrap(files.read(path)), path)
        print(f"{path}: {accuracy(data, model.eval()):.1f} %", flush=True)


if __name__ == "__main__":
    main()
