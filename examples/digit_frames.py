"""A folder of frames to learn an order from: scikit-learn's handwritten digits, each drifting to the right in a clip.

python digit_frames.py FOLDER [--clips N] [--length N]
"""

import argparse
from pathlib import Path
from typing import List

import numpy as np
from PIL import Image

from spectral_backbones.engine.digits import read_digits
from spectral_backbones.tools.arguments import positive_int

SIDE, DIGIT = 32, 16  # pixels of a frame, and of the digit in it


def main(arguments: List[str] | None = None) -> None:
    """Writes FOLDER/clip_000/frame_00.png and so on, each of 32x32 grey pixels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=positive_int, default=100, help="of as many digits; default: %(default)s")
    parser.add_argument("--length", type=positive_int, default=14, help="frames, a pixel each; default: %(default)s")
    args = parser.parse_args(arguments)
    if args.length > SIDE - DIGIT:
        parser.error(f"--length is {args.length}; a digit leaves its frames of {SIDE} pixels after {SIDE - DIGIT}")
    random = np.random.RandomState(0)
    pixels = read_digits("train").pixels[: args.clips]
    for clip, digit in enumerate(pixels):
        folder = args.folder / f"clip_{clip:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        digit = np.asarray(Image.fromarray(digit).resize((DIGIT, DIGIT), Image.Resampling.BILINEAR))
        left, top = random.randint(SIDE - DIGIT - args.length + 1), random.randint(SIDE - DIGIT)
        for number in range(args.length):
            frame = np.zeros((SIDE, SIDE), dtype=np.uint8)
            frame[top : top + DIGIT, left + number : left + number + DIGIT] = digit
            Image.fromarray(frame).save(folder / f"frame_{number:02d}.png")
    print(f"{len(pixels)} clips of {args.length} frames written to {args.folder}")


if __name__ == "__main__":
    main()
