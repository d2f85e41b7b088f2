"""``serve``: a store for Redis and memcached clients."""

import json
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Unpack

import click

from thermae._thermae import Server
from thermae.cli.opening import options_of_a_new_store, store_argument
from thermae.options import OpenOptions
from thermae.store import location_text

DEFAULT_REDIS_ADDRESS = "127.0.0.1:6379"
# How long a signal may go unnoticed: Python runs handlers between two calls.
_WAIT_SECONDS = 0.2


def _read_configuration(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Takes the file's values for options that neither the command line nor the environment gives."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    options = {
        option.removeprefix("--"): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if isinstance(parameter, click.Option) and parameter.name != "config"
    }
    for name in values:
        if name not in options:
            raise click.BadParameter(
                f"{path}: {name} is no option of thermae serve: see thermae serve --help"
            )
    context.default_map = {
        str(options[name].name): _given(path, name, value) for name, value in values.items()
    }
    return path


def _given(path: Path, name: str, value: Any) -> Any:
    """A value of the file as the command line would give it."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    if isinstance(value, bool | int | str):
        return value
    raise click.BadParameter(f"{path}: {name} must be a text, a number, true or false, or a list of texts")


@click.command(context_settings={"auto_envvar_prefix": "THERMAE"})
@store_argument
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    callback=_read_configuration,
    help="TOML file with the values of options that are not given otherwise, under their names here.",
)
@click.option(
    "--redis",
    metavar="HOST:PORT",
    multiple=True,
    help=f"Address for Redis clients; may be given again.  [default: {DEFAULT_REDIS_ADDRESS}]",
)
@click.option(
    "--memcached",
    metavar="HOST:PORT",
    multiple=True,
    help="Address for memcached clients; may be given again.",
)
@click.option(
    "--tls", metavar="HOST:PORT", multiple=True, help="Address for Redis clients in TLS; may be given again."
)
@click.option("--tls-certificate", metavar="PATH", help="The server's certificate chain, PEM.")
@click.option("--tls-key", metavar="PATH", help="Its key, PEM.")
@click.option(
    "--tls-authority", metavar="PATH", help="Clients have to show a certificate of this authority, PEM."
)
@click.option("--unix", metavar="PATH", help="Socket for Redis clients of this machine and user.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Event loops.")
@click.option("--password", help="What clients have to say with AUTH. Better given as THERMAE_PASSWORD.")
@click.option(
    "--clients-max", type=click.IntRange(1), default=10_000, show_default=True, help="Most clients at once."
)
@click.option(
    "--protected-mode/--no-protected-mode",
    default=True,
    show_default=True,
    help="Refuse clients of other machines where there is no password.",
)
@options_of_a_new_store("as the store has it, 64MiB for a new one")
def serve(
    location: str,
    config: Path | None,
    redis: tuple[str, ...],
    memcached: tuple[str, ...],
    tls: tuple[str, ...],
    tls_certificate: str | None,
    tls_key: str | None,
    tls_authority: str | None,
    unix: str | None,
    threads: int,
    password: str | None,
    clients_max: int,
    protected_mode: bool,
    **options: Unpack[OpenOptions],
) -> None:
    """Serve STORE to Redis and memcached clients, until SIGTERM or Ctrl-C.

    Python processes may use the same store meanwhile: what one writes, all see. Each option may also be
    given in the environment, as THERMAE_THREADS and so on, or in a TOML file.

    \b
    Examples:
      thermae serve data/
      thermae serve data/ --redis 127.0.0.1:6380 --memcached 127.0.0.1:11211 --threads 4
      thermae serve shm://sessions --hot 1GiB --unix /run/user/1000/thermae.sock
      thermae serve data/ --config thermae.toml
    """
    if not (redis or memcached or tls or unix):
        redis = (DEFAULT_REDIS_ADDRESS,)
    settings = {
        "threads": threads,
        "redis": redis,
        "memcached": memcached,
        "tls": tls,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_authority": tls_authority,
        "unix": unix,
        "password": password or "",
        "clients_max": clients_max,
        "protected_mode": protected_mode,
    }
    server = Server(location_text(location), options, json.dumps(settings))
    try:
        with _stopping_at_signals(server):
            for protocol, address in server.addresses():
                click.echo(f"{protocol} clients: {address}", err=True)
            while not server.wait(_WAIT_SECONDS):
                pass
    finally:
        server.close()
    if (failure := server.failure()) is not None:
        raise click.ClickException(f"the server ended by itself: {failure}")


@contextmanager
def _stopping_at_signals(server: Server) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
