"""Models outside of Python: one graph with what stands before and after a model, written to a file of a format, proven
against the model itself, and run by the runtime of that format.

A task's `deploy.subject` says what is exported; this package knows graphs and files, and no task.
"""

from .formats import FORMATS, SUFFIXES
from .procedure import DTYPES, Settings, export
from .runtimes import PROGRAMS, Program, exported, open_program
from .subject import Normalise, Subject

__all__ = [
    "DTYPES",
    "FORMATS",
    "PROGRAMS",
    "SUFFIXES",
    "Normalise",
    "Program",
    "Settings",
    "Subject",
    "export",
    "exported",
    "open_program",
]
