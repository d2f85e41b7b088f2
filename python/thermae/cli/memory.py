"""``shm``: the shared memory that stores take, and what stores that are gone have left of it."""

import click

import thermae
from thermae.cli.output import print_json, results_console, titled
from thermae.cli.structures import readable


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--remove-orphans", is_flag=True, help="Remove the memory of stores that are gone.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found, or removed, as JSON.")
def shm(names: tuple[str, ...], remove_orphans: bool, as_json: bool) -> None:
    """Show the shared memory of your stores; remove what is left of those that are gone.

    A store whose directory was removed by hand leaves its memory behind. Look at the list before you remove
    what it calls orphaned: a store that was moved far away and not opened since looks like one that is gone.
    NAME is the directory's name in /dev/shm, to see or remove only that.

    \b
    Examples:
      thermae shm
      thermae shm --remove-orphans
      thermae shm --remove-orphans thermae-0bb8879a49a4088f22993f91c7f5f292
    """
    found = thermae.remove_orphaned_memory(names or None) if remove_orphans else thermae.shared_memory()
    if names:
        found = [memory for memory in found if memory["name"] in names]
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table()
    for name in ("store", "state", "memory", "name in /dev/shm", "because"):
        table.add_column(name, overflow="fold")
    for memory in found:
        table.add_row(
            memory["location"] or "?",
            memory["state"],
            readable("memory_bytes", memory["bytes"]),
            memory["name"],
            memory["reason"],
        )
    title = "Removed shared memory" if remove_orphans else "Shared memory"
    results_console().print(titled(title, table))
