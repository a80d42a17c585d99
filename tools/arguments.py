"""Types of command-line arguments that several tools take; argparse turns their errors into messages."""

import argparse
import ast
import difflib
import re
from typing import Any, List, Sequence

import timm

from spectral_backbones import volumes


def model_name(text: str) -> str:
    """A name that timm.create_model knows."""
    if text in volumes.list_models():
        raise argparse.ArgumentTypeError(f"{text} is a network of volumes, models of images are meant")
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


def volume_size(text: str) -> tuple[int, int, int]:
    """Depth, height and width in voxels of "64" or "64x128x128"."""
    sides = text.lower().split("x")
    if len(sides) not in (1, 3) or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"size is {text!r}, allowed are N and DxHxW in voxels, as 64x128x128")
    return int(sides[0]), int(sides[len(sides) // 2]), int(sides[-1])


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


class ConfigOptions(argparse.Action):
    """Reads values of a config, as `key.key=value`, into a dict by dotted key.

    A value is written as in a config file: any Python literal, `dict(...)` too. What mmengine's own DictAction takes is
    taken as well: words without quotes, and lists of them as `a,b` or `[a,b]`; `true` and `false`.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        """Adds the values to those of an earlier occurrence."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, sign, value = text.partition("=")
            if not (sign and key):
                parser.error(f"{self.option_strings[0]} takes key.key=value, got {text!r}")
            try:
                options[key] = config_value(value)
            except ValueError as error:
                parser.error(f"{self.option_strings[0]} {key}: {error}")
        setattr(namespace, self.dest, options)


_OPEN, _CLOSE = "([{", ")]}"


def config_value(text: str) -> Any:
    """Reads one value of a config.

    Raises:
        ValueError: It begins as a list, a dict or a quoted text and is none.
    """
    text = text.strip()
    try:
        node = ast.parse(text, mode="eval").body
        value = ast.literal_eval(_Literal().visit(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _words(text)
    if isinstance(value, set):
        raise ValueError(f"{text} is a set, which has no order: write a list")
    if isinstance(value, (bytes, complex)) or value is Ellipsis:
        return text
    is_tuple = isinstance(node, ast.Tuple)
    if is_tuple and node.elts and node.elts[0].col_offset == node.col_offset:
        return list(value)  # a,b without brackets is a list, as of mmengine
    return value if is_tuple or text[0] != "(" else (value,)  # and (a) a tuple of one


class _Literal(ast.NodeTransformer):
    """Turns dict(key=value, ...) into a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if getattr(node.func, "id", None) != "dict" or node.args or any(item.arg is None for item in node.keywords):
            raise ValueError("no literal")
        keys: List[Any] = [ast.Constant(item.arg) for item in node.keywords]
        return ast.Dict(keys=keys, values=[self.visit(item.value) for item in node.keywords])


_CALL = re.compile(r"[A-Za-z_]\w*\(.*\)", re.DOTALL)


def _words(text: str) -> Any:
    """Reads words without quotes, alone or in a list or tuple."""
    begins = text[:1] != "" and text[0] in f"{_OPEN}'\""
    if not begins and "," not in text and not _CALL.fullmatch(text):
        from mmengine.config import DictAction  # models are counted where mmengine is not installed

        return DictAction._parse_int_float_bool(text)
    parts = _split(text)
    for bracket, kind in (("[]", list), ("()", tuple)):
        if text[0] == bracket[0] and text[-1] == bracket[1] and len(parts) == 1:
            return kind(config_value(part) for part in _split(text[1:-1]))
    if len(parts) > 1:
        return [config_value(part) for part in parts]
    if _CALL.fullmatch(text) or (begins and text[-1] in f"{_CLOSE}'\""):
        raise ValueError(
            f"{text} is no Python value: put quotes around texts, and the whole into the shell's, as in "
            """'key=[dict(type="Resize", scale=(640, 640))]'"""
        )
    return text


def _split(text: str) -> Sequence[str]:
    """Splits at the commas outside of brackets and quotes.

    Raises:
        ValueError: A bracket or a quote is not closed.
    """
    parts, start, opened, quote = [], 0, [], ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and (place == start or opened):  # in the middle of a word it is an apostrophe
            quote = letter
        elif letter in _OPEN:
            opened.append(letter)
        elif letter in _CLOSE:
            if not opened or _OPEN.index(opened.pop()) != _CLOSE.index(letter):
                raise ValueError(f"{text} has a {letter!r} that nothing opens")
        elif letter == "," and not opened:
            parts.append(text[start:place])
            start = place + 1
    if opened or quote:
        raise ValueError(f"{text} has a {quote or opened[-1]!r} that is not closed")
    return [*parts, text[start:]] if text[start:].strip() else parts
