"""Imported by a tool that is run as a script: puts the clone that it lies in before all that is installed."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
