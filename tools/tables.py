"""Rows of figures as a table for the eye, Markdown, CSV or JSON."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

FORMATS = ("table", "markdown", "csv", "json")


class Column(NamedTuple):
    """How a value is shown to the eye.

    Attributes:
        heading: With the unit.
        show: Turns a value into text.
        is_number: Whether it is aligned at the right.
    """

    heading: str
    show: Callable[[Any], str] = str
    is_number: bool = True


def render(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column], fmt: str) -> str:
    """The rows as text.

    Args:
        rows: At least one; all have the keys of the first.
        columns: How the value of each key is shown in "table" and "markdown"; "csv" and "json" hold plain values.
        fmt: One of `FORMATS`.
    """
    if fmt == "json":
        return json.dumps(rows, indent=2)
    if fmt == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    shown = [columns[key] for key in rows[0]]
    cells = [[columns[key].show(value) for key, value in row.items()] for row in rows]
    if fmt == "markdown":
        head = [[column.heading for column in shown], ["---:" if column.is_number else "---" for column in shown]]
        return "\n".join(f"| {' | '.join(line)} |" for line in head + cells)
    table = Table()
    for column in shown:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for line in cells:
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width: don't cut columns to the default of 80
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def between(page: str, begin: str, end: str) -> tuple[str, str, str]:
    """What a page has before, between and after two lines.

    Raises:
        ValueError: They are not there, once each and in order.
    """
    before, begun, rest = page.partition(begin)
    inside, ended, after = rest.partition(end)
    if not begun or not ended or begin in rest or end in after:
        raise ValueError(f"these two lines have to be there once each, in this order:\n{begin}\n{end}")
    return before, inside.strip("\n"), after


def write_between(path: Path, begin: str, end: str, inside: str) -> None:
    """Writes what a page has between two lines anew.

    Raises:
        UserError: The page cannot be read, or has no such lines.
    """
    from spectral_backbones.engine.errors import UserError  # which brings in mmengine: not where rows are only shown

    try:
        before, _, after = between(path.read_text(encoding="utf-8"), begin, end)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    path.write_text(f"{before}{begin}\n{inside}\n{end}{after}", encoding="utf-8")
