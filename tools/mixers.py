"""Lists the token mixers, with their papers and options.

spectral mixers                        # all
spectral mixers 'window' '*_window'    # by wildcards
spectral mixers --format markdown

A name stands in the `mixers` of a model, with options in brackets and how many blocks have it:
mixers="neighbourhood(kernel_size=9):8, spectral". docs/mixers.md tells what each costs.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import fnmatch
import sys
from typing import Any, Dict, List, Optional

from spectral_backbones.backbones.mixers import get_mixer, list_mixers, mixer_options
from spectral_backbones.tools.script import run
from spectral_backbones.tools.tables import FORMATS, Column, render

COLUMNS = {
    "mixer": Column("mixer", is_number=False),
    "paper": Column("paper", lambda text: text or "none", is_number=False),
    "options": Column(
        "options and defaults",
        lambda options: ", ".join(f"{name}={default!r}" for name, default in options.items()) or "none",
        is_number=False,
    ),
}


def records() -> List[Dict[str, Any]]:
    """All mixers by name: a dict with the keys of `COLUMNS` each."""
    return [dict(mixer=name, paper=get_mixer(name).paper, options=mixer_options(name)) for name in list_mixers()]


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names with * and ?")
    parser.add_argument("--format", choices=FORMATS, default="table")
    args = parser.parse_args(arguments)
    rows = [
        row
        for row in records()
        if not args.patterns or any(fnmatch.fnmatch(row["mixer"], pattern) for pattern in args.patterns)
    ]
    if not rows:
        sys.exit(f"error: no mixer fits {' '.join(args.patterns)}; there are {', '.join(list_mixers())}")
    print(render(rows, COLUMNS, args.format))


if __name__ == "__main__":
    run(main)
