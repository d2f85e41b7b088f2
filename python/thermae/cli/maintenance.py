"""``check``, ``snapshot``, ``restore`` and ``destroy``: a store's data kept sound and safe, or given up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import click

import thermae
from thermae.cli.opening import attached, options_of_a_new_store, store_argument
from thermae.cli.output import print_json, results_console, titled, working
from thermae.cli.structures import flattened, readable
from thermae.options import OpenOptions

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
        problems = document["problems"]
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
@store_argument
@options_of_a_new_store("as the snapshot has it")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def restore(source: Path, location: str, as_json: bool, **options: Unpack[OpenOptions]) -> None:
    """Make a new STORE, a directory, from a SNAPSHOT; with other sizes where they are given.

    Each record is verified on the way.

    \b
    Examples:
      thermae restore backup-monday/ data/
      thermae restore backup-monday/ larger/ --hot 2GiB --cold 100GiB
    """
    with working(f"restoring {source} to {location}"):
        document = thermae.restore(source, location, **options)
    print_json(document) if as_json else _print_report(f"Restored {source} to {location}", document)


@click.command()
@store_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(location: str, yes: bool) -> None:
    """Remove STORE with all its data and its shared memory. Refused while anybody has it open.

    \b
    Examples:
      thermae destroy data/
      thermae destroy shm://sessions --yes
    """
    if not yes:
        click.confirm(f"Remove {location} with all its data?", abort=True, err=True)
    thermae.destroy(location)


def _print_report(title: str, document: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("figure")
    table.add_column("value", overflow="fold")
    for name, value in flattened(document).items():
        table.add_row(name, readable(name, value))
    results_console().print(titled(title, table))
