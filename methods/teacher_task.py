"""What timm's tasks of distillation do and its base class does not: the teacher stays as it is."""

import torch.nn as nn
from timm.task import DistillationTeacher, TrainingTask


class TeacherTask(TrainingTask):
    """A task with a teacher, which is in evaluation whatever the task is in.

    Args:
        student_model: Is trained.
        teacher_model: Is asked.
    """

    def __init__(self, student_model: nn.Module, teacher_model: DistillationTeacher) -> None:
        super().__init__(verbose=False)
        self.trainable_module, self.teacher = student_model, teacher_model

    def train(self, mode: bool = True) -> "TeacherTask":
        super().train(mode)
        self.teacher.eval()
        return self
