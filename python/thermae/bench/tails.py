"""What the slowest requests wait for, at half of the peak load.

That is looked at in memory that is new, in memory that was used before, and while a snapshot is written.

Requests come at a set pace, and each one's time counts from when it was due. Both servers get the same load:
half of what the slower one takes. In memory that is new all are sets of large values, which fill more than
ten pages of 2 MiB a second; otherwise a get and a set in turn.

A virtual machine stands still now and then, for a tenth of a second, whatever runs on it. So each turn is
cut into slices, and the median of the slices is what counts: a server that stalls of itself does so in most
of them. What whole turns had is reported as well, and bound to nothing.
"""

import contextlib
import dataclasses
import functools
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping

from thermae._thermae import paced_latencies_seconds
from thermae.bench.filling import hot_bytes_for
from thermae.bench.load_redis import CLIENTS, key_name, run_redis_benchmark
from thermae.bench.redis_peer import RedisConnection, encoded
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.servers import ServerProcess
from thermae.bench.timing import interleaved_rounds, quantile
from thermae.bench.workload import make_values, shuffled

_SLICE_SECONDS = 0.25
_SLICES = 4
# Longer than a snapshot takes, so that its end meets requests as well.
_SLICES_WHILE_SAVING = 16
# Of both servers in turn; short ones, for the machine changes meanwhile.
_TURNS_PER_ROUND = 4
_KEYS = 100_000
_GROWING_VALUE_BYTES = 1_000
_GROWING_SLICES = 2
# A set number, so that it is known how much memory they take.
_GROWING_SLICE_REQUESTS = 12_500
_LOOK_EVERY_SECONDS = 0.02
_MUST = Bound("at most", 1.0)
_WITH_SNAPSHOT_MUST = Bound("at most", 2.0)
_FRACTIONS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}

# The latencies of a turn, in the order of the requests.
Turn = list[float]


@dataclasses.dataclass(frozen=True)
class PacedLoad:
    """Requests, each with the length of its reply, at a pace; turns of some slices."""

    exchanges: list[tuple[bytes, int]]
    requests_per_second: float
    slice_seconds: float
    slices: int

    def turn(self, server: ServerProcess) -> Turn:
        """Puts the load on a server."""
        seconds = self.slices * self.slice_seconds
        return paced_latencies_seconds(
            server.port, self.exchanges, self.requests_per_second, CLIENTS, seconds
        )

    def quantile(self, turns: list[Turn], fraction: float) -> float:
        """The median of all slices' quantiles, in seconds."""
        slices = []
        for turn in turns:
            size = max(1, len(turn) // self.slices)
            slices += [turn[first : first + size] for first in range(0, len(turn) - size + 1, size)]
        return statistics.median(quantile(part, fraction) for part in slices)


def _half_of_the_peak(
    servers: Mapping[str, ServerProcess], command: str, key_count: int, value_bytes: int
) -> float:
    """In requests a second, of the server that takes less."""
    requests = 2 * min(key_count, _KEYS)
    loads = (
        run_redis_benchmark(server.port, command, 1, requests, key_count, value_bytes)
        for server in servers.values()
    )
    return min(load.operations_per_second for load in loads) / 2


def _gets(key_count: int, value_bytes: int) -> list[tuple[bytes, int]]:
    reply_bytes = len(b"$%d\r\n%s\r\n" % (value_bytes, b"." * value_bytes))
    return [(encoded((b"GET", key)), reply_bytes) for key in _keys(key_count)]


def _sets(key_count: int, value_bytes: int) -> list[tuple[bytes, int]]:
    value = make_values(1, value_bytes)[0]
    return [(encoded((b"SET", key, value)), len(b"+OK\r\n")) for key in _keys(key_count)]


def _keys(key_count: int) -> list[bytes]:
    """In an order that both sets and gets have."""
    return shuffled([key_name(number) for number in range(key_count)])


@contextlib.contextmanager
def _saving(port: int) -> Iterator[list[int]]:
    """Has the server write one snapshot after the other; how many is what the list's length is at the end."""
    stop = threading.Event()
    done: list[int] = []

    def save() -> None:
        connection = RedisConnection(port)
        try:
            while not stop.is_set():
                connection.command(b"BGSAVE")
                while b"rdb_bgsave_in_progress:1" in connection.command(b"INFO", b"persistence"):
                    stop.wait(_LOOK_EVERY_SECONDS)
                done.append(1)
        finally:
            connection.close()

    thread = threading.Thread(target=save)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def growing_hot_bytes(key_count: int, rounds: int) -> int:
    """A hot tier that `measure_growing` does not fill."""
    # All turns, one that does not count, and the peak load before: two for each key.
    requests = (rounds * _TURNS_PER_ROUND + 1) * _GROWING_SLICES * _GROWING_SLICE_REQUESTS
    return hot_bytes_for(requests + 2 * min(key_count, _KEYS), _GROWING_VALUE_BYTES)


def measure_growing(
    report: Report,
    servers: Mapping[str, ServerProcess],
    key_count: int,
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    """Adds what servers have that were just started: each set of ours takes memory that it never used."""
    announce("peak load of sets, in new memory")
    key_count = min(key_count, _KEYS)
    rate = _half_of_the_peak(servers, "set", key_count, _GROWING_VALUE_BYTES)
    announce(f"{rate:,.0f} sets a second, in new memory")
    load = PacedLoad(
        _sets(key_count, _GROWING_VALUE_BYTES),
        rate,
        _GROWING_SLICE_REQUESTS * key_count / _KEYS / rate,
        _GROWING_SLICES,
    )
    turns = _turns(load, servers, rounds * _TURNS_PER_ROUND)
    what = "half of the peak load, in new memory"
    _compare(report, load, turns, what)
    _compare_whole_turns(report, turns, what)
    report.notes.append(
        f"in new memory: {rate:,.0f} sets a second of values of {_GROWING_VALUE_BYTES} bytes, to "
        f"{key_count:,} keys of servers just started, Redis storing each where the value before was; "
        f"{_GROWING_SLICES} slices of {load.slice_seconds:.2g} s in each of {len(turns['ours'])} turns"
    )


def measure(
    report: Report,
    servers: Mapping[str, ServerProcess],
    key_count: int,
    value_bytes: int,
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    """Adds what servers have whose memory was all in use before, and what they have while they save."""
    announce("peak load")
    rate = _half_of_the_peak(servers, "get", key_count, value_bytes)
    key_count = min(key_count, _KEYS)
    exchanges = _sets(key_count, value_bytes)
    exchanges[::2] = _gets(key_count, value_bytes)[::2]
    load = PacedLoad(exchanges, rate, _SLICE_SECONDS * key_count / _KEYS, _SLICES)
    announce(f"{rate:,.0f} requests a second")
    turns = _turns(load, servers, rounds * _TURNS_PER_ROUND)
    announce("the same while snapshots are written")
    load_while_saving = dataclasses.replace(load, slices=_SLICES_WHILE_SAVING)
    saved: dict[str, int] = dict.fromkeys(servers, 0)

    def turn_while_saving(name: str, server: ServerProcess) -> Turn:
        with _saving(server.port) as done:
            turn = load_while_saving.turn(server)
        if not done:
            raise RuntimeError(f"no snapshot was written by port {server.port}: nothing was measured")
        saved[name] += len(done)
        return turn

    turns_while_saving = interleaved_rounds(
        {name: functools.partial(turn_while_saving, name, server) for name, server in servers.items()}, rounds
    )
    _compare(report, load, turns, "half of the peak load")
    _compare_whole_turns(report, turns, "half of the peak load")
    _compare_whole_turns(report, turns_while_saving, "half of the peak load, saving")
    for name, whose, must in (("ours", "thermae serve", _WITH_SNAPSHOT_MUST), ("theirs", "Redis", None)):
        saving = load_while_saving.quantile(turns_while_saving[name], 0.999)
        without = load.quantile(turns[name], 0.999)
        measure = f"{whose}, while snapshots are written: latency p99.9"
        report.figures.append(
            Figure(measure, saving, "s", "without", without, saving / without, "x as long", must=must)
        )
    report.notes += [
        f"half of the peak load: {rate:,.0f} requests a second over {CLIENTS} connections, "
        "a get and a set in turn; a request's time counts from when it was due; medians of slices of "
        f"{load.slice_seconds:g} s, {_SLICES} in each of {len(turns['ours'])} turns, {_SLICES_WHILE_SAVING} "
        f"in each of {rounds} while saving; of whole turns, in which a stop of the whole machine counts too, "
        "the median of the turns",
        f"snapshots: BGSAVE again and again, {saved['ours']} of ours and {saved['theirs']} of Redis",
    ]


def _turns(load: PacedLoad, servers: Mapping[str, ServerProcess], turns: int) -> dict[str, list[Turn]]:
    return interleaved_rounds(
        {name: functools.partial(load.turn, server) for name, server in servers.items()}, turns
    )


def _compare(report: Report, load: PacedLoad, turns: Mapping[str, list[Turn]], what: str) -> None:
    for label, fraction in _FRACTIONS.items():
        ours, theirs = (load.quantile(turns[name], fraction) for name in ("ours", "theirs"))
        must = _MUST if label == "p99.9" else None
        measure = f"{what}: latency {label}"
        report.figures.append(
            Figure(measure, ours, "s", "Redis", theirs, ours / theirs, "x as long", must=must)
        )


def _compare_whole_turns(report: Report, turns: Mapping[str, list[Turn]], what: str) -> None:
    ours, theirs = (
        statistics.median(quantile(turn, 0.999) for turn in turns[name]) for name in ("ours", "theirs")
    )
    measure = f"{what}: latency p99.9 of whole turns"
    report.figures.append(Figure(measure, ours, "s", "Redis", theirs, ours / theirs, "x as long"))
