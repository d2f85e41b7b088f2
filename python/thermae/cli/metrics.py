"""What ``thermae serve --metrics`` shows: the server's counts in Prometheus' text format, over HTTP.

Each scrape takes one report from the server, whose threads know nothing of it. The page has no login, and
nothing on it is a key or a value. One client is served at a time, and has a few seconds, so that however many
come, none of them keeps more than that; rejected: a thread for each, as ``prometheus_client`` has by default.
"""

import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from thermae._thermae import Server
from thermae.cli.refusals import not_listening
from thermae.cli.settings import split_address

_CLIENT_SECONDS_MAX = 5
_NANOSECONDS = 1e9

# Numbers of the server's report: name, type, what it is, and where in the report.
_NUMBERS: Sequence[tuple[str, type[CounterMetricFamily] | type[GaugeMetricFamily], str, str]] = (
    ("thermae_uptime_seconds", GaugeMetricFamily, "Time since the server started.", "uptime_seconds"),
    ("thermae_connections", GaugeMetricFamily, "Clients that are connected.", "connections"),
    (
        "thermae_connections_accepted_total",
        CounterMetricFamily,
        "Connections accepted.",
        "connections_accepted",
    ),
    (
        "thermae_connections_refused_total",
        CounterMetricFamily,
        "Connections refused: too many, or of another machine in protected mode.",
        "connections_refused",
    ),
    ("thermae_received_bytes_total", CounterMetricFamily, "Bytes received from clients.", "received_bytes"),
    ("thermae_sent_bytes_total", CounterMetricFamily, "Bytes sent to clients.", "sent_bytes"),
    (
        "thermae_last_save_timestamp_seconds",
        GaugeMetricFamily,
        "When the last save that did not fail began; before there was one, when the server started.",
        "last_save_at_seconds",
    ),
    ("thermae_saves_total", CounterMetricFamily, "Saves that did not fail.", "saves"),
    ("thermae_saves_failed_total", CounterMetricFamily, "Saves that failed.", "saves_failed"),
)

# The same of the store's part of it: of all who use the store, since its memory was made.
_STORE_NUMBERS: Sequence[tuple[str, type[CounterMetricFamily] | type[GaugeMetricFamily], str, str]] = (
    ("thermae_keys", GaugeMetricFamily, "Keys of all databases.", "keys"),
    ("thermae_live_bytes", GaugeMetricFamily, "Bytes of records that are alive.", "live_bytes"),
    ("thermae_index_bytes", GaugeMetricFamily, "Bytes of index tables.", "index_bytes"),
    ("thermae_keyspace_hits_total", CounterMetricFamily, "Reads that found their key.", "hits"),
    ("thermae_keyspace_misses_total", CounterMetricFamily, "Reads that did not.", "misses"),
    ("thermae_sets_total", CounterMetricFamily, "Values stored.", "sets"),
    ("thermae_deletes_total", CounterMetricFamily, "Keys deleted.", "deletes"),
    ("thermae_evicted_keys_total", CounterMetricFamily, "Keys dropped to make room.", "evicted"),
    ("thermae_expired_keys_total", CounterMetricFamily, "Keys removed because they expired.", "expired"),
    ("thermae_warm_reads_total", CounterMetricFamily, "Reads served from the warm tier.", "warm_reads"),
    ("thermae_cold_reads_total", CounterMetricFamily, "Reads that went to the cold tier.", "cold_reads"),
    ("thermae_flushes_total", CounterMetricFamily, "Flushes completed.", "flushes"),
    ("thermae_participants", GaugeMetricFamily, "Open handles of the store.", "participants"),
    ("thermae_participants_max", GaugeMetricFamily, "As many as there can be.", "participants_max"),
    ("thermae_writes_stopped", GaugeMetricFamily, "1 where a flush failed: a disk did.", "writes_stopped"),
)


class _Metrics(Collector):
    """All metrics, of one report for each scrape."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        report = json.loads(self._server.metrics())
        yield from _plain(_NUMBERS, report)
        errors = CounterMetricFamily(
            "thermae_errors_total", "Errors that Redis clients got.", labels=["code"]
        )
        for code, count in report["errors"].items():
            errors.add_metric([code], count)
        yield errors
        yield from _commands(report["commands"], report["bucket_ends_nanoseconds"])
        memcached = CounterMetricFamily(
            "thermae_memcached_total", "What memcached clients did, as stats names it.", labels=["count"]
        )
        for name, count in report["memcached"].items():
            memcached.add_metric([name], count)
        yield memcached
        yield from _tiers(report["store"])
        yield from _plain(_STORE_NUMBERS, report["store"])
        yield GaugeMetricFamily(
            "thermae_changes_not_durable",
            "Changes that a failure of the machine would lose now.",
            report["store"]["sequence"] - report["store"]["watermark"],
        )


def _plain(
    numbers: Iterable[tuple[str, type[CounterMetricFamily] | type[GaugeMetricFamily], str, str]],
    report: Mapping[str, Any],
) -> Iterator[Metric]:
    for name, kind, text, field in numbers:
        yield kind(name, text, report[field])


def _commands(commands: Iterable[Mapping[str, Any]], ends_nanoseconds: Sequence[int]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "thermae_commands_total", "Calls of commands, failed ones included.", labels=["command"]
    )
    failed = CounterMetricFamily(
        "thermae_commands_failed_total", "Calls that were answered with an error.", labels=["command"]
    )
    rejected = CounterMetricFamily(
        "thermae_commands_rejected_total", "Commands that were not even begun.", labels=["command"]
    )
    durations = HistogramMetricFamily(
        "thermae_command_duration_seconds",
        "How long calls took in the server, without the network.",
        labels=["command"],
    )
    ends = [repr(nanoseconds / _NANOSECONDS) for nanoseconds in ends_nanoseconds]
    for command in commands:
        labels = [command["name"]]
        calls.add_metric(labels, command["calls"])
        failed.add_metric(labels, command["failed"])
        rejected.add_metric(labels, command["rejected"])
        buckets = [*zip(ends, command["buckets"], strict=True), ("+Inf", command["timed"])]
        durations.add_metric(labels, buckets, command["nanoseconds"] / _NANOSECONDS)
    yield from (calls, failed, rejected, durations)


def _tiers(store: Mapping[str, Any]) -> Iterator[Metric]:
    size = GaugeMetricFamily("thermae_tier_bytes", "Size of each tier.", labels=["tier"])
    used = GaugeMetricFamily(
        "thermae_tier_used_bytes", "Of it in frames that hold something.", labels=["tier"]
    )
    for tier in ("hot", "warm", "cold"):
        size.add_metric([tier], store[f"{tier}_bytes"])
        used.add_metric([tier], store[f"{tier}_used_bytes"])
    yield from (size, used)


def _end(client: socket.socket) -> None:
    # One that is closed already is at its end.
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    """Gives a client its seconds, however it spends them, and writes no log."""

    timeout = _CLIENT_SECONDS_MAX

    def handle(self) -> None:
        """Serves a request. ``timeout`` is for each byte: one a second would be enough to stay."""
        deadline = threading.Timer(_CLIENT_SECONDS_MAX, _end, [self.connection])
        deadline.daemon = True
        deadline.start()
        try:
            super().handle()
        finally:
            deadline.cancel()

    def log_message(self, format: str, *_arguments: Any) -> None:  # noqa: A002 (the base's name)
        pass


class _Listener(WSGIServer):
    _client: socket.socket | None = None
    _is_ending = False

    def verify_request(self, request: Any, _client_address: Any) -> bool:
        """Notes who is served, for who ends this; whether anybody still is."""
        self._client = request
        return not self._is_ending

    def end(self) -> None:
        """Has ``serve_forever`` return, without waiting for who is being served."""
        self._is_ending = True
        if self._client is not None:
            _end(self._client)
        self.shutdown()

    def handle_error(self, *_: Any) -> None:
        """A client that leaves, or is too slow, is no news."""


class _Listener6(_Listener):
    address_family = socket.AF_INET6


class MetricsPage:
    """Listens from when it is entered, and answers once there is a server to tell of."""

    def __init__(self, address: str) -> None:
        """Takes an address such as ``127.0.0.1:9121``; port 0 is any that is free.

        Raises:
            click.BadParameter: That is no address.
        """
        place = split_address(address)
        if place is None:
            raise click.BadParameter(f"{address} is no HOST:PORT", param_hint="--metrics")
        self._address = address
        self._host, self._port = place
        self._registry = CollectorRegistry()

    def __enter__(self) -> Self:
        """Begins to listen.

        Raises:
            click.ClickException: The address can't be listened on.
        """
        application = make_wsgi_app(self._registry)
        listener = _Listener6 if ":" in self._host else _Listener
        try:
            self._http = make_server(self._host, self._port, application, listener, _Handler)
        except OSError as error:
            told = not_listening("--metrics", self._address, error.errno, str(error.strerror or error))
            raise click.ClickException(told) from error
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Listens no more."""
        self._http.server_close()

    @property
    def url(self) -> str:
        """Where it is, the port being the one that it has."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._http.server_port}/metrics"

    @contextmanager
    def showing(self, server: Server) -> Iterator[None]:
        """Answers on a thread of its own, while this lasts."""
        self._registry.register(_Metrics(server))
        thread = threading.Thread(target=self._http.serve_forever, name="thermae-metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._http.end()
            thread.join(_CLIENT_SECONDS_MAX)
