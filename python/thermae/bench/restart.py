"""Coming back: attach after a close and after `kill -9`, and recovery when memory is gone.

A reboot is simulated by removing the store's shared memory between two processes. Recovery from the log alone
is measured on a store that never wrote an index checkpoint, as nobody did its background work. Redis loads
an RDB file of the same items. All read from the page cache: what is measured is the work, not the disk.
"""

import statistics
import time
from collections.abc import Callable
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

_left_open: list[thermae.Store] = []  # by processes that are going to be killed


def run(key_count: int, rounds: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    report = Report(
        name="restart",
        title=f"Restart: {SMALL_KEY_COUNT:,} and {key_count:,} keys, values of {VALUE_BYTES} bytes",
        command=f"thermae bench restart --keys {key_count} --rounds {rounds}",
        machine=this_machine(),
        peers=[describe_redis()],
    )
    with scratch_directory() as directory:
        with reserved(directory / "small") as small, reserved(directory / "large") as large:
            for location, count in ((small, SMALL_KEY_COUNT), (large, key_count)):
                announce(f"loading {count:,} keys")
                in_new_process(_fill, location, count, True)
            announce("attaching after a close and after kill -9")
            _measure_attach(report, small, large, key_count, rounds)
            announce(f"recovering {key_count:,} keys as after a reboot")
            reboot_seconds = _recovery_seconds(large, key_count, rounds, background=True)
        with reserved(directory / "logged") as logged:
            announce(f"recovering {key_count:,} keys from the log alone")
            in_new_process(_fill, logged, key_count, False)
            if any(Path(logged).glob("checkpoint.*")):
                raise RuntimeError(f"{logged} has a checkpoint although nobody did its background work")
            recovery_seconds = _recovery_seconds(logged, key_count, rounds, background=False)
        redis_seconds = None
        if describe_redis().version is not None:
            announce(f"Redis: loading an RDB of {key_count:,} keys")
            redis_seconds = _redis_seconds(directory / "redis", key_count, rounds)
    report.figures.append(
        Figure(
            f"recovery from the log alone, {key_count:,} keys",
            recovery_seconds,
            "s",
            "Redis loading an RDB",
            redis_seconds,
            None if redis_seconds is None else redis_seconds / recovery_seconds,
            must=Bound("at least", 5.0),
        )
    )
    report.figures.append(
        Figure(f"recovery from checkpoint and log, {key_count:,} keys", reboot_seconds, "s")
    )
    report.figures.append(
        Figure(
            "recovery from the log alone, keys and values a second",
            key_count * (14 + VALUE_BYTES) / recovery_seconds,
            "B/s",
        )
    )
    report.notes += [
        f"medians of {rounds} rounds; attach is from thermae.open to the first value, in a new process",
        "a reboot is simulated by removing the shared memory",
        "files are in the page cache for both recoveries",
    ]
    return report


def _fill(location: str, key_count: int, background: bool) -> None:
    hot_bytes = hot_bytes_for(key_count, VALUE_BYTES)
    store = thermae.open(
        location, hot=hot_bytes, cold=2 * hot_bytes, durability="everysec", background=background
    )
    fill(store, key_count, VALUE_BYTES, lambda _: None)
    store.close()


def _first_value_seconds(location: str, key_count: int, leave_open: bool, background: bool = True) -> float:
    key = b"key:%010d" % (key_count // 2)
    started = time.perf_counter()
    store = thermae.open(location, create=False, background=background)
    value = store[key]
    seconds = time.perf_counter() - started
    if len(value) != VALUE_BYTES:
        raise RuntimeError(f"{location}: {key!r} came back with {len(value)} bytes instead of {VALUE_BYTES}")
    if leave_open:
        _left_open.append(store)
    else:
        store.close()
    return seconds


def _measure_attach(report: Report, small: str, large: str, key_count: int, rounds: int) -> None:
    """Each round attaches twice to each store: after a close (then it is killed), and after that kill."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for location, count in ((small, SMALL_KEY_COUNT), (large, key_count)):
            killed = BackgroundWork(_first_value_seconds, location, count, True)
            seconds.setdefault(("a clean close", count), []).append(killed.result_then_kill())
            closed = BackgroundWork(_first_value_seconds, location, count, False)
            seconds.setdefault(("kill -9", count), []).append(closed.result())
    for event in ("a clean close", "kill -9"):
        at_small = statistics.median(seconds[event, SMALL_KEY_COUNT])
        at_large = statistics.median(seconds[event, key_count])
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


def _recovery_seconds(location: str, key_count: int, rounds: int, *, background: bool) -> float:
    measured = []
    for _ in range(rounds):
        in_new_process(_thermae.forget_shared_memory, location)
        measured.append(in_new_process(_first_value_seconds, location, key_count, False, background))
    return statistics.median(measured)


def _redis_seconds(directory: Path, key_count: int, rounds: int) -> float:
    values = make_values(10_000, VALUE_BYTES)
    with redis_server(directory) as connection:
        connection.fill(
            (key, values[number % len(values)]) for number, key in enumerate(make_keys(key_count))
        )
        connection.command(b"SAVE")
    measured = []
    for _ in range(rounds):
        started = time.perf_counter()
        with redis_server(directory) as connection:
            measured.append(time.perf_counter() - started)
            loaded = int(connection.command(b"DBSIZE"))
        if loaded != key_count:
            raise RuntimeError(f"Redis loaded {loaded:,} keys of {key_count:,}")
    return statistics.median(measured)
