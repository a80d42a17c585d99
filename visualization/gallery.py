"""All kinds of pictures of one model: which of them it has, and the sheets that hold them."""

import fnmatch
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from PIL import Image
from torch import nn

from . import activation, attention, filters, positional, receptive_field, sampled, significance, tokens
from .photo import Photo
from .recording import Recording, record
from .sheet import Panel, Sheet, some_of
from .subject import Subject
from .wish import Wish, WishError

KINDS = {
    "filters": "spectral gates: amplitudes, kernels, and the mean response of each layer",
    "attention": "what heads and single tokens attend to",
    "rollout": "attention through all layers",
    "gates": "ConViT's gates, and its attention by position",
    "points": "DAT's sampled points, their weights and offsets",
    "groups": "SG-Former's significance, and the groups that tokens are merged into",
    "features": "tokens as colours, by their main directions",
    "cam": "class activation, by pytorch-grad-cam",
    "receptive-field": "what the token in the middle depends on",
    "depth": "how alike tokens become",
}
_FIELDS = 4  # receptive fields of a model that has many maps


@dataclass
class Look:
    """What a model does with one picture; each part is computed when it is first asked for."""

    subject: Subject
    photo: Photo
    wish: Wish = field(default_factory=Wish)

    @cached_property
    def recording(self) -> Recording:
        """Of one run."""
        return record(self.subject.model, self.photo.x)

    @cached_property
    def layers(self) -> Dict[str, Sequence[Any]]:
        """What there is of each kind that layers have, of all of them."""
        recording, modules = self.recording, dict(self.subject.trunk.named_modules())
        return {
            "filters": filters.filters(self.subject.trunk),
            "attention": recording.attention,
            "gates": positional.gates(modules, recording.inputs),
            "points": sampled.sampled(modules, recording.inputs, self.photo.image),
            "groups": significance.merged(modules, recording.inputs),
        }

    def of(self, kind: str) -> List[Any]:
        """What there is of a kind, of the layers that were wished."""
        return chosen(self.layers[kind], self.wish.layers)

    @property
    def rollouts(self) -> List[List[attention.Attention]]:
        """Layers that a rollout goes through."""
        return attention.rolled_together(self.of("attention"))

    @cached_property
    @torch.no_grad()
    def features(self) -> Dict[str, torch.Tensor]:
        """Feature maps (H, W, C)."""
        return {name: each[0].float() for name, each in self.subject.features(self.photo.x).items()}

    @cached_property
    def fields(self) -> List[receptive_field.ReceptiveField]:
        """Receptive fields of some maps."""
        names = some_of(list(self.features), _FIELDS)

        def maps(x: torch.Tensor) -> List[torch.Tensor]:
            found = self.subject.features(x)
            return [found[name] for name in names]

        return receptive_field.receptive_fields(maps, self.photo.x, names)

    @cached_property
    def cam_method(self) -> str:
        """The method of class activation."""
        without = activation.WITHOUT_CLASS
        method = self.wish.cam_method or ("gradcam" if self.subject.has_classes else without)
        if method != without and not self.subject.has_classes:
            raise WishError(
                f"--cam-method {method} needs a classifier, {self.subject.name} is none: {without} does not"
            )
        return method

    @cached_property
    @torch.no_grad()
    def activation_layers(self) -> Dict[str, nn.Module]:
        """Those of the subject that give a map of this picture too."""
        layers, outputs = self.subject.activation_layers(), {}
        with ExitStack() as stack:
            for name, module in layers.items():
                hook = module.register_forward_hook(lambda _, args, output, name=name: outputs.update({name: output}))
                stack.callback(hook.remove)
            if layers:
                self.subject.model(self.photo.x)
        image = self.photo.image
        return {name: layers[name] for name, each in outputs.items() if self.subject.to_map(each, image) is not None}

    @cached_property
    def activations(self) -> List[activation.Activation]:
        """Class activation."""
        return activation.activations(
            self.subject.model,
            self.photo.x,
            self.activation_layers,
            lambda output: self.subject.to_map(output, self.photo.image),
            self.cam_method,
            self.wish.label,
            self.subject.class_name,
        )

    def kinds(self) -> List[str]:
        """Kinds of pictures that this model has, whatever was wished."""
        has = {kind: bool(items) for kind, items in self.layers.items()}
        has["rollout"] = bool(attention.rolled_together(self.layers["attention"]))
        has["features"] = has["receptive-field"] = bool(self.features)
        has["cam"] = bool(self.activation_layers)
        has["depth"] = len(self.recording.blocks) > 1
        return [kind for kind in KINDS if has[kind]]

    def scores(self, count: int = 3) -> str:
        """The most probable classes."""
        if not self.subject.has_classes or self.subject.is_random:
            return ""
        with torch.no_grad():
            shares = self.subject.model(self.photo.x)[0].softmax(-1)
        values, places = shares.topk(min(count, len(shares)))
        said = [
            f"{self.subject.class_name(place)} ({100 * value:.0f} %)"
            for value, place in zip(values.tolist(), places.tolist())
        ]
        return ", ".join(said)


def chosen(items: Sequence[Any], layers: Optional[Sequence[str]]) -> List[Any]:
    """Those of some layers: by number, also from the end, by name, by the beginning of it, or by a pattern."""
    if layers is None:
        return list(items)
    names = list(dict.fromkeys(item.layer for item in items))
    picked = set()
    for wanted in layers:
        if wanted.lstrip("-").isdecimal():
            place = int(wanted)
            picked |= {names[place]} if -len(names) <= place < len(names) else set()
        picked |= {
            name for name in names if name == wanted or name.startswith(f"{wanted}.") or fnmatch.fnmatch(name, wanted)
        }
    return [item for item in items if item.layer in picked]


def kinds_to_draw(look: Look) -> List[str]:
    """The kinds that were wished, or all that the model has.

    Raises:
        WishError: One is unknown, or the model does not have it.
    """
    has = look.kinds()
    wish = look.wish.what
    if wish is None:
        if "cam" in has and find_spec("pytorch_grad_cam") is None:
            print("class activation is left out: pip install 'spectral-backbones[visualize]'")
            has.remove("cam")
        return has
    for kind in wish:
        if kind not in has:
            unknown = "is no kind of picture" if kind not in KINDS else f"is nothing that {look.subject.name} has"
            listed = "\n".join(f"  {name:<16} {KINDS[name]}" for name in has)
            raise WishError(f"--what {kind} {unknown}; it has\n{listed}")
    return list(dict.fromkeys(wish))


def check_layers(look: Look, kinds: Sequence[str]) -> None:
    """Sees that the layers that were wished are there.

    Raises:
        WishError: No picture is of one of them.
    """
    if look.wish.layers is None:
        return
    kinds = list(kinds)
    of_layers = dict.fromkeys("attention" if kind == "rollout" else kind for kind in kinds)
    items = [item for kind in of_layers for item in look.layers.get(kind, ())]
    names = list(dict.fromkeys(item.layer for item in items))
    if not names:
        raise WishError(f"--layer chooses among layers, and {', '.join(kinds)} of {look.subject.name} have none")
    for wanted in look.wish.layers:
        if not chosen(items, [wanted]):
            listed = "\n".join(f"  {number:>3}  {name}" for number, name in enumerate(names))
            raise WishError(f"--layer {wanted} is no layer of {look.subject.name} with a picture; there are\n{listed}")


def model_sheet(subject: Subject, wish: Wish) -> Sheet:
    """The pictures that are the same whatever the model looks at.

    Raises:
        WishError: A channel is not there.
    """
    layers = chosen(filters.filters(subject.trunk), wish.layers)
    sheet = Sheet(subject.title)
    if not layers:
        return sheet
    least = min(len(layer.amplitude) for layer in layers)
    if wrong := [channel for channel in wish.channels or () if not 0 <= channel < least]:
        raise WishError(f"--channels are from 0 to {least - 1} in the narrowest spectral layer, got {wrong[0]}")
    filters.draw(sheet, layers, wish.channels)
    return sheet


def picture_sheet(look: Look, kinds: Sequence[str]) -> Sheet:
    """The pictures of what a model does with a photo."""
    photo, every = look.photo, look.wish.layers is not None
    width, height = photo.full_size
    note = f"{photo.path.name}, {width}x{height} pixels; the model sees {photo.image[1]}x{photo.image[0]}"
    if photo.is_squeezed:
        note += ", squeezed"
    scores = look.scores()
    sheet = Sheet(look.subject.title, note + (f"; it says: {scores}" if scores else ""))
    aspect = photo.shown.shape[0] / photo.shown.shape[1]
    panels = [Panel("as it is", _image(photo.shown)), Panel("as the model sees it", _image(_seen(look)))]
    sheet.panels(None, panels, aspect, large=True)
    draw: Dict[str, Callable[[], None]] = {
        "attention": lambda: attention.draw(sheet, photo, look.of("attention"), every),
        "rollout": lambda: attention.draw_rollout(sheet, photo, look.rollouts),
        "gates": lambda: positional.draw(sheet, photo, look.layers["gates"], look.of("gates")),
        "points": lambda: sampled.draw(sheet, photo, look.of("points"), every),
        "groups": lambda: significance.draw(sheet, photo, look.of("groups"), every),
        "features": lambda: tokens.draw(sheet, photo, look.features, "map"),
        "cam": lambda: activation.draw(sheet, photo, look.activations, look.cam_method),
        "receptive-field": lambda: receptive_field.draw(sheet, photo, look.fields),
        "depth": lambda: tokens.draw_depth(sheet, look.recording.blocks),
    }
    for kind in kinds:
        is_left = look.rollouts if kind == "rollout" else look.of(kind) if kind in look.layers else True
        if kind in draw and is_left:
            draw[kind]()
        if kind == "attention" and look.recording.unplaced:
            unplaced = look.recording.unplaced
            more = f" and {len(unplaced) - 2} more" if len(unplaced) > 2 else ""
            sheet.note_line(f"Not drawn, since it is not known where their tokens are: {', '.join(unplaced[:2])}{more}")
    return sheet


def contact_sheet(subject: Subject, cards: Sequence["Card"]) -> Sheet:
    """Many pictures on one sheet, each beside what tells most about it."""
    sheet = Sheet(
        subject.title, f"{len(cards)} pictures; each beside its features as colours, and what the model looks at"
    )
    panels = [panel for card in cards for panel in card.panels]
    sheet.panels(None, panels, 1.0, together=min(len(card.panels) for card in cards))
    return sheet


@dataclass
class Card:
    """One picture of a contact sheet; it keeps small pictures alone."""

    panels: List[Panel]

    @classmethod
    def of(cls, look: Look, kinds: Sequence[str]) -> "Card":
        """The card of a picture, with as many panels whatever was wished."""
        photo = look.photo
        panels = [Panel(photo.path.name, _fitted(photo.shown))]
        if look.features:
            last = list(look.features.values())[-1]
            panels.append(Panel("features", _fitted(tokens.pca_colours(last).numpy(), photo)))
        if "cam" in kinds and look.activations:
            panels.append(Panel(look.activations[-1].what, _fitted(_heated(photo, look.activations[-1].values), photo)))
        elif look.of("attention"):
            shown, _ = look.of("attention")[-1].shown()
            panels.append(Panel(look.of("attention")[-1].layer, _fitted(_heated(photo, shown.mean(0).numpy()), photo)))
        return cls(panels)


def _seen(look: Look) -> np.ndarray:
    """What the model is given, for people, (H, W, 3)."""
    preparation, x = look.subject.preparation, look.photo.x[0]
    if preparation.numbers:
        x = x - x.amin((1, 2), keepdim=True)
        x = x / x.amax((1, 2), keepdim=True).clamp(min=1e-12)
    else:
        mean, std = (torch.tensor(list(part)).view(-1, 1, 1) for part in (preparation.mean, preparation.std))
        x = (x * std + mean).clamp(0, 1)
    x = x.flip(0) if preparation.bgr else x
    return (x[:3] if len(x) >= 3 else x[:1].expand(3, -1, -1)).permute(1, 2, 0).numpy()


def _heated(photo: Photo, values: np.ndarray) -> np.ndarray:
    height, width = photo.shown.shape[:2]
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    shares = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    large = np.asarray(Image.fromarray(shares).resize((width, height), Image.Resampling.NEAREST))
    return 0.62 * colormaps["inferno"](large)[..., :3] + 0.38 * photo.shown.mean(-1, keepdims=True)


def _image(values: np.ndarray) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.imshow(values, aspect="auto", interpolation="antialiased" if max(values.shape[:2]) > 64 else "nearest")

    return draw


def _fitted(values: np.ndarray, photo: Optional[Photo] = None) -> Callable[[Axes], None]:
    """Draws an image in its own proportions into a square."""
    height, width = (values if photo is None else photo.shown).shape[:2]

    def draw(axes: Axes) -> None:
        axes.imshow(
            values,
            extent=(0, width, height, 0),
            interpolation="nearest" if max(values.shape[:2]) < 64 else "antialiased",
        )
        side = max(height, width)
        axes.set_xlim((width - side) / 2, (width + side) / 2)
        axes.set_ylim((height + side) / 2, (height - side) / 2)
        axes.set_aspect("equal")
        axes.spines[:].set_visible(False)

    return draw
