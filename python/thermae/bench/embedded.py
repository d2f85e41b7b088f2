"""One thread, one process: `store[key]`, `store[key] = value`, the verbs, batches, and bytes per item.

Beside dict, py-lmdb and diskcache, in one run, in turns. All stores hold the same items in the same
directory; keys are looked up in random order and are never the object that was stored. diskcache does fewer
operations a round than the others, on the same number of keys.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import thermae
from thermae.bench.machine import this_machine
from thermae.bench.peers import (
    PeerStore,
    describe_peer,
    open_peer,
    read_items,
    read_with_get,
    write_items,
    write_with_set,
)
from thermae.bench.places import scratch_directory, temporary_store
from thermae.bench.redis_peer import describe_redis, redis_server
from thermae.bench.report import Bound, Figure, Report
from thermae.bench.timing import interleaved_medians, seconds_of
from thermae.bench.workload import batches, fresh_copies, make_keys, make_values, sampled

VALUE_BYTES = 100
KEY_BYTES = 14
BATCH_KEYS = 1000
# Operations a round; with all keys, one round would take minutes.
DISKCACHE_READS_MAX = 50_000
DISKCACHE_WRITES_MAX = 5_000


class _Workload:
    """The items, and fresh keys in a new random order for every round of every competitor."""

    def __init__(self, key_count: int) -> None:
        self.keys = make_keys(key_count)
        self.items = list(zip(self.keys, make_values(key_count, VALUE_BYTES), strict=True))
        self._round = 0

    def lookups(self, count: int) -> list[bytes]:
        self._round += 1
        return fresh_copies(sampled(self.keys, count, self._round))

    def overwrites(self, count: int) -> list[tuple[bytes, bytes]]:
        values = make_values(count, VALUE_BYTES, seed=self._round)
        return list(zip(self.lookups(count), values, strict=True))


def run(key_count: int, rounds: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    report = Report(
        name="embedded",
        title=f"Embedded: {key_count:,} keys of {KEY_BYTES} bytes, values of {VALUE_BYTES} bytes",
        command=f"thermae bench embedded --keys {key_count} --rounds {rounds}",
        machine=this_machine(),
        peers=[describe_peer("dict"), describe_peer("py-lmdb"), describe_peer("diskcache"), describe_redis()],
    )
    announce("making keys and values")
    workload = _Workload(key_count)
    capacity_bytes = max(64 * 2**20, key_count * 512)
    with scratch_directory() as directory, contextlib.ExitStack() as closing:
        store = closing.enter_context(
            temporary_store(directory / "thermae", hot=capacity_bytes, durability="none", when_full="error")
        )
        peers: dict[str, PeerStore] = {}
        for name in ("dict", "py-lmdb", "diskcache"):
            peer = open_peer(name, directory, 8 * capacity_bytes)
            if peer is not None:
                closing.callback(peer.close)
                peers[name] = peer
        announce("loading Thermae")
        store.set_many(dict(workload.items))
        for name, peer in peers.items():
            announce(f"loading {name}")
            peer.fill(workload.items)
        _measure_items(report, workload, store, peers, rounds, announce)
        _measure_verbs(report, workload, store, peers, rounds, announce)
        _measure_batches(report, workload, store, peers, rounds, announce)
        announce("memory per item")
        _measure_memory(report, workload, directory, peers)
    report.notes += [
        f"one thread; medians of {rounds} rounds in which competitors take turns, garbage collector off",
        "py-lmdb: a transaction per operation, sync=False, writemap=False; in the same directory as Thermae",
        f"diskcache: default settings, all keys loaded; {DISKCACHE_READS_MAX:,} gets "
        f"or {DISKCACHE_WRITES_MAX:,} sets of random keys a round",
    ]
    return report


def _measure_items(
    report: Report,
    workload: _Workload,
    store: thermae.Store,
    peers: dict[str, PeerStore],
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    count = len(workload.keys)

    def reads(read: Callable[[list[bytes]], None]) -> Callable[[], float]:
        def one_round() -> float:
            keys = workload.lookups(count)
            return seconds_of(lambda: read(keys)) / count

        return one_round

    def writes(write: Callable[[list[tuple[bytes, bytes]]], None]) -> Callable[[], float]:
        def one_round() -> float:
            items = workload.overwrites(count)
            return seconds_of(lambda: write(items)) / count

        return one_round

    announce("store[key]")
    compared = {name: peer for name, peer in peers.items() if name in ("dict", "py-lmdb")}
    medians = interleaved_medians(
        {"thermae": reads(lambda keys: read_items(store, keys))}
        | {name: reads(peer.read) for name, peer in compared.items()},
        rounds,
    )
    report.figures.append(_faster("store[key]", medians, "py-lmdb", must=3.0))
    report.figures.append(_faster("store[key]", medians, "dict", aim=1.0))
    announce("store[key] = value")
    medians = interleaved_medians(
        {"thermae": writes(lambda items: write_items(store, items))}
        | {name: writes(peer.write) for name, peer in compared.items()},
        rounds,
    )
    report.figures.append(
        _faster("store[key] = value, durability none", medians, "py-lmdb", must=6.0, aim=10.0)
    )
    report.figures.append(_faster("store[key] = value, durability none", medians, "dict"))


def _measure_verbs(
    report: Report,
    workload: _Workload,
    store: thermae.Store,
    peers: dict[str, PeerStore],
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    count = len(workload.keys)
    diskcache = peers.get("diskcache")
    diskcache_reads = min(count, DISKCACHE_READS_MAX)
    diskcache_writes = min(count, DISKCACHE_WRITES_MAX)

    def thermae_get() -> float:
        keys = workload.lookups(count)
        return seconds_of(lambda: read_with_get(store, keys)) / count

    def thermae_set() -> float:
        items = workload.overwrites(count)
        return seconds_of(lambda: write_with_set(store, items)) / count

    gets: dict[str, Callable[[], float]] = {"thermae": thermae_get}
    sets: dict[str, Callable[[], float]] = {"thermae": thermae_set}
    if diskcache is not None:
        cache = diskcache

        def diskcache_get() -> float:
            keys = workload.lookups(diskcache_reads)
            return seconds_of(lambda: cache.read(keys)) / diskcache_reads

        def diskcache_set() -> float:
            items = workload.overwrites(diskcache_writes)
            return seconds_of(lambda: cache.write(items)) / diskcache_writes

        gets["diskcache"] = diskcache_get
        sets["diskcache"] = diskcache_set
    announce("get")
    report.figures.append(_faster("get", interleaved_medians(gets, rounds), "diskcache", must=15.0, aim=20.0))
    announce("set")
    report.figures.append(
        _faster("set", interleaved_medians(sets, rounds), "diskcache", must=100.0, aim=200.0)
    )


def _measure_batches(
    report: Report,
    workload: _Workload,
    store: thermae.Store,
    peers: dict[str, PeerStore],
    rounds: int,
    announce: Callable[[str], None],
) -> None:
    announce(f"get_many({BATCH_KEYS})")
    plain = dict(workload.items)
    count = len(workload.keys)

    def thermae_batches() -> float:
        key_lists = list(batches(workload.lookups(count), BATCH_KEYS))

        def read() -> None:
            for keys in key_lists:
                store.get_many(keys)

        return seconds_of(read) / count

    def dict_loops() -> float:
        key_lists = list(batches(workload.lookups(count), BATCH_KEYS))

        def read() -> None:
            for keys in key_lists:
                [plain[key] for key in keys]

        return seconds_of(read) / count

    medians = interleaved_medians({"thermae": thermae_batches, "dict": dict_loops}, rounds)
    report.figures.append(
        _faster(
            f"get_many of {BATCH_KEYS}, per key", medians, "dict", reference="dict, a loop", must=1.0, aim=1.5
        )
    )


def _faster(
    measure: str,
    medians: dict[str, float],
    peer: str,
    *,
    reference: str | None = None,
    must: float | None = None,
    aim: float | None = None,
) -> Figure:
    theirs = medians.get(peer)
    return Figure(
        measure,
        medians["thermae"],
        "s",
        reference or peer,
        theirs,
        None if theirs is None else theirs / medians["thermae"],
        must=None if must is None else Bound("at least", must),
        aim=None if aim is None else Bound("at least", aim),
    )


def _measure_memory(
    report: Report, workload: _Workload, directory: Path, peers: dict[str, PeerStore]
) -> None:
    """Bytes per item over its key and value.

    On a new store of Thermae's: what overwriting leaves behind is not overhead.
    """
    count = len(workload.keys)
    payload_bytes = KEY_BYTES + VALUE_BYTES
    capacity_bytes = max(64 * 2**20, count * 512)
    with temporary_store(
        directory / "fresh", hot=capacity_bytes, durability="none", when_full="error"
    ) as fresh:
        fresh.set_many(dict(workload.items))
        stats = fresh.stats()
    overhead_bytes = (stats["live_bytes"] + stats["index_frame_bytes"]) / count - payload_bytes
    report.notes.append(
        "bytes per item: records with headers, and the index's frames; with the room left in frames that are "
        f"open for writing, {stats['hot_used_bytes'] / count - payload_bytes:.1f} B/item over key and value"
    )
    redis_bytes: float | None = None
    if describe_redis().version is not None:
        with redis_server(directory / "redis") as connection:
            before = connection.used_memory_bytes()
            connection.fill(workload.items)
            redis_bytes = (connection.used_memory_bytes() - before) / count - payload_bytes
    measure = "bytes per item over key and value"
    report.figures.append(
        Figure(
            measure,
            overhead_bytes,
            "B/item",
            "Redis",
            redis_bytes,
            overhead_bytes,
            "B/item",
            must=Bound("at most", 40.0),
            aim=Bound("at most", 32.0),
        )
    )
    for name, peer in peers.items():
        used_bytes = peer.used_bytes()
        if used_bytes is not None:
            theirs = used_bytes / count - payload_bytes
            report.figures.append(Figure(measure, overhead_bytes, "B/item", name, theirs))
