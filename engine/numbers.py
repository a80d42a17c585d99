"""Pictures as the numbers that are stored: any bit depth, any number of bands, with the range that a file states.

Pillow keeps eight bits of most of them, saturates others, and knows no picture of more than four bands.
"""

import io
import math
import re
import struct
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Literal, Optional, Set, Tuple, Union

import cv2
import numpy as np
from PIL import Image

from .errors import UserError

_ORIENTATION, _MIN, _MAX, _SIGNED_MIN, _SIGNED_MAX = 274, 280, 281, 340, 341  # tags of TIFF
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PNG = b"\x89PNG\r\n\x1a\n"
_INK_ON_WHITE, _PALETTE, _INKS, _LUMINANCE = 0, 3, 5, (6, 8, 9, 10)  # PhotometricInterpretation


@dataclass(frozen=True)
class Numbers:
    """What is stored in a picture.

    Attributes:
        values: (H, W, bands), in the file's own type, as the camera was held.
        low: Number that stands for black; None where the file does not say, of floats.
        high: Number that stands for white.
        source: What says so.
        alpha: Whether the last band is opacity, and whether the others are multiplied by it already.
        opaque: Number of full opacity.
    """

    values: np.ndarray
    low: Optional[float] = None
    high: Optional[float] = None
    source: str = ""
    alpha: Literal["", "straight", "premultiplied"] = ""
    opaque: Optional[float] = None

    @classmethod
    def of_type(cls, values: np.ndarray, alpha: str = "") -> "Numbers":
        """Takes the range from the type of the values, (H, W) or (H, W, bands), in whatever order of bytes."""
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        values = values[..., None] if values.ndim == 2 else values
        if values.dtype.kind == "b":
            return cls(values, 0, 1, "its type bool", alpha, 1)
        if values.dtype.kind in "iu":
            limits = np.iinfo(values.dtype)
            return cls(values, limits.min, limits.max, f"its type {values.dtype}", alpha, limits.max)
        return cls(values, alpha=alpha, opaque=1)

    @property
    def is_scaled(self) -> bool:
        """Whether it is known what black and white are: of floats where they are stated, or all lie in 0 to 1; of whole
        numbers of 32 bits and more not where all would be one shade of their type's range.
        """
        least, greatest = float(self.values.min()), float(self.values.max())
        if self.low is None:
            return least >= 0 and greatest <= 1
        is_long = self.values.dtype.itemsize >= 4 and self.source.startswith("its type")
        return not is_long or least == greatest or greatest - least >= (self.high - self.low) / 255

    def stated(self, low: float, high: float, source: str) -> "Numbers":
        """Takes a range that a file states, where all of its values lie in it; else nothing is changed."""
        colours = self.values[..., :-1] if self.alpha else self.values
        if not (low < high and low <= colours.min() and colours.max() <= high):
            return self
        opaque = high if self.alpha and self.values[..., -1].max() <= high else self.opaque
        return replace(self, low=float(low), high=float(high), source=source, opaque=opaque)


Reader = Callable[[bytes, Optional[int]], Numbers]
FileReader = Callable[[Path, Optional[int]], Numbers]  # of pictures that lie in more than one file
READERS: Dict[str, Union[Reader, FileReader]] = {}  # by ending, of what holds numbers and Pillow does not know
_BY_PATH: Set[str] = set()
_PARTS: Set[str] = set()


def register_reader(*endings: str, by_path: bool = False, is_part: bool = False) -> Callable[[Any], Any]:
    """Lets pictures of other endings be read.

    Args:
        *endings: Such as ".npy", in lower case.
        by_path: Whether the function takes the path of a file in place of its content.
        is_part: Whether such a file is read where it is named, and passed over in a folder: it is a part of a picture
            that is listed by another of its files.

    Returns:
        A decorator of a function that takes the content of a file and the number of bands that is asked for (None
        where nothing is), and returns `Numbers`. A ValueError of it is told with the file's name.
    """

    def register(reader: Any) -> Any:
        READERS.update(dict.fromkeys(endings, reader))
        for flag, names in ((by_path, _BY_PATH), (is_part, _PARTS)):
            names.difference_update(endings)
            names.update(endings if flag else ())
        return reader

    return register


def listed_endings() -> Tuple[str, ...]:
    """The endings of `READERS` by which pictures in folders are known."""
    return tuple(ending for ending in READERS if ending not in _PARTS)


def is_registered(path: Union[str, Path]) -> bool:
    """Whether a file is read by one of `READERS`; a part of a picture is where the others lie beside it."""
    path = Path(path)
    ending = path.suffix.lower()
    return ending in READERS and (ending not in _PARTS or envi_header(path) is not None)


def lacks_header(path: Union[str, Path]) -> bool:
    """Whether a file is called as ENVI's numbers are, and has no header beside it."""
    return Path(path).suffix.lower() in _PARTS and not is_registered(path)


def read_registered(path: Union[str, Path], content: bytes, channels: Optional[int]) -> Numbers:
    """Reads a file of an ending in `READERS`; what its reader raises is passed on."""
    ending = Path(path).suffix.lower()
    return READERS[ending](Path(path) if ending in _BY_PATH else content, channels)


@register_reader(".npy")
def read_npy(content: bytes, channels: Optional[int]) -> Numbers:
    """Reads an array of NumPy, (H, W), (H, W, bands) or (bands, H, W).

    Raises:
        ValueError: It is no such array.
    """
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise ValueError("it is an archive of arrays, as .npz are: save one array by numpy.save")
    return Numbers.of_type(bands_last(values, channels))


@register_reader(".mat")
def read_mat(content: bytes, channels: Optional[int]) -> Numbers:
    """Reads the one picture of a file of MATLAB to version 7, also where it is a field of a struct.

    Of several arrays it is that of the number of bands that is asked for, else the one of three dimensions.

    Raises:
        ValueError: There is none, or there are several and nothing tells which is meant.
    """
    from scipy.io import loadmat

    try:
        held = None if content[:8] == _HDF5 else loadmat(io.BytesIO(content))
    except NotImplementedError:
        held = None
    if held is None:
        raise ValueError(
            "it is of MATLAB 7.3, which is HDF5 and not read: save it as save(file, name, '-v7'), or as .npy"
        )
    arrays = dict(_arrays({name: value for name, value in held.items() if not name.startswith("__")}))
    cubes = {name: value for name, value in arrays.items() if value.ndim == 3}
    fitting = {name: value for name, value in cubes.items() if channels in (value.shape[0], value.shape[2])}
    for found in (fitting, cubes, {name: value for name, value in arrays.items() if value.ndim == 2}):
        if len(found) == 1:
            (values,) = found.values()
            return Numbers.of_type(bands_last(values, channels))
        if found:
            break
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    raise ValueError(f"it holds {shapes or 'no array of numbers'}: leave the one picture (H, W, bands) in it")


def _arrays(held: Dict[str, Any]) -> Iterator[Tuple[str, np.ndarray]]:
    """What of MATLAB's variables may be a picture, by name; of structs their fields, as in "hsi.Data"."""
    for name, value in held.items():
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.names and value.size == 1:  # an array of several structs is no picture
            yield from _arrays({f"{name}.{field}": value.item(0)[i] for i, field in enumerate(value.dtype.names)})
        elif value.dtype.kind in "biufc" and (value.ndim == 3 or (value.ndim == 2 and min(value.shape) > 1)):
            yield name, value


_ENVI_DATA = (".img", ".dat", ".bil", ".bip", ".bsq")
_ENVI_OTHERS = (".raw", ".hyspex", ".sli")  # of data too, but not known by it: they are named by their header


@register_reader(".hdr", by_path=True)
@register_reader(*_ENVI_DATA, by_path=True, is_part=True)
def read_envi(path: Path, channels: Optional[int]) -> Numbers:
    """Reads a picture of ENVI, named by its header or by its data: "scene.hdr" and "scene.img", or "scene.img.hdr".

    Scale factors and offsets of the header are left alone: the numbers are those of the file.

    Raises:
        ValueError: A part is missing, or it is none of ENVI's.
    """
    try:
        from spectral.io import envi
    except ImportError as error:
        raise ValueError(
            "ENVI's files need the package spectral: pip install 'spectral-backbones[hyperspectral]'"
        ) from error
    is_header = path.suffix.lower() == ".hdr"
    header = path if is_header else envi_header(path)
    text = _envi_text(header)
    data = _envi_data(path) if is_header else path
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of how names in headers are spelt
        plain = Path(folder, "plain.hdr")
        plain.write_text(text, encoding="ascii")
        try:
            opened = envi.open(str(plain), str(data.absolute()))
        except KeyError as error:
            raise ValueError(f"{header.name} has the data type {error}, which is none of ENVI's") from error
        if isinstance(opened, envi.SpectralLibrary):
            raise ValueError("it is a library of spectra and no picture")
        _check_envi(opened, header)
        values = np.array(opened.open_memmap(interleave="bip"))
    return Numbers.of_type(values)


def _envi_text(header: Path) -> str:
    """A header as Spectral Python reads it: without what is not ASCII, such as units, and with `interleave` in small
    letters, since it takes "Bip" for bsq.

    Raises:
        ValueError: It is no header of ENVI's.
    """
    content = header.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if not text.lstrip().startswith("ENVI"):
        raise ValueError("File does not appear to be an ENVI header, whose first line is ENVI")
    text = text.encode("ascii", "replace").decode("ascii")
    return re.sub(r"^\s*(interleave\s*=\s*\w+)", lambda found: found[1].lower(), text, flags=re.M | re.I)


def _check_envi(opened: Any, header: Path) -> None:
    """Raises ValueError where a header says what cannot be, or what is not read."""
    interleave, sides = opened.metadata["interleave"], (opened.nrows, opened.ncols, opened.nbands)
    if interleave not in ("bsq", "bil", "bip"):
        raise ValueError(f"{header.name} has the interleave {interleave}; ENVI's are bsq, bil and bip")
    if min(sides) < 1 or opened.offset < 0:
        raise ValueError(f"{header.name} tells of {sides[0]} lines, {sides[1]} samples and {sides[2]} bands")
    if opened.metadata.get("file compression", "0") != "0":
        raise ValueError("it is compressed (file compression of its header), which is not read: save it without")
    expected = opened.offset + math.prod(sides) * np.dtype(opened.dtype).itemsize
    size = Path(opened.filename).stat().st_size
    if size < expected:
        raise ValueError(f"{opened.filename} has {size} bytes, its header tells of {expected}: it is cut short")


def _envi_data(header: Path) -> Path:
    """The data beside a header: "scene" or "scene.img" of "scene.hdr", "scene.img" of "scene.img.hdr"."""
    endings = [ending for one in (*_ENVI_DATA, *_ENVI_OTHERS) for ending in (one, one.upper())]
    names = [header.with_suffix(ending) for ending in ("", *endings)]
    found = next((name for name in names if name.is_file()), None)
    if found is None:
        raise ValueError(f"its data do not lie beside it, such as {header.with_suffix('.img').name}")
    return found


def envi_header(path: Path) -> Optional[Path]:
    """The header beside a file of ENVI's numbers: "scene.hdr" or "scene.img.hdr" of "scene.img"."""
    names = [path.with_suffix(ending) for ending in (".hdr", ".HDR")]
    names += [path.with_name(path.name + ending) for ending in (".hdr", ".HDR")]
    return next((name for name in names if name.is_file()), None)


def bands_last(values: np.ndarray, channels: Optional[int]) -> np.ndarray:
    """Moves the bands of an array that does not say where they are to its end.

    Args:
        values: (H, W), (H, W, bands) or (bands, H, W).
        channels: How many bands are asked for; where that is None, or fits neither, the two sides that are alike are
            those of the picture, and else the shorter one is that of bands.

    Returns:
        (H, W, bands).

    Raises:
        ValueError: It has another number of dimensions.
    """
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3:
        raise ValueError(f"an array of shape {values.shape} is no picture: (H, W), (H, W, bands) or (bands, H, W) is")
    first, middle, last = values.shape
    fits = [size == channels for size in (first, last)]
    is_square = [middle == last, first == middle]
    is_first = fits[0] if fits[0] != fits[1] else is_square[0] if is_square[0] != is_square[1] else first < last
    return np.moveaxis(values, 0, -1) if is_first else values


def has_numbers(content: bytes, image: Optional[Image.Image]) -> bool:
    """Whether a picture has to be read by `decode`, since Pillow would keep less than is stored.

    Args:
        content: Of the file.
        image: As Pillow opened it, None where it cannot.
    """
    if image is None:
        return content[:4] in _TIFF
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    if image.format == "TIFF" and image.mode != "CMYK":  # whose upper eight bits Pillow keeps, as JPEG has them
        bits, kinds = image.tag_v2.get(258, (1,)), image.tag_v2.get(339, (1,))
        is_more = image.tag_v2.get(277, 1) > len(image.getbands())  # bands whose meaning is not said are left out
        return is_more or max(bits) > 8 or any(kind != 1 for kind in kinds)
    return image.format == "PNG" and content[24] == 16


def has_pages(image: Optional[Image.Image], channels: Optional[int]) -> bool:
    """Whether the pages of a TIFF of single bands, as Pillow opened it, may be the bands that are asked for."""
    is_single = image is not None and image.format == "TIFF" and image.mode in ("1", "L")
    return is_single and channels not in (None, 1) and image.n_frames > 1


def decode(
    content: bytes, image: Optional[Image.Image], channels: Optional[int] = None, upright: bool = True
) -> Numbers:
    """Reads a picture for which `has_numbers` or `has_pages` holds.

    Args:
        content: Of the file.
        image: As Pillow opened it, None where it cannot.
        channels: How many bands are asked for, if that is known: pages of a TIFF may be bands; None takes the first
            page.
        upright: Turned as the camera was held.

    Raises:
        ValueError: It cannot be read.
    """
    if content[:4] in _TIFF:
        return _decode_tiff(content, image, channels, upright)
    if image.format == "PNG":
        numbers = _decode_png(content)
    else:
        numbers = Numbers.of_type(np.asarray(image))
        if image.format == "PPM" and numbers.low is not None:  # Pillow stretches any maximum to 65535
            numbers = numbers.stated(0, 65535, "the maximum in its header")
    return replace(numbers, values=turn(numbers.values, orientation(image))) if upright else numbers


def orientation(image: Image.Image) -> int:
    """How the camera was held, by EXIF or XMP: 1 to 8, 1 for upright, also where that is damaged; see `turn`."""
    try:
        held = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises SyntaxError, struct.error, KeyError, ... of what cameras and editors write
        return 1
    return held if held in range(1, 9) else 1


def _decode_tiff(content: bytes, image: Optional[Image.Image], channels: Optional[int], upright: bool) -> Numbers:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError("a TIFF of more than eight bits or four bands needs tifffile: pip install tifffile") from error
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        photometric = int(page.photometric)
        if photometric in (_PALETTE, _INKS, *_LUMINANCE):
            raise ValueError(
                f"its colours are {page.photometric.name}, {page.bitspersample} bits: grey and RGB can be read"
            )
        held = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
        alpha = ""
        try:
            values = _pages(file, channels) if page.samplesperpixel == 1 and channels not in (None, 1) else None
            if values is None:
                values = page.asarray()
                values = np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            values, held = _without_codecs(content, image, page, error)
        if values.ndim == 3 and values.shape[-1] > 1 and page.extrasamples:
            alpha = {1: "premultiplied", 2: "straight"}.get(int(page.extrasamples[-1]), "")
        numbers = _tiff_range(Numbers.of_type(values, alpha), page)
        if photometric == _INK_ON_WHITE:
            low, high = (0, 1) if numbers.low is None else (numbers.low, numbers.high)
            total = np.array(low + high).astype(numbers.values.dtype)
            numbers = replace(numbers, values=total - numbers.values)
    return numbers if not upright else replace(numbers, values=turn(numbers.values, held))


def _pages(file: Any, channels: int) -> Optional[np.ndarray]:
    """The pages that are like the first as (H, W, bands); None where there is one, or where they are frames of which
    the first is meant: three channels are grey shades too, unless there are three pages.
    """
    first = file.pages[0]
    alike = [page for page in file.pages if (page.shape, page.dtype, page.is_reduced) == (first.shape, first.dtype, 0)]
    if len(alike) > 1:
        stack = np.stack([page.asarray() for page in alike])
    elif file.series[0].ndim == 3:  # ImageJ describes one page of many
        stack = file.series[0].asarray()
    else:
        return None
    stack = bands_last(stack, channels)
    return None if channels == 3 != stack.shape[-1] else stack


def _without_codecs(
    content: bytes, image: Optional[Image.Image], page: Any, error: Exception
) -> Tuple[np.ndarray, int]:
    """Reads what tifffile reads with another package only; both of these turn it as the camera was held."""
    if page.samplesperpixel <= 4:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None:
            return (values[..., [2, 1, 0, *range(3, values.shape[2])]] if values.ndim == 3 else values), 1
    if image is not None and page.samplesperpixel == 1:
        image.load()
        return np.asarray(image), 1
    raise ValueError(f"{error}: pip install imagecodecs") from error


def _tiff_range(numbers: Numbers, page: Any) -> Numbers:
    def tag(code: int) -> Optional[np.ndarray]:
        return np.ravel(page.tags[code].value) if code in page.tags else None

    for low, high, name in ((_SIGNED_MIN, _SIGNED_MAX, "SMaxSampleValue"), (_MIN, _MAX, "MaxSampleValue")):
        if tag(high) is not None:
            found = numbers.stated(0 if tag(low) is None else tag(low).min(), tag(high).max(), name)
            if found.source == name:
                return found
    if numbers.values.dtype.kind == "u" and page.bitspersample < 8 * numbers.values.dtype.itemsize:
        return numbers.stated(0, 2**page.bitspersample - 1, f"BitsPerSample {page.bitspersample}")
    return numbers


def _decode_png(content: bytes) -> Numbers:
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("it is cut short or damaged")
    chunks = dict(_chunks(content))
    color_type = content[25]
    if color_type in (0, 4):  # grey; OpenCV gives that with opacity as colours
        shade = values if values.ndim == 2 else values[..., 0]
        opacity = values[..., -1] if color_type == 4 else None
        if "tRNS" in chunks and opacity is None:
            (hidden,) = struct.unpack(">H", chunks["tRNS"])
            opacity = np.where(shade == hidden, 0, 65535).astype(values.dtype)
        values = shade[..., None] if opacity is None else np.stack([shade, opacity], axis=-1)
    else:
        values = values[..., [2, 1, 0, *range(3, values.shape[2])]]
    numbers = Numbers.of_type(values, "straight" if values.shape[-1] in (2, 4) else "")
    if "sBIT" in chunks:
        bits = max(chunks["sBIT"])
        if bits < 16 and not _is_shifted(values[..., : 1 if color_type in (0, 4) else 3], bits):
            numbers = numbers.stated(0, 2**bits - 1, f"sBIT {bits}")
    return numbers


def _is_shifted(values: np.ndarray, bits: int) -> bool:
    """Whether samples of so many bits stand in the upper ones of 16, as the PNG specification has it (11.3.2.3).

    Not all writers know; those that leave samples in the lower bits are told by what is in the bits that shifting
    leaves empty, or fills with the upper ones.
    """
    found = np.unique(values)
    empty = found & ((1 << (16 - bits)) - 1) == 0
    filled = found == (found >> (16 - bits) << (16 - bits)) | (found >> bits)
    return len(found) >= 8 and bool((empty | filled).all())


def _chunks(content: bytes) -> Iterator[Tuple[str, bytes]]:
    """The chunks of a PNG before its pixels."""
    place = len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind == b"IDAT":
            return
        yield kind.decode("latin-1"), content[place + 8 : place + 8 + length]
        place += 12 + length


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors pixels (H, W, ...) as the EXIF orientation, 1 to 8, says; other numbers say nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def check_finite(values: np.ndarray, name: Path) -> None:
    """Refuses what is no number.

    Raises:
        UserError: There are NaN or infinite values, or none.
    """
    if not values.size:
        raise UserError(f"image {name} holds no pixels")
    if values.dtype.kind not in "biuf":
        kind = "complex numbers" if values.dtype.kind == "c" else f"no numbers, but {values.dtype}"
        raise UserError(f"image {name} holds {kind}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        kind = "NaN" if np.isnan(values).any() else "infinite"
        raise UserError(f"image {name} holds {bad} values of {values.size} that are {kind}: mask or fill them first")
