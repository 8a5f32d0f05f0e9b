"""What commands print: tables that people like on a terminal and that ``awk`` likes in a pipe, JSON, and errors.

Data goes to standard output; progress, errors and hints go to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import click

_RED: Final = "red"
_NARROWEST: Final = 10
"""Characters that a column of sentences needs at least."""


def cell_text(value: object) -> str:
    """Show a value in a table: lists joined by commas, nothing for None, yes and no for truth."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell_text(item)}" for key, item in value.items())
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table: framed by rich on a terminal, otherwise columns of plain text two spaces apart."""
    texts = [[cell_text(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, texts, title)
        return
    lines = [[column.upper() for column in columns], *texts]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    if title:
        click.echo(title)
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a framed table without the columns that are empty in every row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)] or range(len(columns))
    console = Console()
    width_of = {index: max(len(text) for text in (columns[index], *(row[index] for row in rows))) for index in shown}
    one_word = {index for index in shown if all(" " not in row[index] for row in rows)}
    # an address is not to be broken, a sentence may be; but what does not fit must be broken, or rich would cut it off
    fits = sum(width_of[index] if index in one_word else _NARROWEST for index in shown) + 3 * len(shown) <= console.width
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for index in shown:
        table.add_column(columns[index], overflow="fold", no_wrap=fits and index in one_word)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in shown))
    console.print(table)


def print_json(data: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_error(text: str) -> None:
    """Print an error of one or two lines."""
    click.echo(click.style("vnet: ", fg=_RED, bold=True) + text, err=True)


def print_progress(text: str) -> None:
    """Say what is being done, for whoever waits."""
    click.echo(click.style(f"  {text}", dim=True), err=True)
