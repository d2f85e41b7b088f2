"""What tiers cost: reads beyond the hot tier, writes to a nearly full cold one, sets beside a snapshot."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import thermae
from thermae.bench.filling import fill
from thermae.bench.machine import this_machine
from thermae.bench.peers import read_items
from thermae.bench.places import scratch_directory, temporary_store
from thermae.bench.processes import BackgroundWork, barrier
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.timing import collector_off, interleaved_medians, quantile, seconds_of
from thermae.bench.workload import make_keys, make_values, zipf_keys

VALUE_BYTES = 1000
RECORD_BYTES = 14 + VALUE_BYTES + 40
OCCUPANCY = 0.85
ZIPF_EXPONENT = 0.99


def run(hot_mebibytes: int, rounds: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    hot_bytes = hot_mebibytes * 2**20
    report = Report(
        name="tiers",
        title=f"Tiers: {hot_mebibytes} MiB of hot tier, values of {VALUE_BYTES} bytes, Zipf {ZIPF_EXPONENT}",
        command=f"thermae bench tiers --hot-mebibytes {hot_mebibytes} --rounds {rounds}",
        machine=this_machine(),
        peers=[],
    )
    with scratch_directory() as directory:
        _measure_reads(report, directory, hot_bytes, rounds, announce)
        _measure_write_amplification(report, directory, hot_bytes, announce)
        _measure_sets_beside_snapshot(report, directory, hot_bytes, rounds, announce)
    report.notes.append("write amplification: bytes written to the cold tier for each byte of key and value")
    report.notes.append("the cold tier's file is read through the page cache where it is cached")
    return report


def _measure_reads(
    report: Report, directory: Path, hot_bytes: int, rounds: int, announce: Callable[[str], None]
) -> None:
    key_count = 4 * hot_bytes // RECORD_BYTES
    lookups_per_round = max(key_count, 200_000)
    keys = make_keys(key_count)
    with (
        temporary_store(
            directory / "tiered", hot=hot_bytes, cold=8 * hot_bytes, durability="everysec"
        ) as tiered,
        temporary_store(
            directory / "all-hot", hot=8 * hot_bytes, cold=8 * hot_bytes, durability="everysec"
        ) as all_hot,
    ):
        for store in (tiered, all_hot):
            fill(store, key_count, VALUE_BYTES, announce)
        round_number = 0

        def reads(store: thermae.Store) -> Callable[[], float]:
            def one_round() -> float:
                nonlocal round_number
                round_number += 1
                # Another draw from the same distribution: the same keys are popular, in another order.
                lookups = zipf_keys_of_round(keys, lookups_per_round, round_number)
                return lookups_per_round / seconds_of(lambda: read_items(store, lookups))

            return one_round

        announce("Zipf reads, data four times the hot tier")
        medians = interleaved_medians({"tiered": reads(tiered), "all hot": reads(all_hot)}, rounds)
    report.figures.append(
        Figure(
            "Zipf reads, data 4x the hot tier",
            medians["tiered"],
            "op/s",
            "all in the hot tier",
            medians["all hot"],
            100 * medians["tiered"] / medians["all hot"],
            "%",
            must=Bound("at least", 40.0),
            aim=Bound("at least", 70.0),
        )
    )


def zipf_keys_of_round(keys: list[bytes], count: int, round_number: int) -> list[bytes]:
    """A round's draw: the popularity of each key is fixed, the sequence is new."""
    return zipf_keys(keys, count, ZIPF_EXPONENT, draw_seed=round_number)


def _measure_write_amplification(
    report: Report, directory: Path, hot_bytes: int, announce: Callable[[str], None]
) -> None:
    cold_bytes = 4 * hot_bytes
    key_count = int(cold_bytes * OCCUPANCY) // RECORD_BYTES
    keys = make_keys(key_count)
    values = make_values(1000, VALUE_BYTES)
    with temporary_store(
        directory / "overwritten", hot=hot_bytes, cold=cold_bytes, durability="everysec", when_full="error"
    ) as store:
        fill(store, key_count, VALUE_BYTES, announce)
        announce(f"Zipf overwrites at {OCCUPANCY:.0%} occupancy")

        def overwrite(count: int, round_number: int) -> None:
            for position, key in enumerate(zipf_keys_of_round(keys, count, round_number)):
                store[key] = values[position % len(values)]

        overwrite(2 * key_count, 1)  # until compaction is in its steady state
        store.flush()
        before_bytes = store.stats()["cold_written_bytes"]
        overwrite(2 * key_count, 2)
        store.flush()
        written_bytes = store.stats()["cold_written_bytes"] - before_bytes
    user_bytes = 2 * key_count * (14 + VALUE_BYTES)
    amplification = written_bytes / user_bytes
    report.figures.append(
        Figure(
            f"write amplification, {OCCUPANCY:.0%} occupancy, Zipf overwrites",
            amplification,
            "x",
            score=amplification,
            must=Bound("at most", 1.5),
        )
    )


def _snapshot_again_and_again(location: str, directory: Path, started: object, seconds: float) -> int:
    """Takes snapshots, one after the other, until `seconds` have passed. Runs in a process of its own."""
    store = thermae.open(location, create=False)
    started.wait()  # type: ignore[attr-defined]
    deadline = time.perf_counter() + seconds
    taken = 0
    while time.perf_counter() < deadline:
        target = directory / f"snapshot-{taken}"
        store.snapshot(target)
        shutil.rmtree(target)
        taken += 1
    store.close()
    return taken


def _set_seconds(store: thermae.Store, keys: list[bytes], value: bytes, seconds: float) -> list[float]:
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    position = 0
    while True:
        started = time.perf_counter()
        if started >= deadline:
            return samples
        store.set(keys[position % len(keys)], value)
        samples.append(time.perf_counter() - started)
        position += 1


def _measure_sets_beside_snapshot(
    report: Report, directory: Path, hot_bytes: int, rounds: int, announce: Callable[[str], None]
) -> None:
    key_count = hot_bytes // RECORD_BYTES
    seconds = 3.0
    value = make_values(1, VALUE_BYTES)[0]
    location = directory / "snapshotted"
    with temporary_store(location, hot=4 * hot_bytes, cold=8 * hot_bytes, durability="everysec") as store:
        fill(store, key_count, VALUE_BYTES, announce)
        announce("set beside a snapshot")
        keys = zipf_keys_of_round(make_keys(key_count), 200_000, 1)
        taken_total = 0

        def alone() -> float:
            return quantile(_set_seconds(store, keys, value, seconds), 0.999)

        def beside_snapshot() -> float:
            nonlocal taken_total
            started = barrier(2)
            snapshots = BackgroundWork(_snapshot_again_and_again, str(location), directory, started, seconds)
            started.wait()
            with collector_off():
                samples = _set_seconds(store, keys, value, seconds)
            taken_total += snapshots.result()
            return quantile(samples, 0.999)

        medians = interleaved_medians({"beside": beside_snapshot, "alone": alone}, rounds)
    report.figures.append(
        Figure(
            "p99.9 of set while a snapshot runs",
            medians["beside"],
            "s",
            "without",
            medians["alone"],
            medians["beside"] / medians["alone"],
            "x as long",
            must=Bound("at most", 2.0),
            aim=Bound("at most", 1.2),
        )
    )
    report.notes.append(
        f"snapshots are taken by another process, one after the other ({taken_total} in all rounds)"
    )
