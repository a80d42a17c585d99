"""Data sets in their public layouts, each with a class of its own in mmengine's registry."""

from .base import ImageDataset
from .cars import StanfordCars
from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .flowers import Flowers102
from .folder import ImageFolder

__all__ = ["CIFAR10", "CIFAR100", "Digits", "Flowers102", "ImageDataset", "ImageFolder", "StanfordCars"]
