"""Coming back: attach after a close and after `kill -9`, and recovery when memory is gone.

A reboot is simulated by removing the store's shared memory between two processes. Recovery from the log alone
is measured on a store that never wrote an index checkpoint, as nobody did its background work. Redis loads
an RDB file of the same items, in turns with Thermae. All read from the page cache: what is measured is the
work, not the disk. Both are timed as their users see it: from `thermae.open`, and from the start of the
server's process, to the first reply. Where other things run, the processor time of both says more.
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import thermae
from thermae import _thermae
from thermae.bench.filling import fill, hot_bytes_for
from thermae.bench.machine import this_machine
from thermae.bench.places import reserved, scratch_directory
from thermae.bench.processes import BackgroundWork, in_new_process
from thermae.bench.redis_peer import describe_redis, redis_server
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.workload import make_keys, make_values

VALUE_BYTES = 100
SMALL_KEY_COUNT = 10_000

# An attach takes less than a millisecond: many of them tell it from what else the machine does.
ATTACHES_PER_ROUND = 4

_left_open: list[thermae.Store] = []  # by processes that are going to be killed


@dataclasses.dataclass(frozen=True)
class Start:
    """What one start took, to its first reply."""

    wall_seconds: float
    processor_seconds: float


def run(key_count: int, attach_key_count: int, rounds: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    report = Report(
        name="restart",
        title=(
            f"Restart: attaching to {attach_key_count:,} keys, recovering {key_count:,}, "
            f"values of {VALUE_BYTES} bytes"
        ),
        command=(
            f"thermae bench restart --keys {key_count} --attach-keys {attach_key_count} --rounds {rounds}"
        ),
        machine=this_machine(),
        peers=[describe_redis()],
    )
    with scratch_directory() as directory:
        _measure_attach(report, directory, attach_key_count, rounds, announce)
        _measure_recovery(report, directory, key_count, rounds, announce)
    report.notes += [
        f"medians of {rounds} rounds, {ATTACHES_PER_ROUND} attaches in each",
        "a start is from thermae.open in a new process to the first value, "
        "and from the start of redis-server to its first reply that is not LOADING",
        "a reboot is simulated by removing the shared memory",
        "files are in the page cache, for Thermae and for Redis",
    ]
    return report


def _fill(location: str, key_count: int, background: bool) -> None:
    hot_bytes = hot_bytes_for(key_count, VALUE_BYTES)
    store = thermae.open(
        location, hot=hot_bytes, cold=2 * hot_bytes, durability="everysec", background=background
    )
    fill(store, key_count, VALUE_BYTES, lambda _: None)
    store.close()


def _start(location: str, key_count: int, leave_open: bool, background: bool = True) -> Start:
    key = b"key:%010d" % (key_count // 2)
    before = _processor_seconds()
    started = time.perf_counter()
    store = thermae.open(location, create=False, background=background)
    value = store[key]
    wall_seconds = time.perf_counter() - started
    processor_seconds = _processor_seconds() - before
    if len(value) != VALUE_BYTES:
        raise RuntimeError(f"{location}: {key!r} came back with {len(value)} bytes instead of {VALUE_BYTES}")
    if leave_open:
        _left_open.append(store)
    else:
        store.close()
    return Start(wall_seconds, processor_seconds)


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _median_wall(starts: Sequence[Start]) -> float:
    return statistics.median(start.wall_seconds for start in starts)


def _median_processor(starts: Sequence[Start]) -> float:
    return statistics.median(start.processor_seconds for start in starts)


def _measure_attach(
    report: Report, directory: Path, key_count: int, rounds: int, announce: Callable[[str], None]
) -> None:
    """Attaches in turns to a small and a large store: after a close (then killed), and after that kill."""
    starts: dict[tuple[str, int], list[Start]] = {}
    with reserved(directory / "small") as small, reserved(directory / "large") as large:
        for location, count in ((small, SMALL_KEY_COUNT), (large, key_count)):
            announce(f"loading {count:,} keys")
            in_new_process(_fill, location, count, True)
        announce("attaching after a close and after kill -9")
        for _ in range(ATTACHES_PER_ROUND * rounds):
            for location, count in ((small, SMALL_KEY_COUNT), (large, key_count)):
                killed = BackgroundWork(_start, location, count, True)
                starts.setdefault(("a clean close", count), []).append(killed.result_then_kill())
                closed = BackgroundWork(_start, location, count, False)
                starts.setdefault(("kill -9", count), []).append(closed.result())
    for event in ("a clean close", "kill -9"):
        at_small = _median_wall(starts[event, SMALL_KEY_COUNT])
        at_large = _median_wall(starts[event, key_count])
        measure = f"attach after {event}, {key_count:,} keys"
        report.figures.append(
            Figure(
                measure,
                at_large,
                "s",
                f"the same, {SMALL_KEY_COUNT:,} keys",
                at_small,
                at_large / at_small,
                "x as long",
                must=Bound("at most", 2.0),
            )
        )
        report.figures.append(
            Figure(measure, at_large, "s", score=at_large, score_unit="s", must=Bound("at most", 0.01))
        )


def _measure_recovery(
    report: Report, directory: Path, key_count: int, rounds: int, announce: Callable[[str], None]
) -> None:
    has_redis = describe_redis().version is not None
    logged: list[Start] = []
    covered: list[Start] = []
    loaded: list[Start] = []
    with reserved(directory / "logged") as log_alone, reserved(directory / "covered") as with_checkpoint:
        announce(f"loading {key_count:,} keys for recovery")
        in_new_process(_fill, log_alone, key_count, False)
        if any(Path(log_alone).glob("checkpoint.*")):
            raise RuntimeError(f"{log_alone} has a checkpoint although nobody did its background work")
        in_new_process(_fill, with_checkpoint, key_count, True)
        if has_redis:
            announce(f"Redis: saving an RDB of {key_count:,} keys")
            _save_rdb(directory / "redis", key_count)
        announce(f"recovering {key_count:,} keys as after a reboot, and Redis loading its RDB")
        for _ in range(rounds):
            for location, background, starts in (
                (log_alone, False, logged),
                (with_checkpoint, True, covered),
            ):
                in_new_process(_thermae.forget_shared_memory, location)
                starts.append(in_new_process(_start, location, key_count, False, background))
            if has_redis:
                loaded.append(_start_redis(directory / "redis", key_count))
    wall, processor = _median_wall(logged), _median_processor(logged)
    redis_wall = _median_wall(loaded) if loaded else None
    redis_processor = _median_processor(loaded) if loaded else None
    measure = f"recovery from the log alone, {key_count:,} keys"
    report.figures += [
        Figure(
            measure,
            wall,
            "s",
            "Redis loading an RDB",
            redis_wall,
            None if redis_wall is None else redis_wall / wall,
            must=Bound("at least", 5.0),
        ),
        Figure(
            f"processor time of {measure}",
            processor,
            "s",
            "Redis loading an RDB",
            redis_processor,
            None if redis_processor is None else redis_processor / processor,
        ),
        Figure(
            "recovery from the log alone, keys and values a second",
            key_count * (14 + VALUE_BYTES) / wall,
            "B/s",
        ),
        Figure(f"recovery from checkpoint and log, {key_count:,} keys", _median_wall(covered), "s"),
    ]


def _save_rdb(directory: Path, key_count: int) -> None:
    values = make_values(10_000, VALUE_BYTES)
    with redis_server(directory) as connection:
        connection.fill(
            (key, values[number % len(values)]) for number, key in enumerate(make_keys(key_count))
        )
        connection.command(b"SAVE")


def _start_redis(directory: Path, key_count: int) -> Start:
    started = time.perf_counter()
    with redis_server(directory) as connection:
        wall_seconds = time.perf_counter() - started
        processor_seconds = connection.processor_seconds()
        loaded = int(connection.command(b"DBSIZE"))
    if loaded != key_count:
        raise RuntimeError(f"Redis loaded {loaded:,} keys of {key_count:,}")
    return Start(wall_seconds, processor_seconds)
