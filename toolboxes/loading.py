"""Pictures for mmdet and mmseg, read as those of all tasks are."""

from typing import Any, Dict, Optional, Sequence, Union

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from spectral_backbones.engine import images
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.numbers import orientation, turn

_IGNORE = "_ignore_orientation"


@TRANSFORMS.register_module()
class LoadUprightImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, that reads every picture as `engine.images.read_image` does: more than eight bits are
    scaled by the range that the file states, what is transparent lies on a background, orientation is heeded in every
    format. Of eight bits without opacity it gives what mmcv gives. `engine.config.complete` puts it in its place.

    With color_type "unchanged", or the backend "tifffile", nothing is done to the numbers, as in mmcv.

    Args:
        background: Red, green and blue, 0 to 255, of what lies under transparent pixels.
        **kwargs: Arguments of LoadImageFromFile.
    """

    def __init__(self, background: Sequence[int] = images.WHITE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.background = images.check_colour(background)

    def transform(self, results: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Reads `img_path`.

        Returns:
            The results with `img` (H, W, 3), blue first, or (H, W) of grey, `img_shape` and `ori_shape`; None where it
            cannot be read and `ignore_empty` is set.

        Raises:
            UserError: It cannot be read; the message names the file.
        """
        path = results["img_path"]
        try:
            pixels = self._pixels(self._content(path), path)
        except (UserError, OSError):
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            pixels = pixels.astype(np.float32)
        results.update(img=pixels, img_shape=pixels.shape[:2], ori_shape=pixels.shape[:2])
        return results

    def displayed(self, pixels: np.ndarray) -> np.ndarray:
        """Makes red, green and blue (H, W, 3), 0 to 255, of what it has loaded."""
        return images.displayed(pixels)

    def _content(self, path: str) -> bytes:
        if self.file_client_args is not None:
            content = fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        else:
            content = fileio.get(path, backend_args=self.backend_args)
        return images.check_content(content, path)

    def _pixels(self, content: bytes, path: str) -> np.ndarray:
        if self.color_type == "unchanged" or self.imdecode_backend == "tifffile":
            return self._decoded(content, path, self.color_type)
        upright = not self.color_type.endswith(_IGNORE)
        color_type = self.color_type.removesuffix(_IGNORE)
        image = images.open_image(content, path)
        if images.is_plain(image, content):
            # turbojpeg knows no such flags, and never turns.
            flag = color_type if self.imdecode_backend == "turbojpeg" else color_type + _IGNORE
            pixels = self._decoded(content, path, flag)
            return np.ascontiguousarray(turn(pixels, orientation(image))) if upright else pixels
        picture = images.decode_image(content, path, self.background, upright)
        if color_type == "grayscale":
            return np.array(picture.convert("L"))
        return cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)

    def _decoded(self, content: bytes, path: str, flag: str) -> np.ndarray:
        pixels = mmcv.imfrombytes(content, flag=flag, backend=self.imdecode_backend)
        if pixels is None:
            raise images.damaged(path, f"by {self.imdecode_backend}")
        return pixels

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, background={self.background})"


@TRANSFORMS.register_module()
class LoadBands(BaseTransform):
    """Loads the numbers of pictures of any number of bands, by `engine.images.read_bands`, and divides them.

    Args:
        bands: How many bands the files have; None takes what there are, where a file tells which of its sides holds
            them.
        chosen: Which of them are taken, from 0, in this order; None takes all. A number takes so many, evenly spaced
            from the first to the last.
        divisor: What the numbers are divided by, one for all or one for each band that is taken;
            `spectral measure-channels --divisor` finds one.
        dtype: The type of numbers that the files hold, such as "uint16"; None takes that of the first that is read.
        view: Which of the bands taken are shown to people as red, green and blue, or the one that is shown in grey;
            None takes three evenly spaced, the last as red, for wavelengths rise.

    Raises:
        UserError: An argument is none of these.
    """

    def __init__(
        self,
        bands: Optional[int] = None,
        chosen: Union[int, Sequence[int], None] = None,
        divisor: Union[float, Sequence[float]] = 1.0,
        dtype: Optional[str] = None,
        view: Optional[Sequence[int]] = None,
    ) -> None:
        if bands is not None and (not isinstance(bands, int) or bands < 1):
            raise UserError(f"LoadBands.bands is {bands!r}: it has to be a number of bands, or None")
        self.bands = bands
        self.chosen = _chosen(chosen, bands)
        try:
            self.divisor = np.asarray(divisor, dtype=np.float64)
        except (TypeError, ValueError):
            self.divisor = np.array(np.nan)
        if self.divisor.ndim > 1 or not self.divisor.size or not (np.isfinite(self.divisor) & (self.divisor > 0)).all():
            raise UserError(f"LoadBands.divisor is {divisor!r}: it has to be a number above 0, or one for each band")
        taken = bands if self.chosen is None else self.chosen if isinstance(self.chosen, int) else len(self.chosen)
        if self.divisor.ndim and taken is not None and len(self.divisor) != taken:
            raise UserError(f"LoadBands.divisor has {len(self.divisor)} numbers for {taken} bands that are taken")
        try:
            self.first = None if dtype is None else (np.dtype(dtype).newbyteorder("="), "LoadBands.dtype")
        except TypeError as error:
            raise UserError(f"LoadBands.dtype is {dtype!r}, which is no type of NumPy's such as 'uint16'") from error
        is_list = isinstance(view, (list, tuple))
        if view is not None and not (is_list and len(view) in (1, 3) and _are_bands(view, taken)):
            raise UserError(f"LoadBands.view is {view!r}: it has to be one or three of {taken or 'the'} bands, from 0")
        self.view = None if view is None else list(view)

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Reads `img_path`.

        Returns:
            The results with `img` (H, W, bands) in float32, `img_shape`, `ori_shape` and `scale_factor` (1, 1).

        Raises:
            UserError: It cannot be read, holds NaN, or differs from what is expected in bands, type or size; the
                message names the file.
        """
        path = results["img_path"]
        values = images.read_bands(path, self.bands, "LoadBands.bands")
        self._check_type(values.dtype, path)
        height, width = values.shape[:2]
        said = (results.get("height", height), results.get("width", width))
        if said != (height, width):
            raise UserError(
                f"image {path} is {width}x{height} pixels (width x height), its annotations say {said[1]}x{said[0]}"
            )
        if self.chosen is not None:
            values = values[..., self._places(values.shape[-1], path)]
        if self.divisor.ndim and len(self.divisor) != values.shape[-1]:
            raise UserError(f"image {path} gives {values.shape[-1]} bands, LoadBands.divisor has {len(self.divisor)}")
        pixels = np.ascontiguousarray(values / self.divisor, dtype=np.float32)
        results.update(img=pixels, img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        return results

    def displayed(self, pixels: np.ndarray) -> np.ndarray:
        """Makes red, green and blue (H, W, 3), 0 to 255, of what it has loaded: three bands, or one in grey."""
        count = pixels.shape[-1]
        view = self.view or ([0] if count < 3 else _spaced(3, count)[::-1])
        shown = np.asarray(images.preview(pixels[..., view], left_out=1.0))
        return np.ascontiguousarray(shown.reshape(*shown.shape[:2], -1).repeat(1 if shown.ndim == 3 else 3, axis=-1))

    def _check_type(self, dtype: np.dtype, path: str) -> None:
        if self.first is None:
            self.first = (dtype, path)
        known, source = self.first
        if dtype != known:
            raise UserError(
                f"image {path} holds {dtype} numbers, {source} {'holds' if source != 'LoadBands.dtype' else 'is'} "
                f"{known}: what is divided by one divisor has to be of one type"
            )

    def _places(self, count: int, path: str) -> Sequence[int]:
        places = _spaced(self.chosen, count) if isinstance(self.chosen, int) else self.chosen
        if not _are_bands(places, count) or len(places) > count:
            raise UserError(f"image {path} has {images.say_bands(count)}, LoadBands.chosen takes {self.chosen}")
        return places


def _chosen(chosen: Union[int, Sequence[int], None], bands: Optional[int]) -> Union[int, Sequence[int], None]:
    """Checks a choice of bands; a number of them becomes their places where it is known of how many."""
    if chosen is None:
        return None
    if isinstance(chosen, int):
        if chosen < 1 or (bands is not None and chosen > bands):
            raise UserError(f"LoadBands.chosen is {chosen}, of {bands if bands is not None else 'any'} bands")
        return chosen if bands is None else _spaced(chosen, bands)
    if not isinstance(chosen, (list, tuple)) or not chosen or not _are_bands(chosen, bands):
        last = "" if bands is None else f" to {bands - 1}"
        raise UserError(f"LoadBands.chosen is {chosen!r}: it has to be a number of bands, or places from 0{last}")
    return list(chosen)


def _are_bands(places: Sequence[int], count: Optional[int]) -> bool:
    return all(isinstance(place, int) and 0 <= place < (count or place + 1) for place in places)


def _spaced(number: int, count: int) -> Sequence[int]:
    """So many places from the first to the last of `count`; one is that in the middle."""
    return [count // 2] if number == 1 else np.linspace(0, count - 1, number).round().astype(int).tolist()
