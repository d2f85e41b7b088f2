"""How commands name a store and attach to it."""

from collections.abc import Callable
from typing import TypeVar

import click

import thermae

Command = TypeVar("Command", bound=Callable[..., object])


def store_argument(command: Command) -> Command:
    """Adds the STORE argument."""
    return click.argument("location", metavar="STORE")(command)


def attached(location: str, *, salvage: bool = False) -> thermae.Store:
    """A store that must exist already: a mistyped path is an error, not a new empty store."""
    return thermae.open(location, create=False, salvage=salvage)
