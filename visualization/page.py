"""One page of HTML that holds all pictures, in which a person picks layers, heads and channels and points at tokens."""

import base64
import io
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from . import filters
from .attention import CLASS_TOKEN, Attention
from .gallery import Look, chosen
from .subject import Subject
from .wish import Wish

LARGEST = 20_000_000  # bytes of the page
# Shares of it, before base64 makes four bytes of three: the rest is for the page itself.
_FOR_WEIGHTS, _FOR_FEATURES, _FOR_SHEETS, _FOR_PHOTOS, _FOR_FILTERS = 0.38, 0.08, 0.12, 0.04, 0.1
_FOR_PAGE = 0.25  # spectral gates as well, and the code
_FORMS = ((1200, 82), (1200, 65), (900, 60), (700, 50), (500, 40))  # width in pixels and JPEG's quality
_TEMPLATE = Path(__file__).with_name("page.html")


class Book:
    """The page while it is put together.

    Args:
        title: Of the model.
        share: Of the page for each picture.

    Attributes:
        left: Bytes that are left for pictures.
        left_out: Pictures that there was no room for.
    """

    def __init__(self, title: str, share: float = 1.0) -> None:
        self.share = share
        self.left = LARGEST * (1 - _FOR_PAGE)
        self.left_out = 0
        self.data: Dict[str, Any] = {
            "title": title,
            "pictures": [],
            "filters": [],
            "filterSheet": None,
            "colours": {name: _table(name) for name in ("inferno", "viridis", "RdBu_r")},
        }

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing on it."""
        return not self.data["pictures"] and not self.data["filters"]

    def add_model(self, subject: Subject, wish: Wish, sheet: Path) -> None:
        """Adds what is the same for all pictures: spectral gates."""
        layers = chosen(filters.filters(subject.trunk), wish.layers)
        allowance = LARGEST * _FOR_FILTERS / max(len(layers), 1)
        self.data["filters"] = [_filters(layer, wish.channels, allowance) for layer in layers]
        self.data["filterSheet"] = _sheet(sheet, LARGEST * _FOR_SHEETS / 2)

    def add_picture(self, look: Look, kinds: Sequence[str], sheet: Path) -> None:
        """Adds what a model does with a photo."""
        layers: List[Dict[str, Any]] = []
        attention: List[Attention] = []
        if "attention" in kinds:
            attention += look.of("attention")
        if "points" in kinds:
            attention += [each for layer in look.of("points") for each in layer.attention]
        allowance = LARGEST * _FOR_WEIGHTS * self.share / max(len(attention), 1)
        layers += [_attention(each, allowance) for each in attention]
        if "features" in kinds:
            allowance = LARGEST * _FOR_FEATURES * self.share / max(len(look.features), 1)
            features = (_features(name, each, allowance) for name, each in look.features.items())
            layers += [each for each in features if each is not None]
        photo = look.photo
        shown = Image.fromarray((255 * photo.shown).round().astype(np.uint8))
        picture = {
            "name": photo.path.name,
            "photo": _smaller(shown, LARGEST * _FOR_PHOTOS * self.share) or _jpeg(shown.resize((64, 64)), 40),
            "said": look.scores(),
            "size": f"{photo.image[1]}x{photo.image[0]}",
            "sheet": _sheet(sheet, LARGEST * _FOR_SHEETS * self.share),
            "layers": layers,
        }
        self.left -= len(json.dumps(picture))
        if self.left > 0:
            self.data["pictures"].append(picture)
        else:  # of hundreds of pictures even the little that each needs is too much
            self.left_out += 1

    def save(self, path: Path) -> Path:
        """Writes the page.

        Raises:
            ValueError: It would be larger than LARGEST.
        """
        data = json.dumps(self.data, separators=(",", ":")).replace("</", "<\\/")
        text = _TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", data)
        content = text.encode()
        if len(content) > LARGEST:
            raise ValueError(f"the page has {len(content)} bytes, more than {LARGEST}")
        path.write_bytes(content)
        return path


def _attention(layer: Attention, allowance: float) -> Dict[str, Any]:
    """Weights in a byte each, of all queries or, where they are many, of some that stand for their neighbours.

    Of a row, the query's number in `rows` and its weights in `weights` belong to the keys `keys[group]`; a weight is
    its byte / 255 times `tops`, in multiples of an even share.
    """
    step = 1
    while True:
        kept, stands_for = _kept(layer, step)
        if len(kept) * layer.num_heads * layer.keys.shape[1] <= allowance or step >= max(layer.query_grid):
            break
        step += 1
    groups, places = kept[:, 0], kept[:, 1]
    counts = (layer.keys != -1).sum(1)
    weights = layer.weights[groups, :, places] * counts[groups, None, None]  # rows heads keys
    tops = weights.amax(-1)
    quantised = (weights / tops.clamp(min=1e-12)[..., None] * 255).round()
    shown, what = layer.shown()
    class_row = [row for row, (group, place) in enumerate(kept.tolist()) if layer.queries[group, place] == CLASS_TOKEN]
    return {
        "type": "attention",
        "name": f"{layer.layer}: {layer.kind}",
        "layer": layer.layer,
        "heads": layer.num_heads,
        "queryGrid": list(layer.query_grid),
        "keyGrid": list(layer.key_grid),
        "what": what,
        "shown": _floats(shown),
        "rowOf": _numbers(stands_for, np.int32),
        "groupOf": _numbers(groups, np.int32),
        "classRow": class_row[0] if class_row else -1,
        "numKeys": layer.keys.shape[1],
        "keys": _numbers(layer.keys, np.int32),
        "weights": _numbers(quantised, np.uint8),
        "tops": _floats(tops),
        "step": step,
    }


def _kept(layer: Attention, step: int) -> Tuple[Tensor, Tensor]:
    """The queries that are kept, (rows, 2) as group and place in it, and the row that stands for each cell, or -1."""
    height, width = layer.query_grid
    stands_for = torch.full((height * width,), -1, dtype=torch.long)
    kept: List[Tuple[int, int]] = []
    for group, queries in enumerate(layer.queries):
        for place in (queries == CLASS_TOKEN).nonzero().flatten().tolist()[:1]:
            kept.append((group, place))
        places = (queries >= 0).nonzero().flatten()
        if len(places) == 0:
            continue
        cells = queries[places]
        rows, cols = cells // width, cells % width
        is_kept = ((rows - rows.min()) % step == 0) & ((cols - cols.min()) % step == 0)
        of_kept = is_kept.nonzero().flatten()
        if step == 1:
            nearest = torch.arange(len(places))
        else:
            distance = (rows[:, None] - rows[of_kept]).square() + (cols[:, None] - cols[of_kept]).square()
            nearest = distance.argmin(1)
        stands_for[cells] = nearest + len(kept)
        kept += [(group, place) for place in places[of_kept].tolist()]
    return torch.tensor(kept), stands_for


def _features(name: str, tokens: Tensor, allowance: float) -> Optional[Dict[str, Any]]:
    """Tokens as directions, a byte for each channel, so that the page can compare them; None if they are too many."""
    if tokens.numel() > allowance:
        return None
    unit = tokens.flatten(0, 1).float()
    unit = torch.nn.functional.normalize(unit - unit.mean(0), dim=1)
    top = float(unit.abs().max().clamp(min=1e-12))
    return {
        "type": "features",
        "name": f"{name}: likeness of features",
        "layer": name,
        "heads": 0,
        "queryGrid": list(tokens.shape[:2]),
        "keyGrid": list(tokens.shape[:2]),
        "what": "point at a token to see which others are like it",
        "top": top,
        "dim": tokens.shape[2],
        "tokens": _numbers((unit / top * 127).round(), np.int8),
    }


def _filters(layer: filters.Filters, wished: Optional[Sequence[int]], allowance: float) -> Dict[str, Any]:
    """Amplitudes in the logarithm and kernels, a byte for each place, of as many channels as there is room for."""
    channels, height, width = layer.amplitude.shape
    room = max(1, int(allowance / (2 * height * width)))
    order = list(range(channels)) if wished is None else list(wished)
    picked = order if len(order) <= room else [order[int(place)] for place in np.linspace(0, len(order) - 1, room)]
    amplitude = layer.amplitude[picked].clamp(min=1e-12).log10()
    high = amplitude.amax((1, 2))
    low = torch.maximum(amplitude.amin((1, 2)), high - 3)
    scaled = ((amplitude - low[:, None, None]) / (high - low).clamp(min=1e-6)[:, None, None]).clamp(0, 1) * 255
    kernel = layer.impulse[picked]
    tops = kernel.abs().amax((1, 2)).clamp(min=1e-12)
    response = filters.radial(layer)
    return {
        "layer": layer.layer,
        "kind": response.name,
        "grid": [height, width],
        "channels": [int(channel) for channel in picked],
        "total": channels,
        "amplitude": _numbers(scaled.round(), np.uint8),
        "low": [round(float(10**value), 6) for value in low],
        "high": [round(float(10**value), 6) for value in high],
        "kernel": _numbers((kernel / tops[:, None, None] * 127).round(), np.int8),
        "tops": [float(f"{value:.4g}") for value in tops.tolist()],
    }


def _numbers(values: Any, dtype: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(np.asarray(values), dtype=dtype).tobytes()).decode()


def _floats(values: Tensor) -> str:
    return _numbers(values.float().numpy(), np.float32)


def _jpeg(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sheet(path: Path, allowance: float) -> Optional[str]:
    """A sheet as an image of the page, as large as there is room for; None if there is none."""
    with Image.open(path) as image:
        return _smaller(image.convert("RGB"), allowance)


def _smaller(image: Image.Image, allowance: float) -> Optional[str]:
    """An image as large as there is room for; None if there is none."""
    for width, quality in _FORMS:
        scale = min(1.0, width / image.width)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        encoded = _jpeg(image.resize(size, Image.Resampling.LANCZOS), quality)
        if len(encoded) <= allowance:
            return encoded
    return None


def _table(name: str) -> List[int]:
    """Red, green and blue of 256 steps of a colour map."""
    return (255 * colormaps[name](np.arange(256))[:, :3]).round().astype(int).ravel().tolist()
