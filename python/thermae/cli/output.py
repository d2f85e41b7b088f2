"""What commands print: results on standard output, progress on standard error where a person watches.

Rich is imported where something is drawn: a server that starts again should not wait for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.table import Table

COLUMNS_WITHOUT_TERMINAL = 160


def results_console() -> Console:
    """Made anew for each use, so that it follows a redirected standard output."""
    from rich.console import Console

    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    # Files and pipes have no width, and at the 80 columns that Rich assumes, tables break into single words.
    return Console(width=COLUMNS_WITHOUT_TERMINAL)


def progress_console() -> Console:
    """Standard error, so that progress never mixes with results."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner with the time so far, for work whose end can't be told."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = progress_console()
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def step_progress() -> Progress:
    """A bar over named steps; silent where standard error is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = progress_console()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_json(document: Any) -> None:
    """One document, on one line."""
    click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


def titled(title: str, table: Table) -> RenderableType:
    """A table under its title, which may be wider than the table."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), table)
