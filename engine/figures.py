"""How the figures of a validation are called and shown; the names they have in mmengine's log are the keys."""

from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple


class Figure(NamedTuple):
    """One figure.

    Attributes:
        name: For people.
        unit: What follows the number.
        scale: Brings the logged number to the unit.
        digits: Behind the point.
        in_curve: Whether the picture of a run shows it.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    in_curve: bool = True

    def show(self, value: float) -> str:
        """Returns name, number and unit."""
        return f"{self.name} {self.scale * value:.{self.digits}f}{self.unit}"


# COCO's average precision is logged from 0 to 1 and spoken of from 0 to 100.
FIGURES: Dict[str, Figure] = {
    "loss": Figure("val loss", digits=3, in_curve=False),
    "top1": Figure("top-1", " %"),
    "top5": Figure("top-5", " %", in_curve=False),
    "coco/bbox_mAP": Figure("box AP", scale=100, digits=1),
    "coco/bbox_mAP_50": Figure("box AP50", scale=100, digits=1),
    "coco/segm_mAP": Figure("mask AP", scale=100, digits=1),
    "coco/segm_mAP_50": Figure("mask AP50", scale=100, digits=1),
    "mIoU": Figure("mIoU", " %"),
    "mAcc": Figure("class accuracy", " %", in_curve=False),
    "aAcc": Figure("pixel accuracy", " %", in_curve=False),
}


def figure_of(key: str) -> Figure:
    """A figure of the table, or one that goes by its name in the log."""
    return FIGURES.get(key, Figure(key))


def known(metrics: Iterable[str], *others: Optional[str]) -> List[Tuple[str, Figure]]:
    """Lists the figures that a validation has, in the order of the table, and those of the others that it has."""
    keys = dict.fromkeys([*FIGURES, *others])
    return [(key, figure_of(key)) for key in keys if key in metrics]
