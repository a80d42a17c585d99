"""A folder of frames to learn an order from: scikit-learn's handwritten digits, each drifting to the right in a clip.

python digit_frames.py FOLDER [--clips N] [--length N]
"""

import argparse
from pathlib import Path
from typing import List

import numpy as np
from PIL import Image

from spectral_backbones.engine.digits import read_digits

SIDE, DIGIT = 32, 16  # pixels of a frame, and of the digit in it


def main(arguments: List[str] | None = None) -> None:
    """Writes FOLDER/clip_000/frame_00.png and so on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--length", type=int, default=14, help="frames of a clip, a pixel each")
    args = parser.parse_args(arguments)
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
