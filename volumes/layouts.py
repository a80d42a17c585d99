"""Data sets in the folders that they are published in.

`splits_final.json` in a set's folder, as nnU-Net writes it ([{"train": [names], "val": [names]}, ...], one a fold),
takes precedence over the splits below.
"""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from spectral_backbones.engine.errors import UserError

from .nifti import MOST_CLASSES, find_volumes, is_volume, stem

SPLITS = ("train", "val", "test")
FOLDS = 5


class Case(NamedTuple):
    """A volume and its labels."""

    name: str
    image: Path
    label: Path


class Layout(NamedTuple):
    """How a set lies in its folder.

    Attributes:
        cases: Finds the classes and all cases with labels, from the folder.
        splits: Names of the cases of each split, from all names; None deals them out by folds.
    """

    cases: Callable[[Path], Tuple[Sequence[str], List[Case]]]
    splits: Optional[Callable[[List[str]], Dict[str, List[str]]]] = None


def find_cases(layout: str, root: Path, split: str, fold: int = 0) -> Tuple[List[str], List[Case]]:
    """Lists the classes and the cases of a split.

    Args:
        layout: One of `LAYOUTS`.
        root: The set's folder.
        split: "train", "val" or "test". Where a set has no labelled cases to test on, those of "val" are taken.
        fold: Which of the folds is for validation, where the set has no split of its own.

    Raises:
        UserError: The folder is not there or holds something else, or a file is missing.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise UserError(f"split is {split!r}, allowed are {', '.join(SPLITS)}")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist: name the folder of the data set with --data-root")
    classes, cases = LAYOUTS[layout].cases(root)
    if not cases:
        raise UserError(f"{root} holds no case of the layout {layout} that has labels")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UserError(f"{root} has {len(classes)} classes, allowed are 2 to {MOST_CLASSES} with the background")
    by_name = {case.name: case for case in cases}
    for case in cases:
        if by_name[case.name] != case:
            raise UserError(
                f"two cases are called {case.name}, {case.image} and {by_name[case.name].image}: rename one"
            )
    missing = [path for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        raise UserError(f"{len(missing)} files of {root} are missing, first {missing[0]}")
    splits = _splits(LAYOUTS[layout], root, sorted(by_name), fold)
    names = splits["val"] if split == "test" and not splits.get("test") else splits[split]
    chosen = [by_name[name] for name in names if name in by_name]
    if not chosen:
        raise UserError(f"{root} has {len(cases)} cases, none of them for {split}")
    return list(classes), chosen


def _splits(layout: Layout, root: Path, names: List[str], fold: int) -> Dict[str, List[str]]:
    if not isinstance(fold, int):
        raise UserError(f"fold is {fold!r}, it has to be a whole number")
    own = root / "splits_final.json"
    if own.is_file():
        folds = _json(own)
        if not (isinstance(folds, list) and folds and all(map(_is_fold, folds))):
            raise UserError(f"{own} is no list of dicts with the lists of names of train and val")
        if not 0 <= fold < len(folds):
            raise UserError(f"fold is {fold}, {own} has {len(folds)}: allowed are 0 to {len(folds) - 1}")
        unknown = sorted({name for part in SPLITS for name in folds[fold].get(part, ())} - set(names))
        if unknown:
            raise UserError(f"{own} names cases that {root} does not have, first {unknown[0]}")
        return folds[fold]
    if layout.splits is not None:
        if fold:
            raise UserError(
                f"fold is {fold}, and the set has a split of its own: leave fold out, or put a splits_final.json of "
                f"nnU-Net into {root}"
            )
        return layout.splits(names)
    if not 0 <= fold < FOLDS:
        raise UserError(f"fold is {fold}, allowed are 0 to {FOLDS - 1}")
    order = np.random.RandomState(12345).permutation(len(names))  # nnU-Net's seed
    held_out = {names[place] for place in np.array_split(order, FOLDS)[fold]}
    return {
        "train": [name for name in names if name not in held_out],
        "val": [name for name in names if name in held_out],
    }


def _is_fold(one: Any) -> bool:
    """Whether something read from JSON has lists of names to train and to validate on, and if any to test on."""
    if not isinstance(one, dict):
        return False
    parts = [one.get("train"), one.get("val"), one.get("test", [])]
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in parts)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def _decathlon(root: Path) -> Tuple[List[str], List[Case]]:
    """Medical Segmentation Decathlon: `dataset.json` names classes and files."""
    path = root / "dataset.json"
    if not path.is_file():
        raise UserError(f"{root} has no dataset.json, which every task of the Decathlon has")
    content = _json(path)
    try:
        classes = _numbered(content["labels"])
        pairs = [(root / one["image"], root / one["label"]) for one in content["training"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not as the Decathlon's: labels and training are to be told ({error!r})") from error
    return classes, [Case(stem(image), image, label) for image, label in pairs]


def _numbered(labels: Dict[str, Any]) -> List[str]:
    """Names by number: {"0": "background"}, or {"background": 0} as later versions have it."""
    is_by_number = all(key.isdecimal() for key in labels)
    pairs = [(int(key), str(value)) if is_by_number else (int(value), key) for key, value in labels.items()]
    by_number = dict(pairs)
    if sorted(number for number, _ in pairs) != list(range(len(labels))):
        raise ValueError(f"labels are numbered {sorted(number for number, _ in pairs)}")
    if len(set(by_number.values())) < len(labels):
        raise ValueError(f"two labels have one name among {', '.join(by_number.values())}")
    return [by_number[number] for number in range(len(by_number))]


# Cases of Task01, BRATS_001 to BRATS_484, of the official code's split: 387 to train on and 73 to validate on, which it
# lists, and the 24 that it names in neither list, five in a hundred, to test on.
TASK01_VAL = (
    *(11, 12, 18, 20, 21, 28, 29, 32, 34, 36, 41, 47, 49, 53, 56, 57, 69, 71, 89),
    *(90, 92, 95, 103, 105, 106, 107, 109, 118, 145, 147, 156, 161, 172, 176, 181, 194, 196, 198),
    *(204, 205, 209, 220, 221, 227, 234, 235, 245, 250, 256, 257, 260, 269, 270, 271, 281, 282, 287),
    *(289, 291, 292, 310, 314, 323, 327, 330, 333, 337, 346, 350, 352, 361, 382, 397),
)
TASK01_TEST = (
    *(58, 59, 76, 77, 99, 113, 114, 124, 139, 151, 152, 157),
    *(190, 240, 242, 295, 305, 325, 331, 362, 389, 425, 432, 450),
)


def _task01_splits(names: List[str]) -> Dict[str, List[str]]:
    return _by_number(names, lambda name: name.rpartition("_")[2], TASK01_VAL, TASK01_TEST)


def _by_number(
    names: List[str], digits: Callable[[str], str], val: Sequence[int], test: Sequence[int]
) -> Dict[str, List[str]]:
    """Splits by the number in a case's name; what is not for "val" or "test" is to train on."""
    parts: Dict[str, List[str]] = {split: [] for split in SPLITS}
    for name in names:
        try:
            number = int(digits(name))
        except ValueError:
            raise UserError(
                f"case {name} has no number, by which the official split goes; a splits_final.json of nnU-Net in the "
                "folder takes its place"
            ) from None
        parts["val" if number in val else "test" if number in test else "train"].append(name)
    return parts


SYNAPSE_CLASSES = (
    *("background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"),
)
# The official twelve, which are validated and tested on alike (TransUNet, arXiv 2102.04306).
SYNAPSE_HELD_OUT = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)


def _synapse(root: Path) -> Tuple[Sequence[str], List[Case]]:
    """Synapse multi-organ CT (BTCV, abdomen): img/img0001.nii.gz and label/label0001.nii.gz."""
    below = ("", "Training", "RawData/Training", "Abdomen/RawData/Training")
    folder = next((root / part for part in below if (root / part / "img").is_dir()), None)
    if folder is None:
        raise UserError(f"{root} has no folder img, nor Training/img, as Synapse's abdomen has")
    cases = []
    for image in find_volumes([str(folder / "img")]):
        label = folder / "label" / image.name.replace("img", "label")
        cases.append(Case(stem(image), image, label))
    return SYNAPSE_CLASSES, cases


def _synapse_splits(names: List[str]) -> Dict[str, List[str]]:
    held_out = {f"img{number:04d}" for number in SYNAPSE_HELD_OUT}
    val = [name for name in names if name in held_out]
    return {"train": [name for name in names if name not in held_out], "val": val, "test": val}


ACDC_CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
# Patients of the official code's split of the public training data, 70 to train, 10 and 20.
ACDC_VAL = (89, 90, 91, 93, 94, 96, 97, 98, 99, 100)
ACDC_TEST = (2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95)


def _acdc(root: Path) -> Tuple[Sequence[str], List[Case]]:
    """ACDC: training/patient001/patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz, two frames a patient."""
    folder = next((root / part for part in ("training", "database/training") if (root / part).is_dir()), root)
    cases = []
    for label in sorted(folder.glob("patient*/patient*_frame*_gt.nii*")):
        if is_volume(label):
            image = label.with_name(label.name.replace("_gt.nii", ".nii"))
            cases.append(Case(stem(image), image, label))
    return ACDC_CLASSES, cases


def _acdc_splits(names: List[str]) -> Dict[str, List[str]]:
    return _by_number(names, lambda name: name.partition("_")[0].removeprefix("patient"), ACDC_VAL, ACDC_TEST)


LAYOUTS: Dict[str, Layout] = {
    "decathlon": Layout(_decathlon),
    "decathlon_task01": Layout(_decathlon, _task01_splits),
    "synapse": Layout(_synapse, _synapse_splits),
    "acdc": Layout(_acdc, _acdc_splits),
}
