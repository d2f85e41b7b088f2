"""Values between the command line and the store: read from text as the user says, never guessed.

``thermae set data/ code 007`` stores the text ``007``; it is a number only with ``--type int``.
"""

import base64
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import click

_PARSERS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text.strip().lower()],
    "null": lambda text: {"": None, "null": None}[text.strip().lower()],
    "json": json.loads,
}
VALUE_TYPES = ("bytes", *_PARSERS)


def key_from_argument(argument: str) -> bytes:
    """The bytes the user typed, also where they are not valid UTF-8."""
    return os.fsencode(argument)


def parse_value(raw: bytes, value_type: str) -> Any:
    """``raw`` read as ``value_type``; a usage error when it is none."""
    if value_type == "bytes":
        return raw
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"the value is no UTF-8 (at byte {error.start}), so it is no {value_type}; use --type bytes"
        ) from error
    try:
        return _PARSERS[value_type](text)
    except (ValueError, KeyError) as error:
        raise click.UsageError(
            f"{shortened(text)} is no {value_type}; see --type in `thermae set --help`"
        ) from error


def shortened(text: str, characters_max: int = 60) -> str:
    """`text` in quotes, cut where it is too long for a message."""
    return repr(text if len(text) <= characters_max else text[:characters_max] + "...")


def json_form(value: Any) -> Any:
    """``value`` as JSON can say it.

    What JSON has no word for becomes an object with a member that names it: ``{"base64": ...}`` for bytes,
    ``{"float": "nan"}``, ``{"array": ...}``, ``{"text": ...}`` for anything else.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return {_member_name(name): json_form(member) for name, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_form(member) for member in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return {"array": json_form(value.tolist()), "dtype": str(value.dtype)}
    if hasattr(value, "to_pydict"):
        return {"table": json_form(value.to_pydict())}
    return {"text": str(value)}


def _member_name(name: Any) -> str:
    if isinstance(name, str):
        return name
    return (
        bytes(name).decode("utf-8", "backslashreplace") if isinstance(name, (bytes, bytearray)) else str(name)
    )


def key_json_form(key: str | bytes) -> Any:
    """A key as JSON text, or as ``{"base64": ...}`` where its bytes are not UTF-8."""
    if isinstance(key, str):
        return key
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return json_form(key)


def key_bytes(key: str | bytes) -> bytes:
    """A key's bytes, whichever way it is given."""
    return key.encode("utf-8") if isinstance(key, str) else key


def plain_bytes(value: Any) -> bytes:
    """``value`` for a pipe: bytes as stored; anything else as one line, JSON where it is structured."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8") + b"\n"
    return json.dumps(json_form(value), ensure_ascii=False).encode("utf-8") + b"\n"
