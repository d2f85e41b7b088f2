"""How commands name a store, attach to it, and say what a new one is to be like."""

from collections.abc import Callable
from typing import TypeVar

import click

import thermae

Command = TypeVar("Command", bound=Callable[..., object])


def store_argument(command: Command) -> Command:
    """Adds the STORE argument."""
    return click.argument("location", metavar="STORE")(command)


def options_of_a_new_store(unless_given: str) -> Callable[[Command], Command]:
    """Adds the options that say what a store is created as; they arrive under the names of `thermae.open`.

    Args:
        unless_given: What a size is where its option is left away, for the help text.
    """
    options = (
        click.option(
            "--hot", help=f"Size of the hot tier (DRAM), such as 512MiB.  [default: {unless_given}]"
        ),
        click.option("--warm", help="Size of the warm tier (persistent memory).  [default: none]"),
        click.option(
            "--warm-directory", help="Directory on persistent memory for it.  [default: the store's own]"
        ),
        click.option(
            "--cold", help=f"Size of the cold tier (flash), such as 20GiB.  [default: {unless_given}]"
        ),
        click.option(
            "--durability",
            type=click.Choice(["none", "everysec", "always"]),
            help="What survives the machine's death.",
        ),
        click.option(
            "--when-full",
            type=click.Choice(["evict", "error"]),
            help="What a full store does with a new value.",
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def attached(location: str, *, salvage: bool = False) -> thermae.Store:
    """A store that must exist already: a mistyped path is an error, not a new empty store."""
    return thermae.open(location, create=False, salvage=salvage)
