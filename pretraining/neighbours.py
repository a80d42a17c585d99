"""The accuracy of nearest neighbours, which tells what features are worth before anything is trained on them."""

from typing import Any, Dict, List, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from spectral_backbones.engine.errors import UserError


def nearest(
    queries: Tensor, bank: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07, chunk: int = 1024
) -> Tensor:
    """Classifies by the `k` most similar features, each with the weight exp(similarity / temperature), as Wu et al.
    (arXiv 1805.01978) and DINO do.

    Args:
        queries: Features (Q, D).
        bank: Features whose classes are known (N, D).
        labels: Those classes (N,).
        k: Neighbours; all where there are fewer.
        temperature: The lower, the more the nearest count.
        chunk: Queries at once.

    Returns:
        Classes (Q,).
    """
    bank = normalize(bank.float(), dim=1)
    votes = one_hot(labels).float()
    found = []
    for part in normalize(queries.float(), dim=1).split(chunk):
        similarity, places = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        weights = (similarity / temperature).softmax(1)  # the same order as exp, and no overflow
        found.append((weights[:, :, None] * votes[places]).sum(1).argmax(1))
    return torch.cat(found)


@METRICS.register_module()
class NeighbourAccuracy(BaseMetric):
    """Top-1 accuracy of nearest neighbours in per cent: of the queries of a `BankAndQueries`, by its bank.

    Args:
        k: See `nearest`.
        temperature: See `nearest`.

    Raises:
        UserError: `k` or `temperature` is not positive.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        if k < 1 or temperature <= 0:
            raise UserError(f"k must be 1 or more and temperature positive, got {k} and {temperature}")
        # mmengine's "gpu" goes by torch.distributed, on any device; its "cpu" by files in the working folder
        super().__init__(collect_device="gpu")
        self.k, self.temperature = k, temperature

    def process(self, data_batch: Any, data_samples: Sequence[Dict[str, Any]]) -> None:
        """Keeps features in half precision, so that gathering stays cheap."""
        for sample in data_samples:
            row = normalize(sample["features"], dim=0).half()
            self.results.append((sample["index"], sample["label"], row))

    def compute_metrics(self, results: List[tuple]) -> Dict[str, float]:
        """Reduces the gathered features to the figure that is logged."""
        indices, labels = (torch.tensor(column) for column in list(zip(*results, strict=True))[:2])
        features = torch.stack([row for *_, row in results])
        is_bank = indices < self.dataset_meta["bank"]
        found = nearest(features[~is_bank], features[is_bank], labels[is_bank], self.k, self.temperature)
        return {"knn": 100 * (found == labels[~is_bank]).float().mean().item()}
