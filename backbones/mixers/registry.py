"""Token mixers by name, and the patterns that say which block has which."""

import ast
import difflib
import functools
import inspect
import re
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

import torch.nn as nn

Mixer = Union[str, Mapping[str, Any], Callable[..., nn.Module]]
MixerPattern = Union[int, Mixer, Sequence[Mixer]]
Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

# What a mixer's constructor may name beside its own options, and gets from the trunk that it is made for.
GIVEN = ("dim", "grid_size", "num_heads", "device", "dtype")
# What a trunk says once for all of its blocks, for those mixers that have the option.
TRUNK_OPTIONS = ("attn_drop", "proj_drop", "spectral_method", "spectral_interpolation")


class RegisteredMixer(NamedTuple):
    """What is known of a name.

    Attributes:
        factory: The class, or a function that makes the module.
        paper: Where it comes from, "" if nothing is said.
        trunk_options: The constructor's name for an option that trunks know by another one.
        internal: Arguments of the constructor that are no options, because other values would change the map's shape.
    """

    factory: Callable[..., nn.Module]
    paper: str
    trunk_options: Mapping[str, str]
    internal: FrozenSet[str]


_mixers: Dict[str, RegisteredMixer] = {}


def register_mixer(
    name: str,
    *,
    paper: str = "",
    trunk_options: Optional[Mapping[str, str]] = None,
    internal: Sequence[str] = (),
) -> Callable[[Factory], Factory]:
    """Decorator that gives a class of mixers a name for patterns, configs and command lines.

    The class makes modules (B, H, W, C) -> (B, H, W, C) for any H and W. Its constructor takes `dim` (channels C),
    `grid_size` (the token grid (H, W) of the model's own image size), `num_heads`, `device` and `dtype` as far as it
    names them, and its own options, all with defaults. A function that returns such a module does as well.

        @register_mixer("shift", paper="arXiv:1711.08141")
        class Shift(nn.Module):
            def __init__(self, dim, step=1): ...

        timm.create_model("spectformer_s", mixers="shift(step=2):4, attention")

    Args:
        name: A word.
        paper: Where it comes from, for lists.
        trunk_options: The constructor's own name for an option of TRUNK_OPTIONS, {"spectral_method": "method"}.
        internal: Arguments of the constructor that a pattern may not set.

    Raises:
        ValueError: The name is taken or no word, or the constructor asks for what no trunk gives.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"the name of a mixer must be a word of letters, digits and underscores, got {name!r}")

    def register(factory: Factory) -> Factory:
        taken = _mixers.get(name)
        if taken is not None and _origin(taken.factory) != _origin(factory):  # a module that is loaded anew may repeat
            raise ValueError(f"there is a mixer {name!r} already, {_origin(taken.factory)}")
        for parameter in _parameters(factory).values():
            if parameter.default is parameter.empty and parameter.name not in GIVEN:
                raise ValueError(
                    f"the constructor of mixer {name!r} needs {parameter.name!r}: trunks give {', '.join(GIVEN)}, "
                    "all else must have a default"
                )
        _mixers[name] = RegisteredMixer(factory, paper, dict(trunk_options or {}), frozenset(internal))
        return factory

    return register


def list_mixers() -> List[str]:
    """Names of all token mixers."""
    return sorted(_mixers)


def get_mixer(name: str) -> RegisteredMixer:
    """What is registered by a name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in _mixers:
        raise ValueError(_unknown(name))
    return _mixers[name]


def mixer_options(mixer: Union[str, Callable[..., nn.Module]]) -> Dict[str, Any]:
    """A mixer's own options with their defaults, as a pattern may set them."""
    entry = get_mixer(mixer) if isinstance(mixer, str) else _unregistered(mixer)
    hidden = {*GIVEN, *entry.internal, *_bound(entry.factory)}
    return {name: p.default for name, p in _parameters(entry.factory).items() if name not in hidden}


def create_mixer(
    mixer: Mixer, dim: int, grid_size: Tuple[int, int], num_heads: int, device=None, dtype=None, **options: Any
) -> nn.Module:
    """A token mixer, (B, H, W, C) -> (B, H, W, C).

    Args:
        mixer: A name, which may have options, "neighbourhood(kernel_size=9)"; the same as a dict,
            dict(type="neighbourhood", kernel_size=9); or a class of one's own.
        dim: Channels C.
        grid_size: Token grid (H, W), for mixers with weights for places or frequencies.
        num_heads: Number of heads, for attention.
        options: The mixer's own options, where `mixer` does not say otherwise. Those of TRUNK_OPTIONS are for mixers
            that have them; others leave them aside.

    Raises:
        ValueError: The name or an option is unknown, or has a value that cannot work.
    """
    mixer, own_options = _name_and_options(mixer)
    entry = get_mixer(mixer) if isinstance(mixer, str) else _unregistered(mixer)
    own_options = {**{name: options[name] for name in options if name not in TRUNK_OPTIONS}, **own_options}
    _check_options(mixer, own_options)
    # A function, or a class whose arguments were bound, has said what it wants of a trunk's options.
    from_trunk = options if isinstance(entry.factory, type) or isinstance(mixer, str) else {}
    arguments = dict(dim=dim, grid_size=grid_size, num_heads=num_heads, device=device, dtype=dtype)
    for name in TRUNK_OPTIONS:
        if name in from_trunk:
            arguments[entry.trunk_options.get(name, name)] = from_trunk[name]
    named = _parameters(entry.factory).keys() - _bound(entry.factory) - entry.internal
    arguments = {name: value for name, value in arguments.items() if name in named}
    try:
        return entry.factory(**{**arguments, **own_options})
    except TypeError as error:
        if not own_options:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in own_options.items())
        raise ValueError(f"mixer {_shown(mixer)} cannot work with {given}: {error}") from error


def expand_mixers(pattern: MixerPattern, depth: int) -> List[Mixer]:
    """The mixer of each of `depth` blocks.

    Args:
        pattern: A number n, spectral gating in the first n blocks and attention in the others; a sequence with a mixer
            for each block, see `create_mixer`; a dict or a class, the mixer of all blocks; or a text of names with
            counts, such as "spectral:4, attention", in which a last name without a count fills what is left. A text
            that ends in "..." is repeated: "spectral, attention, ..." alternates. A name may have options,
            "neighbourhood(kernel_size=9):8, spectral". Texts with counts in a sequence are parts of one.
        depth: Number of blocks.

    Returns:
        Names, dicts with a `type` and options where there are any, and classes.

    Raises:
        ValueError: A name or an option is unknown, a count is not positive, or the pattern does not give `depth`
            mixers.
    """
    if isinstance(pattern, bool) or not (callable(pattern) or isinstance(pattern, (int, str, Mapping, Sequence))):
        raise ValueError(f"mixers must be a number, a text or a sequence, got {pattern!r}")
    if isinstance(pattern, int):
        if not 0 <= pattern <= depth:
            raise ValueError(f"the number of spectral blocks must be between 0 and {depth}, got {pattern}")
        return ["spectral"] * pattern + ["attention"] * (depth - pattern)
    if isinstance(pattern, str):
        return _expand_text(pattern, depth)
    if callable(pattern) or isinstance(pattern, Mapping):
        return [_checked(pattern)] * depth
    if all(isinstance(mixer, str) for mixer in pattern) and any(map(has_counts, pattern)):
        return _expand_text(", ".join(pattern), depth)  # a text that a command line has split at its commas
    mixers = [_checked(mixer) for mixer in pattern]
    if len(mixers) != depth:
        raise ValueError(f"mixers must name one mixer for each of the {depth} blocks, got {len(mixers)}")
    return mixers


def mixers_per_stage(mixers: Union[MixerPattern, Sequence[MixerPattern]], num_stages: int) -> Sequence[MixerPattern]:
    """A pattern for each stage of a pyramid: a text, a dict or a class is the pattern of all of them."""
    is_one = isinstance(mixers, (str, Mapping)) or callable(mixers)
    return [mixers] * num_stages if is_one else mixers


def mixer_name(mixer: Mixer) -> Optional[str]:
    """The registered name of a mixer of a pattern, None for a class of one's own."""
    mixer, _ = _name_and_options(mixer)
    return mixer if isinstance(mixer, str) else None


def _expand_text(text: str, depth: int) -> List[Mixer]:
    entries = split_mixers(text)
    repeats = entries[-1] == "..."
    if repeats:
        entries = entries[:-1]
    mixers: List[Mixer] = []
    for i, entry in enumerate(entries):
        closed = entry.rfind(")") + 1
        name, colon, count = (part.strip() for part in entry[closed:].partition(":"))
        mixer = _checked(entry[:closed] + name)
        if colon and not (count.isdecimal() and int(count) > 0):
            raise ValueError(f"a count in a mixer pattern must be a positive number, got {entry!r} in {text!r}")
        if colon:
            mixers += [mixer] * int(count)
        elif repeats:
            mixers.append(mixer)
        elif i == len(entries) - 1:
            mixers += [mixer] * (depth - len(mixers))
        else:
            raise ValueError(f"only the last name of the mixer pattern {text!r} may have no count")
    if repeats:
        mixers = (mixers * depth)[: max(depth, len(mixers))]
    if len(mixers) != depth:
        raise ValueError(
            f"the mixer pattern {text!r} has {len(mixers)} blocks, the trunk {depth}: give the last name no count to "
            "fill what is left, or end with ', ...' to repeat the pattern"
        )
    return mixers


def has_counts(entry: str) -> bool:
    """Whether an entry of a pattern says how many blocks it is for, or to repeat what stands before."""
    return entry.strip() == "..." or ":" in entry[entry.rfind(")") + 1 :]


def split_mixers(text: str) -> List[str]:
    """The entries of a pattern, which commas separate where no bracket or quotation is open."""
    parts = re.findall(r"""'[^']*'|"[^"]*"|.""", text, flags=re.DOTALL)
    entries, depth = [""], 0
    for part in parts:
        depth += (part in "([{") - (part in ")]}") if len(part) == 1 else 0
        if part == "," and depth <= 0:
            entries.append("")
        else:
            entries[-1] += part
    return [entry.strip() for entry in entries]


def _name_and_options(mixer: Mixer) -> Tuple[Union[str, Callable[..., nn.Module]], Dict[str, Any]]:
    """A name or a class, and the options that stand beside it."""
    if isinstance(mixer, Mapping):
        options = dict(mixer)
        if "type" not in options:
            raise ValueError(f"a mixer's dict needs its name as `type`, got {options!r}")
        return options.pop("type"), options
    if not isinstance(mixer, str) or "(" not in mixer:
        return mixer, {}
    name, _, arguments = mixer.partition("(")
    try:
        call = ast.parse(f"_({_quoted(arguments)}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(keyword.arg for keyword in call.keywords):
            raise ValueError("no list of options")
        return name.strip(), {keyword.arg: _value(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"cannot read {mixer!r}: options are written as in 'neighbourhood(kernel_size=9, qkv_bias=False)'"
        ) from error


def _quoted(arguments: str) -> str:
    """A list of options in which words that begin with a digit, such as 4dir, stand in quotation marks, as Python
    wants them.
    """
    parts = re.findall(r"""'[^']*'|"[^"]*"|\w+|.""", arguments, flags=re.DOTALL)
    is_word = [
        re.match(r"\d+[A-Za-z_]", part) and not re.fullmatch(r"\d+[eE]\d*|0[xXbBoO]\w+|[\d_]+", part) for part in parts
    ]
    return "".join(f"'{part}'" if is_it else part for part, is_it in zip(parts, is_word))


def _value(node: ast.expr) -> Any:
    """A literal of Python, or a word without quotation marks."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    return ast.literal_eval(node)


def _checked(mixer: Mixer) -> Mixer:
    """A mixer of a pattern as `expand_mixers` gives it, or ValueError."""
    name, options = _name_and_options(mixer)
    if not callable(name):
        if not isinstance(name, str):
            raise ValueError(_unknown(name))
        get_mixer(name)
    _check_options(name, options)
    return {"type": name, **options} if options else name


def _check_options(mixer: Union[str, Callable[..., nn.Module]], options: Mapping[str, Any]) -> None:
    if not options:
        return
    allowed = mixer_options(mixer)
    for name in options:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            listed = ", ".join(f"{option}={default!r}" for option, default in allowed.items()) or "none at all"
            raise ValueError(f"mixer {_shown(mixer)} has no option {name!r}{hint}, its options are {listed}")


def _unregistered(factory: Callable[..., nn.Module]) -> RegisteredMixer:
    """A class or a function that stands in a pattern itself, by what its name says where it has one."""
    known = [entry for entry in _mixers.values() if entry.factory is factory]
    return known[0] if known else RegisteredMixer(factory, "", {}, frozenset())


def _parameters(factory: Callable[..., nn.Module]) -> Dict[str, inspect.Parameter]:
    """What can be given by name, through `**kwargs` of a class also to the class that it extends. One that takes
    anything takes all of GIVEN.
    """
    named: Dict[str, inspect.Parameter] = {}
    functions = [cls for cls in factory.__mro__ if "__init__" in vars(cls)] if isinstance(factory, type) else [factory]
    if functions[0] is nn.Module:
        return named
    for function in functions[: functions.index(nn.Module) if nn.Module in functions else None]:
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                named.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return named
    return {**{name: _anything(name) for name in GIVEN}, **named}


def _anything(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)


def _bound(factory: Callable[..., nn.Module]) -> FrozenSet[str]:
    """What functools.partial has set for good."""
    return frozenset(factory.keywords) if isinstance(factory, functools.partial) else frozenset()


def _origin(factory: Callable[..., nn.Module]) -> str:
    function = factory.func if isinstance(factory, functools.partial) else factory
    return f"{function.__module__}.{function.__qualname__}"


def _shown(mixer: Union[str, Callable[..., nn.Module]]) -> str:
    return repr(mixer) if isinstance(mixer, str) else _origin(mixer)


def _unknown(name: Any) -> str:
    near = difflib.get_close_matches(str(name), _mixers, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown mixer {name!r}{hint}, expected one of {', '.join(list_mixers())} or a class"
