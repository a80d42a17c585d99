"""Writes handwritten digits as a data set: scattered on canvases, or swept through volumes.

spectral make-digits data/digits
spectral make-digits data/large --task segmentation --train 5000 --size 256
spectral make-digits data/huge --task segmentation --train 40 --val 8 --size 2048 --smaller 8
spectral make-digits data/volumes --task volumes

Canvases lie as COCO's for detection and as ADE20K's for segmentation, volumes as a task of the Decathlon.

The digits are scikit-learn's, so nothing is downloaded; validation shows others than training. Configs on this set make
it themselves where it is missing; this tool is for another size, or to look at it.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

from typing import List, Optional

from spectral_backbones.tools.script import make_parser, run
from spectral_backbones.tools.tasks import import_of


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="where to; it must not hold anything else")
    parser.add_argument("--task", default="detection", help="detection, segmentation or volumes; default: %(default)s")
    parser.add_argument("--train", type=int, help="how many to train on; default: 1000 canvases or 100 volumes")
    parser.add_argument("--val", type=int, help="how many to validate on; default: 200 canvases or 12 volumes")
    parser.add_argument("--size", type=int, help="side in pixels or voxels; default: 128 or 32")
    parser.add_argument(
        "--smaller", type=int, metavar="N", help="digits N times smaller and N squared times as many; default: 1"
    )
    parser.add_argument("--seed", type=int, help="another seed, another set; default: 0")
    args = parser.parse_args(arguments)
    if args.task == "volumes" and args.smaller is not None:
        parser.error("--smaller is for canvases: each volume shows one digit")
    made = import_of("volumes" if args.task == "volumes" else "toolboxes", "digits")
    given = {key: value for key, value in vars(args).items() if key != "folder" and value is not None}
    recipe = made.Recipe(**given)
    is_new = made.make_digits(args.folder, recipe)
    kind = "volumes" if args.task == "volumes" else "canvases"
    print(f"{recipe.train} + {recipe.val} {kind} {'written to' if is_new else 'are already in'} {args.folder}")


if __name__ == "__main__":
    run(main)
