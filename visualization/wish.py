"""What is asked for."""

from dataclasses import dataclass
from typing import Optional, Sequence

from spectral_backbones.engine import UserError


class WishError(UserError):
    """Something is asked for that the model does not have, whatever the picture."""


@dataclass
class Wish:
    """What is drawn.

    Attributes:
        what: Kinds of pictures; all that the model has if None.
        layers: Names, numbers or patterns of layers; all if None.
        channels: Of spectral gates; some by default.
        cam_method: One of `activation.METHODS`.
        label: Class of the activation; the most probable one by default.
    """

    what: Optional[Sequence[str]] = None
    layers: Optional[Sequence[str]] = None
    channels: Optional[Sequence[int]] = None
    cam_method: Optional[str] = None
    label: Optional[int] = None
