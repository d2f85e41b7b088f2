"""``thermae stats``: what a store holds and does, once or again and again."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import click

import thermae
from thermae.cli.opening import attached, store_argument
from thermae.cli.output import print_json, results_console, titled
from thermae.cli.structures import flattened, readable
from thermae.reports import Stats

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live


@click.command()
@store_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one document a line.")
@click.option("--watch", is_flag=True, help="Print again and again, with rates a second, until interrupted.")
@click.option(
    "--every",
    "interval_seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Seconds between two prints of --watch.",
)
@click.option(
    "--samples", "samples_max", type=click.IntRange(min=1), help="End --watch after this many prints."
)
def stats(
    location: str, as_json: bool, watch: bool, interval_seconds: float, samples_max: int | None
) -> None:
    """Show what the store holds and does.

    \b
    Examples:
      thermae stats data/
      thermae stats data/ --watch --every 0.5
      thermae stats data/ --json | jq .
    """
    with attached(location) as store:
        if not watch:
            sample = store.stats()
            print_json(sample) if as_json else results_console().print(_table(location, sample, None, 0.0))
            return
        try:
            _watch(store, location, as_json, interval_seconds, samples_max)
        except KeyboardInterrupt:
            return  # the way in which watching ends


def _watch(
    store: thermae.Store,
    location: str,
    as_json: bool,
    interval_seconds: float,
    samples_max: int | None,
) -> None:
    previous: Stats | None = None
    with contextlib.ExitStack() as display:
        console = results_console()
        live: Live | None = None
        if console.is_terminal and not as_json:
            from rich.live import Live

            live = display.enter_context(Live(console=console, auto_refresh=False))
        for printed in itertools.count(1):
            sample = store.stats()
            if as_json:
                print_json(sample)
            elif live is not None:
                live.update(_table(location, sample, previous, interval_seconds), refresh=True)
            else:
                console.print(_table(location, sample, previous, interval_seconds))
            previous = sample
            if printed == samples_max:
                return
            time.sleep(interval_seconds)


def _table(location: str, sample: Stats, previous: Stats | None, interval_seconds: float) -> RenderableType:
    from rich.table import Table

    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    if previous is not None:
        table.add_column("per second", justify="right")
    earlier = flattened(previous) if previous is not None else {}
    for name, value in flattened(sample).items():
        cells = [name, readable(name, value)]
        if previous is not None:
            cells.append(_rate(name, value, earlier.get(name), interval_seconds))
        table.add_row(*cells)
    return titled(f"Thermae store {location}", table)


def _rate(name: str, value: Any, earlier: Any, interval_seconds: float) -> str:
    numeric = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(earlier, (int, float))
    )
    if not numeric or value == earlier:
        return ""
    return readable(name, (value - earlier) / interval_seconds)
