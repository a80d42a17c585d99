"""The error for everything a user can mend."""

import json
import re
import traceback
from contextlib import contextmanager
from typing import Iterator


class UserError(ValueError):
    """A mistake in the data, the configuration or a file; the message says what was found, where, and what is allowed.

    The tools print the message alone, without a traceback.
    """


def plain_message(error: UserError) -> str:
    """Strips the traceback that a DataLoader worker folds into the message of the error it passes on."""
    text = str(error)
    return text.rpartition(f"{UserError.__name__}: ")[2].strip() if text.startswith("Caught") else text


# What the toolboxes say, and what a user can do about it. Errors of a DataLoader's worker hold this text somewhere.
_MENDABLE = (
    (
        r"failed to load image: (.+)",
        "cannot read image {0}: it is damaged or no picture; replace it, or take it out of the data set",
    ),
    (
        r"!buf\.empty\(\) in function 'imdecode",
        "a picture of the data set is an empty file (`find FOLDER -size 0` tells which): replace it, or take it out of "
        "the data set",
    ),
    (
        r"need at least one array to concatenate",  # by mmengine, when it packs the samples of a data set
        "a data set has no picture: of one of detection, none has an annotation of a known class, give its "
        "metainfo=dict(classes=...) the names of its annotation file; of one of segmentation, its folder holds no file "
        "whose name ends in its img_suffix",
    ),
    (
        r"No such file or directory: '([^']+)'",
        "{0} does not exist: name the folder of the data set with --data-root, or mend the path in the config",
    ),
    (
        r"ground truth is required for evaluation when `ann_file` is not provided",
        "CocoMetric has nothing to compare with: give it the ann_file of its data set, or let the pipeline load "
        "annotations by dict(type='LoadAnnotations', with_bbox=True) before it packs",
    ),
    (
        r"TTA of instance segmentation does not support",
        "mmdet's test-time augmentation merges boxes and no masks: leave out --tta, or test a detector of boxes alone",
    ),
    (
        r"([Pp]lease (?:run|install) .*pip install .*)",
        "a part of the config needs a package that is not installed: {0}",
    ),
    (
        r"(\S+) is not in the (\S+) registry",
        "{0} is not in the registry {1}: mend its name, or let the custom_imports of the config name the package that "
        "registers it; configs/_base_/<task>/runtime.py imports this library's",
    ),
)
_ARGUMENT = re.compile(r"\S+\(\) got an unexpected keyword argument .+")


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turns errors of mmengine and the toolboxes that a user can mend into errors that say how.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"an annotation file is cut short or damaged, it is no JSON: {error}") from error
    except Exception as error:
        for pattern, message in _MENDABLE:
            if found := re.search(pattern, str(error)):
                raise UserError(message.format(*found.groups())) from error
        frames = traceback.extract_tb(error.__traceback__)
        if _ARGUMENT.search(str(error)) and any(frame.name == "build_from_cfg" for frame in frames):
            raise UserError(f"the config gives an argument that is not known: {error}") from error
        raise
