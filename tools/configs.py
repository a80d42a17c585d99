"""Lists the configs of the library, prints one whole, or copies one to edit.

spectral configs                                   # the names of all
spectral configs 'detection/*dat-pp*' digits       # by wildcards, or by parts of the name
spectral configs CONFIG --print                    # with all that it inherits
spectral configs CONFIG --copy my_config.py        # a file of your own that inherits from it
spectral configs CONFIG --copy my_config.py --whole  # or one that holds all of it

CONFIG is a name as listed, or its last part where that is enough. `spectral train` takes names and files alike.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import fnmatch
from pathlib import Path
from typing import List, Optional

from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import CONFIGS, PREFIX, find_config, list_configs, near
from spectral_backbones.tools.script import make_parser, run

_INHERITING = """_base_ = "{prefix}{name}.py"
# What is set here replaces what the config above sets; `spectral configs {name} --print` shows it whole.
"""


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line.

    Raises:
        UserError: No config fits, or there is a file where one is to be written.
    """
    parser = make_parser(__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names, or parts of them, with * and ?")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print one config with all that it inherits")
    what.add_argument("--copy", type=Path, metavar="FILE", help="write a config that inherits from one, to be edited")
    parser.add_argument("--whole", action="store_true", help="of --copy: write all of it, and inherit nothing")
    args = parser.parse_args(arguments)
    if args.whole and not args.copy:
        raise UserError("--whole says how --copy writes a file; --print shows all of a config anyway")
    if not (args.print or args.copy):
        names = [name for name in list_configs() if not args.patterns or any(fits(name, p) for p in args.patterns)]
        if not names:
            found = near(" ".join(args.patterns), list_configs())
            hint = f"did you mean {' or '.join(found)}?" if found else "`spectral configs` lists all"
            raise UserError(f"no config fits {' '.join(args.patterns)}; {hint}")
        print("\n".join(names))
        return
    if len(args.patterns) != 1:
        raise UserError(f"--print and --copy take one config, {len(args.patterns)} are given")
    path = find_config(args.patterns[0])
    if args.print:
        print(load(str(path)).pretty_text)
    else:
        copy(path, args.copy, args.whole)


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern of wildcards is a name's or that of a part of it."""
    return fnmatch.fnmatchcase(name, f"*{pattern.removeprefix('configs/').removesuffix('.py')}*")


def copy(config: Path, target: Path, whole: bool) -> None:
    """Writes a config of one's own over one of the library's.

    Args:
        config: The library's.
        target: The new file.
        whole: Whether it holds all settings, and not only the name of what it inherits from.

    Raises:
        UserError: The file is there already, is no Python file by its name, or the config is not one of the library's.
    """
    if target.suffix != ".py":
        raise UserError(f"a config is a Python file: call it {target}.py")
    if target.exists():
        raise UserError(f"{target} exists already")
    config = config.resolve()
    if not whole and CONFIGS.resolve() not in config.parents:
        raise UserError(f"{config} is no config of the library: copy the file itself, or all that it means by --whole")
    if whole:
        text = load(str(config)).pretty_text
    else:
        name = config.relative_to(CONFIGS.resolve()).with_suffix("").as_posix()
        text = _INHERITING.format(prefix=PREFIX, name=name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(f"written: {target}; edit it, then `spectral train {target}`")


if __name__ == "__main__":
    run(main)
