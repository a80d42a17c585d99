"""Builds the documentation as a site, strictly: a page, a heading or a name that is not there ends it.

python tools/docs.py            # into site/, whose index.html any browser opens
python tools/docs.py --serve    # while one writes: built anew as files change
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import List, Optional

from spectral_backbones.tools.script import make_parser, run

ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path) -> None:
    """Lays links to the rooms inside the package, as they lie when it is installed: the API reference is read there.

    Args:
        folder: The parent of the package; what was there is replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "spectral_backbones"
    package.mkdir(parents=True)
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    rooms = [line.partition(" = ") for line in setup["options"]["package_dir"].strip().splitlines()]
    for name, _, path in rooms:
        inside = [ROOT / path] if "." in name else sorted((ROOT / path).glob("*.py"))
        for one in inside:
            (package / one.name).symlink_to(one)


def build(root: Path = ROOT) -> subprocess.CompletedProcess:
    """Builds the site of a folder with mkdocs.yml and docs/ into its site/; returns the ended process.

    Args:
        root: A clone, or a copy of what the site is made of: CHANGELOG.md too.
    """
    lay_out(root / "build" / "reference")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--serve", action="store_true", help="serve the site, and build it anew as files change")
    args = parser.parse_args(arguments)
    if args.serve:
        lay_out(ROOT / "build" / "reference")
        return subprocess.run([sys.executable, "-m", "zensical", "serve"], cwd=ROOT).returncode
    done = build()
    if done.returncode:
        print(done.stdout)
    else:
        print(f"built: {ROOT / 'site' / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    run(main)
