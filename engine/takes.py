"""Which arguments a class takes that a config names by `type`."""

import ast
import inspect
import re
import textwrap
from functools import cache
from typing import Any, Callable, List, Optional, Sequence, Set, Union

import mmengine.registry
from mmengine.registry import Registry

_ROOTS = [part for part in vars(mmengine.registry).values() if isinstance(part, Registry)]
# Whose steps are another package's, whatever of mm's they are called like.
_FOREIGN = {"Albu", "Albumentations"}
# Dicts under such keys are taken apart by functions of mmcv before something is built of what is left.
_TAKEN_APART = ("_cfg", "dcn", "plugins", "layer", "clip_grad", "override", "nms", "cfg")


def known_arguments(chain: Sequence[Any], name: str, scope: Optional[str], key: str) -> Optional[List[str]]:
    """Finds out whether nothing that a dict of a config may be built into takes an argument.

    Args:
        chain: The dict with a `type`, last, and what it lies in.
        name: The key that it lies under.
        scope: The default scope of the config.
        key: The argument.

    Returns:
        The arguments that are taken, where this one surely is not; None where it may be.
    """
    if len(chain) > 2 and name.endswith(_TAKEN_APART):
        return None
    for outer in chain[:-1]:
        if not isinstance(outer, dict) or "type" not in outer:
            continue
        outer_name = outer["type"] if isinstance(outer["type"], str) else outer["type"].__name__
        if outer_name.rpartition(".")[2] in _FOREIGN or any(
            _names(one, key) for one in _meanings(outer["type"], scope)
        ):
            return None
    meanings = _meanings(chain[-1]["type"], scope)
    taken: Set[str] = set()
    for meaning in meanings:
        arguments = arguments_of(meaning)
        if arguments is None or key in arguments:
            return None
        taken |= set(arguments)
    return sorted(taken) if meanings else None


def _meanings(kind: Union[str, Callable], scope: Optional[str]) -> List[Callable]:
    """What a type may stand for, in any registry: of several with one name, all of them."""
    if not isinstance(kind, str):
        return [kind]
    found = []
    for root in _ROOTS:
        try:
            meaning = root.children.get(scope, root).get(kind)
        except Exception:  # a package that its scope would import is broken or missing: it says so when it is built
            return []
        if meaning is not None and meaning not in found:
            found.append(meaning)
    return found


@cache
def arguments_of(part: Callable) -> Optional[List[str]]:
    """Lists the names of a class's or a function's arguments; None where it takes any, or does not show which.

    `**kwargs` are followed where all that is done with them is to hand them on to the base class.
    """
    if not isinstance(part, type):
        parameters = _parameters(part)
        return None if parameters is None or _takes_any(parameters) else list(parameters)
    if part.__new__ is not object.__new__:
        return None
    taken: List[str] = []
    for cls in part.__mro__:
        if cls is object:
            break
        if "__init__" not in vars(cls):
            continue
        parameters = _parameters(cls.__init__)
        if parameters is None:
            return None
        rest = [name for name, one in parameters.items() if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        taken += [name for name in list(parameters)[1:] if name not in rest]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            break
        if not all(_only_hands_on(cls.__init__, name) for name in rest):
            return None
    return taken


def _parameters(function: Callable) -> Optional[Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in
        return None


def _takes_any(parameters: Any) -> bool:
    return any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters.values())


def _only_hands_on(function: Callable, name: str) -> bool:
    """Whether a method uses its `*name` or `**name` in a call of `super().__init__` alone."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    handed_on = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"super\(.*\)\.__init__", ast.unparse(node.func)):
            given = [one.value for one in node.keywords if one.arg is None]
            given += [one.value for one in node.args if isinstance(one, ast.Starred)]
            handed_on += sum(ast.unparse(value) == name for value in given)
    used = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    return handed_on == used == 1


@cache
def _names(part: Callable, key: str) -> bool:
    """Whether a class's code, or that of its bases, names a key: it may take it out of the dict of its part."""
    for cls in getattr(part, "__mro__", (part,)):
        if cls.__module__.partition(".")[0] in ("builtins", "torch"):
            continue
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):
            return True
        if f'"{key}"' in source or f"'{key}'" in source or f".{key}" in source:
            return True
    return False
