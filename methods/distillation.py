"""Ways to learn from a teacher, as timm's training tasks: each gives the loss of a batch of pictures and labels."""

import math
from typing import Any, Dict, List, Optional

import torch
import torch.nn as nn
from timm.task import DistillationTeacher, FeatureDistillationTask, LogitDistillationTask, TrainingTask
from torch import Tensor

from .mohawk import AlignmentTask
from .plain_attention import plain_attentions
from .relations import relation_loss
from .teacher_task import TeacherTask

_HEAD_WIDTH = 16  # of relation heads by default, as MiniLM's second version has it for models of 768 channels


class RelationDistillationTask(TeacherTask):
    """Relations among queries, among keys and among values of the last block with attention are the teacher's (MiniLM's
    second version, arXiv 2012.15828, see `relation_loss`). Widths, depths and heads may differ; tokens may not.

    Queries, keys and values are what the attention's projection gives, of patches alone: prefix tokens are left out.

    Args:
        student_model: With plain attention.
        teacher_model: Likewise.
        criterion: Of logits and labels.
        task_loss_weight: Of that; the relations have the rest up to 1.
        relation_heads: A divisor of both widths; by default the largest that leaves a head 16 channels.

    Raises:
        ValueError: One of the two has no plain attention, or the heads don't divide their widths.
    """

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: DistillationTeacher,
        criterion: nn.Module,
        task_loss_weight: float = 0.0,
        relation_heads: Optional[int] = None,
    ) -> None:
        super().__init__(student_model, teacher_model)
        self.criterion, self.task_loss_weight = criterion, task_loss_weight
        last = [list(plain_attentions(model).values())[-1] for model in (teacher_model.model, student_model)]
        widths = [layer.qkv.in_features for layer in last]
        common = math.gcd(*widths)
        heads = relation_heads or max(n for n in range(1, max(common // _HEAD_WIDTH, 1) + 1) if common % n == 0)
        if common % heads:
            raise ValueError(
                f"relation heads must divide the teacher's and the student's channels, {widths}, got {heads}"
            )
        self.heads = heads

    def forward(self, input: Tensor, target: Tensor) -> Dict[str, Tensor]:
        """As timm's tasks: `loss`, `output`, `task_loss` and `kd_loss`, the mean over queries, keys and values.

        Raises:
            ValueError: The two have other numbers of tokens.
        """
        with torch.no_grad():
            theirs = _projections(self.teacher.model, input)[1]
        logits, ours = _projections(self.trainable_module, input)
        relations = torch.stack([relation_loss(t, s, self.heads) for t, s in zip(theirs, ours)]).mean()
        task = self.criterion(logits, target)
        loss = self.task_loss_weight * task + (1 - self.task_loss_weight) * relations
        return {"loss": loss, "output": logits, "task_loss": task, "kd_loss": relations}


def _projections(model: nn.Module, x: Tensor) -> tuple[Tensor, List[Tensor]]:
    """Logits, and queries, keys and values (B, N, C) of patches in the last plain attention."""
    layer = list(plain_attentions(model).values())[-1]
    seen: List[Tensor] = []
    handle = layer.qkv.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        logits = model(x)
    finally:
        handle.remove()
    (qkv,) = seen
    return logits, list(qkv[:, getattr(model, "num_prefix_tokens", 0) :].chunk(3, dim=-1))


def make_task(
    way: str,
    student: nn.Module,
    teacher: nn.Module,
    criterion: nn.Module,
    label_weight: float = 0.0,
    temperature: float = 1.0,
    relation_heads: Optional[int] = None,
) -> TrainingTask:
    """Makes the task that trains a student.

    Args:
        way: "alignment", MOHAWK's second stage, or one of `WAYS`.
        student: Its `trainable_module` is what is trained.
        teacher: Gets the student's pictures, prepared as they are.
        criterion: Of logits and labels.
        label_weight: Of that, 0 to 1; what is asked of the teacher has the rest.
        temperature: Of logits.
        relation_heads: Of relations, see `RelationDistillationTask`.

    Raises:
        ValueError: The way does not fit the two; the message says why, and what would.
    """
    if not 0 <= label_weight <= 1:
        raise ValueError(f"the weight of labels must be from 0 to 1, got {label_weight}")
    if not temperature > 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    asked = DistillationTeacher(teacher.requires_grad_(False))
    arguments: Dict[str, Any] = dict(criterion=criterion, task_loss_weight=label_weight)
    if way == "alignment":
        return AlignmentTask(student, asked)
    if way == "relations":
        return RelationDistillationTask(student, asked, relation_heads=relation_heads, **arguments)
    if way == "logits":
        if teacher.num_classes != student.num_classes or not student.num_classes:
            raise ValueError(
                f"logits are of the same classes: the teacher has {teacher.num_classes}, the student "
                f"{student.num_classes}; fine-tune the teacher on these data first, or learn from features or relations"
            )
        task = LogitDistillationTask(student, asked, temperature=temperature, verbose=False, **arguments)
    elif way == "features":
        task = FeatureDistillationTask(student, asked, verbose=False, **arguments)
    else:
        raise ValueError(f"the way to learn must be one of alignment, {', '.join(WAYS)}, got {way!r}")
    # timm would take the pictures from the student's mean and std to the teacher's; both get the same pictures.
    task.student_mean, task.student_std = asked.mean_kd, asked.std_kd
    return task


WAYS = {
    "logits": "the teacher's logits, which tell the same classes",
    "features": "the teacher's pooled features, by a projection where widths differ",
    "relations": "MiniLM's relations among tokens, of any width and number of heads",
}
