"""How commands name a store, attach to it, and say what a new one is to be like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import click

import thermae

Command = TypeVar("Command", bound=Callable[..., object])


def store_argument(command: Command) -> Command:
    """Adds the STORE argument."""
    return click.argument("location", metavar="STORE")(command)


# What a tier may be, as docs/operations.md has it.
HOT_BYTES = (16 << 20, 4 << 40)
TIER_BYTES = (0, 4 << 40)


def options_of_a_new_store(
    unless_given: str,
    cls: type[click.Option] = click.Option,
    hot: click.ParamType[int] | None = None,
    tier: click.ParamType[int] | None = None,
) -> Callable[[Command], Command]:
    """Adds the options that say what a store is created as; they arrive under the names of `thermae.open`.

    Args:
        unless_given: What a size is where its option is left away, for the help text; `{new}` in it stands
            for that of a new store.
        cls: What kind of options they are.
        hot: What judges the size of the hot tier, before the engine does.
        tier: The same of the other tiers.
    """
    new = unless_given.format
    cold = "four times the hot one, at least 1GiB (none for shm://)"
    option = partial(click.option, cls=cls)
    options = (
        option(
            "--hot",
            type=hot,
            metavar="SIZE",
            help=f"Size of the hot tier (DRAM), such as 512MiB.  [default: {new(new='256MiB')}]",
        ),
        option(
            "--warm",
            type=tier,
            metavar="SIZE",
            help="Size of the warm tier (persistent memory).  [default: none]",
        ),
        option("--warm-directory", help="Directory on persistent memory for it.  [default: the store's own]"),
        option(
            "--cold",
            type=tier,
            metavar="SIZE",
            help=f"Size of the cold tier (flash), such as 20GiB.  [default: {new(new=cold)}]",
        ),
        option(
            "--durability",
            type=click.Choice(["none", "everysec", "always"]),
            help="What survives the machine's death.",
        ),
        option(
            "--when-full",
            type=click.Choice(["evict", "error"]),
            help="What a full store does with a new value.",
        ),
    )

    def add(command: Command) -> Command:
        for addition in reversed(options):
            command = addition(command)
        return command

    return add


def attached(location: str, *, salvage: bool = False) -> thermae.Store:
    """A store that must exist already: a mistyped path is an error, not a new empty store."""
    return thermae.open(location, create=False, salvage=salvage)
