"""A clone of the repository, where the rooms of this package are folders beside it and not inside.

The package runs the code of the clone that it lies in, whatever else is installed. In the clone's root a room is found
by its bare name too, as `import backbones`, which means the very same modules as `spectral_backbones.backbones`.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import List, Optional, Sequence

PACKAGE = __package__
ROOF = Path(__file__).resolve().parent


def extended(path: Sequence[str]) -> List[str]:
    """The package's `__path__`, with the clone's root where it lies in one.

    There, what the clone does not have is not looked for in another one that is installed as editable.
    """
    if (ROOF / "backbones").is_dir():  # installed from a wheel
        return [*path]
    sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, _OnlyHere())
    return [*path, str(ROOF.parent)]


class _OnlyHere(MetaPathFinder):
    """Ends the search for a module of this package that is not on its `__path__`."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> None:
        if fullname.startswith(f"{PACKAGE}."):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def alias(room: str) -> None:
    """Let a room's bare name, and those of its modules, stand for the package's.

    Called by a room that is being imported by its bare name. What the rest of its file then imports are the package's
    own modules, and the module that it runs in is dropped.
    """
    sys.modules[room] = importlib.import_module(f"{PACKAGE}.{room}")
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())


class _AliasFinder(MetaPathFinder):
    """Finds `room.module` as `spectral_backbones.room.module`, where the room's bare name is ours and not a user's."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        room, dot, _ = fullname.partition(".")
        ours = sys.modules.get(f"{PACKAGE}.{room}")
        if not dot or ours is None or sys.modules.get(room) is not ours:
            return None
        try:
            found = find_spec(f"{PACKAGE}.{fullname}")
        except ModuleNotFoundError:
            return None
        return found and ModuleSpec(fullname, _AliasLoader(), is_package=found.submodule_search_locations is not None)


class _AliasLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{PACKAGE}.{spec.name}")
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put the alias's in its place
