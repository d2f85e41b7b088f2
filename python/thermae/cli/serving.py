"""``serve``: a store for Redis and memcached clients.

The server's threads never touch Python. This thread waits for signals and for the server's end, writes what
happens, and reads the configuration again at SIGHUP; however long that takes, no client notices.
"""

import json
import os
import resource
import select
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, cast

import click

import thermae
from thermae._thermae import Server
from thermae.cli.journal import Format, Journal
from thermae.cli.notify import notify_ready, notify_reloading, notify_stopping
from thermae.cli.opening import HOT_BYTES, TIER_BYTES, options_of_a_new_store
from thermae.cli.refusals import Misconfiguration, check_writable, explained, reason_of, worded
from thermae.cli.settings import (
    STORE_KEY,
    STORE_VARIABLE,
    Address,
    RedisParameter,
    Setting,
    Size,
    WholeNumber,
    read_file,
    refuse_unread_variables,
)
from thermae.cli.structures import readable
from thermae.options import OpenOptions
from thermae.store import location_text

if TYPE_CHECKING:
    from thermae.cli.metrics import MetricsPage

DEFAULT_REDIS_ADDRESS = "127.0.0.1:6379"
# How often what happened is written. Signals are noticed at once.
_LOOK_SECONDS = 0.2
# Descriptors for the store's files, the loops and the listeners.
_DESCRIPTORS_BESIDE = 1100
# Behind the addresses where TLS is spoken, as people are shown them.
_TLS_MARK = " (TLS)"
# How often a reload reads a file that keeps changing.
_READINGS_MAX = 5
# The field of an event that says how long something took.
_DURATION = "took_ms"
# Under which the command's own words are kept, to be read again.
_ARGUMENTS = "thermae.serve.arguments"


class _Serve(click.Command):
    """Keeps its own words, which are read again when the configuration is, and tells its end in its log."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Reads the words behind the command's name."""
        context.meta[_ARGUMENTS] = tuple(arguments)
        rest = super().parse_args(context, arguments)
        if not context.resilient_parsing:
            refuse_unread_variables(context)
        return rest

    def read(self, name: str | None, words: Sequence[str], parent: click.Context | None) -> click.Context:
        """What these words, the environment and the file say."""
        return super().make_context(name, list(words), parent)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The same at the start, where a mistake is told in the form that the log has."""
        words = tuple(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:
            # What is in order may say so. An unknown word keeps those behind it from being understood.
            around = super().make_context(info_name, list(words), parent, resilient_parsing=True)
            is_said = "--log-format=json" in words or ("--log-format", "json") in pairwise(words)
            if around.params["log_format"] != "json" and not is_said:
                raise
            _note_failure(Journal("json"), reason_of(error))
            raise click.exceptions.Exit(error.exit_code) from error

    def invoke(self, context: click.Context) -> Any:
        """Runs the server; what it is refused is told in the form that the log has."""
        try:
            return super().invoke(context)
        except (click.ClickException, thermae.ThermaeError, OSError) as error:
            if context.params["log_format"] != "json":
                raise
            _note_failure(Journal("json"), reason_of(error))
            context.exit(getattr(error, "exit_code", 1))


_setting = partial(click.option, cls=Setting)


@click.command(cls=_Serve, context_settings={"auto_envvar_prefix": "THERMAE"})
@click.pass_context
@click.argument("location", metavar="[STORE]", required=False, envvar=STORE_VARIABLE)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    callback=read_file,
    help="TOML file with the values of options that are not given otherwise, under their names here.",
)
@_setting(
    "--redis",
    metavar="HOST:PORT",
    type=Address(6379),
    multiple=True,
    help="Address for Redis clients; may be given again."
    f"  [default: {DEFAULT_REDIS_ADDRESS}, where no other address or socket is given]",
)
@_setting(
    "--memcached",
    metavar="HOST:PORT",
    type=Address(11211),
    multiple=True,
    help="Address for memcached clients; may be given again.",
)
@_setting(
    "--tls",
    metavar="HOST:PORT",
    type=Address(6380),
    multiple=True,
    help="Address for Redis clients in TLS; may be given again.",
)
@_setting("--tls-certificate", metavar="PATH", help="The server's certificate chain, PEM.")
@_setting("--tls-key", metavar="PATH", help="Its key, PEM.")
@_setting(
    "--tls-authority", metavar="PATH", help="Clients have to show a certificate of this authority, PEM."
)
@_setting(
    "--metrics",
    metavar="HOST:PORT",
    type=Address(9121),
    help="Address of metrics for Prometheus, over HTTP and without a login.  [default: none]",
)
@_setting("--unix", metavar="PATH", help="Socket for Redis clients of this machine and user.")
@_setting(
    "--snapshots",
    metavar="DIRECTORY",
    help="Where SAVE and BGSAVE put a snapshot of the store, in place of the one before.",
)
@_setting("--memcached-unix", metavar="PATH", help="Socket for memcached clients of this machine and user.")
@_setting("--threads", type=WholeNumber(1, 1024), default=1, show_default=True, help="Event loops.")
@_setting("--password", help="What clients have to say with AUTH. Better given as THERMAE_PASSWORD.")
@_setting(
    "--acl-file",
    metavar="PATH",
    help="File of users: who may come in, and what each may do; as Redis has it.",
)
@_setting(
    "--clients-max",
    type=WholeNumber(1, (1 << 32) - 1),
    default=10_000,
    show_default=True,
    help="Most clients at once.",
)
@_setting(
    "--clients-memory-max",
    metavar="SIZE",
    type=Size(0, 1 << 40),
    help="What all clients together may have sent in part, have queued and not taken yet; 0: no limit."
    "  [default: 64 MiB more than the largest value]",
)
@_setting(
    "--timeout-seconds",
    type=WholeNumber(0, (1 << 31) - 1),
    default=0,
    show_default=True,
    help="Disconnect clients that were idle for so long; 0: never.",
)
@_setting(
    "--argument-max",
    metavar="SIZE",
    type=Size(1 << 20, 1 << 30),
    default="512MiB",
    show_default=True,
    help="Longest argument of a Redis command.",
)
@_setting(
    "--memcached-value-max",
    metavar="SIZE",
    type=Size(1 << 10, 512 << 20),
    default="1MiB",
    show_default=True,
    help="Longest value of memcached clients.",
)
@_setting(
    "--protected-mode/--no-protected-mode",
    default=True,
    show_default=True,
    help="Refuse clients of other machines where there is no password.",
)
@_setting(
    "--enable-debug-command",
    type=click.Choice(["no", "local", "yes"]),
    default="no",
    show_default=True,
    help="Who may call DEBUG: nobody, clients of this machine, all.",
)
@_setting(
    "--redis-parameter",
    metavar="NAME=VALUE",
    type=RedisParameter(),
    multiple=True,
    help="Parameter of CONFIG SET that has no option here, such as slowlog-max-len=1000; may be given again.",
)
@_setting(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How standard error says what happens, a line each.",
)
@options_of_a_new_store(
    "as the store has it, and of a new one {new}", cls=Setting, hot=Size(*HOT_BYTES), tier=Size(*TIER_BYTES)
)
def serve(
    context: click.Context,
    /,
    location: str | None,
    config: Path | None,
    log_format: Format,
    metrics: str | None,
    **given: Any,
) -> None:
    """Serve STORE to Redis and memcached clients, until SIGTERM or Ctrl-C.

    Python processes may use the same store meanwhile: what one writes, all see. STORE and each option may
    also be given in the environment, as THERMAE_STORE, THERMAE_THREADS and so on, or in a TOML file. SIGHUP
    has the file, the certificates and all that can change read again.

    \b
    Examples:
      thermae serve data/
      thermae serve data/ --redis 127.0.0.1:6380 --memcached 127.0.0.1:11211 --threads 4
      thermae serve shm://sessions --hot 1GiB --unix /run/user/1000/thermae.sock
      thermae serve data/ --metrics 127.0.0.1:9121
      thermae serve data/ --config thermae.toml
    """
    if location is None:
        raise click.UsageError(
            f"there is no store to serve: name one, as in thermae serve data/, or as {STORE_VARIABLE} in the "
            f'environment, or as {STORE_KEY} = "data/" in the file of --config',
            context,
        )
    journal = Journal(log_format)
    settings = _settings(context.params)
    if settings["snapshots"] is not None:
        check_writable("--snapshots", Path(settings["snapshots"]))
    _allow_descriptors(journal, settings["clients_max"])
    options = cast(OpenOptions, {name: value for name, value in given.items() if name not in settings})
    with (
        ExitStack() as stack,
        _Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) as signals,
    ):
        # Before the store is opened: a server that cannot listen makes none.
        page = None if metrics is None else stack.enter_context(_metrics_page(metrics))
        server = _started(location, options, _configuration(settings, config))
        try:
            if page is not None:
                stack.enter_context(page.showing(server))
                journal.note("listening", f"metrics: {page.url}", protocol="metrics", address=page.url)
            _announce(journal, server, location)
            notify_ready()
            reason = _until_the_end(context, journal, server, signals)
        finally:
            notify_stopping()
            try:
                server.close()
            finally:
                # Where closing fails, what happened before says why.
                _write_events(journal, server)
                if (failure := server.failure()) is not None:
                    _note_failure(journal, f"the server ended by itself: {failure}")
    if failure is not None:
        context.exit(1)
    journal.note("ended", f"ended: {reason}", reason=reason)


# Of the server; all other options are the store's.
_SETTINGS = (
    "threads",
    "redis",
    "memcached",
    "memcached_unix",
    "tls",
    "tls_certificate",
    "tls_key",
    "tls_authority",
    "unix",
    "snapshots",
    "password",
    "acl_file",
    "clients_max",
    "clients_memory_max",
    "timeout_seconds",
    "argument_max",
    "memcached_value_max",
    "protected_mode",
    "enable_debug_command",
    "redis_parameter",
)


def _note_failure(journal: Journal, reason: str) -> None:
    journal.note("failed", reason, reason=reason)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the server.

    Raises:
        click.UsageError: Some of them make no sense together.
    """
    settings = {name: given[name] for name in _SETTINGS}
    of_tls = [name for name in ("tls_certificate", "tls_key", "tls_authority") if settings[name]]
    if of_tls and not settings["tls"]:
        option = f"--{of_tls[0].replace('_', '-')}"
        raise click.UsageError(
            f"{option} is given, and no address where TLS is spoken: give one with --tls, such as "
            f"--tls 127.0.0.1:6380, or leave {option} out"
        )
    given_at: dict[str, str] = {}
    for name in ("redis", "memcached", "tls", "metrics", "unix", "memcached_unix"):
        place = given[name] or ()
        for address in (place,) if isinstance(place, str) else place:
            option = f"--{name.replace('_', '-')}"
            # Any free port is another one each time.
            if address in given_at and not address.endswith(":0"):
                if given_at[address] == option:
                    raise click.UsageError(f"{option} names {address} twice")
                raise click.UsageError(f"{given_at[address]} and {option} name the same address, {address}")
            given_at[address] = option
    return settings


def _started(location: str, options: OpenOptions, configuration: Mapping[str, Any]) -> Server:
    try:
        return Server(location_text(location), options, json.dumps(configuration))
    except thermae.InvalidOptionError as error:
        raise Misconfiguration(worded(explained(str(error), configuration))) from error
    except OSError as error:
        # An address that is taken, for one, may be free at the next start.
        raise click.ClickException(worded(explained(str(error), configuration))) from error


def _configuration(settings: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """The server's configuration, under the names that it has there."""
    configuration = dict(settings)
    if not any(configuration[name] for name in ("redis", "memcached", "memcached_unix", "tls", "unix")):
        configuration["redis"] = (DEFAULT_REDIS_ADDRESS,)
    configuration["config_file"] = None if config is None else os.path.abspath(config)
    configuration["password"] = configuration["password"] or ""
    configuration["clients_bytes_max"] = configuration.pop("clients_memory_max")
    configuration["argument_bytes_max"] = configuration.pop("argument_max")
    configuration["redis_parameters"] = configuration.pop("redis_parameter")
    configuration["memcached_value_bytes_max"] = configuration.pop("memcached_value_max")
    return configuration


def _allow_descriptors(journal: Journal, clients_max: int) -> None:
    """Raises the limit of open files to what so many clients need, as far as this process may."""
    needed = clients_max + _DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < needed:
        journal.note(
            "few-descriptors",
            f"{needed} open files would be needed for {clients_max} clients, and {allowed} are allowed: "
            "raise the limit (ulimit -n, or LimitNOFILE= in a unit)",
            needed=needed,
            allowed=allowed,
        )


def _announce(journal: Journal, server: Server, location: str) -> None:
    for protocol, shown in server.addresses():
        address = shown.removesuffix(_TLS_MARK)
        tls = address != shown
        journal.note("listening", f"{protocol} clients: {shown}", protocol=protocol, address=address, tls=tls)
    config = json.loads(server.store_config())
    durability, memory = config["durability"], config["memory_directory"]
    tiers = {tier: config[f"{tier}_bytes"] for tier in ("hot", "warm", "cold")}
    sizes = ", ".join(f"{tier} {readable(f'{tier}_bytes', size)}" for tier, size in tiers.items() if size)
    journal.note(
        "store",
        f"store: {location}, {sizes}, durability {durability}, memory in {memory}",
        location=location,
        **{f"{tier}_bytes": size for tier, size in tiers.items()},
        durability=durability,
        memory_directory=memory,
    )


def _until_the_end(context: click.Context, journal: Journal, server: Server, signals: "_Signals") -> str:
    """Does what this thread has to do; why the server ended, unless it failed."""
    reason = None
    while not server.wait(_LOOK_SECONDS if reason else 0.0):
        _write_events(journal, server)
        if reason is None:
            signals.wait(_LOOK_SECONDS)
        for number in signals.take():
            if number == signal.SIGHUP:
                _reload(context, journal, server)
            else:
                reason = signal.Signals(number).name
                notify_stopping()
                server.stop()
    return reason or "a client called SHUTDOWN"


def _metrics_page(address: str) -> "MetricsPage":
    # Imported where there is one: a server without it starts the sooner.
    from thermae.cli.metrics import MetricsPage

    return MetricsPage(address)


def _write_events(journal: Journal, server: Server) -> None:
    for kind, at_ms, left_out, given in server.take_events():
        fields: dict[str, str | int] = dict(given)
        parts = [value for name, value in given if name != _DURATION]
        if _DURATION in fields:
            fields[_DURATION] = int(fields[_DURATION])
            parts.append(f"in {fields[_DURATION]} ms")
        if left_out:
            parts.append(f"and {left_out} more that were left out")
        text = f"{kind.replace('-', ' ')}: {', '.join(parts)}"
        counted = {"left_out": left_out} if left_out else {}
        journal.note(kind, text, at_ms=at_ms, **fields, **counted)


def _reload(context: click.Context, journal: Journal, server: Server) -> None:
    """Reads all again that says how to serve, and once more where the file of ``--config`` changed meanwhile.

    Who calls CONFIG SET and CONFIG REWRITE after the file was read and before it was applied would find the
    server as the file was before.
    """
    notify_reloading()
    path: Path | None = context.params["config"]
    for _ in range(_READINGS_MAX):
        before = _state_of_file(path)
        _read_and_apply(context, journal, server)
        if _state_of_file(path) == before:
            break
    else:
        text = f"{path} changes while it is read, {_READINGS_MAX} times now: send SIGHUP again once it rests"
        journal.note("reload-outdated", text, path=str(path))
    notify_ready()


def _state_of_file(path: Path | None) -> tuple[int, ...] | None:
    """What tells a file from what it was before; none where it can't be seen."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _read_and_apply(context: click.Context, journal: Journal, server: Server) -> None:
    """A mistake anywhere changes nothing."""
    command = context.command
    assert isinstance(command, _Serve)
    configuration: dict[str, Any] = {}
    try:
        given = command.read(context.info_name, context.meta[_ARGUMENTS], context.parent).params
        configuration = _configuration(_settings(given), given["config"])
        kept = server.reload(json.dumps(configuration))
    except thermae.InvalidOptionError as error:
        problem = worded(explained(str(error), configuration))
        journal.note("reload-failed", f"nothing was reloaded: {problem}", reason=problem)
    except (click.ClickException, thermae.ThermaeError, OSError) as error:
        problem = reason_of(error)
        journal.note("reload-failed", f"nothing was reloaded: {problem}", reason=problem)
    else:
        # What clients have changed, and CONFIG REWRITE has written down, is so already.
        present = context.params | json.loads(server.store_config())
        differing = (name for name in given if given[name] not in (context.params[name], present[name]))
        fixed = (name for name in differing if name not in _SETTINGS)
        kept += [STORE_KEY if name == "location" else name.replace("_", "-") for name in fixed]
        text = f"reloaded; not changed before a restart: {', '.join(kept)}" if kept else "reloaded"
        journal.note("reloaded", text, not_changed=kept)


class _Signals:
    """Signals as they come, without waiting for the next look."""

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._numbers = numbers
        self._taken: list[int] = []

    def __enter__(self) -> Self:
        """From now on signals are noted and do nothing else."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reading)
        os.close(self._writing)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._taken.append(number)

    def wait(self, seconds: float) -> None:
        """Returns at the next signal, or after so many seconds."""
        if select.select([self._reading], [], [], seconds)[0]:
            os.read(self._reading, 4096)

    def take(self) -> list[int]:
        """The signals since the last call."""
        taken, self._taken = self._taken, []
        return taken
