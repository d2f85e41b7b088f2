"""Named locks: one holder among all threads and processes, freed when the holder dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import thermae

SPAWN = multiprocessing.get_context("spawn")


def test_lock_and_release(store: thermae.Store) -> None:
    lock = store.lock("name")
    held = [lock.held]
    with lock as same:
        assert same is lock
        held.append(lock.held)
    held.append(lock.held)
    assert held == [False, True, False]
    lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_names_of_locks_are_no_keys(store: thermae.Store) -> None:
    with store.lock("name"):
        assert "name" not in store
        assert list(store) == []
    with store.lock(b"\xff" * 1000), store.lock("other"):
        pass


def test_a_lock_that_is_held_is_waited_for(store: thermae.Store) -> None:
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock("name"):
            held.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    begun = time.monotonic()
    with pytest.raises(thermae.LockTimeoutError, match=r"\bname\b") as late, store.lock("name", timeout=0.2):
        pass
    assert isinstance(late.value, TimeoutError)
    assert 0.15 < time.monotonic() - begun < 5
    with pytest.raises(thermae.LockTimeoutError):
        store.lock("name").acquire(0)
    leave.set()
    with store.lock("name", timeout=10):
        pass
    holder.join()


def test_a_lock_is_not_reentrant(store: thermae.Store, location: str) -> None:
    with store.lock("name"), pytest.raises(thermae.LockTimeoutError, match="holds"), store.lock("name"):
        pass
    with (
        thermae.open(location) as other,
        store.lock("name"),
        pytest.raises(thermae.LockTimeoutError, match="holds"),
    ):
        other.lock("name").acquire()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_times_that_are_none(store: thermae.Store, timeout: float) -> None:
    with pytest.raises(thermae.InvalidOptionError, match="timeout"):
        store.lock("name", timeout).acquire()


@pytest.mark.parametrize("timeout", ["x", True, [1]])
def test_times_of_another_type(store: thermae.Store, timeout: Any) -> None:
    with pytest.raises(thermae.WrongTypeError, match="timeout"):
        store.lock("name", timeout).acquire()


def test_a_lock_that_another_thread_released_may_be_taken_again(store: thermae.Store) -> None:
    """It once counted as held by the thread that took it for as long as that thread lived."""
    lock = store.lock("name")
    lock.acquire()
    other = threading.Thread(target=lock.release)
    other.start()
    other.join()
    assert not lock.held
    with store.lock("name", timeout=5), pytest.raises(thermae.LockTimeoutError, match="holds"):
        store.lock("name").acquire(5)
    with lock:
        assert lock.held


def test_an_exception_releases(store: thermae.Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lock("name"):
        raise ZeroDivisionError
    with store.lock("name", timeout=0):
        pass


def test_threads_exclude_each_other(store: thermae.Store) -> None:
    store["number"] = 0

    def count() -> None:
        for _ in range(50):
            with store.lock("number"):
                store["number"] = store["number"] + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store["number"] == 200


def _count(location: str) -> None:
    with thermae.open(location, create=False) as store:
        for _ in range(100):
            with store.lock("number"):
                store["number"] = store["number"] + 1


def test_processes_exclude_each_other(store: thermae.Store, location: str) -> None:
    store["number"] = 0
    processes = [SPAWN.Process(target=_count, args=(location,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store["number"] == 300


def _hold_for_ever(location: str) -> None:
    store = thermae.open(location, create=False)
    store.lock("name").acquire()
    store["held"] = True
    time.sleep(600)


def test_a_killed_holder_gives_the_lock_back(store: thermae.Store, location: str) -> None:
    process = SPAWN.Process(target=_hold_for_ever, args=(location,))
    process.start()
    while "held" not in store:
        time.sleep(0.01)
    with pytest.raises(thermae.LockTimeoutError):
        store.lock("name").acquire(0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    begun = time.monotonic()
    with store.lock("name", timeout=10):
        assert time.monotonic() - begun < 5


def test_a_forked_child_does_not_hold_its_parents_lock(store: thermae.Store, tmp_path: Path) -> None:
    with store.lock("name") as lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert not lock.held
                lock.__exit__(None, None, None)
                with pytest.raises(thermae.LockTimeoutError):
                    store.lock("name").acquire(0.05)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert lock.held


def test_ctrl_c_ends_the_waiting(store: thermae.Store) -> None:
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock("name"):
            held.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.lock("name").acquire(10)
    assert time.monotonic() - begun < 5
    leave.set()
    holder.join()
    timer.join()
