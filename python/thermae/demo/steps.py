"""The demonstration's steps, in order: each does one thing for real, times it, and verifies the outcome."""

import os
import random
import time
from pathlib import Path

import thermae
from thermae.bench.peers import PeerStore, open_peer, read_items, write_items
from thermae.bench.report import Peer
from thermae.bench.timing import collector_off, seconds_of
from thermae.bench.units import readable_quantity
from thermae.demo.corpus import Corpus
from thermae.demo.group import WorkerGroup, read_at_once
from thermae.demo.report import Step
from thermae.demo.worker import THERMAE
from thermae.demo.written import WriterContents

MEBIBYTE = 2**20
READERS = 4
SURVIVE_SECONDS_MAX = 1.0
_WATCH_SECONDS = 1.5
_LMDB_KEY_BYTES_MAX = 511


def bytes_text(count: float) -> str:
    """A number of bytes, as people read it."""
    return readable_quantity(count, "B")


class Story:
    """What the steps share: the input, where things are, the main store, and the peers that do the same."""

    def __init__(self, corpus: Corpus, directory: Path, peers: list[Peer]) -> None:
        self.corpus = corpus
        self.directory = directory
        self.location = directory / "data"
        self.small_location = directory / "small"
        self.restored_location = directory / "restored"
        self.cache_location = f"shm://thermae-demo-{os.getpid()}"
        self.manifest = directory / "manifest.json"
        self.peers = peers
        # Room for the input, for what the writers write, and for both again while segments are being
        # compacted.
        self.hot_bytes = 2 * corpus.total_bytes + 256 * MEBIBYTE
        self.small_hot_bytes = max(
            16 * MEBIBYTE, corpus.total_bytes // 4, 2 * corpus.largest_bytes + 16 * MEBIBYTE
        )
        self.writer_counts: dict[int, tuple[int, int]] = {}  # writer: writes acknowledged, writes begun
        corpus.write_manifest(self.manifest)

    def stores(self) -> list[str]:
        """Everything that has to be destroyed afterwards."""
        return [
            str(self.location),
            str(self.small_location),
            str(self.restored_location),
            self.cache_location,
        ]

    def random_keys(self) -> list[bytes]:
        """All keys, in an order that has nothing to do with the order of loading."""
        keys = list(self.corpus.files)
        random.Random(1).shuffle(keys)
        return keys


def wrong_files(corpus: Corpus, store: thermae.Store, *, missing_allowed: bool = False) -> list[str]:
    """What differs between the store and the input's checksums."""
    problems = []
    for key in corpus.files:
        value = store.get(key)
        if value is None and missing_allowed:
            continue
        problem = corpus.mismatched(key, value)
        if problem is not None:
            problems.append(problem)
    return problems


def load_and_read(story: Story) -> list[Step]:
    """Loads the input into a new store and into each peer, and reads it back in random order."""
    corpus = story.corpus
    items = corpus.files.items()
    keys = story.random_keys()
    rate = f"{len(corpus.files):,} files, {bytes_text(corpus.total_bytes)}"
    with thermae.open(
        story.location, hot=story.hot_bytes, cold=2 * story.hot_bytes, durability="everysec"
    ) as store:
        with collector_off():
            load_seconds = seconds_of(lambda: write_items(store, items))
            read_seconds = seconds_of(lambda: read_items(store, keys))
        problems = wrong_files(corpus, store)
    load = Step("load every file", load_seconds, f"{rate}, {bytes_text(corpus.total_bytes / load_seconds)}/s")
    read = Step(
        "read every file, 1 process", read_seconds, f"{bytes_text(corpus.total_bytes / read_seconds)}/s"
    )
    read.problems = problems
    read.verified = f"{len(corpus.files):,} checksums"
    for peer in story.peers:
        load.peer_seconds[peer.name], read.peer_seconds[peer.name], remark = _peer_seconds(story, peer, keys)
        if remark:
            load.peer_remarks[peer.name] = read.peer_remarks[peer.name] = remark
    return [load, read]


def _peer_seconds(story: Story, peer: Peer, keys: list[bytes]) -> tuple[float | None, float | None, str]:
    """The peer's seconds to load and to read; Nones and the reason when it can't."""
    if peer.version is None:
        return None, None, ""
    if peer.name == "py-lmdb" and any(len(key) > _LMDB_KEY_BYTES_MAX for key in keys):
        return None, None, f"no keys over {_LMDB_KEY_BYTES_MAX} B"
    store: PeerStore | None = open_peer(peer.name, story.directory, 4 * story.hot_bytes)
    if store is None:
        return None, None, ""
    opened_store = store
    try:
        with collector_off():
            load_seconds = seconds_of(lambda: opened_store.write(story.corpus.files.items()))
            read_seconds = seconds_of(lambda: opened_store.read(keys))
    finally:
        store.close()
    return load_seconds, read_seconds, ""


def read_from_processes(story: Story) -> list[Step]:
    """Four processes read all of the one copy at once; the peers that can be shared do the same."""
    total_bytes = READERS * story.corpus.total_bytes
    seconds, wrong = read_at_once(THERMAE, story.location, story.manifest, READERS)
    step = Step(
        f"read every file, {READERS} processes at once",
        seconds,
        f"one shared copy, {bytes_text(total_bytes / seconds)}/s",
        f"{READERS} x {len(story.corpus.files):,} checksums",
        problems=[f"{os.fsdecode(bytes.fromhex(key))} was read wrong" for key in wrong],
        peer_remarks={"dict": "can't be shared"},
    )
    for peer in story.peers:
        if peer.name == "dict":
            continue
        step.peer_seconds[peer.name] = None
        # A peer has a directory exactly when it could be loaded.
        if peer.version is not None and (story.directory / peer.name).is_dir():
            step.peer_seconds[peer.name], _ = read_at_once(
                peer.name, story.directory, story.manifest, READERS
            )
    return [step]


def kill_one_writer_then_all(story: Story) -> list[Step]:
    """SIGKILL to one writer in mid-write: the others proceed. Then SIGKILL to the whole group."""
    with WorkerGroup(story.directory, story.location, story.manifest) as group:
        victim = group.start_writer(1)
        survivors = [group.start_writer(2), group.start_writer(3), group.start_watcher()]
        group.wait_for_operations([victim, *survivors], [20] * 4)
        for survivor in survivors:
            group.progress[survivor].forget_longest()
        watched = [group.progress[survivor] for survivor in survivors]
        before = [progress.finished for progress in watched]
        started = time.perf_counter()
        group.kill_in_mid_write(victim)
        # One that a survivor was at may have begun before; the next one began afterwards.
        group.wait_for_operations(survivors, [count + 2 for count in before])
        time.sleep(max(0.0, _WATCH_SECONDS - (time.perf_counter() - started)))
        longest_seconds = max(progress.longest_seconds_until_now() for progress in watched)
        for survivor in survivors:
            group.require_running(survivor)
        kill_seconds = time.perf_counter() - started
        after = [progress.finished for progress in watched]
        killed = time.perf_counter()
        group.kill_all()
        kill_all_seconds = time.perf_counter() - killed
        for worker, writer in group.writer_of_worker.items():
            story.writer_counts[writer] = (group.progress[worker].finished, group.progress[worker].started)
        wrong_count = group.progress[survivors[-1]].wrong_count
    one = Step(
        "kill -9 one writer in mid-write",
        kill_seconds,
        f"3 others did {sum(after) - sum(before):,} operations, the longest in "
        f"{readable_quantity(longest_seconds, 's')}",
        f"all proceed within {SURVIVE_SECONDS_MAX:.0f} s",
    )
    if longest_seconds > SURVIVE_SECONDS_MAX:
        one.problems.append(f"a survivor's operation took {longest_seconds:.2f} s")
    if wrong_count:
        one.problems.append(f"{wrong_count:,} values were read wrong by the survivors")
    writes = sum(acknowledged for acknowledged, _ in story.writer_counts.values())
    everyone = Step("kill -9 the whole group", kill_all_seconds, f"{writes:,} writes had been acknowledged")
    return [one, everyone]


def reopen_and_verify(story: Story) -> list[Step]:
    """Attaches to what the dead left in memory, and verifies every byte of it."""
    started = time.perf_counter()
    store = thermae.open(story.location, create=False)
    open_seconds = time.perf_counter() - started
    try:
        reopened = Step("reopen, warm", open_seconds, f"{len(store):,} keys at once")
        started = time.perf_counter()
        problems = wrong_files(story.corpus, store)
        for writer, (acknowledged, begun) in story.writer_counts.items():
            problems += WriterContents(writer).problems(store.get, acknowledged, begun)
        verified = Step(
            "verify every byte",
            time.perf_counter() - started,
            "input as its checksums say, no acknowledged write missing, none torn",
            f"{len(story.corpus.files):,} checksums, {len(story.writer_counts)} writers",
            problems=problems,
        )
    finally:
        store.close()
    return [reopened, verified]


def demote(story: Story) -> list[Step]:
    """More data than a small hot tier holds: the cold tier takes the rest, and all of it can be read."""
    corpus = story.corpus
    cold_bytes = 2 * corpus.total_bytes + 4 * story.small_hot_bytes
    copies = _copies_to_overflow(story)
    with thermae.open(
        story.small_location, hot=story.small_hot_bytes, cold=cold_bytes, durability="none"
    ) as store:
        started = time.perf_counter()
        for copy in range(copies):
            for key, content in corpus.files.items():
                store[_copy_key(copy, key)] = content
        seconds = time.perf_counter() - started
        stats = store.stats()
        problems = []
        for copy in range(copies):
            for key in corpus.files:
                problem = corpus.mismatched(key, store.get(_copy_key(copy, key)))
                if problem is not None:
                    problems.append(problem)
    if stats["demoted_segments"] == 0:
        problems.append("nothing was demoted, although the hot tier is smaller than the data")
    stored_bytes = copies * corpus.total_bytes
    result = f"{bytes_text(stored_bytes)} in a hot tier of {bytes_text(story.small_hot_bytes)}"
    verified = f"{copies * len(corpus.files):,} checksums"
    return [Step("demote under a small hot tier", seconds, result, verified, problems=problems)]


def evict(story: Story) -> list[Step]:
    """The same without a cold tier: a cache, which drops what is least used and hands out no wrong byte."""
    corpus = story.corpus
    copies = _copies_to_overflow(story)
    with thermae.open(
        story.cache_location, hot=story.small_hot_bytes, when_full="evict", durability="none"
    ) as cache:
        started = time.perf_counter()
        for copy in range(copies):
            for key, content in corpus.files.items():
                cache[_copy_key(copy, key)] = content
        seconds = time.perf_counter() - started
        problems = []
        kept_count = kept_bytes = 0
        for copy in range(copies):
            for key in corpus.files:
                value = cache.get(_copy_key(copy, key))
                if value is not None:
                    kept_count += 1
                    kept_bytes += len(value)
                    problem = corpus.mismatched(key, value)
                    if problem is not None:
                        problems.append(problem)
    stored_count = copies * len(corpus.files)
    if kept_count == stored_count:
        problems.append("nothing was evicted, although the cache is smaller than the data")
    if kept_count == 0:
        problems.append("nothing was kept in the cache")
    kept = f"{kept_count:,} of {stored_count:,} kept"
    result = f"{kept}, {bytes_text(kept_bytes)} in {bytes_text(story.small_hot_bytes)}"
    return [
        Step("evict from a small cache (shm://)", seconds, result, "all kept are right", problems=problems)
    ]


def _copies_to_overflow(story: Story) -> int:
    """How often a small input has to be stored before it is more than twice the small hot tier."""
    return max(1, -(-2 * story.small_hot_bytes // story.corpus.total_bytes))


def _copy_key(copy: int, key: bytes) -> bytes:
    return b"copy/%d/%b" % (copy, key)


def snapshot_while_writing(story: Story) -> list[Step]:
    """Takes a snapshot while two processes write, and verifies that it is one moment of their history."""
    target = story.directory / "snapshot"
    bounds: dict[int, tuple[int, int]] = {}
    with (
        WorkerGroup(story.directory, story.location, story.manifest) as group,
        thermae.open(story.location, create=False) as store,
    ):
        workers = {group.start_writer(writer): writer for writer in (4, 5)}
        group.wait_for_operations(list(workers), [20] * len(workers))
        acknowledged = {worker: group.progress[worker].finished for worker in workers}
        started = time.perf_counter()
        store.snapshot(target)
        snapshot_seconds = time.perf_counter() - started
        for worker, writer in workers.items():
            group.require_running(worker)
            bounds[writer] = (acknowledged[worker], group.progress[worker].started)
    written = sum(begun - acknowledged for acknowledged, begun in bounds.values())
    taken = Step(
        "snapshot while 2 processes write", snapshot_seconds, f"{written:,} writes went on meanwhile"
    )
    started = time.perf_counter()
    thermae.restore(target, story.restored_location)
    restore_seconds = time.perf_counter() - started
    with thermae.open(story.restored_location, create=False) as restored:
        problems = wrong_files(story.corpus, restored)
        for writer, (acknowledged_count, begun) in {**story.writer_counts, **bounds}.items():
            problems += WriterContents(writer).problems(restored.get, acknowledged_count, begun)
        count = len(restored)
    result = f"{count:,} keys, one moment of every writer's history"
    verified = f"{len(story.corpus.files):,} checksums, {len(story.writer_counts) + len(bounds)} writers"
    return [taken, Step("restore it", restore_seconds, result, verified, problems=problems)]
