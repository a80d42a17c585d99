"""Write what `spectral models` lists, and the tables of it in docs/models.md: parameters and MACs as counted, what the
papers report, where weights are.

python tools/model_table.py            # rewrite models.json, and the tables between the two markers of that page
python tools/model_table.py --check    # only say whether they are up to date, with exit status 1 if not
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from spectral_backbones import backbones
from spectral_backbones.backbones.flops import Cost, count
from spectral_backbones.tools.models import COLUMNS, TABLE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- model table: begin, by tools/model_table.py -->", "<!-- model table: end -->"


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
    """What is published of a model on ImageNet-1k, at the model's own image size.

    Attributes:
        family: Key of `FAMILIES`.
        gmacs: "GFLOPs" with the decimals that are given, None where none are.
        top1: Accuracy in percent, None where none is known.
        note: Key of `NOTES`, if there is something to know about the figures.
        layers_only: Whether `gmacs` are those of convolutions and linear layers, without attention and transforms.
        has_weights: Whether this model is among the family's published weights.
    """

    family: str
    gmacs: str | None
    top1: str | None
    note: str | None = None
    layers_only: bool = False
    has_weights: bool = True


@dataclass(frozen=True)
class Dense:
    """What is published of a model as the backbone of a detector on COCO or of a segmenter on ADE20K.

    "box AP" of RetinaNet, "box AP / mask AP" of Mask R-CNN and Cascade Mask R-CNN, each with the length of its schedule
    in units of 12 epochs; "mIoU" or "mIoU / mIoU at several scales with flips" of the segmenters, in percent. None
    where nothing is published, "*" after what could not be compared with the paper again.
    """

    retinanet_1x: str | None = None
    retinanet_3x: str | None = None
    mask_rcnn_1x: str | None = None
    mask_rcnn_3x: str | None = None
    cascade_1x: str | None = None
    cascade_3x: str | None = None
    semantic_fpn: str | None = None
    upernet: str | None = None


_VITAE_RESULTS = "https://github.com/ViTAE-Transformer/ViTAE-Transformer/tree/main/Image-Classification#results"

FAMILIES = {
    "SpectFormer": Family("2304.06446", None),  # the repository badripatro/SpectFormers never had any
    "GFNet": Family("2107.00645", "https://github.com/raoyongming/GFNet#model-zoo"),
    "ConViT": Family("2103.10697", "https://github.com/facebookresearch/convit#pretrained-models"),
    "TNT": Family("2103.00112", "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/tag/tnt"),
    "PyramidTNT": Family("2201.00978", None),  # only on a file host that most users cannot reach
    "HaloNet": Family("2103.12731", None),  # the authors published no code
    "DAT": Family("2201.00520", "https://github.com/LeapLabTHU/DAT/tree/566a593#readme"),
    "DAT++": Family("2309.01430", "https://github.com/LeapLabTHU/DAT#readme"),
    "SG-Former": Family("2308.12216", "https://github.com/OliverRensu/SG-Former#checkpoint"),
    "ViTAE": Family("2106.03348", _VITAE_RESULTS),
    "ViTAEv2": Family("2202.10108", _VITAE_RESULTS),
    "FFNet": Family("2406.02021", "https://github.com/ysj9909/FFNet/releases/tag/v1.0"),
    "Axial-ResNet": Family("2003.07853", None),  # the one file there was is no longer offered
}

NOTES = {
    "token labels": (
        "Trained with token labelling and scored with the auxiliary head, which the parameters include. The published "
        "MACs are those of convolutions and linear layers only; attention and the transforms are missing."
    ),
    "too low": "Less than its convolutions and linear layers take by themselves; later listings give 4.6 and 8.6.",
    "no attention": "The published MACs leave out the products of attention.",
    "official": "The parameters leave out `outer_tokens`, which the official checkpoints hold and nothing uses.",
    "legacy": "The network of the first public TNT-S checkpoint, which the paper does not describe.",
    "not checked": "These accuracies could not be compared with the paper's tables again, except H7's.",
    "timm": "Designed and trained for timm; figures are those of its model cards.",
    "repository": "DAT++ without its convolutions, which only the repository has a configuration of.",
    "vitae": (
        "The parameters leave out the random features, which are not trained. The paper's MACs, 1.5, 2.0 and 5.6 G, "
        "could not be read again and are 7 to 15 % less than these networks take."
    ),
    "smaller": "The repository's network, with 2.4 million parameters less than the paper's, whose accuracy this is.",
    "masked": "Pretrained on ImageNet-1k as a masked autoencoder; 84.8 with pretraining on ImageNet-22k.",
    "fused": (
        "Counted as trained. What is published is of the re-parameterised network, which has 13.66, 26.91, 48.33 and "
        "79.20 million parameters and 2.99, 6.00, 10.15 and 43.12 G MACs, see `timm.utils.reparameterize_model`."
    ),
    "axial": "The accuracy is the repository's, which has none of the other three networks.",
}

# SpectFormer: tables of arXiv 2304.06446 and the readme of badripatro/SpectFormers. GFNet: the model zoo in the readme
# of raoyongming/GFNet, which repeats arXiv 2107.00645. ConViT: table 1 of arXiv 2103.10697. TNT: table 1 of arXiv
# 2103.00112; the legacy network's accuracy from timm's listing. PyramidTNT: arXiv 2201.00978. HaloNet: arXiv 2103.12731
# and timm's model cards. DAT and DAT++: arXiv 2201.00520 and 2309.01430, and the readmes of LeapLabTHU/DAT.
# SG-Former: arXiv 2308.12216, whose figures are those of averaged weights. ViTAE and ViTAEv2: arXiv 2106.03348 and
# 2202.10108, and the readmes of ViTAE-Transformer/ViTAE-Transformer. FFNet: the readmes of ysj9909/FFNet. Axial
# ResNets: the readme of csrhddlam/axial-deeplab.
PUBLISHED = {
    "spectformer_ti": Published("SpectFormer", "1.8", "76.9"),
    "spectformer_xs": Published("SpectFormer", "4.0", "80.2"),
    "spectformer_s": Published("SpectFormer", "6.6", "81.7"),
    "spectformer_b": Published("SpectFormer", "11.5", "82.1"),
    "spectformer_h_s": Published("SpectFormer", "3.9", "84.3", "token labels", layers_only=True),
    "spectformer_h_b": Published(
        "SpectFormer", "6.3", "85.0", "token labels", layers_only=True
    ),  # 85.1 in the paper's table
    "spectformer_h_l": Published("SpectFormer", "12.7", "85.7", "token labels", layers_only=True),
    "gfnet_ti": Published("GFNet", "1.3", "74.6"),
    "gfnet_xs": Published("GFNet", "2.8", "78.6"),
    "gfnet_s": Published("GFNet", "4.5", "80.0"),
    "gfnet_b": Published("GFNet", "7.9", "80.7"),
    "gfnet_h_ti": Published("GFNet", "2.0", "80.1"),
    "gfnet_h_s": Published("GFNet", "4.5", "81.5", "too low"),
    "gfnet_h_b": Published("GFNet", "8.4", "82.9", "too low"),
    "convit_ti": Published("ConViT", "1", "73.1", "no attention", layers_only=True),
    "convit_s": Published("ConViT", "5.4", "81.3", "no attention", layers_only=True),
    "convit_b": Published("ConViT", "17", "82.4", "no attention", layers_only=True),
    "convit_ti_plus": Published("ConViT", "2", "76.7", "no attention", layers_only=True, has_weights=False),
    "convit_s_plus": Published("ConViT", "10", "82.2", "no attention", layers_only=True, has_weights=False),
    "convit_b_plus": Published("ConViT", "30", "82.5", "no attention", layers_only=True, has_weights=False),
    "tnt_ti": Published("TNT", "1.4", "73.9", "official", has_weights=False),
    "tnt_s": Published("TNT", "5.2", "81.5", "official"),
    "tnt_b": Published("TNT", "14.1", "82.9", "official"),
    "tnt_s_legacy": Published("TNT", None, "81.5", "legacy", has_weights=False),
    "pyramidtnt_ti": Published("PyramidTNT", "0.6", "75.2"),
    "pyramidtnt_s": Published("PyramidTNT", "3.3", "82.0"),
    "pyramidtnt_m": Published("PyramidTNT", "8.2", "83.5"),
    "pyramidtnt_b": Published("PyramidTNT", "16.0", "84.1"),
    "halonet_h0_256": Published("HaloNet", None, "77.9", "not checked"),
    "halonet_h1_256": Published("HaloNet", None, "79.9", "not checked"),
    "halonet_h2_256": Published("HaloNet", None, "80.4", "not checked"),
    "halonet_h3_320": Published("HaloNet", None, "81.9", "not checked"),
    "halonet_h4_384": Published("HaloNet", None, "83.3", "not checked"),
    "halonet_h5_448": Published("HaloNet", None, "84.0", "not checked"),
    "halonet_h6_512": Published("HaloNet", None, "84.4", "not checked"),
    "halonet_h7_600": Published("HaloNet", None, "84.9", "not checked"),
    "halonet_26t": Published("HaloNet", "3.19", "79.1", "timm"),
    "eca_halonext_26ts": Published("HaloNet", "2.44", "79.5", "timm"),
    "sehalonet_33ts": Published("HaloNet", "3.55", "81.0", "timm"),
    "halonet_50ts": Published("HaloNet", "5.30", "81.7", "timm"),
    "dat_t": Published("DAT", "4.6", "82.0"),
    "dat_s": Published("DAT", "9.0", "83.7"),
    "dat_b": Published("DAT", "15.8", "84.0"),
    "dat_b_384": Published("DAT", "49.8", "84.8"),
    "dat_pp_t": Published("DAT++", "4.3", "83.9"),
    "dat_pp_s": Published("DAT++", "9.4", "84.6"),
    "dat_pp_b": Published("DAT++", "16.6", "84.9"),
    "dat_pp_b_384": Published("DAT++", "49.7", "85.9"),
    "dat_p": Published("DAT++", None, None, "repository", has_weights=False),
    "sgformer_s": Published("SG-Former", "4.8", "83.2"),
    "sgformer_m": Published("SG-Former", "7.5", "84.1"),
    "sgformer_b": Published("SG-Former", "15.6", "84.7"),
    "vitae_ti": Published("ViTAE", None, "75.3", "vitae"),
    "vitae_6m": Published("ViTAE", None, "77.9", "vitae"),
    "vitae_13m": Published("ViTAE", None, "81.0", "smaller", has_weights=False),
    "vitae_s": Published("ViTAE", None, "82.0", "vitae"),
    "vitae_b": Published("ViTAE", None, "83.8", "masked"),
    "vitaev2_s": Published("ViTAEv2", "5.7", "82.6"),
    "vitaev2_48m": Published("ViTAEv2", "13.3", "83.8"),
    "vitaev2_b": Published("ViTAEv2", "24.3", "84.6"),
    "ffnet_1": Published("FFNet", "2.9", "81.3", "fused"),
    "ffnet_2": Published("FFNet", "6.0", "82.9", "fused"),
    "ffnet_3": Published("FFNet", "10.1", "83.9", "fused"),
    "ffnet_4": Published("FFNet", "43.1", "85.3", "fused"),
    "axial_26s": Published("Axial-ResNet", None, "75.8", "axial"),
    "axial_50s": Published("Axial-ResNet", None, None),
    "axial_50m": Published("Axial-ResNet", None, None),
    "axial_50l": Published("Axial-ResNet", None, None),
}


# The same sources; DAT's segmenters and SG-Former's figures also from tables of later papers. The detectors of
# SpectFormer and GFNet in the papers could not be read again, and the other families' authors trained none.
DENSE = {
    "pyramidtnt_s": Dense(retinanet_1x="42.0"),
    "dat_t": Dense("42.8*", "45.6*", "44.4 / 40.4", "47.1 / 42.4*", None, "51.3 / 44.5*", "42.6", "45.5 / 46.4*"),
    "dat_s": Dense("45.7*", "47.9*", "47.1 / 42.5", "49.0 / 44.0*", None, "52.7 / 45.5", "46.1", "48.3 / 49.8*"),
    "dat_b": Dense(cascade_3x="53.0 / 45.8*", semantic_fpn="47.0", upernet="49.4 / 50.6*"),
    "dat_pp_t": Dense(
        "46.8", "49.2", "48.7 / 43.7", "50.5 / 45.1", "52.2 / 45.0", "53.0 / 46.0", "48.4 / 48.8", "49.4 / 50.3"
    ),
    "dat_pp_s": Dense("48.3", "50.2", "49.8 / 44.5", "51.2 / 45.7", None, "54.2 / 46.9", "49.9 / 50.7", "50.5 / 51.2"),
    "dat_pp_b": Dense(cascade_3x="54.5 / 47.0", semantic_fpn="50.4 / 51.1", upernet="51.0 / 51.5"),
    "sgformer_s": Dense(mask_rcnn_1x="47.4 / 42.6", upernet="49.9 / 51.5"),
    "sgformer_m": Dense(mask_rcnn_1x="48.2 / 43.6", upernet="51.2 / 52.1"),
    "sgformer_b": Dense(upernet="52.0 / 52.7"),
    "vitaev2_s": Dense(
        mask_rcnn_1x="46.3 / 41.8",
        mask_rcnn_3x="47.8 / 42.6",
        cascade_1x="50.6 / 43.6",
        cascade_3x="51.4 / 44.5",
        upernet="44.95 / 47.98",
    ),
    "ffnet_2": Dense(cascade_3x="51.8 / 44.9", upernet="47.1 / 47.8"),
    "ffnet_3": Dense(cascade_3x="52.8 / 45.6", upernet="49.6 / 50.2"),
    "ffnet_4": Dense(cascade_3x="53.4 / 45.9", upernet="50.7 / 51.7"),
}


@cache
def cost_of(name: str) -> Cost:
    """Cost of one of our models for one image of its own size, by the papers' convention."""
    # A count asks for shapes alone, and to draw the weights of a large model takes as long as to run it.
    model = timm.create_model(name, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    return count(model, timm.get_pretrained_cfg(name).input_size)


def record(name: str) -> dict[str, Any]:
    """What `spectral models` knows of a model, in plain types."""
    cost, published, known = cost_of(name), PUBLISHED[name], timm.get_pretrained_cfg(name)
    height, width = cost.input_size[1:]
    return {
        "model": name,
        "family": published.family,
        "pixels": f"{height}x{width}",
        "params": cost.params,
        "macs": round(cost.macs),
        "top1": None if published.top1 is None else float(published.top1),
        "license": known.license,
        "hub": bool(known.hf_hub_id),
        "repository": FAMILIES[published.family].weights if published.has_weights else None,
    }


def row(known: dict[str, Any]) -> str:
    """The line of the page's table for a model.

    Args:
        known: A `record`.
    """
    published, dense = PUBLISHED[known["model"]], DENSE.get(known["model"], Dense())
    mark = f" <sup>{list(NOTES).index(published.note) + 1}</sup>" if published.note else ""
    sources = ["`pretrained=True`"] if known["hub"] else []
    sources += [f"[repository]({known['repository']})"] if known["repository"] else []
    cells = (
        f"`{known['model']}`{mark}",
        known["pixels"],
        f"{known['params'] / 1e6:.2f}",
        f"{known['macs'] / 1e9:.2f}",
        published.gmacs or "-",
        published.top1 or "-",
        dense.mask_rcnn_1x or "-",
        dense.upernet or "-",
        f"[{published.family}](https://arxiv.org/abs/{FAMILIES[published.family].arxiv})",
        COLUMNS["license"].show(known["license"]),
        ", ".join(sources) or "none published",
    )
    return f"| {' | '.join(cells)} |"


def head() -> list[str]:
    """The first lines of the table."""
    columns = (
        "model",
        "pixels",
        "params (M)",
        "MACs (G)",
        "MACs (G) published",
        "top-1 (%) published",
        "Mask R-CNN 1x (AP)",
        "UPerNet (mIoU)",
        "paper",
        "licence",
        "weights",
    )
    return [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * 7} --- | --- | --- |"]


def notes() -> list[str]:
    """The lines below the table."""
    return ["", *(f"<sup>{number}</sup> {text}" for number, text in enumerate(NOTES.values(), 1))]


def dense_table() -> list[str]:
    """The lines of the second table, what is published on COCO and ADE20K."""
    columns = (
        "model",
        "RetinaNet 1x",
        "RetinaNet 3x",
        "Mask R-CNN 1x",
        "Mask R-CNN 3x",
        "Cascade 1x",
        "Cascade 3x",
        "Semantic FPN",
        "UPerNet",
    )
    return [
        "",
        "Published with these backbones on COCO (box AP / mask AP) and ADE20K (mIoU, one scale / several), in percent:",
        "",
        f"| {' | '.join(columns)} |",
        f"| --- |{' ---: |' * (len(columns) - 1)}",
        *(f"| `{name}` | {' | '.join(figure or '-' for figure in astuple(dense))} |" for name, dense in DENSE.items()),
        "",
        "\\* could not be compared with the paper's own table again.",
    ]


def records() -> list[dict[str, Any]]:
    """All models, family by family in the order of the papers' tables.

    Raises:
        ValueError: A registered model has no entry in `PUBLISHED`, or an entry has no model.
    """
    if unmatched := set(PUBLISHED) ^ set(backbones.list_models()):
        raise ValueError(f"registered models and PUBLISHED in {Path(__file__).name} differ in {sorted(unmatched)}")
    return [record(name) for name in PUBLISHED]


def listing(known: Sequence[dict[str, Any]]) -> str:
    """The text of models.json: a model a line."""
    return "[\n" + ",\n".join(json.dumps(one) for one in known) + "\n]\n"


def table(known: Sequence[dict[str, Any]]) -> str:
    """Both tables of the page with their notes, without the markers."""
    return "\n".join([*head(), *map(row, known), *notes(), *dense_table()])


def split(page: str) -> tuple[str, str, str]:
    """What a page has before, between and after the markers.

    Raises:
        ValueError: The markers are not there, once each and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"these two lines have to be there once each, in this order:\n{BEGIN}\n{END}")
    return before, between.strip("\n"), after


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if something is not up to date")
    parser.add_argument("--page", type=Path, default=PAGE, help="file with the markers; default: %(default)s")
    parser.add_argument("--listing", type=Path, default=TABLE, help="what is listed; default: %(default)s")
    args = parser.parse_args(argv)
    try:
        before, old, after = split(args.page.read_text(encoding="utf-8"))
        known = records()
    except (OSError, ValueError) as error:
        sys.exit(f"{args.page}: {error}")
    new, listed = table(known), listing(known)
    if not args.check:
        args.page.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}", encoding="utf-8")
        args.listing.write_text(listed, encoding="utf-8")
    elif new != old:
        sys.exit(f"the tables of models in {args.page} are out of date: run python tools/model_table.py")
    elif not args.listing.is_file() or listed != args.listing.read_text(encoding="utf-8"):
        sys.exit(f"{args.listing} is out of date: run python tools/model_table.py")
    else:
        print(f"the tables of models in {args.page} and {args.listing} are up to date")


if __name__ == "__main__":
    main()
