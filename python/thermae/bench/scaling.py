"""More processes and more threads: readers side by side, and writers that share one fdatasync."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import thermae
from thermae._thermae import sets_per_second
from thermae.bench.filling import fill, hot_bytes_for
from thermae.bench.machine import this_machine
from thermae.bench.places import reserved, scratch_directory
from thermae.bench.processes import all_at_once, barrier
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.timing import interleaved_medians, interleaved_rounds
from thermae.bench.workload import fresh_copies, make_keys, make_values, shuffled

VALUE_BYTES = 100
DURABLE_THREADS = 64
# Over which the same threads are spread, so that they do not all wait for one interpreter's lock.
DURABLE_PROCESSES = 4
_LOOKUPS_BETWEEN_CLOCK_READS = 2_000
# Beyond it, what others do on the machine decides a figure that is owed at 95 %.
_CALIBRATION_ERROR_MAX = 0.02


def run(
    key_count: int,
    durable_key_count: int,
    rounds: int,
    seconds_per_round: float,
    announce: Callable[[str], None],
) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    report = Report(
        name="scaling",
        title="Scaling: processes that read, threads that write durably",
        command=(
            f"thermae bench scaling --keys {key_count} --durable-keys {durable_key_count} "
            f"--rounds {rounds} --seconds {seconds_per_round:g}"
        ),
        machine=this_machine(),
        peers=[],
    )
    with scratch_directory() as directory:
        _measure_readers(report, directory, key_count, rounds, seconds_per_round, announce)
        _measure_durable_writers(report, directory, durable_key_count, rounds, seconds_per_round, announce)
    return report


def _read_for_seconds(
    location: str, key_count: int, seconds: float, processor: int, seed: int, start_together: Any
) -> float:
    """Look-ups a second of one process, pinned to one processor. Runs in a process of its own."""
    os.sched_setaffinity(0, {processor})
    store = thermae.open(location, create=False)
    keys = fresh_copies(shuffled(make_keys(key_count), seed))
    for key in keys[:100_000]:
        store[key]
    start_together.wait()
    started = time.perf_counter()
    deadline = started + seconds
    done = 0
    while time.perf_counter() < deadline:
        first = done % len(keys)
        some_keys = keys[first : first + _LOOKUPS_BETWEEN_CLOCK_READS]
        for key in some_keys:
            store[key]
        done += len(some_keys)
    elapsed = time.perf_counter() - started
    store.close()
    return done / elapsed


def _compute_for_seconds(seconds: float, processor: int, start_together: Any) -> float:
    """Loops a second of a process that shares nothing, pinned to one processor: what the machine can give."""
    os.sched_setaffinity(0, {processor})
    start_together.wait()
    started = time.perf_counter()
    deadline = started + seconds
    done = 0
    while time.perf_counter() < deadline:
        sum(range(_LOOKUPS_BETWEEN_CLOCK_READS))
        done += 1
    return done / (time.perf_counter() - started)


def _measure_readers(
    report: Report,
    directory: Path,
    key_count: int,
    rounds: int,
    seconds: float,
    announce: Callable[[str], None],
) -> None:
    processors = sorted(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= len(processors)]
    with reserved(directory / "readers") as location:
        store = thermae.open(
            location, hot=hot_bytes_for(key_count, VALUE_BYTES), durability="none", when_full="error"
        )
        try:
            fill(store, key_count, VALUE_BYTES, announce)

            def readers(count: int) -> Callable[[], float]:
                def one_round() -> float:
                    start_together = barrier(count)
                    arguments = [
                        (location, key_count, seconds, processors[number], number, start_together)
                        for number in range(count)
                    ]
                    return sum(all_at_once(_read_for_seconds, arguments))

                return one_round

            def computing(count: int) -> Callable[[], float]:
                def one_round() -> float:
                    start_together = barrier(count)
                    arguments = [(seconds, processors[number], start_together) for number in range(count)]
                    return sum(all_at_once(_compute_for_seconds, arguments))

                return one_round

            announce(f"{' and '.join(map(str, counts))} processes reading")
            competitors = {f"read {count}": readers(count) for count in counts}
            competitors |= {f"compute {count}": computing(count) for count in counts}
            measured = interleaved_rounds(competitors, rounds)
        finally:
            store.close()
    for count in counts:
        _report_readers(report, count, measured)
    report.notes.append(
        f"readers start together, pinned to processors {', '.join(map(str, processors[: counts[-1]]))}; "
        "scores are medians of the ratios within each round"
    )


def _report_readers(report: Report, count: int, measured: dict[str, list[float]]) -> None:
    def times_one(work: str) -> float:
        pairs = zip(measured[f"{work} {count}"], measured[f"{work} 1"], strict=True)
        return statistics.median(many / one for many, one in pairs)

    owed = count == 2
    processes = f"{count} process{'es' if count > 1 else ''}"
    report.figures.append(
        Figure(
            f"{processes} reading store[key]",
            statistics.median(measured[f"read {count}"]),
            "op/s",
            "1 process",
            statistics.median(measured["read 1"]),
            times_one("read"),
            must=Bound("at least", 1.9) if owed else None,
            aim=Bound("at least", 2.0) if owed else None,
        )
    )
    if count == 1:
        return
    possible = times_one("compute")
    report.figures.append(
        Figure(
            f"{processes} that only compute and share nothing",
            statistics.median(measured[f"compute {count}"]),
            "op/s",
            "1 process",
            statistics.median(measured["compute 1"]),
            possible,
        )
    )
    if abs(possible / count - 1) > _CALIBRATION_ERROR_MAX:
        report.notes.append(
            f"this machine was not free: {processes} that share nothing reached {possible:.2f}x of one, "
            f"where {count}x is to be expected, so the figure of the readers means little"
        )


def _writes_per_second(
    store: thermae.Store, keys: list[bytes], value: bytes, thread_count: int, seconds: float
) -> float:
    done = [0] * thread_count
    start_together = threading.Barrier(thread_count + 1)
    stop = threading.Event()

    def write(number: int) -> None:
        start_together.wait()
        position = number
        while not stop.is_set():
            store.set(keys[position % len(keys)], value)
            position += thread_count
            done[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(thread_count)]
    for thread in threads:
        thread.start()
    start_together.wait()
    started = time.perf_counter()
    stop.wait(seconds)
    counted = sum(done)
    elapsed = time.perf_counter() - started
    stop.set()
    for thread in threads:
        thread.join()
    return counted / elapsed


def _durable_keys(key_count: int) -> list[bytes]:
    return shuffled(make_keys(min(key_count, 1_000_000)))


def _write_for_seconds(
    location: str, key_count: int, value: bytes, thread_count: int, seconds: float, start_together: Any
) -> float:
    """Durable sets a second of one process of several. Runs in a process of its own."""
    keys = _durable_keys(key_count)
    with thermae.open(location, create=False) as store:
        start_together.wait()
        return _writes_per_second(store, keys, value, thread_count, seconds)


def _fdatasync_appends_per_second(path: Path, record: bytes, seconds: float) -> float:
    """What the device gives to anyone who syncs each record by itself."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        done = 0
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            os.write(descriptor, record)
            os.fdatasync(descriptor)
            done += 1
        return done / (time.perf_counter() - started)
    finally:
        os.close(descriptor)


def _measure_durable_writers(
    report: Report,
    directory: Path,
    key_count: int,
    rounds: int,
    seconds: float,
    announce: Callable[[str], None],
) -> None:
    value = make_values(1, VALUE_BYTES)[0]
    hot_bytes = hot_bytes_for(key_count, VALUE_BYTES)
    with reserved(directory / "durable") as location:
        # Loaded without waiting for each batch, then made durable as a whole.
        store = thermae.open(location, hot=hot_bytes, cold=2 * hot_bytes, durability="none")
        fill(store, key_count, VALUE_BYTES, announce)
        store.close()
        store = thermae.open(location, durability="always")
        keys = _durable_keys(key_count)

        def processes() -> float:
            start_together = barrier(DURABLE_PROCESSES)
            threads = DURABLE_THREADS // DURABLE_PROCESSES
            arguments = (location, key_count, value, threads, seconds, start_together)
            return sum(all_at_once(_write_for_seconds, [arguments] * DURABLE_PROCESSES))

        def engine(thread_count: int) -> Callable[[], float]:
            return lambda: sets_per_second(location, keys, value, thread_count, seconds)

        try:
            announce(
                f"durability always: {DURABLE_THREADS} threads of the engine, of Python, "
                f"of {DURABLE_PROCESSES} processes, 1 thread, fdatasync per put"
            )
            medians = interleaved_medians(
                {
                    "threads": lambda: _writes_per_second(store, keys, value, DURABLE_THREADS, seconds),
                    "processes": processes,
                    "engine": engine(DURABLE_THREADS),
                    "engine, one": engine(1),
                    "one": lambda: _writes_per_second(store, keys, value, 1, seconds),
                    "fdatasync": lambda: _fdatasync_appends_per_second(
                        directory / "appended", b"k" * 14 + value, seconds
                    ),
                },
                rounds,
            )
        finally:
            store.close()
    measure = f'set, durability "always", {DURABLE_THREADS} threads, {key_count:,} keys'
    report.figures.append(
        Figure(
            f"{measure}, the engine by itself",
            medians["engine"],
            "op/s",
            "1 thread",
            medians["engine, one"],
            medians["engine"] / medians["engine, one"],
            must=Bound("at least", 10.0),
        )
    )
    report.figures.append(
        Figure(
            f"{measure}, of one Python process",
            medians["threads"],
            "op/s",
            "1 thread",
            medians["one"],
            medians["threads"] / medians["one"],
            must=Bound("at least", 10.0),
        )
    )
    report.figures.append(
        Figure(
            f"the same, the threads over {DURABLE_PROCESSES} processes",
            medians["processes"],
            "op/s",
            "1 thread",
            medians["one"],
            medians["processes"] / medians["one"],
        )
    )
    for name, measured in (("threads", measure), ("one", 'set, durability "always", 1 thread')):
        report.figures.append(
            Figure(
                measured,
                medians[name],
                "op/s",
                "fdatasync per put (append)",
                medians["fdatasync"],
                medians[name] / medians["fdatasync"],
            )
        )
    report.notes.append(
        "fdatasync per put: one process appends each record to a plain file and syncs it, nothing else"
    )
