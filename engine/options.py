"""Values of a config given on the command line, refused where nothing would come of them.

mmengine takes any key: one that it does not know is kept and read by nobody, and so is one that the file has used
already, such as `data_root` of `dataset=dict(data_root=data_root)`, whose value is in other keys by then.
"""

import copy
import difflib
from typing import Any, Dict, FrozenSet, Iterator, List, Tuple, Union

from mmengine.config import Config, ConfigDict

from . import config_source
from .errors import UserError
from .takes import known_arguments

Keys = Tuple[Union[str, int], ...]

# What is read at the top of a config beside what mmengine's runner reads: by this library, and by mm's own tools.
_OURS = frozenset(
    ["custom_imports", "distillation", "fsdp", "overwrite", "resume_schedule", "tta_model", "tta_pipeline"]
)
# Keys of a dict with a `type` that go elsewhere than to its class: to mmengine's registries and builders, and to the
# wrappers of mixed precision, whose name --amp puts in place of the config's.
_TAKEN_BEFORE = {
    *("type", "_scope_", "_delete_"),
    *("priority", "convert_to_iter_based", "constructor", "paramwise_cfg", "name", "by_epoch", "init_cfg"),
    *("loss_scale", "dtype", "use_fsdp"),
}


def merge(cfg: Config, options: Dict[str, Any]) -> None:
    """Puts values into a config.

    Args:
        cfg: Changed in place. What it imports is imported already.
        options: Values by dotted key.

    Raises:
        UserError: A key leads nowhere: it is new at the top and nobody reads it, it is a variable that the file has
            used already, it is new in a dict whose class does not take it, or it goes through what has no parts.
    """
    if not options:
        return
    _refuse_unread(cfg, options)
    before = copy.deepcopy(cfg._cfg_dict)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # a way through what has no such part
        raise UserError(f"the options {', '.join(options)} do not fit config {cfg.filename}: {error}") from error
    for key, value in options.items():
        for place in _new(before, tuple(key.split(".")), value):
            _refuse_untaken(cfg, key, place)


# At the top -----------------------------------------------------------------------------------------------------------


def _refuse_unread(cfg: Config, options: Dict[str, Any]) -> None:
    read = config_source.read_by_the_runner() | _OURS
    for key in options:
        top, _, rest = key.partition(".")
        if top in read:
            continue
        if top not in cfg:
            raise UserError(
                f"nothing reads {top} of {cfg.filename}, so {key} would change nothing: {_suggest(cfg, key, read)}"
            )
        places = config_source.places_of(cfg, top, read)
        if places is None:  # a hook of the user's may read what only his file knows
            continue
        shown = [f"{place}.{rest}" if rest else place for place in places]
        raise UserError(
            f"{top} is a variable of {cfg.filename} that has been used already, so {key} would change nothing: "
            + (
                f"its value is in {_listed(shown)}; set it there"
                if shown
                else "nothing of its value is left in the config"
            )
        )


def _suggest(cfg: Config, key: str, read: FrozenSet[str]) -> str:
    """Names keys that may have been meant: with a top spelt alike, or of the same last part, or one spelt alike."""
    top, dot, rest = key.partition(".")
    tops = difflib.get_close_matches(top, sorted(read | set(cfg)), n=2, cutoff=0.75)
    found = [f"{name}{dot}{rest}" for name in tops]
    if not rest:
        known = [name for name in config_source.dotted(cfg._cfg_dict) if name.partition(".")[0] in read]
        lasts = {name.rpartition(".")[2] for name in known}
        near = [top] if top in lasts else difflib.get_close_matches(top, lasts, n=2, cutoff=0.75)
        found += sorted((name for name in known if name.rpartition(".")[2] in near), key=lambda name: name.count("."))
    if found:
        return f"did you mean {' or '.join(list(dict.fromkeys(found))[:4])}?"
    return f"what is read begins with {', '.join(sorted(set(cfg) & read) or sorted(read))}"


def _listed(places: List[str]) -> str:
    return ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")


# Further in -----------------------------------------------------------------------------------------------------------


def _new(before: Any, keys: Keys, value: Any) -> Iterator[Keys]:
    """Lists the ways to what a value adds to a config: the first part of each that was not there."""
    part = before
    for depth, key in enumerate(keys):
        if isinstance(part, (list, tuple)):
            if not str(key).isdigit() or int(key) >= len(part):
                return
            part = part[int(key)]
        elif isinstance(part, dict):
            if key not in part:
                yield keys[: depth + 1]
                return
            part = part[key]
        else:  # what replaces a plain value as a whole
            return
    if isinstance(value, dict) and isinstance(part, dict) and not value.get("_delete_"):
        for key, inner in value.items():
            yield from _new(before, (*keys, key), inner)


def _refuse_untaken(cfg: Config, option: str, place: Keys) -> None:
    """Refuses a new key of a dict that says what is built of it, where none of what it may mean takes the key."""
    *way, key = place
    chain: List[Any] = [cfg._cfg_dict]
    for step in way:
        try:
            chain.append(chain[-1][int(step) if isinstance(chain[-1], (list, tuple)) else step])
        except (IndexError, KeyError, TypeError):  # another option has taken its place
            return
    parent = chain[-1]
    if not isinstance(parent, ConfigDict) or "type" not in parent or key in _TAKEN_BEFORE or key not in parent:
        return
    name = next((str(step) for step in reversed(way) if not str(step).isdigit()), "")
    known = known_arguments(chain, name, cfg.get("default_scope"), str(key))
    if known is None:
        return
    near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it takes {', '.join(known) or 'no arguments'}"
    where = ".".join(map(str, way))
    kind = parent["type"] if isinstance(parent["type"], str) else parent["type"].__name__
    raise UserError(f"{option}: {where} is a {kind}, which takes no {key}; {hint}")
