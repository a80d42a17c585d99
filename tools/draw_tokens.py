"""Draws what merging leaves of the tokens of a photo.

python tools/draw_tokens.py                             # docs/images/tokens.jpg, of scikit-learn's flower
python tools/draw_tokens.py photo.jpg --pretrained --out tokens.jpg
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
from pathlib import Path
from typing import List, Optional

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from spectral_backbones.methods.reduce_tokens import reduce_tokens
from spectral_backbones.methods.token_picture import draw_tokens

_PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "tokens.jpg"
_GAP = 8  # pixels between pictures


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, help="default: scikit-learn's flower")
    parser.add_argument("--model", default="deit_small_patch16_224", help="any that tokens can be merged in")
    parser.add_argument("--pretrained", action="store_true", help="with published weights; drawn ones by default")
    parser.add_argument("--fewer", type=int, nargs="+", default=[8, 13], help="tokens merged in each block")
    parser.add_argument("--side", type=int, default=336, help="of a picture, in pixels")
    parser.add_argument("--out", type=Path, default=_PICTURE)
    args = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = timm.create_model(args.model, pretrained=args.pretrained).eval()
    photo = _square(Image.open(args.photo).convert("RGB") if args.photo else _flower(), args.side)
    x = create_transform(**{**resolve_model_data_config(model), "crop_pct": 1.0})(photo)[None]
    row = [photo]
    for count in args.fewer:
        reduction = reduce_tokens(model, "merge", count)
        with torch.no_grad():
            model(x)
        row.append(draw_tokens(photo, reduction.tokens, model.patch_embed.grid_size))
        reduction.undo()
    sheet = Image.new("RGB", (len(row) * (args.side + _GAP) - _GAP, args.side), "white")
    for place, picture in enumerate(row):
        sheet.paste(picture, (place * (args.side + _GAP), 0))
    sheet.save(args.out, quality=88)


def _flower() -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(np.asarray(load_sample_image("flower.jpg")))


def _square(photo: Image.Image, side: int) -> Image.Image:
    """The middle of a photo."""
    least = min(photo.size)
    left, top = (photo.width - least) // 2, (photo.height - least) // 2
    return photo.crop((left, top, left + least, top + least)).resize((side, side), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
