"""Computes mean and standard deviation of each channel of a folder's training images, as stored in the files.

spectral measure-channels photos
spectral measure-channels scenes --in-chans 12

A model of other than one or three channels needs them in its config.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from spectral_backbones.classification.datasets import ImageFolder
from spectral_backbones.classification.transforms import NUMBERS
from spectral_backbones.engine.images import wrong_bands
from spectral_backbones.tools.script import make_parser, run


def main(arguments: Optional[List[str]] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Measures; prints what to write into a config, and returns mean and std, (channels,)."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="what --data-root is in training")
    parser.add_argument("--in-chans", type=int, help="number of bands, where pages of a TIFF are bands or an array has")
    args = parser.parse_args(arguments)

    channels = args.in_chans
    data = ImageFolder(args.folder, "train", NUMBERS)
    count, mean, squares = 0, 0.0, 0.0
    for index in range(len(data)):
        values = data.bands(index, channels).astype(np.float64)
        values = values.reshape(-1, values.shape[-1])
        if channels is None:
            channels = values.shape[-1]
        if values.shape[-1] != channels:
            raise wrong_bands(data.where(index), values.shape[-1], channels)
        # Chan, Golub and LeVeque (1979): no difference of large sums.
        total = count + len(values)
        shift = values.mean(0) - mean
        squares = squares + ((values - values.mean(0)) ** 2).sum(0) + shift**2 * count * len(values) / total
        mean = mean + shift * len(values) / total
        count = total
    std = np.sqrt(squares / count)
    rounded = [[float(f"{value:.6g}") for value in row] for row in (mean, std)]
    print(f"{len(data)} images of {channels} channels in {Path(args.folder)}; in the config:\n")
    print(f"model = dict(in_chans={channels})")
    print("train_dataloader = dict(  # validation and test take them from here")
    print("    dataset=dict(")
    print(f"        transform=dict(mean={rounded[0]}, std={rounded[1]}),")
    print("    ),\n)")
    return mean, std


if __name__ == "__main__":
    run(main)
