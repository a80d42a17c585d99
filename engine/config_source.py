"""What the text of a config tells that the config does not: which of its keys are variables, and where they went."""

import ast
import inspect
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.runner import Runner

_PLACEHOLDER = re.compile(r"(['\"]?)\{\{\s*(_base_\.[\w.]+)\s*\}\}\1")  # mmengine's older way to a base's variable
_KEY = r"(?:\.get\(|\[)\s*['\"](\w+)"


class Use(NamedTuple):
    """Where an assignment of a config reads a variable.

    Attributes:
        place: The keys from the top of the config to what is assigned there.
        is_whole: Whether it is the variable's value that stands there, and not something made of it.
    """

    place: Tuple[Any, ...]
    is_whole: bool


Uses = Dict[str, List[Use]]


@lru_cache(maxsize=1)
def read_by_the_runner() -> FrozenSet[str]:
    """Keys at the top of a config that mmengine's Runner reads."""
    given = re.findall(rf"\bcfg{_KEY}", inspect.getsource(Runner.from_cfg))
    return frozenset([*given, *re.findall(rf"self\.cfg{_KEY}", inspect.getsource(Runner))])


def places_of(cfg: Config, variable: str, read: FrozenSet[str]) -> Optional[List[str]]:
    """Lists the dotted keys of a config that have got the value of a variable of its file or of a base.

    A run writes its config down with the variables beside what was made of them: there they are the keys that have the
    same value.

    Args:
        cfg: As it was read from a file.
        variable: A key at its top.
        read: Keys at the top that are read; the others are variables.

    Returns:
        None where no file uses the variable.
    """
    uses: Uses = {}
    for text in _files(cfg.text):
        for name, found in _uses(text).items():
            if name in cfg:  # and no function such as float, in what a run has written too
                uses.setdefault(name, []).extend(found)
    value = cfg[variable]
    if not uses:
        same = [name for name in _of_the_same_value(cfg, variable) if name.partition(".")[0] in read]
        return same or None
    if variable not in uses:
        return None
    places = [use.place for use in _followed(uses, variable, ()) if _is_there(cfg, use, value)]
    return list(dict.fromkeys(".".join(map(str, place)) for place in places if place[0] in read))


def dotted(value: Any, prefix: str = "") -> Iterator[str]:
    """Lists all keys of a config by their dotted names, those of dicts and lists too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in items:
        name = f"{prefix}.{key}" if prefix else str(key)
        yield name
        yield from dotted(inner, name)


def _files(text: str) -> Iterator[str]:
    """The text of each file, of what mmengine keeps of a config: bases first, each after a line with its path."""
    lines: List[str] = []
    for line in text.splitlines():
        if line.endswith((".py", ".json", ".yaml", ".yml")) and Path(line).is_absolute() and Path(line).is_file():
            yield "\n".join(lines)
            lines = []
        else:
            lines.append(line)
    yield "\n".join(lines)


@lru_cache(maxsize=64)
def _uses(text: str) -> Uses:
    """Where a file reads names; `_base_.name` is a base's."""
    try:
        tree = ast.parse(_PLACEHOLDER.sub(r"\2", text))
    except (SyntaxError, ValueError):  # no Python
        return {}
    uses: Uses = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) or node.value is None:
            continue
        for target in targets:
            place, is_whole = _target(target)
            if place:
                for name, use in _read(node.value, place, is_whole and isinstance(node, ast.Assign)):
                    uses.setdefault(name, []).append(use)
    return uses


def _target(node: Optional[ast.AST]) -> Tuple[Tuple[Any, ...], bool]:
    """The keys of what is assigned to, as far as they are written out, and whether they are."""
    if isinstance(node, ast.Name):
        return (node.id,), True
    if isinstance(node, (ast.Subscript, ast.Attribute)):
        place, is_whole = _target(node.value)
        key = ast.Constant(node.attr) if isinstance(node, ast.Attribute) else node.slice
        if place and is_whole and isinstance(key, ast.Constant):
            return (*place, key.value), True
        return place, False
    return (), False


def _read(node: ast.AST, place: Tuple[Any, ...], is_whole: bool) -> Iterator[Tuple[str, Use]]:
    """The variables that an expression reads, with where in its value they end up."""
    if isinstance(node, ast.Name):
        yield node.id, Use(place, is_whole)
        return
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("_base_."):
        _, name, *further = ast.unparse(node).split(".")
        yield name, Use(place, is_whole and not further)
        return
    parts: List[Tuple[Any, ast.AST]] = []  # by key, None where it is not known
    if isinstance(node, ast.Dict):
        parts = [
            (key.value if isinstance(key, ast.Constant) else None, value) for key, value in zip(node.keys, node.values)
        ]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict":
        parts = [*((None, value) for value in node.args), *((item.arg, item.value) for item in node.keywords)]
    elif isinstance(node, (ast.List, ast.Tuple)):
        is_counted = not any(isinstance(item, ast.Starred) for item in node.elts)
        parts = [(number if is_counted else None, item) for number, item in enumerate(node.elts)]
    else:
        parts = [(None, child) for child in ast.iter_child_nodes(node)]
    loops = [loop.target for loop in getattr(node, "generators", ())]  # of a comprehension, whose names are its own
    own = {name.id for target in loops for name in ast.walk(target) if isinstance(name, ast.Name)}
    for key, part in parts:
        for name, use in _read(part, place if key is None else (*place, key), is_whole and key is not None):
            if name not in own:
                yield name, use


def _followed(uses: Uses, name: str, passed: Tuple[str, ...]) -> Iterator[Use]:
    """Where a variable's value is in the end, through other variables too."""
    if name in passed:
        return
    for use in uses.get(name, ()):
        yield use
        for further in _followed(uses, use.place[0], (*passed, name)):
            whole = further.is_whole
            yield Use((*further.place, *(use.place[1:] if whole else ())), whole and use.is_whole)


def _is_there(cfg: Config, use: Use, value: Any) -> bool:
    """Whether a config still has, where a variable was used, what was made of it."""
    part = cfg._cfg_dict
    for key in use.place:
        if (isinstance(part, dict) and key in part) or (
            isinstance(part, (list, tuple)) and isinstance(key, int) and key < len(part)
        ):
            part = part[key]
        else:
            return False
    if not isinstance(value, (str, int, float)) or isinstance(part, (dict, list, tuple)):
        return True
    if use.is_whole:
        return part == value
    return not isinstance(value, str) or not isinstance(part, str) or value in part


def _of_the_same_value(cfg: Config, variable: str) -> Iterator[str]:
    value = cfg[variable]
    for name in dotted(cfg._cfg_dict):
        part: Any = cfg._cfg_dict
        for key in name.split("."):
            part = part[int(key)] if isinstance(part, (list, tuple)) else part[key]
        if name.partition(".")[0] == variable or not value:
            continue
        if isinstance(value, (int, float)):  # a number alone may be the same by chance
            if part == value and name.rpartition(".")[2] == variable:
                yield name
        elif part == value or (isinstance(value, str) and isinstance(part, str) and part.startswith(value)):
            yield name
