"""What the demonstration runs in processes of its own: `python -m thermae.demo.worker <role> ...`.

Roles: `read` reads every key once, when told to start, and then verifies every byte; `watch` reads and
    verifies without end; `write` writes without end (see `thermae.demo.written`). The endless ones are
    there to be killed: they count what they have begun and finished in a mapped file that outlives them,
    and take no other leave.

Plain processes and not `multiprocessing`: its queues hold locks that a killed process would take with it.
"""

import json
import mmap
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import thermae
from thermae.bench.peers import open_peer, read_items
from thermae.demo.corpus import checksum, read_manifest
from thermae.demo.written import WriterContents, writer_key

THERMAE = "Thermae"


class Progress:
    """One worker's counters in a file that all of them map; each update is an aligned 8-byte store."""

    WORKERS_MAX = 16
    _FIELDS = 5

    def __init__(self, path: Path, worker: int) -> None:
        with path.open("r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), self.file_bytes())
        self._words = memoryview(self._mapping).cast("Q")
        self._first = worker * self._FIELDS

    @classmethod
    def file_bytes(cls) -> int:
        """The size that the file has to have."""
        return cls.WORKERS_MAX * cls._FIELDS * 8

    def _get(self, field: int) -> int:
        return self._words[self._first + field]

    def _set(self, field: int, value: int) -> None:
        self._words[self._first + field] = value

    @property
    def started(self) -> int:
        """Operations begun."""
        return self._get(0)

    @property
    def finished(self) -> int:
        """Operations that returned."""
        return self._get(1)

    @property
    def wrong_count(self) -> int:
        """Values that were not what they should have been."""
        return self._get(3)

    def forget_longest(self) -> None:
        """Starts a new measurement of the longest operation."""
        self._set(2, 0)

    def longest_seconds_until_now(self) -> float:
        """The longest operation since `forget_longest`, one that has not returned yet included."""
        finished, began_ns = self.finished, self._get(4)
        still_at_it = self.started > finished == self.finished
        return max(self._get(2), time.monotonic_ns() - began_ns if still_at_it else 0) / 1e9

    def begin(self, operation: int) -> int:
        """Notes that the operation begins; returns the time, on the clock that all processes share."""
        began_ns = time.monotonic_ns()
        self._set(4, began_ns)
        self._set(0, operation + 1)
        return began_ns

    def finish(self, operation: int, began_ns: int) -> None:
        """Notes that the operation returned."""
        elapsed_ns = time.monotonic_ns() - began_ns
        if elapsed_ns > self._get(2):
            self._set(2, elapsed_ns)
        self._set(1, operation + 1)

    def count_wrong(self) -> None:
        """Notes a wrong value."""
        self._set(3, self._get(3) + 1)


def read_command(store_kind: str, location: Path, manifest: Path, seed: int) -> list[str]:
    """The command line of a process that reads everything once from Thermae or from a peer by name."""
    return [*_module(), "read", store_kind, str(location), str(manifest), str(seed)]


def watch_command(location: Path, manifest: Path, progress: Path, worker: int) -> list[str]:
    """The command line of a process that reads and verifies without end."""
    return [*_module(), "watch", str(location), str(manifest), str(progress), str(worker)]


def write_command(location: Path, progress: Path, worker: int, writer: int) -> list[str]:
    """The command line of a process that writes without end."""
    return [*_module(), "write", str(location), str(progress), str(worker), str(writer)]


def _module() -> list[str]:
    return [sys.executable, "-m", "thermae.demo.worker"]


def _read(store_kind: str, location: str, manifest: str, seed: str) -> None:
    checksums = read_manifest(Path(manifest))
    keys = list(checksums)
    random.Random(int(seed)).shuffle(keys)
    wrong: list[str] = []
    if store_kind == THERMAE:
        store = thermae.open(location, create=False)
        started, ended = _timed_read(lambda: read_items(store, keys))
        wrong = [key.hex() for key in keys if checksum(store[key]) != checksums[key]]
        store.close()
    else:
        # The directory and the size that the parent made it with; a peer's map size grows to its file by
        # itself.
        peer = open_peer(store_kind, Path(location), 2**36)
        assert peer is not None, f"{store_kind} is not installed"
        opened = peer
        started, ended = _timed_read(lambda: opened.read(keys))
        peer.close()
    print(json.dumps({"started": started, "ended": ended, "wrong": wrong}), flush=True)


def _timed_read(read: Callable[[], None]) -> tuple[float, float]:
    """Waits for the word to start; when it started and ended, on the clock that all processes share."""
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    read()
    return started, time.monotonic()


def _watch(location: str, manifest: str, progress_path: str, worker: str) -> None:
    store = thermae.open(location, create=False)
    checksums = read_manifest(Path(manifest))
    keys = list(checksums)
    choice = random.Random(int(worker))
    progress = Progress(Path(progress_path), int(worker))
    operation = 0
    while True:
        key = choice.choice(keys)
        began_ns = progress.begin(operation)
        value = store.get(key)
        progress.finish(operation, began_ns)
        if value is None or checksum(value) != checksums[key]:
            progress.count_wrong()
        operation += 1


def _write(location: str, progress_path: str, worker: str, writer: str) -> None:
    store = thermae.open(location, create=False)
    contents = WriterContents(int(writer))
    progress = Progress(Path(progress_path), int(worker))
    write = 0
    while True:
        content = contents.content(write)
        began_ns = progress.begin(write)
        store[writer_key(int(writer), write)] = content
        progress.finish(write, began_ns)
        write += 1


def main(arguments: list[str]) -> None:
    """Plays the role that the first argument names, with the rest as its own."""
    role, *rest = arguments
    {"read": _read, "watch": _watch, "write": _write}[role](*rest)


if __name__ == "__main__":
    main(sys.argv[1:])
