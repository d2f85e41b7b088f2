"""What the engine and the server refuse, in the words of the command line.

Both speak to all their faces: they name an option as Python does, and an address without the option that it
came from. Here their sentences get what only the command line knows. One that is not recognized stays as it
is: no wording of theirs is relied upon for anything but wording.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

_ADDRESSES = ("redis", "memcached", "tls")
_SOCKETS = ("unix", "memcached_unix")
_OF_PYTHON = (
    (
        'or open with placement="directory" to map files in the store\'s directory instead',
        "or name a directory as STORE, which can have its memory in files of its own, created from Python",
    ),
    ("restore it (thermae restore), or open it with create=True", "restore it (thermae restore)"),
    (", or open it with create=True", ""),
    (
        "(thermae.open makes one unless create is false, and so does `thermae set`)",
        "(`thermae set` makes one)",
    ),
    ('with placement="directory"', 'in Python, with thermae.open(..., placement="directory")'),
)


class Misconfiguration(click.ClickException):
    """What a command was told makes no sense, as was found while it was done.

    Its exit code is that of a mistake in the command line: who restarts servers that fail lets this one be.
    """

    exit_code = click.UsageError.exit_code


def worded(text: str) -> str:
    """A sentence of the engine's on one line, its options named as here.

    Example:
        >>> worded("s has no cold tier: create the store with cold=")
        's has no cold tier: create the store with --cold'
    """
    text = " ".join(text.split())
    for theirs, ours in _OF_PYTHON:
        text = text.replace(theirs, ours)
    option = re.compile(r"(?<![\w.(])(hot|warm|cold|warm_directory|durability|when_full)=")
    return option.sub(lambda found: f"--{found[1].replace('_', '-')} ", text).strip()


def reason_of(error: Exception) -> str:
    """What is to be told of an error that ends a command, on one line."""
    return error.format_message() if isinstance(error, click.ClickException) else worded(str(error))


def not_listening(option: str, address: str, number: int | None, reason: str) -> str:
    """Why an address can't be listened on, and what to do.

    Args:
        option: Where it was given, such as ``--redis``.
        address: As it was given.
        number: The system's number of the error, where it has one.
        reason: What the system said.
    """
    remedies = {
        errno.EADDRINUSE: f"another server is there: end it, or give {option} another port",
        errno.EACCES: f"ports below 1024 take a right of their own: give {option} a higher one",
        errno.EADDRNOTAVAIL: f"this machine has no such address: give {option} one of its own, or 0.0.0.0",
    }
    return f"cannot listen on {address} ({option}): {remedies.get(number or 0, reason)}"


def explained(text: str, settings: Mapping[str, Any]) -> str:
    """Why a server does not start, or takes no new configuration: with the option, and what to do.

    Args:
        text: What it said.
        settings: What it was told, under the names of `serve`'s parameters.
    """
    if (failed := re.fullmatch(r"cannot listen on (.*?): (.*?)(?: \(os error (\d+)\))?", text)) is not None:
        address, reason, number = failed[1], failed[2], int(failed[3]) if failed[3] else None
        for name in _SOCKETS:
            if settings[name] == address:
                return _no_socket(f"--{name.replace('_', '-')}", Path(address), reason, number)
        for name in _ADDRESSES:
            if address in settings[name]:
                return not_listening(f"--{name}", address, number, reason)
    if "KeyMismatch" in text:
        return f"{settings['tls_key']} is not the key of {settings['tls_certificate']}"
    return _of_users(text)


def _no_socket(option: str, path: Path, reason: str, number: int | None) -> str:
    if not path.parent.is_dir():
        remedy = f"there is no directory {path.parent}: make it, or give {option} another path"
    elif number == errno.ENAMETOOLONG:
        remedy = f"the path of a socket has at most 107 bytes: give {option} a shorter one"
    elif number is not None or not os.path.lexists(path):
        remedy = reason
    elif stat.S_ISSOCK(path.lstat().st_mode):
        # One that nobody listens on any more would have been replaced.
        remedy = f"another server listens there: end it, or give {option} another path"
    else:
        what = "a directory" if path.is_dir() else "a file that is no socket"
        remedy = f"{what} lies there: remove it if nobody needs it, or give {option} another path"
    return f"cannot listen on {path} ({option}): {remedy}"


def _of_users(text: str) -> str:
    """A file of users is loaded at the start as by ACL LOAD, which had rules before that it can speak of."""
    problem = re.sub(r"\s*WARNING: ACL errors detected, no change.*", "", text)
    if problem == text:
        return text
    place = re.search(r"(\S+):(\d+): ", problem)
    remedy = "Correct it" if place is None else f"Correct line {place[2]} of {place[1]}"
    return f"{problem.rstrip(' .')}. {remedy}, and start again"


def check_writable(option: str, directory: Path) -> None:
    """Raises where nothing could be written into a directory, or no such directory could be made.

    Raises:
        click.ClickException: It says why, and what to do.
    """
    nearest = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise click.ClickException(f"{option}: {nearest} is no directory: remove it, or name another place")
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(
            f"{option}: nothing can be written into {nearest} ({reason}): change that, or name another place"
        ) from error
