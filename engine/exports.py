"""Files that an evaluation writes for others to score, as metrics with `format_only` do."""

from pathlib import Path
from typing import Any, Iterator, List

from mmengine.evaluator import Evaluator


def exported(evaluator: Evaluator, since: float) -> List[str]:
    """Lists what the metrics of an evaluator have written and not removed again, a folder by its number of files.

    Args:
        evaluator: Of mmengine; each metric of the toolboxes keeps in an attribute where it writes.
        since: When the evaluation began, in seconds as `time.time` gives them.
    """
    said = {}
    for metric in evaluator.metrics:
        for place in _places(metric):
            for path in sorted({place, *place.parent.glob(f"{place.name}.*")}):
                if path.is_dir():
                    count = sum(_is_new(file, since) for file in path.rglob("*"))
                    if count:
                        said[path] = f"{path} ({count} file{'s' * (count > 1)})"
                elif _is_new(path, since):
                    said[path] = str(path)
    return [text for path, text in said.items() if not any(folder in said for folder in path.parents)]


def _places(metric: Any) -> Iterator[Path]:
    if getattr(metric, "keep_results", True) is False:  # mmseg's CityscapesMetric removes them in the end
        return
    passing = getattr(getattr(metric, "tmp_dir", None), "name", None)
    for name, value in vars(metric).items():
        is_place = "out" in name or name == "proposals_file"  # outfile_prefix, output_dir, out_file_path, ...
        if not is_place or not isinstance(value, (str, Path)) or not str(value):
            continue
        if passing is None or Path(passing) not in Path(value).parents:
            yield Path(value)


def _is_new(path: Path, since: float) -> bool:
    return path.is_file() and path.stat().st_mtime >= since - 1  # some file systems count in seconds
