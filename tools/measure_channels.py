"""Computes mean and standard deviation of each channel of a folder's training images, as stored in the files.

spectral measure-channels photos
spectral measure-channels scenes --in-chans 12
spectral measure-channels cubes/train --divisor --in-chans 30    # for a detector: the images of one folder

A model of other than one or three channels needs them in its config. A detector of many bands needs one number that its
images are divided by: with --divisor that below which 999 of 1000 numbers lie.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

from pathlib import Path
from typing import List, Optional, Tuple, Union

import numpy as np

from spectral_backbones.classification.datasets import ImageFolder
from spectral_backbones.classification.transforms import NUMBERS
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.images import find_images, read_bands, wrong_bands
from spectral_backbones.tools.script import make_parser, run

_SAMPLES = 100_000  # numbers of one image that are looked at, evenly spaced
_SHARE = 99.9  # percent of the numbers that the divisor brings below 1


def main(arguments: Optional[List[str]] = None) -> Union[Tuple[np.ndarray, np.ndarray], float]:
    """Measures; prints what to write into a config, and returns mean and std, (channels,), or a divisor."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", help="what --data-root is in training")
    parser.add_argument("--in-chans", type=int, help="number of bands, where pages of a TIFF are bands or an array has")
    parser.add_argument("--divisor", action="store_true", help="one number for LoadBands, of a folder without classes")
    args = parser.parse_args(arguments)

    if args.divisor:
        return measure_divisor(args.folder, args.in_chans)
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


def measure_divisor(folder: str, channels: Optional[int]) -> float:
    """Measures what images of any number of bands are divided by; prints what to write into a config.

    Args:
        folder: Of images, at any depth.
        channels: How many bands they have; None takes that of the first.

    Raises:
        UserError: There are none, one has other bands or another type than the first, or nothing is above 0.
    """
    paths = find_images([folder])
    samples, dtype = [], None
    for path in paths:
        values = read_bands(path, channels, "--in-chans")
        channels = values.shape[-1]
        dtype = dtype or values.dtype
        if values.dtype != dtype:
            raise UserError(
                f"image {path} holds {values.dtype} numbers, {paths[0]} {dtype}: they cannot be scaled alike"
            )
        samples.append(values.ravel()[:: max(1, values.size // _SAMPLES)])
    divisor = float(f"{np.percentile(np.concatenate(samples), _SHARE):.3g}")
    if not divisor > 0:
        raise UserError(f"{_SHARE} % of the numbers in {folder} are 0 or less: there is nothing to divide by")
    print(
        f"{len(paths)} images of {channels} bands, {dtype}, in {Path(folder)}; first in each pipeline of the config:\n"
    )
    print(f'dict(type="LoadBands", bands={channels}, divisor={divisor}, dtype="{dtype}")')
    return divisor


if __name__ == "__main__":
    run(main)
