"""Relations among tokens as a target of distillation (MiniLM, arXiv 2002.10957; its second version, 2012.15828)."""

from typing import Optional

from torch import Tensor


def relation_logits(x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Scaled products of tokens, (B, N, C) twice -> (B, heads, N, N).

    Args:
        x: Rows, such as queries of all heads side by side.
        y: Columns, such as keys.
        heads: Relation heads, a divisor of C. They need not be the attention's.

    Raises:
        ValueError: `heads` does not divide the channels.
    """
    if heads < 1 or x.shape[-1] % heads:
        raise ValueError(f"relation heads must divide the {x.shape[-1]} channels, got {heads}")
    x, y = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (x, y))
    return x @ y.mT / x.shape[-1] ** 0.5


def relation_loss(
    teacher: Tensor,
    student: Tensor,
    heads: int,
    teacher_to: Optional[Tensor] = None,
    student_to: Optional[Tensor] = None,
) -> Tensor:
    """Kullback-Leibler divergence of a student's relations from a teacher's, mean over images, heads and tokens.

    With queries against keys and the attention's own heads it is MiniLM's transfer of attention; with values against
    themselves that of value relations; with queries, keys and values each against themselves, and any number of heads
    that divides both widths, MiniLM's second version.

    Args:
        teacher: Tokens (B, N, C).
        student: Tokens (B, N, C') of the same N.
        heads: Relation heads, a divisor of C and of C'.
        teacher_to: What `teacher` is related to, itself by default.
        student_to: What `student` is related to, itself by default.

    Raises:
        ValueError: The numbers of tokens differ, or `heads` does not divide a width.
    """
    if teacher.shape[:2] != student.shape[:2]:
        raise ValueError(
            f"teacher and student need as many images and tokens, got {tuple(teacher.shape[:2])} and "
            f"{tuple(student.shape[:2])}"
        )
    target = relation_logits(teacher, teacher if teacher_to is None else teacher_to, heads).log_softmax(-1)
    given = relation_logits(student, student if student_to is None else student_to, heads).log_softmax(-1)
    return (target.exp() * (target - given)).sum(-1).mean()
