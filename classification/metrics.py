"""Accuracy, and what the pictures of a run are made from."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix


@dataclass
class Evaluation:
    """The outcome of one pass over a data set of N pictures.

    Attributes:
        indices: Positions in the data set (N,).
        labels: True classes (N,).
        predictions: Most probable classes (N,).
        confidences: Their probabilities (N,).
        classes: Names of the classes.
    """

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    classes: Sequence[str]

    def confusion_matrix(self) -> Tensor:
        """Counts (true class, predicted class)."""
        return multiclass_confusion_matrix(self.predictions, self.labels, len(self.classes))


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-1 and top-5 accuracy in per cent and the mean cross-entropy, all per picture.

    The first process keeps the whole outcome in `last` for the hooks that draw it.
    """

    def __init__(self) -> None:
        # mmengine's "gpu" goes by torch.distributed, on any device; its "cpu" by files in the working folder
        super().__init__(collect_device="gpu")
        self.last: Optional[Evaluation] = None

    def process(self, data_batch: Any, data_samples: Sequence[Dict[str, Any]]) -> None:
        """Keeps a few numbers a picture, so that gathering stays cheap with many classes."""
        logits = torch.stack([sample["logits"] for sample in data_samples])
        labels = torch.tensor([sample["label"] for sample in data_samples])
        losses = cross_entropy(logits, labels, reduction="none")
        top = logits.softmax(-1).topk(min(5, logits.shape[1]))
        for sample, loss, values, classes in zip(data_samples, losses, top.values, top.indices, strict=True):
            self.results.append((sample["index"], sample["label"], loss.item(), values[0].item(), classes.tolist()))

    def compute_metrics(self, results: List[tuple]) -> Dict[str, float]:
        """Reduces the gathered numbers to the figures that are logged."""
        indices, labels, losses, confidences, classes = (torch.tensor(column) for column in zip(*results, strict=True))
        self.last = Evaluation(indices, labels, classes[:, 0], confidences, self.dataset_meta["classes"])
        num_classes = len(self.last.classes)
        top1 = multiclass_accuracy(classes[:, 0], labels, num_classes, average="micro")
        top5 = (classes == labels[:, None]).any(1).float().mean()
        return {"top1": 100 * top1.item(), "top5": 100 * top5.item(), "loss": losses.mean().item()}
