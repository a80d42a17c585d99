"""How a user's folder of images is laid out: which folders are splits and which are classes."""

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Collection, Dict, Iterable, List, Mapping, Optional, Tuple

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.listing import count, folders_in, holds_images, own_images

SPLITS = ("train", "val", "test")
_ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# Words that stand beside those: `trainset`, `val_images`.
_FILLERS = r"(?:set|data|dataset|split|images?|imgs?|pictures?|photos?|folder|dir)"

# Years, numbered parts and short words for splits, which are never classes where all hold the same sub-folders.
_PART = re.compile(
    r"(?:(?:fold|part|split|subset|set|batch|run|cv)[\W_]*(?:\d+|[a-z]))|(?:19|20)\d\d"
    r"|tr|trn|te|tst|ts|va|vl|learn|learning|check|holdout|hold[\W_]out|unseen|public|private|seen|labell?ed"
)


@dataclass(frozen=True)
class Layout:
    """What is what.

    Attributes:
        splits: Folder of each split; empty where the root's sub-folders are the classes.
        notes: What is in the root and is not used.
    """

    splits: Dict[str, Path]
    notes: Tuple[str, ...] = ()


def find_layout(root: Path, splits: Optional[Mapping[str, str]] = None, also: Collection[str] = ()) -> Layout:
    """Finds the splits of a folder: a folder named as one is a split where it holds sub-folders of images, and a class
    where it holds images itself.

    Args:
        root: The folder.
        splits: Which sub-folder serves as which split, in place of looking; empty says that there are none.
        also: Further endings of pictures, in lower case.

    Raises:
        UserError: A folder looks like a split and cannot be told to be one, or there are splits but none to train on.
    """
    if splits is not None:
        return Layout(_given(root, splits))
    folders = folders_in(root)
    inner = {path: [sub for sub in folders_in(path) if holds_images(sub, also)] for path in folders}
    loose = {path: bool(own_images(path, also)) for path in folders}
    roles = {path: role for path in folders if (role := _ROLES.get(path.name.strip().casefold()))}
    found: Dict[str, List[Path]] = defaultdict(list)
    for path, role in roles.items():
        others = [other for other in roles if roles[other] != role and inner[other]]
        if inner[path] and (others or not loose[path]):
            found[role].append(path)
    _share_roles(found)
    for role, paths in found.items():
        if len(paths) > 1:
            raise UserError(
                f"image folder {root.absolute()} has {_names(paths)}, which both could serve as {role}: rename one, or "
                f"say dataset.splits=dict({role}={paths[0].name!r}, ...)"
            )
    chosen = {role: paths[0] for role, paths in found.items() if paths}
    rest = [path for path in folders if path not in chosen.values()]
    _refuse_lookalikes(root, rest, inner, loose, chosen)
    if not chosen:
        return Layout({}, _say_same_inside(rest, inner, loose))
    if "train" not in chosen:
        named = [path for path, role in roles.items() if role == "train"]
        raise UserError(
            f"image folder {root.absolute()} has {_names(chosen.values())} but no folder to train on: "
            + (f"{_names(named)} holds no sub-folders of images" if named else "name it train, ")
            + ("" if named else "or say dataset.splits=dict(train=...)")
        )
    if len(chosen) == 1:
        raise UserError(
            f"image folder {root.absolute()} has {chosen['train'].name}/ but neither val/ nor test/ with sub-folders "
            "of images"
        )
    if len({path.resolve() for path in chosen.values()}) < len(chosen):
        raise UserError(f"{_names(chosen.values())} of {root.absolute()} are one folder, by a link")
    notes = [f"{path.name}/, which is beside the splits, is not used" for path in rest if inner[path] or loose[path]]
    stray = len(own_images(root, also))
    return Layout(chosen, (*notes, *([f"{count(stray, 'image')} beside the splits, not used"] if stray else [])))


def _say_same_inside(
    folders: List[Path], inner: Mapping[Path, List[Path]], loose: Mapping[Path, bool]
) -> Tuple[str, ...]:
    """Tells of classes that all hold the same sub-folders, as splits under names that are not known would."""
    names = {frozenset(sub.name for sub in inner[path]) for path in folders if inner[path] or loose[path]}
    same = sorted(next(iter(names))) if len(names) == 1 and not any(loose.values()) else []
    if len(same) < 2:
        return ()
    return (
        f"{_names(folders[:10])} are taken for classes, though each holds the same sub-folders, {_names(same[:10])}: "
        "if they are splits, say which serves as what, dataset.splits=dict(train=..., val=...)",
    )


def _given(root: Path, splits: Mapping[str, str]) -> Dict[str, Path]:
    if not set(splits) <= set(SPLITS):
        raise UserError(f"dataset.splits names the folders of {', '.join(SPLITS)}, got {', '.join(map(str, splits))}")
    if splits and ("train" not in splits or len(splits) == 1):
        raise UserError(f"dataset.splits needs a folder for train and one for val or test, got {dict(splits)}")
    for name in splits.values():
        if not (root / name).is_dir():
            raise UserError(f"dataset.splits names {name}, which is no folder in {root.absolute()}")
    return {role: root / name for role, name in splits.items()}


def _share_roles(found: Dict[str, List[Path]]) -> None:
    """Of `eval` beside `test`, where nothing else is for validation, the first is."""
    evaluation = [path for path in found["test"] if path.name.strip().casefold().startswith("eval")]
    if evaluation and len(found["test"]) > len(evaluation) and not found["val"]:
        found["val"] = evaluation
        found["test"] = [path for path in found["test"] if path not in evaluation]


def _refuse_lookalikes(
    root: Path, rest: List[Path], inner: Mapping[Path, list], loose: Mapping[Path, bool], chosen: Mapping[str, Path]
) -> None:
    alike: Dict[str, Dict[str, Path]] = defaultdict(dict)  # by what is left of the name: split -> folder
    for path in rest:
        role, left = split_word(path.name)
        if not role or not (inner[path] or loose[path]):
            continue
        is_named = path.name.strip().casefold() in _ROLES
        if inner[path] and not loose[path] and not is_named:
            raise UserError(
                f"folder {path.absolute()} looks like a split ({role}): its name has that word and it holds "
                f"sub-folders of images, {_names(inner[path][:3])}. Rename it to {role}, or say which folder serves as "
                "what, dataset.splits=dict(train=..., val=...), where {} says that all folders are classes"
            )
        alike[left][role] = path
    parts = [path for path in rest if inner[path] and not loose[path] and _PART.fullmatch(path.name.casefold())]
    if len(parts) > 1 and set.intersection(*({sub.name for sub in inner[path]} for path in parts)):
        raise UserError(
            f"image folder {root.absolute()} has {_names(parts)}, which hold the same sub-folders and look like parts "
            "of a set and not like classes: say which serves as what, dataset.splits=dict(train=..., val=...), where "
            "{} says that all folders are classes"
        )
    for folders in alike.values():
        if len(folders) > 1 and not chosen:
            raise UserError(
                f"image folder {root.absolute()} has {_names(folders.values())}, which look like splits but hold "
                "images and no folders of classes: lay the images out as train/<class>/ and val/<class>/, or say "
                "dataset.splits={} if these are the classes"
            )


def split_word(name: str) -> Tuple[str, str]:
    """Looks for the word of a split in the name of a folder: `train_2017`, `2023-val`, `MyDataset Test`, `trainset`.

    Returns:
        The split, empty where there is no such word, and what else is in the name but years and separators.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", spaced.casefold())
    for place, word in enumerate(words):
        core = re.sub(f"^{_FILLERS}|{_FILLERS}$", "", word) if word not in _ROLES else word
        if core in _ROLES:
            left = [other for other in [*words[:place], *words[place + 1 :]] if not re.fullmatch(_FILLERS, other)]
            return _ROLES[core], " ".join(left)
    return "", ""


def check_inside(folder: Path, images: Iterable[Path]) -> None:
    """Refuses `<class>/train` beside `<class>/val`, whose validation images would be trained on.

    Args:
        folder: The folder of the classes.
        images: All of its pictures.

    Raises:
        UserError: A folder below it has sub-folders that are named as two splits or more.
    """
    inside: Dict[Tuple[Path, str], Dict[str, str]] = defaultdict(dict)  # by folder and what is left of the names
    for parent in sorted({image.parent for image in images}):
        for path in (parent, *parent.parents):
            if path == folder or path.parent == folder:
                break
            role, left = split_word(path.name)
            if role:
                above = {part.casefold() for part in path.parent.relative_to(folder).parts}
                inside[path.parent, "" if left in above else left][role] = path.name
    for (path, _), names in sorted(inside.items()):
        if len(names) > 1:
            raise UserError(
                f"folder {path.absolute()} holds {_names(sorted(names.values()))}: splits are folders above those of "
                f"the classes, as train/{path.name}/ and val/{path.name}/"
            )


def check_names(names: Iterable[str], known: Iterable[str], folder: Path) -> None:
    """Compares the names of class folders with those of the training split.

    Raises:
        UserError: There are others; ones that are alike but for case or Unicode form are told with code points.
    """
    names, known = list(names), list(known)
    strangers = [name for name in names if name not in known]
    if not strangers:
        return
    alike = {_look(name): name for name in known}
    pairs = [(name, alike[_look(name)]) for name in strangers if _look(name) in alike]
    said = "; ".join(
        f"{name!r} ({_points(name, other)}) is {other!r} ({_points(other, name)})" for name, other in pairs
    )
    raise UserError(
        f"{folder.absolute()} has classes that the training split has not: {sorted(strangers)}"
        + (
            f"; names that differ only in Unicode form, case or spaces: {said} there. Rename one of each"
            if said
            else ""
        )
    )


def check_distinct(names: Iterable[str], folder: Path) -> None:
    """Refuses two class folders whose names look the same.

    Raises:
        UserError: They differ only in Unicode form.
    """
    seen: Dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"{folder.absolute()} has two classes called {name!r}, which differ only in Unicode form: "
                f"{_points(other, name)} and {_points(name, other)}. Rename one, or put their images together"
            )


def _look(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _points(name: str, other: str) -> str:
    """The code points of a name that another has not, or all."""
    spare = Counter(name) - Counter(other)
    return " ".join(f"U+{ord(letter):04X}" for letter in name if letter in spare) or "without more"


def _names(paths: Iterable) -> str:
    return ", ".join(f"{getattr(path, 'name', path)}/" for path in paths)
