"""Types of command-line arguments that several tools take; argparse turns their errors into messages."""

import argparse
import difflib

import timm


def model_name(text: str) -> str:
    """A name that timm.create_model knows."""
    if not timm.is_model(text):
        near = difflib.get_close_matches(text, timm.list_models(), n=5)
        raise argparse.ArgumentTypeError(
            f"unknown model {text!r}" + (f", did you mean {', '.join(near)}?" if near else ", see timm.list_models()")
        )
    return text


def image_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of "384" or "384x512"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"size is {text!r}, allowed are N and HxW in pixels, as 224 or 384x512")
    return int(sides[0]), int(sides[-1])


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
