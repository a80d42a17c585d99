"""Count what models cost: parameters, MACs, FLOPs and activations for one image.

spectral flops spectformer_s gfnet_h_s resnet50 --size 224 384 512x768
spectral flops spectformer_h_s --by stage --format markdown
spectral flops nnformer_synapse nnformer_acdc --volume-size 64x128x128
spectral flops --config detection/spectformer/retinanet_spectformer-h-s_fpn_1x_coco

Any model of timm can be named, ours among them, and the networks of volumes. Of a config the whole detector or
segmenter is counted, backbone, neck and heads apart. Fourier transforms and attention are counted, which torchinfo,
ptflops and timm's profile scripts miss in part; one multiply-add is 1 MAC and 2 FLOPs. What papers call FLOPs are MACs.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
from torch import nn

from spectral_backbones import backbones, volumes  # noqa: F401  registers our models
from spectral_backbones.backbones.flops import Cost, count
from spectral_backbones.tools.arguments import image_size, model_name, positive_int, volume_size
from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tables import FORMATS, Column, render

COLUMNS = {
    "model": Column("model", is_number=False),
    "size": Column("size (HxW)", is_number=False),
    "part": Column("part", is_number=False),
    "stage": Column("stage", is_number=False),
    "module": Column("module", is_number=False),
    "operator": Column("operator", is_number=False),
    "params": Column("params (M)", lambda n: f"{n / 1e6:.2f}"),
    "macs": Column("MACs (G)", lambda n: f"{n / 1e9:.3f}"),
    "flops": Column("FLOPs (G)", lambda n: f"{n / 1e9:.3f}"),
    "share": Column("share of FLOPs", lambda n: f"{n:.1%}"),
    "activations": Column("activations (M)", lambda n: f"{n / 1e6:.2f}"),
}

# The function of a task's package that counts a model, and the sizes that papers count at.
DENSE = {
    "detection": ("count_detector", [(800, 1280)]),
    "segmentation": ("count_segmenter", [(512, 512), (512, 2048)]),
    "volumes": ("count_volumes", [None]),  # its own crops
}


def countable(text: str) -> str:
    """A name of timm's, or of a network of volumes."""
    return text if text in volumes.list_models() else model_name(text)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", type=countable, metavar="NAME", help="as timm.create_model or volumes.create_model takes it"
    )
    parser.add_argument(
        "--size",
        nargs="+",
        type=image_size,
        metavar="N|HxW",
        help="image sizes in pixels; default: each model's own, or what papers count detectors and segmenters at",
    )
    parser.add_argument(
        "--volume-size",
        nargs="+",
        type=volume_size,
        metavar="N|DxHxW",
        help="sizes in voxels of networks of volumes; default: their crops",
    )
    parser.add_argument(
        "--config", nargs="+", default=[], help="detectors and segmenters: configs of the library's, or files"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="0 leaves the classifier out")
    parser.add_argument("--by", choices=("stage", "module", "operator"), help="split the cost of each model")
    parser.add_argument(
        "--depth", type=positive_int, default=2, help="levels of modules that --by module shows; default: %(default)s"
    )
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument(
        "--convention",
        choices=("paper", "all"),
        default="paper",
        help="paper: convolutions, matrix products, attention, Fourier transforms; all: norms, softmax, ... too",
    )
    parser.add_argument(
        "--as-executed",
        action="store_true",
        help="count spectral layers by the method they choose here, which may be matrix products, not as FFTs",
    )
    args = parser.parse_args(argv)
    if not args.names and not args.config:
        parser.error("name a model, or a config by --config")
    of_volumes = [name for name in args.names if name in volumes.list_models()]
    if args.num_classes is not None and of_volumes:
        parser.error(f"--num-classes is for classifiers, {of_volumes[0]} has the classes of its data")
    return args


def count_at(model: nn.Module, height: int, width: int, convention: str, as_executed: bool) -> Cost:
    """Count `model` for one image of `height` x `width`, fitted to that size where it has to be."""
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(height, width))
    channels = model.pretrained_cfg["input_size"][0]
    return count(model, (channels, height, width), convention=convention, as_executed=as_executed)


def rows_of(cost: Cost, by: str | None, depth: int) -> Iterator[dict[str, str | float]]:
    """The lines of a table for one model and size, without the columns that name these two."""
    if by == "operator":
        for operator, flops in cost.by_operator.items():
            yield {"operator": operator, "macs": flops / 2, "flops": flops, "share": flops / max(cost.flops, 1)}
        return
    if by is None:
        parts = {"": cost}
    elif by == "stage":
        parts = cost.by_stage
    else:
        parts = {name: part for name, part in cost.by_module.items() if name and name.count(".") < depth}
    for name, part in parts.items():
        row = {"params": part.params, "macs": part.macs, "flops": part.flops, "activations": part.activations}
        yield {by: name, **row, "share": part.flops / max(cost.flops, 1)} if by else row


def count_names(args: argparse.Namespace) -> Iterator[dict[str, str | float]]:
    """The lines of the models that are named."""
    for name in args.names:
        if name in volumes.list_models():
            continue
        model = timm.create_model(name, num_classes=args.num_classes)
        for height, width in args.size or [model.pretrained_cfg["input_size"][1:]]:
            where = f"{name} at {height}x{width}"
            try:
                cost = count_at(model, height, width, args.convention, args.as_executed)
            except Exception as error:  # models refuse sizes with any exception, many with an assertion
                sys.exit(f"{where}: {type(error).__name__}: {error}")
            warn(cost, where)
            if args.by == "stage" and not cost.by_stage:
                sys.exit(f"{name} has no feature_info, which names the stages; try --by module")
            labels = {"model": name, "size": f"{height}x{width}"}
            yield from (labels | row for row in rows_of(cost, args.by, args.depth))


def check_sizes(args: argparse.Namespace) -> None:
    """Refuse sizes of images or of volumes where there are none."""
    taken = {"--volume-size" if name in volumes.list_models() else "--size" for name in args.names}
    if args.config and (args.size or args.volume_size):
        from spectral_backbones.engine.config import load
        from spectral_backbones.engine.errors import UserError
        from spectral_backbones.tools.tasks import task_of

        try:
            taken |= {"--volume-size" if task_of(load(path)) == "volumes" else "--size" for path in args.config}
        except UserError as error:
            sys.exit(f"error: {error}")
    for option, given in (("--size", args.size), ("--volume-size", args.volume_size)):
        if given and option not in taken:
            print(f"error: {option} is for other models than {', '.join([*args.names, *args.config])}", file=sys.stderr)
            sys.exit(2)


def count_wholes(args: argparse.Namespace) -> Iterator[dict[str, str | float]]:
    """The lines of networks of volumes, and of what configs describe: by default their parts and the whole."""
    named = [name for name in args.names if name in volumes.list_models()]
    if not (named or args.config):
        return
    from spectral_backbones.engine.config import load
    from spectral_backbones.engine.errors import UserError
    from spectral_backbones.tools.tasks import build_model, task_of  # these are optional, and slow to import

    for name in named:
        yield from count_parts(name, volumes.create_model(name), "volumes", args)
    for path in args.config:
        try:
            task = task_of(load(path))
            if task not in DENSE:
                sys.exit(f"{path} is for {task}: name its model in place of --config")
            model = build_model(path)
        except UserError as error:
            sys.exit(f"error: {error}")
        yield from count_parts(path, model, task, args)


def count_parts(name: str, model: nn.Module, task: str, args: argparse.Namespace) -> Iterator[dict[str, str | float]]:
    """The lines of one detector, segmenter or network of volumes."""
    from spectral_backbones.engine.errors import UserError
    from spectral_backbones.tools.tasks import import_of

    counter, sizes = DENSE[task]
    try:
        count_whole = getattr(import_of(task, "flops"), counter)
    except UserError as error:
        sys.exit(f"error: {error}")
    sizes = getattr(getattr(model, "backbone", None), "counted_at", None) or sizes
    for size in (args.volume_size if task == "volumes" else args.size) or sizes:
        size = getattr(model, "network", model).crop_size if size is None else size
        place = "x".join(map(str, size))
        where = f"{name} at {place}"
        try:
            cost, parts = count_whole(model, size, convention=args.convention, as_executed=args.as_executed)
        except Exception as error:
            sys.exit(f"{where}: {type(error).__name__}: {error}")
        warn(cost, where)
        labels = {"model": Path(name).stem, "size": place}
        if args.by in ("module", "operator"):
            yield from (labels | row for row in rows_of(cost, args.by, args.depth + 1))
            continue
        for part_name, part in {**parts, "whole": cost}.items():
            row = {"params": part.params, "macs": part.macs, "flops": part.flops, "activations": part.activations}
            yield labels | {"part": part_name} | row | {"share": part.flops / max(cost.flops, 1)}


def warn(cost: Cost, where: str) -> None:
    """Tell what a count may lack."""
    if cost.uncounted:
        print(f"{where}: too low, not counted are {dict(cost.uncounted)}", file=sys.stderr)
    if cost.uncalled:
        print(f"{where}: never called: {', '.join(cost.uncalled)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    check_sizes(args)
    # Rows of one table have the same columns, so models and detectors have tables of their own.
    for rows in (list(count_names(args)), list(count_wholes(args))):
        if rows:
            print(render(rows, COLUMNS, args.format))


if __name__ == "__main__":
    run(main)
