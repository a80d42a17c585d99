"""Writes hyperspectral images as a data set for detection: targets mixed below one pixel into smooth backgrounds.

spectral make-hyperspectral data/cubes
spectral make-hyperspectral data/many --train 2000 --size 64 --bands 100 --noise 0.01

Images are .npy of (height, width, bands), boxes lie in COCO's format. Of eight classes two cover a part of one pixel,
two have spectra that are nearly alike, and three have several.

The config on this set makes it itself where it is missing; this tool is for another size, or to look at it.
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
    parser.add_argument("--train", type=int, help="how many images to train on; default: 240")
    parser.add_argument("--val", type=int, help="how many images to validate on; default: 60")
    parser.add_argument("--size", type=int, help="side in pixels; default: 32")
    parser.add_argument("--bands", type=int, help="default: 30")
    parser.add_argument("--targets", type=int, help="most targets in an image; default: 8")
    parser.add_argument("--noise", type=float, help="standard deviation of the noise, in reflectance; default: 0.005")
    parser.add_argument("--seed", type=int, help="another seed, another set; default: 0")
    args = parser.parse_args(arguments)
    made = import_of("detection", "hyperspectral.made")
    given = {key: value for key, value in vars(args).items() if key != "folder" and value is not None}
    recipe = made.Recipe(**given)
    is_new = made.make_cubes(args.folder, recipe)
    print(
        f"{recipe.train} + {recipe.val} images of {recipe.bands} bands "
        f"{'written to' if is_new else 'are already in'} {args.folder}"
    )


if __name__ == "__main__":
    run(main)
