"""Writes handwritten digits, scattered on canvases, as a data set of detection (as COCO) or segmentation (as ADE20K).

spectral make-digits data/digits
spectral make-digits data/large --task segmentation --train 5000 --size 256

The digits are scikit-learn's, so nothing is downloaded; validation shows others than training. Configs on this set make
it themselves where it is missing; this tool is for another size, or to look at it.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

from typing import List, Optional

from spectral_backbones.toolboxes.digits import Recipe, make_digits
from spectral_backbones.tools.script import make_parser, run


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="where to; it must not hold anything else")
    parser.add_argument("--task", default=Recipe.task, help="detection or segmentation; default: %(default)s")
    parser.add_argument("--train", type=int, default=Recipe.train, help="canvases to train on; default: %(default)s")
    parser.add_argument("--val", type=int, default=Recipe.val, help="canvases to validate on; default: %(default)s")
    parser.add_argument("--size", type=int, default=Recipe.size, help="side in pixels; default: %(default)s")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="another seed, another set; default: %(default)s")
    args = parser.parse_args(arguments)
    recipe = Recipe(args.task, args.train, args.val, args.size, args.seed)
    is_new = make_digits(args.folder, recipe)
    print(f"{recipe.train} + {recipe.val} canvases {'written to' if is_new else 'are already in'} {args.folder}")


if __name__ == "__main__":
    run(main)
