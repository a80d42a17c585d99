"""Imported by a tool that is run as a script: puts the clone that it lies in before all that is installed."""

import sys
from pathlib import Path

if __name__ == "clone":  # and not as a module of the package, which needs no path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
