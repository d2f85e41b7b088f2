"""`thermae serve` beside Redis and memcached: processor time an operation, throughput, latency.

Each server has one processor, the load another one. Redis clients are redis-benchmark, memcached clients
`load_memcached`. The servers take short turns; all hold the same items, and nothing is on disk.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from thermae.bench import load_memcached, tails
from thermae.bench.filling import hot_bytes_for
from thermae.bench.load_redis import CLIENTS, Load, has_redis_benchmark, key_name, run_redis_benchmark
from thermae.bench.machine import this_machine
from thermae.bench.places import scratch_directory
from thermae.bench.redis_peer import RedisConnection, describe_redis
from thermae.bench.report import Bound, Figure, Peer, Report
from thermae.bench.servers import (
    ServerProcess,
    describe_memcached,
    memcached_process,
    pinned_to,
    redis_process,
    thermae_server,
)
from thermae.bench.timing import interleaved_rounds
from thermae.bench.workload import make_values

VALUE_BYTES = 100

# A shared machine changes its speed within seconds: many short turns of each server meet the same of it.
_TURNS_PER_ROUND = 4
# Of a turn with each number of requests under way; fewer where there are few keys.
_REQUESTS = {1: 100_000, 16: 400_000, 64: 800_000}
_KEYS_OF_WHOLE_RUNS = 100_000
# So long a store may put off its memory's huge pages at a time while requests wait (REST_MAX in
# background.rs), and some seconds in which to make them.
_REST_SECONDS = 40.0
_KEYS_OF_WHOLE_RESTS = 1_000_000
_MUST = {1: 0.90, 16: 0.60, 64: 0.50}
_AIM = {1: 0.80, 16: 0.45, 64: 0.40}
_MEMCACHED_MUST = 0.90


@dataclasses.dataclass(frozen=True)
class GetsAtOnce:
    """How memcached clients ask."""

    name: str
    keys_per_get: int
    pipeline: int
    get_count: int
    must: Bound | None


_MEMCACHED_GETS = (
    GetsAtOnce("get", 1, 1, 80_000, Bound("at most", _MEMCACHED_MUST)),
    GetsAtOnce("get, pipeline 16", 1, 16, 300_000, Bound("at most", _MEMCACHED_MUST)),
    GetsAtOnce("get of 64 keys", 64, 1, 600_000, None),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run on one server."""

    processor_seconds_per_operation: float
    load: Load


def run(key_count: int, rounds: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    processors = sorted(os.sched_getaffinity(0))
    server_processor, load_processor = processors[0], processors[-1]
    redis_peer = describe_redis()
    if redis_peer.version is not None and not has_redis_benchmark():
        redis_peer = Peer("Redis", None, "install redis-benchmark, such as with apt install redis-tools")
    memcached_peer = describe_memcached()
    report = Report(
        name="serve",
        title=f"Serving: {key_count:,} keys, values of {VALUE_BYTES} bytes, {CLIENTS} clients",
        command=f"thermae bench serve --keys {key_count} --rounds {rounds}",
        machine=this_machine(),
        peers=[redis_peer, memcached_peer],
    )
    turns = rounds * _TURNS_PER_ROUND
    hot_bytes = 2 * hot_bytes_for(key_count, VALUE_BYTES)
    with scratch_directory() as directory, contextlib.ExitStack() as stack:
        with pinned_to(server_processor):
            location = f"shm://thermae-bench-{os.getpid()}-serve"
            ours, ours_of_memcached = stack.enter_context(
                thermae_server(location, hot_bytes, "--snapshots", str(directory / "snapshots"))
            )
        announce(f"thermae serve: loading {key_count:,} keys")
        _fill(ours, key_count)
        if redis_peer.version is not None:
            with pinned_to(server_processor):
                redis = stack.enter_context(redis_process(directory))
            announce(f"Redis: loading {key_count:,} keys")
            _fill(redis, key_count)
            with pinned_to(load_processor):
                servers = {"ours": ours, "theirs": redis}
                _measure_loaded(report, servers, key_count, announce)
                _measure_redis(report, servers, key_count, turns, announce)
                tails.measure(report, servers, key_count, VALUE_BYTES, rounds, announce)
            # With all processors: where there are two, the load takes part of what a second loop would use.
            _measure_threads(report, location, ours, load_processor, key_count, turns, announce)
            _demand_all_keys(ours, key_count)
            _measure_growing(
                report, directory, (server_processor, load_processor), key_count, rounds, announce
            )
        if memcached_peer.version is not None:
            with pinned_to(server_processor):
                memcached = stack.enter_context(memcached_process(2 * hot_bytes))
            announce(f"memcached: loading {key_count:,} keys")
            load_memcached.fill(memcached.port, _items(key_count))
            servers = {"ours": ours_of_memcached, "theirs": memcached}
            with pinned_to(load_processor):
                _measure_memcached(report, servers, key_count, turns, announce)
    report.notes += [
        f"medians of {turns} turns, {_TURNS_PER_ROUND} of each round; servers on processor "
        f"{server_processor}, load on {load_processor}",
        "processor time is that of the server's process, all its threads, user and system, for one operation",
        "latency is that of all requests under way together, as redis-benchmark counts it",
        "memcached clients are written in Python, so their servers idle at times: throughput and latencies "
        "are of both together, and those of a command are of all that a client sent at once",
        f"2 threads: a second server of the same store that may have all {len(processors)} processors, "
        "beside the one with a processor for itself; where the load needs one of two, a second loop has "
        "little to win",
    ]
    return report


def _items(key_count: int) -> Iterator[tuple[bytes, bytes]]:
    values = make_values(10_000, VALUE_BYTES)
    return ((key_name(number), values[number % len(values)]) for number in range(key_count))


@contextlib.contextmanager
def _redis_connection(server: ServerProcess) -> Iterator[RedisConnection]:
    connection = RedisConnection(server.port)
    try:
        yield connection
    finally:
        connection.close()


def _fill(server: ServerProcess, key_count: int) -> None:
    with _redis_connection(server) as connection:
        connection.fill(_items(key_count))


def _demand_all_keys(server: ServerProcess, key_count: int) -> None:
    """A cache that had evicted keys would answer gets of them in less time."""
    with _redis_connection(server) as connection:
        found = int(connection.command(b"DBSIZE"))
    if found != key_count:
        raise RuntimeError(f"{found:,} of {key_count:,} keys are left, so that nothing was measured")


def _run_redis(server: ServerProcess, command: str, pipeline: int, request_count: int, key_count: int) -> Run:
    before = server.processor_seconds()
    load = run_redis_benchmark(server.port, command, pipeline, request_count, key_count, VALUE_BYTES)
    return Run((server.processor_seconds() - before) / request_count, load)


def _measure_redis(
    report: Report,
    servers: Mapping[str, ServerProcess],
    key_count: int,
    turns: int,
    announce: Callable[[str], None],
) -> None:
    for command in ("get", "set"):
        for pipeline in _REQUESTS:
            announce(f"{command.upper()}, pipeline {pipeline}")
            measured = _turns(servers, command, pipeline, key_count, turns)
            _report_redis(report, f"{command.upper()}, pipeline {pipeline}", pipeline, measured)


def _turns(
    servers: Mapping[str, ServerProcess], command: str, pipeline: int, key_count: int, turns: int
) -> dict[str, list[Run]]:
    request_count = _REQUESTS[pipeline] * min(key_count, _KEYS_OF_WHOLE_RUNS) // _KEYS_OF_WHOLE_RUNS
    requests = (command, pipeline, request_count, key_count)
    competitors = {name: functools.partial(_run_redis, server, *requests) for name, server in servers.items()}
    return interleaved_rounds(competitors, turns)


def _measure_loaded(
    report: Report, servers: Mapping[str, ServerProcess], key_count: int, announce: Callable[[str], None]
) -> None:
    """Directly after loading, with no must; then the servers have time to put what they hold in order."""
    what = "GET, pipeline 1, directly after loading"
    announce(what)
    measured = _turns(servers, "get", 1, key_count, _TURNS_PER_ROUND)
    report.figures.append(_processor_time(what, measured))
    rest_seconds = _REST_SECONDS * min(1.0, key_count / _KEYS_OF_WHOLE_RESTS)
    announce(f"the servers rest for {rest_seconds:.2g} s")
    time.sleep(rest_seconds)
    report.notes.append(
        f"after loading, each server was left alone for {rest_seconds:.2g} s: a store has its memory in huge "
        "pages once nobody waits for its processor for some seconds"
    )


def _ratio(ours: float, theirs: float) -> float | None:
    """None for runs so short that the kernel counted no time for them."""
    return ours / theirs if theirs > 0 else None


def _processor_time(what: str, measured: Mapping[str, list[Run]]) -> Figure:
    ours, theirs = _medians(measured, ("ours", "theirs"), lambda run: run.processor_seconds_per_operation)
    measure = f"{what}: processor time of the server"
    return Figure(measure, ours, "s", "Redis", theirs, _ratio(ours, theirs), "x as long")


def _report_redis(report: Report, what: str, pipeline: int, measured: Mapping[str, list[Run]]) -> None:
    def medians(figure: Callable[[Run], float]) -> tuple[float, float]:
        return _medians(measured, ("ours", "theirs"), figure)

    must, aim = Bound("at most", _MUST[pipeline]), Bound("at most", _AIM[pipeline])
    report.figures.append(dataclasses.replace(_processor_time(what, measured), must=must, aim=aim))
    ours, theirs = medians(lambda run: run.load.operations_per_second)
    report.figures.append(Figure(f"{what}: throughput", ours, "op/s", "Redis", theirs, _ratio(ours, theirs)))
    latencies: dict[str, Callable[[Run], float]] = {
        "p50": lambda run: run.load.median_seconds,
        "p99": lambda run: run.load.p99_seconds,
        "p99.9": lambda run: run.load.p999_seconds,
    }
    for name, figure in latencies.items():
        ours, theirs = medians(figure)
        report.figures.append(
            Figure(f"{what}: latency {name}", ours, "s", "Redis", theirs, _ratio(ours, theirs), "x as long")
        )


def _medians(
    measured: Mapping[str, list[Run]], names: tuple[str, str], figure: Callable[[Run], float]
) -> tuple[float, float]:
    first, second = (statistics.median(map(figure, measured[name])) for name in names)
    return first, second


def _measure_growing(
    report: Report,
    directory: Path,
    processors: tuple[int, int],
    key_count: int,
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    """With servers of its own, which have used no memory yet."""
    server_processor, load_processor = processors
    location = f"shm://thermae-bench-{os.getpid()}-growing"
    with contextlib.ExitStack() as stack:
        with pinned_to(server_processor):
            hot_bytes = tails.growing_hot_bytes(key_count, rounds)
            ours, _ = stack.enter_context(thermae_server(location, hot_bytes))
            theirs = stack.enter_context(redis_process(directory))
        with pinned_to(load_processor):
            tails.measure_growing(report, {"ours": ours, "theirs": theirs}, key_count, rounds, announce)


def _measure_threads(
    report: Report,
    location: str,
    one: ServerProcess,
    load_processor: int,
    key_count: int,
    turns: int,
    announce: Callable[[str], None],
) -> None:
    """The same with two loops, of a second server of the same store that may have all processors."""
    with (
        thermae_server(location, None, "--threads", "2", is_kept=True) as (two, _),
        pinned_to(load_processor),
    ):
        for command, (pipeline, whole_count) in itertools.product(("get", "set"), _REQUESTS.items()):
            request_count = whole_count * min(key_count, _KEYS_OF_WHOLE_RUNS) // _KEYS_OF_WHOLE_RUNS
            what = f"{command.upper()}, pipeline {pipeline}, 2 threads"
            announce(what)
            competitors = {
                name: functools.partial(_run_redis, server, command, pipeline, request_count, key_count)
                for name, server in {"one": one, "two": two}.items()
            }
            measured = interleaved_rounds(competitors, turns)
            names = ("two", "one")
            ours, of_one = _medians(measured, names, lambda run: run.processor_seconds_per_operation)
            figure = f"{what}: processor time of the server"
            score = _ratio(ours, of_one)
            report.figures.append(Figure(figure, ours, "s", "1 thread", of_one, score, "x as long"))
            ours, of_one = _medians(measured, names, lambda run: run.load.operations_per_second)
            figure = f"{what}: throughput"
            report.figures.append(Figure(figure, ours, "op/s", "1 thread", of_one, _ratio(ours, of_one)))


def _run_memcached(server: ServerProcess, gets: load_memcached.Gets, get_count: int) -> Run:
    before = server.processor_seconds()
    done, load = gets.run(server.port, get_count)
    return Run((server.processor_seconds() - before) / done, load)


def _measure_memcached(
    report: Report,
    servers: Mapping[str, ServerProcess],
    key_count: int,
    turns: int,
    announce: Callable[[str], None],
) -> None:
    keys = [key_name(number) for number in range(key_count)]
    for asked in _MEMCACHED_GETS:
        announce(f"memcached {asked.name}")
        gets = load_memcached.Gets(keys, VALUE_BYTES, asked.keys_per_get, asked.pipeline)
        get_count = asked.get_count * min(key_count, _KEYS_OF_WHOLE_RUNS) // _KEYS_OF_WHOLE_RUNS
        competitors = {
            name: functools.partial(_run_memcached, server, gets, get_count)
            for name, server in servers.items()
        }
        measured = interleaved_rounds(competitors, turns)
        _report_memcached(report, asked, measured)


def _report_memcached(report: Report, asked: GetsAtOnce, measured: Mapping[str, list[Run]]) -> None:
    figures: dict[str, tuple[str, Callable[[Run], float], str, Bound | None]] = {
        "processor time of the server, for each key": (
            "s",
            lambda run: run.processor_seconds_per_operation,
            "x as long",
            asked.must,
        ),
        "throughput": ("op/s", lambda run: run.load.operations_per_second, "x", None),
        "latency p50": ("s", lambda run: run.load.median_seconds, "x as long", None),
        "latency p99": ("s", lambda run: run.load.p99_seconds, "x as long", None),
        "latency p99.9": ("s", lambda run: run.load.p999_seconds, "x as long", None),
    }
    for name, (unit, figure, score_unit, must) in figures.items():
        ours, theirs = _medians(measured, ("ours", "theirs"), figure)
        score = _ratio(ours, theirs)
        report.figures.append(
            Figure(
                f"memcached {asked.name}: {name}",
                ours,
                unit,
                "memcached",
                theirs,
                score,
                score_unit,
                must=must,
            )
        )
