"""Lists the configs of the library, prints one whole, or copies one to edit.

spectral configs [PATTERN ...]              # names, filtered by wildcards: 'detection/*dat-pp*'
spectral configs NAME --print               # with all that it inherits
spectral configs NAME --copy my_config.py   # a file of your own that inherits from it
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import fnmatch
from pathlib import Path
from typing import List, Optional

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import CONFIGS, PREFIX, find_config, list_configs
from spectral_backbones.tools.script import run

_COPY = """_base_ = "{prefix}{name}"
# What is set here replaces what the config above sets; `spectral configs {short} --print` shows it whole.
"""


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names, or parts of them, with * and ?")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the config with all that it inherits")
    what.add_argument("--copy", type=Path, metavar="FILE", help="write a config that inherits from it, to be edited")
    args = parser.parse_args(arguments)
    if args.print or args.copy:
        if len(args.patterns) != 1:
            raise UserError(f"--print and --copy take one config, {len(args.patterns)} are given")
        path = find_config(args.patterns[0])
        if args.print:
            print(load(str(path)).pretty_text)
        else:
            copy(path, args.copy)
        return
    names = [name for name in list_configs() if not args.patterns or any(fits(name, p) for p in args.patterns)]
    if not names:
        raise UserError(f"no config fits {' '.join(args.patterns)}; `spectral configs` lists all")
    print("\n".join(names))


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern of wildcards, or a part of the name, is the name's."""
    return fnmatch.fnmatch(name, pattern) or pattern in name


def copy(config: Path, target: Path) -> None:
    """Writes a config that inherits from one of the library's.

    Raises:
        UserError: The file is there already, or the config is not one of the library's.
    """
    if target.exists():
        raise UserError(f"{target} exists already")
    config = config.resolve()
    if CONFIGS.resolve() not in config.parents:
        raise UserError(f"{config} is no config of the library: copy the file itself")
    name = config.relative_to(CONFIGS.resolve()).as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_COPY.format(prefix=PREFIX, name=name, short=name.removesuffix(".py")))
    print(f"{target} inherits from {name}: edit it, then `spectral train {target}`")


if __name__ == "__main__":
    run(main)
