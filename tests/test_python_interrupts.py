"""Ctrl-C ends long calls, and with them the work that they began."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thermae

ATTEMPTS_MAX = 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[thermae.Store]:
    """A store that takes a while to copy and to check."""
    place = tmp_path_factory.mktemp("large") / "data"
    with thermae.open(place, hot="64MiB", cold="256MiB", frame="1MiB", durability="none") as store:
        value = os.urandom(8192)
        store.set_many((f"key:{number}", value) for number in range(20_000))
        yield store
    thermae.destroy(place)


def engine_threads(name: str) -> int:
    """How many threads of this process do the work of this name."""
    # The kernel keeps 15 bytes of a name.
    comm = f"thermae-{name}"[:15]
    found = 0
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between the two looks.
        with contextlib.suppress(OSError):
            found += (task / "comm").read_text().strip() == comm
    return found


def interrupted(name: str, call: Callable[[], object], undo: Callable[[], object]) -> None:
    """Has the call interrupted, again where it was done before the signal came; nothing of it goes on."""
    for _ in range(ATTEMPTS_MAX):
        is_over = threading.Event()

        def send(is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                if engine_threads(name):
                    os.kill(os.getpid(), signal.SIGINT)
                    return

        sender = threading.Thread(target=send)
        sender.start()
        is_done = False
        try:
            call()
            is_done = True
            is_over.set()
            sender.join()
            # The signal may still be on its way.
            time.sleep(0.01)
        except KeyboardInterrupt:
            is_over.set()
            sender.join()
        if not is_done:
            # A thread that is done may be seen for a moment more.
            deadline = time.monotonic() + 10
            while engine_threads(name):
                assert time.monotonic() < deadline, f"{name} goes on after it was interrupted"
                time.sleep(0.005)
            return
        undo()
    pytest.fail(f"{name} was over {ATTEMPTS_MAX} times before a signal came")


def test_a_snapshot_ends_and_leaves_nothing(large: thermae.Store, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    interrupted("snapshot", lambda: large.snapshot(target), lambda: shutil.rmtree(target))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(thermae.NotAStoreError):
        thermae.restore(target, tmp_path / "restored")
    # Nothing is held on to either.
    large["key:0"] = b"new"
    assert large.snapshot(target)["segments"] > 0
    shutil.rmtree(target)


def test_a_check_ends(large: thermae.Store) -> None:
    interrupted("check", large.check, lambda: None)
    assert large.check()["ok"]


def test_a_restore_ends_and_leaves_nothing(large: thermae.Store, tmp_path: Path) -> None:
    large.snapshot(tmp_path / "backup")
    target = tmp_path / "restored"
    interrupted(
        "restore", lambda: thermae.restore(tmp_path / "backup", target), lambda: thermae.destroy(target)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]
    assert str(target) not in [memory["location"] for memory in thermae.shared_memory()]
    thermae.restore(tmp_path / "backup", target)
    with thermae.open(target) as again:
        assert len(again) == len(large)
    thermae.destroy(target)


def test_a_snapshot_that_waits_for_another_ends(large: thermae.Store, tmp_path: Path) -> None:
    """The other one's process is stopped in the middle, and would be waited for as long as it is."""
    program = "import sys, thermae; thermae.open(sys.argv[1]).snapshot(sys.argv[2])"
    for attempt in range(ATTEMPTS_MAX):
        first = tmp_path / f"first-{attempt}"
        other = subprocess.Popen([sys.executable, "-c", program, large.location, str(first)])
        try:
            while not list(tmp_path.glob(f"first-{attempt}*")):
                assert other.poll() is None
            os.kill(other.pid, signal.SIGSTOP)
            if first.exists():
                continue
            interrupted("snapshot", lambda: large.snapshot(tmp_path / "second"), lambda: None)
            assert not list(tmp_path.glob("second*"))
            return
        finally:
            os.kill(other.pid, signal.SIGCONT)
            other.kill()
            other.wait()
    pytest.fail("every snapshot was over before its process could be stopped")


def after(seconds: float) -> subprocess.Popen[bytes]:
    """Sends SIGINT from another process: a call that keeps the GIL lets no thread of this one do it."""
    return subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -INT {os.getpid()}"])


def interrupted_midway(
    prepare: Callable[[], object], call: Callable[[], object], is_midway: Callable[[], bool]
) -> None:
    """Has the call interrupted after some of its work and before all of it."""
    delay = 0.05
    for attempt in range(ATTEMPTS_MAX):
        prepare()
        sender = after(delay)
        started = time.perf_counter()
        try:
            call()
            # Too late: how long the call takes says when its middle is, whatever the machine.
            delay = (time.perf_counter() - started) * (0.2 + 0.1 * (attempt % 6))
            sender.wait()
            time.sleep(0.01)
        except KeyboardInterrupt:
            sender.wait()
            if is_midway():
                return
            delay *= 0.8
    pytest.fail("no signal came in the middle of the call")


def test_batches_end(location: str) -> None:
    with thermae.open(location, hot="256MiB") as store:
        items = {f"key:{number}": number for number in range(400_000)}
        interrupted_midway(store.clear, lambda: store.set_many(items), lambda: 0 < len(store) < len(items))
        store.set_many(items)

        keys = list(items)
        hits = 0

        def note_hits() -> None:
            nonlocal hits
            hits = store.stats()["hits"]

        # Looked at in the middle of the call: Python itself would look right after it.
        handled: list[int] = []

        def handle(number: int, frame: object) -> None:
            handled.append(store.stats()["hits"] - hits)
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, handle)
        try:
            interrupted_midway(note_hits, lambda: store.get_many(keys), lambda: 0 < handled[-1] < len(keys))
        finally:
            signal.signal(signal.SIGINT, before)
        interrupted_midway(
            lambda: store.set_many(items),
            lambda: store.delete_many(keys),
            lambda: 0 < len(store) < len(items),
        )
        interrupted_midway(lambda: store.set_many(items), store.clear, lambda: 0 < len(store) < len(items))
        store.set_many(items)
        # No bytecode runs in between here either.
        found: list[str | bytes] = []
        interrupted_midway(
            found.clear, lambda: found.extend(store.keys()), lambda: 0 < len(found) < len(items)
        )


def test_waiting_for_durability_ends(tmp_path: Path) -> None:
    """The process that flushes for all is stopped in the middle of it."""
    program = """
import sys, thermae
store = thermae.open(sys.argv[1], background=False)
for number in range(10**9):
    store["other"] = number
    if number == 10:
        print("begun", flush=True)
"""
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", cold="32MiB", durability="always", background=False) as store:
        for _ in range(ATTEMPTS_MAX):
            other = subprocess.Popen(
                [sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True
            )
            assert other.stdout is not None
            assert other.stdout.readline() == "begun\n"
            os.kill(other.pid, signal.SIGSTOP)
            sender = after(0.2)
            begun = time.monotonic()
            was_interrupted = False
            try:
                store["key"] = "value"
                durable_seconds = time.monotonic() - begun
                sender.wait()
                time.sleep(0.01)
            except KeyboardInterrupt:
                was_interrupted = True
                durable_seconds = 0.0
            os.kill(other.pid, signal.SIGCONT)
            other.kill()
            other.wait()
            other.stdout.close()
            sender.wait()
            assert store["key"] == "value"
            store.flush()
            if was_interrupted and durable_seconds == 0.0:
                break
        else:
            pytest.fail("no process could be stopped in the middle of a flush")
    thermae.destroy(place)
