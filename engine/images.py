"""The pictures of all tasks: which files are meant, and the one way in which they are read."""

import io
import logging
import mmap
import sys
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np
from mmengine.logging import MMLogger
from PIL import Image

from . import numbers
from .errors import UserError
from .listing import list_images, say_endings
from .numbers import Numbers

Colour = Tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
# Memory that processes of a DataLoader share with the one that forked them: what one has told no other repeats.
_TOLD = mmap.mmap(-1, 2)
_DEEP, _FLOAT = 0, 1
# Of each TIFF with more bands than Pillow knows it says so; those are read by `numbers`.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


def find_images(paths: Sequence[str], are_numbers: bool = False) -> List[Path]:
    """Lists picture files, and those in folders and below them as training finds them.

    Args:
        paths: Files and folders.
        are_numbers: Whether files that hold numbers are meant where a folder holds pictures for people beside them.

    Raises:
        UserError: A path does not exist, or a folder has no pictures.
    """
    found: List[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"image {path} {'is no file' if path.exists() else 'does not exist'}")
        listing = list_images(path)
        held = list_images(path, numbers.listed_endings()) if are_numbers or not listing.images else listing
        if len(held.images) > len(listing.images):  # else of files that hold numbers those are meant that are alone
            held.images = {image: key for image, key in held.images.items() if image not in listing.images}
            listing = held
        if not listing.images:
            raise UserError(f"folder {path} has no images ({say_endings()}); {listing.say_skipped() or 'it is empty'}")
        if listing.skipped:
            print(f"{path}: {listing.say_skipped()}", file=sys.stderr)
        found += listing.images
    return found


def check_colour(colour: Sequence[int]) -> Colour:
    """Takes red, green and blue.

    Raises:
        UserError: They are not three whole numbers from 0 to 255.
    """
    parts = tuple(colour) if isinstance(colour, (list, tuple)) else ()
    if len(parts) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
        raise UserError(f"a background is red, green and blue, each 0 to 255, such as [255, 255, 255], got {colour!r}")
    return parts


def read_image(path: Union[str, Path], background: Colour = WHITE, upright: bool = True) -> Image.Image:
    """Reads a picture for people and for models of one or three channels; of several frames the first.

    More than eight bits are scaled by the range that the file states, else by that of their type; floats from 0 to 1
    are shades; both are told once. Pixels that let something shine through lie on `background`.

    Args:
        path: A file.
        background: Red, green and blue, 0 to 255.
        upright: Turned as the camera was held.

    Returns:
        In mode "L" or "RGB".

    Raises:
        UserError: It cannot be read; the message names the file.
    """
    return decode_image(read_content(path), path, background, upright)


def read_upright(path: Union[str, Path], background: Colour = WHITE) -> np.ndarray:
    """Reads a picture as `read_image` does.

    Returns:
        Red, green and blue, (H, W, 3), 0 to 255.
    """
    return np.asarray(read_image(path, background).convert("RGB"))


def read_bands(path: Union[str, Path], channels: Optional[int] = None, setting: str = "model.in_chans") -> np.ndarray:
    """Reads the numbers that are stored, of any number of bands, upright and not scaled.

    Args:
        path: A file of Pillow's formats, any TIFF, or of an ending in `engine.numbers.READERS`.
        channels: How many bands are asked for; None takes what there are.
        setting: Where a config says how many, for messages.

    Returns:
        (H, W, bands), in the file's type.

    Raises:
        UserError: It cannot be read, has another number of bands, or holds NaN; the message names the file.
    """
    content = read_content(path)
    values = _numbers(content, path, channels).values
    numbers.check_finite(values, path)
    if channels is not None and values.shape[-1] == 1 < channels == 3:
        values = values.repeat(3, axis=-1)  # shades are colours
    if channels is not None and values.shape[-1] != channels:
        raise wrong_bands(path, values.shape[-1], channels, setting)
    return values


def has_own_scale(path: Union[str, Path]) -> bool:
    """Whether a picture holds numbers, such as floats beyond 0 to 1, of which the file does not state the range."""
    return not _numbers(read_content(path), path, None).is_scaled


def wrong_bands(where: Union[str, Path], found: int, taken: int, setting: str = "model.in_chans") -> UserError:
    """Makes the error of a picture that has other bands than the model takes."""
    return UserError(
        f"image {where} has {say_bands(found)}, the model takes {taken} ({setting}): set {setting} to "
        f"{found}, or mend the picture"
    )


def say_bands(count: int) -> str:
    """Names a number of bands."""
    return {1: "1 band (grey)", 3: "3 bands (RGB)"}.get(count, f"{count} bands")


def read_content(path: Union[str, Path]) -> bytes:
    """Reads a whole file.

    Raises:
        UserError: There is none, it is empty, or it is none that ends, as a pipe.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"cannot read image {path}: it is no file")
    try:
        return check_content(Path(path).read_bytes(), path)
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}") from error


def check_content(content: bytes, path: Union[str, Path]) -> bytes:
    """Refuses an empty file.

    Raises:
        UserError: It is one.
    """
    if not content:
        raise UserError(f"cannot read image {path}: it is an empty file (`find FOLDER -size 0` tells which)")
    return content


def decode_image(
    content: bytes, path: Union[str, Path], background: Colour = WHITE, upright: bool = True
) -> Image.Image:
    """Decodes what was read, see `read_image`.

    Args:
        content: Of the file.
        path: Its name, for messages.
        background: See `read_image`.
        upright: See `read_image`.
    """
    image = None if numbers.is_registered(path) else open_image(content, path)
    if image is None or numbers.has_numbers(content, image):
        return _shades(_numbers(content, path, None, upright), path, background)
    try:
        held = _load(image, upright)
        picture = _on_background(image, background)
        return picture if held == 1 else Image.fromarray(numbers.turn(np.asarray(picture), held))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise damaged(path, error) from error


def open_image(content: bytes, path: Union[str, Path]) -> Optional[Image.Image]:
    """Opens a picture with Pillow, which reads no more than its header; None for a TIFF of a kind it does not know.

    Raises:
        UserError: It is no picture.
    """
    try:
        return Image.open(io.BytesIO(content))
    except Exception as error:
        if numbers.has_numbers(content, None):
            return None
        say = "no known format" if isinstance(error, Image.UnidentifiedImageError) else error
        if numbers.lacks_header(path):
            say = f"{say}; of ENVI, {Path(path).stem}.hdr has to lie beside it"
        raise damaged(path, say) from error


def damaged(path: Union[str, Path], why: object) -> UserError:
    """Makes the error of a file that no decoder takes."""
    return UserError(
        f"cannot read image {path}: it is damaged or no picture; replace it, or take it out of the data set "
        f"({why or type(why).__name__})"
    )


def is_plain(image: Optional[Image.Image], content: bytes) -> bool:
    """Whether every decoder gives the same of a picture: it is a JPEG or PNG of eight bits without opacity, and whole.

    OpenCV fills what is missing of a JPEG that was cut short with grey.
    """
    if image is None or numbers.has_numbers(content, image) or "transparency" in image.info:
        return False
    if image.format in ("JPEG", "MPO"):
        return content[-2:] == b"\xff\xd9" or _is_whole(image)  # cameras add to the end
    return image.format == "PNG" and image.mode in ("1", "L", "P", "RGB") and content[-8:-4] == b"IEND"


def displayed(pixels: np.ndarray) -> np.ndarray:
    """Makes red, green and blue (H, W, 3), 0 to 255, of what a loader of mmcv's kind gives: blue first, or grey."""
    pixels = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[-1] >= 3 else pixels.reshape(*pixels.shape[:2], -1)
    if pixels.max(initial=0) > 255 or pixels.min(initial=0) < 0:  # read unchanged, of more than eight bits
        pixels = np.asarray(preview(pixels)).reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(pixels[..., ::-1].astype(np.uint8).repeat(3 if pixels.shape[-1] == 1 else 1, axis=-1))


def _is_whole(image: Image.Image) -> bool:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def preview(values: np.ndarray, left_out: float = 0.0) -> Image.Image:
    """Makes a picture for people of numbers (H, W, bands): the first three, or one, from their least to their
    greatest.

    Args:
        values: Any numbers.
        left_out: Percent of a band's numbers at each end that are drawn as the others end.
    """
    values = values[..., : 3 if values.shape[-1] >= 3 else 1].astype(np.float64)
    low, high = np.percentile(values, (left_out, 100 - left_out), axis=(0, 1))
    shades = (255 * ((values - low) / np.where(high > low, high - low, 1)).clip(0, 1)).round().astype(np.uint8)
    return Image.fromarray(shades if shades.shape[-1] == 3 else shades[..., 0])


def _numbers(content: bytes, path: Union[str, Path], channels: Optional[int], upright: bool = True) -> Numbers:
    try:
        if numbers.is_registered(path):
            return numbers.read_registered(path, content, channels)
        image = open_image(content, path)
        if numbers.has_numbers(content, image) or numbers.has_pages(image, channels):
            return numbers.decode(content, image, channels, upright)
        held = _load(image, upright)
        stored = _pillow_numbers(image, channels)
        return replace(stored, values=numbers.turn(stored.values, held))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read image {path}: {error or type(error).__name__}") from error


def _load(image: Image.Image, upright: bool) -> int:
    """Decodes a picture, and says how it has yet to be turned; Pillow turns a TIFF itself."""
    held = numbers.orientation(image)
    image.load()
    if image.format == "TIFF":
        return 1 if upright else {6: 8, 8: 6}.get(held, held)
    return held if upright else 1


def _pillow_numbers(image: Image.Image, channels: Optional[int]) -> Numbers:
    """The eight bits of what Pillow has read; colours that a palette names are taken out of it."""
    if image.mode in ("P", "PA") or (image.has_transparency_data and image.mode in ("1", "L", "RGB")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA") and channels in (1, 3):  # opacity is not asked for
        image = _on_background(image, WHITE)
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
    values = np.asarray(image)
    return Numbers.of_type(values)


def _on_background(image: Image.Image, background: Colour) -> Image.Image:
    """Turns a loaded picture of any mode into "L" or "RGB"."""
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("LA") if image.mode == "La" else image
        under = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _shades(stored: Numbers, path: Union[str, Path], background: Colour) -> Image.Image:
    """Scales numbers to eight bits."""
    values = stored.values
    numbers.check_finite(values, path)
    low, high, source = stored.low, stored.high, stored.source
    least, greatest = values.min(), values.max()
    if not stored.is_scaled:
        raise UserError(
            f"image {path} holds {'floats' if low is None else values.dtype} from {least:g} to {greatest:g}, and the "
            "file does not state what is black and white: of floats those from 0 to 1 are shades. Otherwise give mean "
            "and std, in the numbers of the files, to the transform of the training data "
            "(`spectral measure-channels` computes them)"
        )
    if low is None:
        low, high = 0.0, 1.0
        _tell(_FLOAT, f"{path} holds floats from {least:g} to {greatest:g}: 1 is read as white")
    elif values.dtype not in (np.uint8, np.bool_) or (low, high) != (0, 255 if values.dtype == np.uint8 else 1):
        _tell(
            _DEEP,
            f"{path} holds {values.dtype} numbers from {least} to {greatest}: scaled to 8 bits from "
            f"{low:g} to {high:g}, by {source}; so are others of more than 8 bits",
        )
    parts = (values.astype(np.float64) - low) / (high - low)  # (H, W, bands), 0 to 1
    bands = parts.shape[-1]
    if stored.alpha:
        opacity, parts = (values[..., -1:] / stored.opaque).clip(0, 1), parts[..., :-1]
        under = np.asarray(background) / 255
        parts = (parts if stored.alpha == "premultiplied" else parts * opacity) + under * (1 - opacity)
    elif bands == 4:  # red, green, blue and one that is not said to be opacity
        parts = parts[..., :3]
    if parts.shape[-1] not in (1, 3):
        raise UserError(
            f"image {path} has {bands} bands, which make no colours: a classifier with model.in_chans={bands} reads "
            "them as they are"
        )
    shades = (255 * parts.clip(0, 1)).round().astype(np.uint8)
    return Image.fromarray(shades if shades.shape[-1] == 3 else shades[..., 0])


def _tell(kind: int, message: str) -> None:
    if not _TOLD[kind]:
        _TOLD[kind] = 1
        MMLogger.get_current_instance().warning(message)
