"""What the slowest requests wait for: at half of the peak load, and while a snapshot is written.

Requests come at a set pace, gets and sets in turn, and each one's time counts from when it was due. Both
servers get the same load: half of what the slower one takes of single gets.

A virtual machine stands still now and then, for a tenth of a second, whatever runs on it. So each turn is
cut into slices, and the median of the slices is what counts: a server that stalls of itself does so in most
of them. What whole turns had is reported as well, and bound to nothing.
"""

import contextlib
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

# Longer than a snapshot takes, so that its end meets requests as well.
_SECONDS = 4.0
_SLICES = 16
_KEYS = 100_000
_LOOK_EVERY_SECONDS = 0.02
_WITH_SNAPSHOT_MUST = 2.0


def _exchanges(key_count: int, value_bytes: int) -> list[tuple[bytes, int]]:
    """A get and a set in turn, of keys that are there; with the length of each reply."""
    value = make_values(1, value_bytes)[0]
    reply_bytes = len(b"$%d\r\n%s\r\n" % (len(value), value))
    exchanges = []
    for number, key in enumerate(shuffled([key_name(number) for number in range(min(key_count, _KEYS))])):
        is_get = number % 2 == 0
        exchanges.append(
            (encoded((b"GET", key)), reply_bytes)
            if is_get
            else (encoded((b"SET", key, value)), len(b"+OK\r\n"))
        )
    return exchanges


def _slices(latencies: list[float]) -> list[list[float]]:
    """The same number of replies in each, in their order."""
    size = max(1, len(latencies) // _SLICES)
    return [latencies[first : first + size] for first in range(0, len(latencies) - size + 1, size)]


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


def measure(
    report: Report,
    servers: Mapping[str, ServerProcess],
    key_count: int,
    value_bytes: int,
    turns: int,
    announce: Callable[[str], None],
) -> None:
    """Adds the figures of `ours` and `theirs` to the report."""
    announce("peak load")
    requests = 2 * min(key_count, _KEYS)
    peak = min(
        run_redis_benchmark(server.port, "get", 1, requests, key_count, value_bytes).operations_per_second
        for server in servers.values()
    )
    rate = peak / 2
    exchanges = _exchanges(key_count, value_bytes)
    seconds = _SECONDS * min(key_count, _KEYS) / _KEYS
    saved: dict[str, int] = dict.fromkeys(servers, 0)

    def load(server: ServerProcess) -> Callable[[], list[float]]:
        return lambda: paced_latencies_seconds(server.port, exchanges, rate, CLIENTS, seconds)

    def load_while_saving(name: str, server: ServerProcess) -> Callable[[], list[float]]:
        def run() -> list[float]:
            with _saving(server.port) as done:
                latencies = load(server)()
            if not done:
                raise RuntimeError(f"no snapshot was written by port {server.port}: nothing was measured")
            saved[name] += len(done)
            return latencies

        return run

    announce(f"{rate:,.0f} requests a second, and the same while snapshots are written")
    competitors = {name: load(server) for name, server in servers.items()}
    competitors |= {f"{name}, saving": load_while_saving(name, server) for name, server in servers.items()}
    measured = interleaved_rounds(competitors, turns)

    def median_of(name: str, fraction: float) -> float:
        slices = (part for latencies in measured[name] for part in _slices(latencies))
        return statistics.median(quantile(part, fraction) for part in slices)

    for fraction, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")):
        ours, theirs = median_of("ours", fraction), median_of("theirs", fraction)
        report.figures.append(
            Figure(
                f"half of the peak load: latency {label}",
                ours,
                "s",
                "Redis",
                theirs,
                ours / theirs,
                "x as long",
                must=Bound("at most", 1.0) if label == "p99.9" else None,
            )
        )

    def of_whole_turns(name: str) -> float:
        return statistics.median(quantile(latencies, 0.999) for latencies in measured[name])

    for kind, what in (("", "half of the peak load"), (", saving", "half of the peak load, saving")):
        ours, theirs = of_whole_turns(f"ours{kind}"), of_whole_turns(f"theirs{kind}")
        label = f"{what}: latency p99.9 of whole turns"
        report.figures.append(Figure(label, ours, "s", "Redis", theirs, ours / theirs, "x as long"))
    for name, whose in (("ours", "thermae serve"), ("theirs", "Redis")):
        with_snapshot, without = median_of(f"{name}, saving", 0.999), median_of(name, 0.999)
        report.figures.append(
            Figure(
                f"{whose}, while snapshots are written: latency p99.9",
                with_snapshot,
                "s",
                "without",
                without,
                with_snapshot / without,
                "x as long",
                must=Bound("at most", _WITH_SNAPSHOT_MUST) if name == "ours" else None,
            )
        )
    report.notes += [
        f"half of the peak load: {rate:,.0f} requests a second over {CLIENTS} connections, "
        "a get and a set in turn; a request's time counts from when it was due; "
        f"medians of the {_SLICES} slices of each turn, {seconds / _SLICES:g} s each; of whole turns, in "
        "which a stop of the whole machine counts too, the median of the turns",
        f"snapshots: BGSAVE again and again, {saved['ours']} of ours and {saved['theirs']} of Redis",
    ]
