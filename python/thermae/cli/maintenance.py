"""``check``, ``snapshot`` and ``restore``: keeping a store's data sound and safe."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

import thermae
from thermae.cli.opening import attached, store_argument
from thermae.cli.output import print_json, results_console, titled, working
from thermae.cli.structures import flattened, readable

PROBLEMS_PRINTED_MAX = 50


@click.command()
@store_argument
@click.option("--repair", is_flag=True, help="Quarantine what is damaged and rebuild what can be rebuilt.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def check(context: click.Context, location: str, repair: bool, as_json: bool) -> None:
    """Verify every record and every structure of the store. Exit code 1 when damage was found.

    \b
    Examples:
      thermae check data/
      thermae check data/ --repair
      thermae check data/ --json || echo damaged
    """
    with attached(location, salvage=repair) as store, working(f"checking {location}"):
        document = store.check(repair=repair)
    if as_json:
        print_json(document)
    else:
        problems = document.pop("problems")
        _print_report(f"Check of {location}", {**document, "problems": len(problems)})
        for problem in problems[:PROBLEMS_PRINTED_MAX]:
            repaired = " (repaired)" if problem["repaired"] else ""
            click.echo(f"{problem['kind']}: {problem['place']}: {problem['description']}{repaired}")
        if len(problems) > PROBLEMS_PRINTED_MAX:
            click.echo(f"and {len(problems) - PROBLEMS_PRINTED_MAX:,} more: see --json")
    if not document["ok"]:
        context.exit(1)


@click.command()
@store_argument
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def snapshot(location: str, directory: Path, as_json: bool) -> None:
    """Copy the store into a new DIRECTORY.

    The copy is the store as it is at one moment; others go on reading and writing.

    \b
    Examples:
      thermae snapshot data/ backup-monday/
      thermae snapshot shm://sessions sessions-backup/ --json
    """
    with attached(location) as store, working(f"copying {location} to {directory}"):
        document = store.snapshot(directory)
    print_json(document) if as_json else _print_report(f"Snapshot of {location} in {directory}", document)


@click.command()
@click.argument("source", metavar="SNAPSHOT", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def restore(source: Path, directory: Path, as_json: bool) -> None:
    """Make a new store in DIRECTORY from a SNAPSHOT.

    Each record is verified on the way.

    \b
    Examples:
      thermae restore backup-monday/ data/
    """
    with working(f"restoring {source} to {directory}"):
        document = thermae.restore(source, directory)
    print_json(document) if as_json else _print_report(f"Restored {source} to {directory}", document)


def _print_report(title: str, document: dict[str, Any]) -> None:
    table = Table()
    table.add_column("figure")
    table.add_column("value", overflow="fold")
    for name, value in flattened(document).items():
        table.add_row(name, readable(name, value))
    results_console().print(titled(title, table))
