"""What the slowest requests wait for, at half of the peak load.

That is looked at in memory that is new, in memory that was used before, and while a snapshot is written.
Requests come at a set pace, gets and sets in turn, and each one's time counts from when it was due. Both
servers get the same load: half of what the slower one takes of single gets.

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
_LOOK_EVERY_SECONDS = 0.02
_MUST = Bound("at most", 1.0)
_WITH_SNAPSHOT_MUST = Bound("at most", 2.0)
_FRACTIONS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}

# The latencies of a turn, in the order of the requests.
Turn = list[float]


@dataclasses.dataclass(frozen=True)
class PacedLoad:
    """Half of the peak load."""

    exchanges: list[tuple[bytes, int]]
    requests_per_second: float
    slice_seconds: float

    def run(self, server: ServerProcess, slices: int) -> Turn:
        """A turn of so many slices."""
        seconds = slices * self.slice_seconds
        return paced_latencies_seconds(
            server.port, self.exchanges, self.requests_per_second, CLIENTS, seconds
        )

    def quantile(self, turns: list[Turn], fraction: float) -> float:
        """The median of all slices' quantiles, in seconds."""
        size = max(1, int(self.requests_per_second * self.slice_seconds))
        slices = (
            turn[first : first + size] for turn in turns for first in range(0, len(turn) - size + 1, size)
        )
        return statistics.median(quantile(part, fraction) for part in slices)


def half_of_the_peak(servers: Mapping[str, ServerProcess], key_count: int, value_bytes: int) -> PacedLoad:
    """Half of the load that the slower server takes."""
    of_whole_turns = min(key_count, _KEYS)
    peak = min(
        run_redis_benchmark(
            server.port, "get", 1, 2 * of_whole_turns, key_count, value_bytes
        ).operations_per_second
        for server in servers.values()
    )
    return PacedLoad(
        _exchanges(of_whole_turns, value_bytes), peak / 2, _SLICE_SECONDS * of_whole_turns / _KEYS
    )


def _exchanges(key_count: int, value_bytes: int) -> list[tuple[bytes, int]]:
    """A get and a set in turn, of keys that are there; with the length of each reply."""
    value = make_values(1, value_bytes)[0]
    reply_bytes = len(b"$%d\r\n%s\r\n" % (len(value), value))
    exchanges = []
    for number, key in enumerate(shuffled([key_name(number) for number in range(key_count)])):
        is_get = number % 2 == 0
        exchanges.append(
            (encoded((b"GET", key)), reply_bytes)
            if is_get
            else (encoded((b"SET", key, value)), len(b"+OK\r\n"))
        )
    return exchanges


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


def measure_growing(
    report: Report,
    load: PacedLoad,
    servers: Mapping[str, ServerProcess],
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    """Adds what servers that were just loaded have: ours writes into memory that it never used before."""
    announce(f"{load.requests_per_second:,.0f} requests a second, in memory that is new")
    turns = _turns_without_saving(load, servers, rounds)
    _compare(report, load, turns, "half of the peak load, in new memory")


def measure(
    report: Report,
    load: PacedLoad,
    servers: Mapping[str, ServerProcess],
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    """Adds what servers have whose memory was all in use before, and what they have while they save."""
    announce(f"{load.requests_per_second:,.0f} requests a second, and the same while snapshots are written")
    saved: dict[str, int] = dict.fromkeys(servers, 0)

    def run_while_saving(name: str, server: ServerProcess) -> Turn:
        with _saving(server.port) as done:
            turn = load.run(server, _SLICES_WHILE_SAVING)
        if not done:
            raise RuntimeError(f"no snapshot was written by port {server.port}: nothing was measured")
        saved[name] += len(done)
        return turn

    turns: dict[str, list[Turn]] = {name: [] for name in servers}
    turns_while_saving: dict[str, list[Turn]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, of_this_round in _turns_without_saving(load, servers, 1).items():
            turns[name] += of_this_round
        for name, server in servers.items():
            turns_while_saving[name].append(run_while_saving(name, server))
    _compare(report, load, turns, "half of the peak load")
    for what, measured in (("", turns), (", saving", turns_while_saving)):
        ours, theirs = (
            statistics.median(quantile(turn, 0.999) for turn in measured[name]) for name in ("ours", "theirs")
        )
        label = f"half of the peak load{what}: latency p99.9 of whole turns"
        report.figures.append(Figure(label, ours, "s", "Redis", theirs, ours / theirs, "x as long"))
    for name, whose, must in (("ours", "thermae serve", _WITH_SNAPSHOT_MUST), ("theirs", "Redis", None)):
        saving, without = (load.quantile(measured[name], 0.999) for measured in (turns_while_saving, turns))
        label = f"{whose}, while snapshots are written: latency p99.9"
        report.figures.append(
            Figure(label, saving, "s", "without", without, saving / without, "x as long", must=must)
        )
    report.notes += [
        f"half of the peak load: {load.requests_per_second:,.0f} requests a second over {CLIENTS} "
        "connections, a get and a set in turn; a request's time counts from when it was due; medians of "
        f"slices of {load.slice_seconds:g} s, {_SLICES} in each of {rounds * _TURNS_PER_ROUND} turns "
        f"({_SLICES_WHILE_SAVING} in each of {rounds} while saving); of whole turns, in which a stop of the "
        "whole machine counts too, the median of the turns",
        "in new memory: as soon as all keys were loaded; each set of ours takes memory that it never used, "
        "each of Redis the place of the value before",
        f"snapshots: BGSAVE again and again, {saved['ours']} of ours and {saved['theirs']} of Redis",
    ]


def _turns_without_saving(
    load: PacedLoad, servers: Mapping[str, ServerProcess], rounds: int
) -> dict[str, list[Turn]]:
    runs = {name: functools.partial(load.run, server, _SLICES) for name, server in servers.items()}
    return interleaved_rounds(runs, rounds * _TURNS_PER_ROUND)


def _compare(report: Report, load: PacedLoad, turns: Mapping[str, list[Turn]], what: str) -> None:
    for label, fraction in _FRACTIONS.items():
        ours, theirs = (load.quantile(turns[name], fraction) for name in ("ours", "theirs"))
        must = _MUST if label == "p99.9" else None
        figure = f"{what}: latency {label}"
        report.figures.append(
            Figure(figure, ours, "s", "Redis", theirs, ours / theirs, "x as long", must=must)
        )
