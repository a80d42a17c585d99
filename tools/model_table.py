"""Write the README's table of models: parameters and MACs as counted, what the papers report, where weights are.

python tools/model_table.py            # rewrite the table between the two markers in README.md
python tools/model_table.py --check    # only say whether it is up to date, with exit status 1 if not
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm

import backbones
from backbones.flops import Cost, count

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- model table: begin, by tools/model_table.py -->", "<!-- model table: end -->"

INPUT_SIZE = (3, 224, 224)


@dataclass(frozen=True)
class Family:
    """Where the models of a paper come from.

    Attributes:
        arxiv: Identifier of the paper.
        weights: Address of the official ImageNet-1k weights, None if none were published.
    """

    arxiv: str
    weights: str | None


@dataclass(frozen=True)
class Published:
    """What a paper says of a model on ImageNet-1k at 224 x 224 pixels.

    Attributes:
        family: Key of `FAMILIES`.
        gmacs: The paper's "GFLOPs", with the decimals it gives.
        top1: Accuracy in percent.
        note: Key of `NOTES`, if there is something to know about the figures.
    """

    family: str
    gmacs: str
    top1: str
    note: str | None = None


FAMILIES = {
    "SpectFormer": Family("2304.06446", None),  # the repository badripatro/SpectFormers never had any
    "GFNet": Family("2107.00645", "https://github.com/raoyongming/GFNet#model-zoo"),
}

NOTES = {
    "token labels": (
        "Trained with token labelling and scored with the auxiliary head, which the parameters include. The published "
        "MACs are those of convolutions and linear layers only; attention and the transforms are missing."
    ),
    "too low": "Less than its convolutions and linear layers take by themselves; later listings give 4.6 and 8.6.",
}

# SpectFormer: tables of arXiv 2304.06446 and the readme of badripatro/SpectFormers. GFNet: the model zoo in the readme
# of raoyongming/GFNet, which repeats arXiv 2107.00645.
PUBLISHED = {
    "spectformer_ti": Published("SpectFormer", "1.8", "76.9"),
    "spectformer_xs": Published("SpectFormer", "4.0", "80.2"),
    "spectformer_s": Published("SpectFormer", "6.6", "81.7"),
    "spectformer_b": Published("SpectFormer", "11.5", "82.1"),
    "spectformer_h_s": Published("SpectFormer", "3.9", "84.3", "token labels"),
    "spectformer_h_b": Published("SpectFormer", "6.3", "85.0", "token labels"),  # 85.1 in the paper's table
    "spectformer_h_l": Published("SpectFormer", "12.7", "85.7", "token labels"),
    "gfnet_ti": Published("GFNet", "1.3", "74.6"),
    "gfnet_xs": Published("GFNet", "2.8", "78.6"),
    "gfnet_s": Published("GFNet", "4.5", "80.0"),
    "gfnet_b": Published("GFNet", "7.9", "80.7"),
    "gfnet_h_ti": Published("GFNet", "2.0", "80.1"),
    "gfnet_h_s": Published("GFNet", "4.5", "81.5", "too low"),
    "gfnet_h_b": Published("GFNet", "8.4", "82.9", "too low"),
}


@cache
def cost_of(name: str) -> Cost:
    """Cost of one of our models for one image of `INPUT_SIZE`, by the papers' convention."""
    return count(timm.create_model(name), INPUT_SIZE)


def row(name: str) -> str:
    """The line of the table for a model."""
    cost, published = cost_of(name), PUBLISHED[name]
    family = FAMILIES[published.family]
    mark = f" <sup>{list(NOTES).index(published.note) + 1}</sup>" if published.note else ""
    cells = (
        f"`{name}`",
        f"{cost.params / 1e6:.2f}",
        f"{cost.macs / 1e9:.2f}",
        f"{published.gmacs}{mark}",
        published.top1,
        f"[{published.family}](https://arxiv.org/abs/{family.arxiv})",
        f"[repository]({family.weights})" if family.weights else "none published",
    )
    return f"| {' | '.join(cells)} |"


def head() -> list[str]:
    """The first lines of the table."""
    height, width = INPUT_SIZE[1:]
    columns = (
        "model",
        "params (M)",
        f"MACs (G) at {height}x{width}",
        "MACs (G) published",
        "top-1 (%) published",
        "paper",
        "official weights",
    )
    return [f"| {' | '.join(columns)} |", "| --- | ---: | ---: | ---: | ---: | --- | --- |"]


def notes() -> list[str]:
    """The lines below the table."""
    return ["", *(f"<sup>{number}</sup> {text}" for number, text in enumerate(NOTES.values(), 1))]


def table() -> str:
    """The whole table with its notes, without the markers.

    Raises:
        ValueError: A registered model has no entry in `PUBLISHED`, or an entry has no model.
    """
    if unmatched := set(PUBLISHED) ^ set(backbones.list_models()):
        raise ValueError(f"registered models and PUBLISHED in {Path(__file__).name} differ in {sorted(unmatched)}")
    return "\n".join([*head(), *map(row, PUBLISHED), *notes()])


def split(readme: str) -> tuple[str, str, str]:
    """What a README has before, between and after the markers.

    Raises:
        ValueError: The markers are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"these two lines have to be there once each, in this order:\n{BEGIN}\n{END}")
    return before, between.strip("\n"), after


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if the table is not up to date")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers; default: %(default)s")
    args = parser.parse_args(argv)
    try:
        before, old, after = split(args.readme.read_text(encoding="utf-8"))
        new = table()
    except (OSError, ValueError) as error:
        sys.exit(f"{args.readme}: {error}")
    if not args.check:
        args.readme.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}", encoding="utf-8")
    elif new != old:
        sys.exit(f"the table of models in {args.readme} is out of date: run python tools/model_table.py")
    else:
        print(f"the table of models in {args.readme} is up to date")


if __name__ == "__main__":
    main()
