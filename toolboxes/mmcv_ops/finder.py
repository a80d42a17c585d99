"""Lets Python find `mmcv._ext`, the module of mmcv's compiled operators, where no compiled one is installed."""

import importlib
import pkgutil
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable, NoReturn

EXTENSION = "mmcv._ext"


class ExtensionLoader(Loader):
    """Fills `mmcv._ext` with the operators of this package."""

    def exec_module(self, module: ModuleType) -> None:
        """Adds every operator; the names left over are found by `missing_operator`."""
        package = importlib.import_module(__package__)
        for file in pkgutil.iter_modules(package.__path__):  # each registers its operators
            importlib.import_module(f"{__package__}.{file.name}")
        vars(module).update(package.OPERATORS)
        module.__getattr__ = missing_operator


class ExtensionFinder(MetaPathFinder):
    """Finds `mmcv._ext` and nothing else.

    It stands last in `sys.meta_path`, so it is asked only when no compiled extension was found.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Specification of `mmcv._ext`."""
        return ModuleSpec(fullname, ExtensionLoader(), origin=__package__) if fullname == EXTENSION else None


def missing_operator(name: str) -> Callable[..., NoReturn]:
    """A function for an operator that this package does not compute: mmcv asks for all of them when `mmcv.ops` is
    imported, and uses few.

    Raises:
        AttributeError: A private name, which no operator has.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")

    def call(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operator {name!r} is not among those that {__package__} computes with torch and torchvision. "
            "It needs a compiled mmcv: install a wheel for your torch and CUDA (`pip install openmim && mim install "
            "mmcv`, or the wheels of onedl-mmcv), or build it from source. A compiled mmcv is used as soon as it is "
            "installed."
        )

    call.__name__ = call.__qualname__ = name
    return call


FINDER = ExtensionFinder()


def install() -> None:
    """Supplies `mmcv._ext` where no compiled one is installed; a compiled one is always preferred.

    It may be called before or after mmcv was imported, and more than once.
    """
    if FINDER not in sys.meta_path:
        sys.meta_path.append(FINDER)
