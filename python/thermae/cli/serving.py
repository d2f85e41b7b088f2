"""``serve``: a store for Redis and memcached clients."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Unpack

import click

from thermae._thermae import Server
from thermae.cli.opening import options_of_a_new_store, store_argument
from thermae.options import OpenOptions
from thermae.store import location_text

# How long a signal may go unnoticed: Python runs handlers between two calls.
_WAIT_SECONDS = 0.2


@click.command(context_settings={"auto_envvar_prefix": "THERMAE"})
@store_argument
@click.option(
    "--redis",
    "redis_addresses",
    metavar="HOST:PORT",
    multiple=True,
    help="Address for Redis clients; may be given again.  [default: 127.0.0.1:6379]",
)
@click.option(
    "--memcached",
    "memcached_addresses",
    metavar="HOST:PORT",
    multiple=True,
    help="Address for memcached clients.",
)
@click.option("--unix", metavar="PATH", help="Socket for Redis clients of this machine and user.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Event loops.")
@click.option("--password", help="What clients have to say with AUTH. Better given as THERMAE_PASSWORD.")
@click.option("--clients-max", type=click.IntRange(1), default=10_000, show_default=True)
@click.option(
    "--protected-mode/--no-protected-mode",
    default=True,
    show_default=True,
    help="Refuse clients of other machines where there is no password.",
)
@options_of_a_new_store("64MiB hot")
def serve(
    location: str,
    redis_addresses: tuple[str, ...],
    memcached_addresses: tuple[str, ...],
    unix: str | None,
    threads: int,
    password: str | None,
    clients_max: int,
    protected_mode: bool,
    **options: Unpack[OpenOptions],
) -> None:
    """Serve STORE to Redis and memcached clients, until SIGTERM or Ctrl-C.

    Python processes may use the same store meanwhile: what one writes, all see.

    \b
    Examples:
      thermae serve data/
      thermae serve data/ --redis 127.0.0.1:6380 --memcached 127.0.0.1:11211 --threads 4
      thermae serve shm://sessions --hot 1GiB --unix /run/user/1000/thermae.sock
    """
    if not (redis_addresses or memcached_addresses or unix):
        redis_addresses = ("127.0.0.1:6379",)
    config = {
        "threads": threads,
        "redis": redis_addresses,
        "memcached": memcached_addresses,
        "unix": unix,
        "password": password or "",
        "clients_max": clients_max,
        "protected_mode": protected_mode,
    }
    server = Server(location_text(location), options, json.dumps(config))
    try:
        with _stopping_at_signals(server):
            for protocol, address in server.addresses():
                click.echo(f"{protocol} clients: {address}", err=True)
            while not server.wait(_WAIT_SECONDS):
                pass
    finally:
        server.close()


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
