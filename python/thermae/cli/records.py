"""``get``, ``set``, ``delete`` and ``keys``: single records, from a shell."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any, Unpack

import click

import thermae
from thermae.cli.opening import attached, options_of_a_new_store, store_argument
from thermae.cli.output import print_json
from thermae.cli.values import (
    VALUE_TYPES,
    json_form,
    key_bytes,
    key_from_argument,
    key_json_form,
    parse_value,
    plain_bytes,
    shortened,
)
from thermae.options import OpenOptions

_ABSENT = object()


@click.command("get")
@store_argument
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print key, value and seconds to live as JSON.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the value to a file instead."
)
def get_value(location: str, key: str, as_json: bool, output: Path | None) -> None:
    """Print the value of KEY.

    Bytes are written exactly as stored; text, numbers and structures as one line. Exit code 1 when there is
    no such key.

    \b
    Examples:
      thermae get data/ user:1
      thermae get data/ picture --output picture.png
      thermae get shm://sessions user:1 --json | jq .value
    """
    if as_json and output is not None:
        raise click.UsageError("give either --json or --output: --json prints the value on standard output")
    raw_key = key_from_argument(key)
    with attached(location) as store:
        value = store.get(raw_key, _ABSENT)
        ttl_seconds = store.ttl(raw_key) if as_json and value is not _ABSENT else None
    if value is _ABSENT:
        raise click.ClickException(f"no such key in {location}: {shortened(key)}")
    if as_json:
        print_json({"key": key_json_form(raw_key), "value": json_form(value), "ttl": ttl_seconds})
    elif output is not None:
        output.write_bytes(plain_bytes(value))
    else:
        sys.stdout.buffer.write(plain_bytes(value))
        sys.stdout.buffer.flush()


@click.command("set")
@store_argument
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--file",
    "source",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="Read the value from a file; - is standard input.",
)
@click.option(
    "--type",
    "value_type",
    type=click.Choice(VALUE_TYPES),
    help="What the value is.  [default: text; bytes with --file]",
)
@click.option(
    "--ttl",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds until the record expires.  [default: never]",
)
@click.option(
    "--if-absent", is_flag=True, help="Store only when there is no such key; exit code 1 when there is."
)
@options_of_a_new_store("as the store has it, and of a new one {new}")
def set_value(
    location: str,
    key: str,
    value: str | None,
    source: str | None,
    value_type: str | None,
    ttl: float | None,
    if_absent: bool,
    **options: Unpack[OpenOptions],
) -> None:
    """Store VALUE under KEY. The store is created when it does not exist.

    \b
    Examples:
      thermae set data/ greeting hello
      thermae set data/ visits 41 --type int
      thermae set data/ user:1 '{"name": "Ada"}' --type json --ttl 60
      thermae set data/ picture --file picture.png
      thermae set shm://sessions lock mine --if-absent --hot 64MiB
    """
    if (value is None) == (source is None):
        raise click.UsageError("give the value either as an argument or with --file")
    if source is None:
        assert value is not None
        parsed = parse_value(key_from_argument(value), value_type or "text")
    else:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        parsed = parse_value(raw, value_type or "bytes")
    with thermae.open(location, **options) as store:
        stored = store.set(key_from_argument(key), parsed, ttl=ttl, if_absent=if_absent)
    if not stored:
        raise click.ClickException(f"not stored: {location} already has the key {shortened(key)}")


@click.command()
@store_argument
@click.argument("keys", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print how many were deleted as JSON.")
def delete(location: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Delete KEYS. Exit code 1 when one of them did not exist (the others are deleted all the same).

    \b
    Examples:
      thermae delete data/ user:1
      thermae keys data/ --prefix tmp: --null | xargs -0 thermae delete data/
    """
    distinct_keys = list(dict.fromkeys(key_from_argument(key) for key in keys))
    with attached(location) as store:
        deleted_count = store.delete_many(distinct_keys)
    if as_json:
        print_json({"deleted": deleted_count, "missing": len(distinct_keys) - deleted_count})
    if deleted_count < len(distinct_keys):
        raise click.ClickException(
            f"{len(distinct_keys) - deleted_count} of {len(distinct_keys)} keys did not exist in {location}"
        )


@click.command("keys")
@store_argument
@click.option("--prefix", default="", help="Only keys that start with this.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--count", "only_count", is_flag=True, help="Print how many there are instead.")
@click.option("--null", "null_separated", is_flag=True, help="End each key with a NUL byte, for xargs -0.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_keys(
    location: str, prefix: str, limit: int | None, only_count: bool, null_separated: bool, as_json: bool
) -> None:
    """Print the keys, one a line, in no particular order.

    \b
    Examples:
      thermae keys data/ --prefix user: --limit 20
      thermae keys data/ --json | jq length
    """
    with attached(location) as store:
        chosen = itertools.islice(store.keys(prefix=key_from_argument(prefix)), limit)
        if only_count:
            count = len(store) if not prefix and limit is None else sum(1 for _ in chosen)
            print_json({"count": count}) if as_json else click.echo(count)
        elif as_json:
            _print_json_array(chosen)
        else:
            separator = b"\0" if null_separated else b"\n"
            for key in chosen:
                sys.stdout.buffer.write(key_bytes(key) + separator)
            sys.stdout.buffer.flush()


def _print_json_array(keys: Any) -> None:
    """Written as it comes: a store may hold more keys than fit this process's memory as one document."""
    click.echo("[", nl=False)
    for position, key in enumerate(keys):
        click.echo((", " if position else "") + json.dumps(key_json_form(key), ensure_ascii=False), nl=False)
    click.echo("]")
