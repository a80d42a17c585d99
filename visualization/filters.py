"""Spectral gates: what they do to each frequency, and the kernel that this is in space."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from spectral_backbones.backbones.mixers import SpectralGating

from .sheet import Curve, Map, Sheet, short

_COLUMNS = 6  # channels that are drawn where none are chosen
_BINS = 12
NYQUIST = 0.5  # cycles a token: the fastest that a grid can hold along an axis


class Filters(NamedTuple):
    """The learned filters of one layer.

    Attributes:
        layer: Its name.
        amplitude: By how much each frequency is multiplied, (C, H, W), with frequency 0 at [H // 2, W // 2].
        impulse: The kernel that the filter is in space, a circular one as large as the map, (C, H, W), with the token
            itself at [H // 2, W // 2].
        frequency: Distance of each place of `amplitude` from frequency 0, in cycles a token, (H, W).
    """

    layer: str
    amplitude: Tensor
    impulse: Tensor
    frequency: Tensor


class Radial(NamedTuple):
    """How a layer responds to frequencies, whatever their direction.

    Attributes:
        frequency: Middle of each ring, in cycles a token, (rings,).
        response: Mean amplitude of all channels in it, in multiples of the mean over the plane, (rings,).
        low_to_high: Mean response to waves of more than four tokens over that to shorter ones.
    """

    frequency: Tensor
    response: Tensor
    low_to_high: float

    @property
    def name(self) -> str:
        """What such a filter is called."""
        peak = float(self.response.max())
        if peak <= 1.35 * float(self.response.min()):
            return "all-pass"
        if max(float(self.response[0]), float(self.response[-1])) < 0.85 * peak:
            return "band-pass"
        return "low-pass" if self.low_to_high > 1 else "high-pass"


@torch.no_grad()
def filters(model: nn.Module, grid: Optional[Tuple[int, int]] = None) -> List[Filters]:
    """The filters of all spectral gates of a model, in its order.

    Args:
        model: Any.
        grid: Rows and columns of the map that the filters are for; each layer's own if None.
    """
    gates = [(name, module) for name, module in model.named_modules() if isinstance(module, SpectralGating)]
    return [filters_of(name, gate, grid or gate.grid_size) for name, gate in gates]


@torch.no_grad()
def filters_of(name: str, gate: SpectralGating, grid: Tuple[int, int]) -> Filters:
    """The filters of one gate for a map of a size."""
    height, width = grid
    half = torch.view_as_complex(gate.filter(height, width, torch.float32).cpu().contiguous())  # H W//2+1 C
    impulse = torch.fft.irfft2(half, s=(height, width), dim=(0, 1)).permute(2, 0, 1)  # C H W
    amplitude = torch.cat([half.abs(), _mirrored(half.abs(), width)], dim=1).permute(2, 0, 1)
    rows, cols = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    centred = (torch.fft.fftshift(part, dim=(-2, -1)) for part in (amplitude, impulse, torch.hypot(rows, cols)))
    return Filters(name, *centred)


def _mirrored(half: Tensor, width: int) -> Tensor:
    """The columns of negative frequencies, which a real kernel has the same amplitudes at: (H, (W - 1) // 2, C)."""
    columns = half[:, 1 : (width + 1) // 2].flip(1)
    return torch.cat([columns[:1], columns[1:].flip(0)])


def radial(layer: Filters) -> Radial:
    """The mean response of a layer over the distance from frequency 0."""
    mean = layer.amplitude.mean(0)
    response = mean / mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)
    most = float(layer.frequency.max())
    num_rings = max(1, min(_BINS, max(mean.shape) // 2 + 1))
    ring = (layer.frequency / max(most, 1e-9) * num_rings).long().clamp(max=num_rings - 1).flatten()
    counts = torch.bincount(ring, minlength=num_rings)
    means = torch.bincount(ring, response.flatten(), minlength=num_rings) / counts.clamp(min=1)
    middles = torch.bincount(ring, layer.frequency.flatten(), minlength=num_rings) / counts.clamp(min=1)
    low = layer.frequency <= NYQUIST / 2
    high = ~low if bool((~low).any()) else low
    return Radial(middles[counts > 0], means[counts > 0], float(response[low].mean() / response[high].mean()))


def typical_channels(layer: Filters, count: int = _COLUMNS) -> List[int]:
    """Channels from the one that favours low frequencies most to the one that favours high ones most, evenly."""
    weights = layer.amplitude.flatten(1)
    centre = (weights * layer.frequency.flatten()).sum(1) / weights.sum(1).clamp(min=torch.finfo(weights.dtype).tiny)
    order = centre.argsort(stable=True).tolist()
    return [order[round(place)] for place in np.linspace(0, len(order) - 1, min(count, len(order)))]


def draw(sheet: Sheet, layers: Sequence[Filters], channels: Optional[Sequence[int]] = None) -> None:
    """Draws the response of all layers over frequency, then each layer's mean and some of its channels: amplitudes
    above, kernels below.

    Args:
        sheet: To draw on.
        layers: At least one.
        channels: Which of them; by default some from low-pass to high-pass.
    """
    sheet.heading(
        "Spectral gates",
        "A gate multiplies each frequency of its map by a learned number, in each channel by its own. Slow "
        "changes, from one side of the picture to the other, are in the middle of a plane, fine detail at its "
        "edges. A layer that keeps the middle is low-pass: it smooths and gathers from afar. One that keeps the "
        "edges is high-pass: it sharpens. One that keeps a ring between them is band-pass. What comes out of a "
        "gate is added to the map.",
    )
    responses = {layer.layer: radial(layer) for layer in layers}
    curves = {
        f"{short(name)}  {response.name}": (response.frequency, response.response)
        for name, response in responses.items()
    }
    sheet.curves(
        [
            Curve(
                "mean response of all channels",
                curves,
                x="frequency (cycles a token)",
                y="response / mean over the plane",
                level=1.0,
            ),
            Curve(
                "what each layer favours",
                {"": (range(len(responses)), [response.low_to_high for response in responses.values()])},
                x="spectral layer, from the first to the last",
                y="low / high frequencies",
                level=1.0,
                whole=True,
            ),
        ]
    )
    _draw_means(sheet, layers)
    for layer in layers:
        shown = typical_channels(layer) if channels is None else list(channels)
        height, width = layer.frequency.shape
        title = (
            f"{layer.layer}: {responses[layer.layer].name}, {len(layer.amplitude)} channels on {height}x{width} tokens"
        )
        sheet.maps(
            title if channels is not None else f"{title}; some, from low-pass to high-pass",
            [Map(f"channel {channel}", layer.amplitude[channel]) for channel in shown],
            label="amplitude",
            log=True,
            axes="frequency",
        )
        sheet.maps(
            None,
            [Map(f"kernel of {channel}", _relative(layer.impulse[channel])) for channel in shown],
            label="kernel / its largest",
            signed=True,
        )


def _draw_means(sheet: Sheet, layers: Sequence[Filters]) -> None:
    """Draws the means of all channels, layer by layer."""
    amplitudes = [Map(short(layer.layer), _times_mean(layer.amplitude.mean(0))) for layer in layers]
    kernels = [Map(short(layer.layer), _times_mean(layer.impulse.abs().mean(0))) for layer in layers]
    sheet.maps(
        "mean amplitude of all channels: which frequencies a layer keeps",
        amplitudes,
        label="times the layer's mean",
        log=True,
        axes="frequency",
    )
    sheet.maps(
        "mean size of all kernels: from how far around a token, in the middle, a layer gathers",
        kernels,
        label="times the layer's mean",
        log=True,
    )


def _times_mean(values: Tensor) -> Tensor:
    return values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)


def _relative(kernel: Tensor) -> Tensor:
    return kernel / kernel.abs().max().clamp(min=torch.finfo(kernel.dtype).tiny)
