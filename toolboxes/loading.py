"""Pictures for mmdet and mmseg, read as those of all tasks are."""

from typing import Any, Dict, Optional, Sequence

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
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
