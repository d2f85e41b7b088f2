"""`thermae serve` under those who behave badly, with many who do nothing, and started again under load.

What one client that behaves gets is measured alone, then beside each crowd: by how much its slowest requests
get slower is what the crowd costs others; what the server's own memory (without the store's, which is shared
and bounded by itself) grows by is what the crowd costs the machine.
"""

import contextlib
import dataclasses
import os
import re
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import thermae
from thermae.bench.filling import FILL_BATCH_ITEMS, fill, hot_bytes_for
from thermae.bench.machine import this_machine
from thermae.bench.places import reserved
from thermae.bench.processes import BackgroundWork, barrier
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.servers import ServerProcess, pinned_to, thermae_server
from thermae.bench.workload import make_values

VALUE_BYTES = 100
LARGE_BYTES = 100_000
IDLE_BYTES_MAX = 100_000_000
GROWTH_BYTES_MAX = 64 << 20
RESTART_SECONDS_MAX = 0.2
# How many times as long 99 of 100 requests may take beside a crowd.
_SLOWER_MAX = 3.0
_SAMPLES = 1_000
_LOWEST_PRIORITY = 19

_HOT_BYTES = 64 << 20
_PASSWORD = "open sesame"
_KEYS_ASKED = 1_000
# Descriptors that a process needs for other things than connections.
_DESCRIPTORS_BESIDE = 100
_CLIENTS_UNDER_LOAD = 8
# By then all of them ask.
_COMMANDS_OF_A_LOAD = 2_000
_LOAD_SECONDS_MAX = 60.0


@dataclasses.dataclass(frozen=True)
class Crowd:
    """Clients that behave badly, all at once."""

    name: str
    count: int
    # What each sends, again and again; and how much of it at once.
    sent: bytes
    piece_bytes: int
    # Whether they take what they are answered, and come again when they were closed.
    reads: bool


def _crowds(part: int) -> list[Crowd]:
    large = _encoded(b"GET", b"large")
    stranger = _encoded(*[b"x" * 16_000] * 10)
    oversized = b"*2\r\n$4\r\nECHO\r\n$536870913\r\n"
    return [
        Crowd("senders of a byte at a time", 1_000 // part, _encoded(b"SET", b"slow", b"x" * 100), 1, True),
        Crowd("clients that never read", 100 // part, large * 500, 1 << 20, False),
        Crowd("strangers that flood", 100 // part, stranger * 10, 1 << 16, True),
        Crowd("senders of arguments too long", 100 // part, oversized, 1 << 20, True),
    ]


def run(
    key_count: int, connection_count: int, rounds: int, seconds: float, announce: Callable[[str], None]
) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    whole = connection_count >= 10_000
    report = Report(
        name="serve-limits",
        title=f"Serving: limits, {connection_count:,} idle connections, restarts with {key_count:,} keys",
        command=(
            f"thermae bench serve-limits --keys {key_count} --connections {connection_count} "
            f"--rounds {rounds} --seconds {seconds:g}"
        ),
        machine=this_machine(),
        peers=[],
    )
    _measure_crowds(report, 1 if whole else 10, seconds, announce)
    _measure_idle(report, connection_count, announce)
    _measure_restarts(report, key_count, rounds, announce)
    report.notes += [
        "memory is what the server's process has to itself (RssAnon), beyond what it had before",
        f"latency is that of one client that asks for one of {_KEYS_ASKED:,} keys after the other, "
        f"for {seconds:g} s, alone and beside the crowd; the server has the first processor, client and "
        "crowd the last one, the crowd with the lowest priority",
        f"a restart is from SIGTERM to the first reply of the next process, while {_CLIENTS_UNDER_LOAD} "
        f"clients ask as fast as they can; the median of {rounds}. After the last one every key is there, "
        f"and of some {_SAMPLES:,} the value was compared",
    ]
    return report


def _encoded(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _private_bytes(server: ServerProcess) -> int:
    for line in Path(f"/proc/{server.process_id}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0]) * 1024
    raise RuntimeError("the kernel does not say how much memory is a process's own")


@contextlib.contextmanager
def _connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _ask(connection: socket.socket, *words: bytes) -> bytes:
    """One command; the first line of its reply, all of which comes at once where it is short."""
    connection.sendall(_encoded(*words))
    reply = connection.recv(1 << 16)
    if not reply or reply.startswith(b"-"):
        raise RuntimeError(f"{words[0].decode()} was answered with {reply!r}")
    return reply


# Those who behave badly.


def _latencies(port: int, seconds: float, start_together: Any) -> list[float]:
    """What each request of a client that behaves took."""
    keys = [b"key:%010d" % number for number in range(_KEYS_ASKED)]
    took: list[float] = []
    with _connection(port) as connection:
        _ask(connection, b"AUTH", _PASSWORD.encode())
        start_together.wait()
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            _ask(connection, b"GET", keys[len(took) % len(keys)])
            took.append(time.perf_counter() - started)
    return took


class _Members:
    """The members of a crowd."""

    def __init__(self, crowd: Crowd, port: int) -> None:
        self._crowd = crowd
        self._port = port
        # Each with how much it has sent of what it sends.
        self._members = [(self._come(), 0) for _ in range(crowd.count)]

    def _come(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        if self._crowd.name != "strangers that flood":
            _ask(connection, b"AUTH", _PASSWORD.encode())
        connection.setblocking(False)
        return connection

    def step(self) -> None:
        """Each does once what it does."""
        self._members = [self._act(*member) for member in self._members]

    def _act(self, connection: socket.socket, position: int) -> tuple[socket.socket, int]:
        crowd = self._crowd
        try:
            with contextlib.suppress(BlockingIOError):
                sent = connection.send(crowd.sent[position : position + crowd.piece_bytes])
                position = (position + sent) % len(crowd.sent)
            if crowd.reads:
                with contextlib.suppress(BlockingIOError):
                    if not connection.recv(1 << 16):
                        raise ConnectionResetError
        except ConnectionError:
            connection.close()
            return self._come(), 0
        return connection, position

    def leave(self) -> None:
        """All go."""
        for connection, _ in self._members:
            connection.close()


def _misbehave(crowd: Crowd, server: ServerProcess, seconds: float, start_together: Any) -> int:
    """A crowd does what it does for so long; the most that the server's own memory came to meanwhile.

    At the lowest priority: it is to keep the server busy, not to take the processor that the client runs on.
    """
    os.nice(_LOWEST_PRIORITY)
    members = _Members(crowd, server.port)
    start_together.wait()
    until = time.perf_counter() + seconds
    largest = 0
    while time.perf_counter() < until:
        members.step()
        largest = max(largest, _private_bytes(server))
    members.leave()
    return largest


def _p99(took: Sequence[float]) -> float:
    return statistics.quantiles(took, n=100)[98]


def _measure_crowds(report: Report, part: int, seconds: float, announce: Callable[[str], None]) -> None:
    location = f"shm://thermae-bench-{os.getpid()}-limits"
    environment = {"THERMAE_PASSWORD": _PASSWORD}
    processors = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        with pinned_to(processors[0]):
            server, _ = stack.enter_context(thermae_server(location, _HOT_BYTES, environment=environment))
        stack.enter_context(pinned_to(processors[-1]))
        with _connection(server.port) as connection:
            _ask(connection, b"AUTH", _PASSWORD.encode())
            _ask(connection, b"SET", b"large", b"v" * LARGE_BYTES)
            for number in range(_KEYS_ASKED):
                _ask(connection, b"SET", b"key:%010d" % number, b"v" * VALUE_BYTES)
        announce("one client, alone")
        at_once = barrier(1)
        alone = _p99(BackgroundWork(_latencies, server.port, seconds, at_once).result())
        for crowd in _crowds(part):
            announce(f"{crowd.count:,} {crowd.name}")
            before = _private_bytes(server)
            start_together = barrier(2)
            misbehaving = BackgroundWork(_misbehave, crowd, server, seconds, start_together)
            beside = _p99(BackgroundWork(_latencies, server.port, seconds, start_together).result())
            growth = max(0, misbehaving.result() - before)
            what = f"beside {crowd.count:,} {crowd.name}"
            memory = Bound("at most", GROWTH_BYTES_MAX)
            report.figures += [
                Figure(f"memory {what}", growth, "B", score=growth, score_unit="B", must=memory),
                Figure(
                    f"latency p99 {what}",
                    beside,
                    "s",
                    "alone",
                    alone,
                    beside / alone,
                    "x as long",
                    must=Bound("at most", _SLOWER_MAX),
                ),
            ]


# Those who do nothing.


def _measure_idle(report: Report, connection_count: int, announce: Callable[[str], None]) -> None:
    announce(f"{connection_count:,} idle connections")
    needed = connection_count + _DESCRIPTORS_BESIDE
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < needed:
        report.notes.append(
            f"idle connections were not measured: {needed:,} descriptors are needed, and the hard limit is "
            f"{limits[1]:,} (ulimit -Hn)"
        )
        return
    location = f"shm://thermae-bench-{os.getpid()}-idle"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], needed), limits[1]))
    options = ("--clients-max", str(connection_count + 1))
    try:
        with thermae_server(location, _HOT_BYTES, *options) as (server, _), contextlib.ExitStack() as stack:
            before = _private_bytes(server)
            for _ in range(connection_count):
                connection = stack.enter_context(_connection(server.port))
                # Each has had something to say.
                _ask(connection, b"SET", b"key", b"v" * VALUE_BYTES)
            growth = _private_bytes(server) - before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    report.figures.append(
        Figure(
            f"memory for {connection_count:,} idle connections",
            growth,
            "B",
            score=growth,
            score_unit="B",
            must=Bound("at most", IDLE_BYTES_MAX),
        )
    )


# Another process, under load.


def _load(port: int) -> None:
    """Clients that ask as fast as they can, until another server has answered them as well."""
    with ThreadPoolExecutor(_CLIENTS_UNDER_LOAD) as threads:
        for client in [threads.submit(_ask_across_restart, port) for _ in range(_CLIENTS_UNDER_LOAD)]:
            client.result()


def _ask_across_restart(port: int) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError), _connection(port) as connection:
        while True:
            _ask(connection, b"GET", b"key:%010d" % 0)
    _first_reply(port)


def _wait_for_load(port: int) -> None:
    deadline = time.monotonic() + _LOAD_SECONDS_MAX
    with _connection(port) as connection:
        while True:
            found = re.search(rb"total_commands_processed:(\d+)", _ask(connection, b"INFO", b"stats"))
            if found is not None and int(found[1]) > _COMMANDS_OF_A_LOAD:
                return
            if time.monotonic() > deadline:
                raise RuntimeError("the load did not begin")
            time.sleep(0.01)


def _first_reply(port: int) -> None:
    while True:
        with contextlib.suppress(ConnectionError, RuntimeError), _connection(port) as connection:
            if _ask(connection, b"GET", b"key:%010d" % 0).startswith(b"$%d\r\n" % VALUE_BYTES):
                return
        time.sleep(0.001)


def _measure_restarts(report: Report, key_count: int, rounds: int, announce: Callable[[str], None]) -> None:
    announce(f"restarts: loading {key_count:,} keys")
    hot_bytes = hot_bytes_for(key_count, VALUE_BYTES)
    with reserved(f"shm://thermae-bench-{os.getpid()}-restart") as location:
        with thermae.open(location, hot=hot_bytes, when_full="error") as store:
            fill(store, key_count, VALUE_BYTES, lambda _: None)
        took = [_restart(location, announce) for _ in range(rounds)]
        announce("looking whether every key is still there")
        _demand_all_keys(location, key_count)
    whole = statistics.median(whole for whole, _ in took)
    ended = statistics.median(ended for _, ended in took)
    report.figures += [
        Figure(
            f"restart under load, {key_count:,} keys: SIGTERM to the next process's first reply",
            whole,
            "s",
            score=whole,
            score_unit="s",
            must=Bound("at most", RESTART_SECONDS_MAX),
        ),
        Figure(f"restart under load, {key_count:,} keys: of that until the process has ended", ended, "s"),
    ]


def _demand_all_keys(location: str, key_count: int) -> None:
    """All keys are there after the last restart, and a sample of them with the values that were stored."""
    values = make_values(min(key_count, FILL_BATCH_ITEMS), VALUE_BYTES)
    numbers = range(0, key_count, max(1, key_count // _SAMPLES))
    with thermae_server(location, None, is_kept=True) as (server, _), _connection(server.port) as connection:
        found = int(_ask(connection, b"DBSIZE")[1:])
        if found != key_count:
            raise RuntimeError(f"{found:,} of {key_count:,} keys are left after the restarts")
        for number in numbers:
            expected = b"$%d\r\n%b\r\n" % (VALUE_BYTES, values[number % FILL_BATCH_ITEMS])
            if _ask(connection, b"GET", b"key:%010d" % number) != expected:
                raise RuntimeError(f"key {number} has another value after the restarts")


def _restart(location: str, announce: Callable[[str], None]) -> tuple[float, float]:
    """The seconds from SIGTERM to the next process's first reply, and to the first process's end."""
    announce("restarting under load")
    with contextlib.ExitStack() as first:
        server, _ = first.enter_context(thermae_server(location, None, is_kept=True))
        load = BackgroundWork(_load, server.port)
        _wait_for_load(server.port)
        started = time.perf_counter()
        first.close()
        ended = time.perf_counter()
        address = f"127.0.0.1:{server.port}"
        with thermae_server(location, None, redis=address, is_kept=True, waits=False):
            _first_reply(server.port)
            replied = time.perf_counter()
            load.result()
    return replied - started, ended - started
