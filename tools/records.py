"""Results that are kept as they come, so that a long comparison goes on where it was stopped."""

import json
from datetime import date
from pathlib import Path
from typing import Any, Dict, List, Optional

import timm
import torch

import spectral_backbones
from spectral_backbones.engine.checkpoint import replace
from spectral_backbones.engine.errors import UserError
from spectral_backbones.tools.benchmark import processor


class Records:
    """A JSON file of results, each beside what determines it and when and where it was found.

    The file is written anew with each result, in one step: whatever interrupts a comparison, it is whole.

    Args:
        path: The file, which need not exist.

    Raises:
        UserError: It holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: List[Dict[str, Any]] = []
        self._keys: List[str] = []
        if not path.exists():
            return
        try:
            self.all = json.loads(path.read_text(encoding="utf-8"))["results"]
            self._keys = [_key(record["of"]) for record in self.all]
            if not all("found" in record for record in self.all):
                raise KeyError("found")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no results of a comparison: {error!r}; name another file") from error

    def find(self, of: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """The record of what `of` says, None if there is none yet."""
        key = _key(of)
        return self.all[self._keys.index(key)] if key in self._keys else None

    def keep(self, of: Dict[str, Any], found: Any) -> Dict[str, Any]:
        """Add a result and write the file.

        Args:
            of: All that determines the result, in types that JSON knows.
            found: The result, likewise.

        Raises:
            UserError: The file cannot be written.
        """
        record = {"of": of, "found": found, "date": str(date.today()), "machine": processor()}
        self.all.append(record)
        self._keys.append(_key(of))
        part = self.path.with_name(f"{self.path.name}.part")
        lines = ",\n".join(f"  {json.dumps(record)}" for record in self.all)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(f'{{\n "results": [\n{lines}\n ]\n}}\n', encoding="utf-8")
            replace(part, self.path)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}") from error
        return record


def _key(of: Dict[str, Any]) -> str:
    return json.dumps(of, sort_keys=True)


def versions() -> Dict[str, str]:
    """The versions that decide what a model computes, and how fast."""
    return {"library": spectral_backbones.__version__, "torch": torch.__version__, "timm": timm.__version__}
