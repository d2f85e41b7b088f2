"""Handles in other processes and threads: pickled, spawned, forked, and shared."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import thermae


def test_a_handle_pickles_as_reopen_this(store: thermae.Store) -> None:
    store["a"] = 1
    data = pickle.dumps(store)
    assert b"16MiB" in data
    with pickle.loads(data) as again:
        assert type(again) is thermae.Store
        assert again["a"] == 1
        again["b"] = 2
    assert store["b"] == 2
    with copy.copy(store) as another:
        assert another == store


def test_a_pickled_handle_keeps_how_it_was_opened(directory_store: thermae.Store, tmp_path: Path) -> None:
    directory_store["a"] = {1, 2} and 5
    directory_store.flush()
    with (
        thermae.open(tmp_path / "data", read_only=True, codec="pickle") as reader,
        pickle.loads(pickle.dumps(reader)) as again,
    ):
        assert again.read_only
        assert os.path.isabs(again.location)
        with pytest.raises(thermae.ReadOnlyStoreError):
            again["a"] = 1
        directory_store.set("pickled", (1, {2}), codec="pickle")
        assert again["pickled"] == (1, {2})


def test_a_pickled_handle_does_not_create(location: str) -> None:
    with thermae.open(location, hot="16MiB") as store:
        data = pickle.dumps(store)
    thermae.destroy(location)
    with pytest.raises(thermae.NotAStoreError):
        pickle.loads(data)


def test_a_copied_handle_leaves_what_all_share_as_it_is(tmp_path: Path) -> None:
    """Copying a handle once set durability and `when_full` back, for everybody, to how it was opened."""
    place = tmp_path / "data"
    with thermae.open(
        place, hot="16MiB", cold="32MiB", durability="none", when_full="evict", salvage=True, background=False
    ) as store:
        data = pickle.dumps(store)
        store.durability = "always"
        store.when_full = "error"
        for again in (pickle.loads(data), pickle.loads(pickle.dumps(store)), copy.copy(store)):
            with again:
                assert (again.durability, again.when_full) == ("always", "error")
                assert (store.durability, store.when_full) == ("always", "error")
        options = store.__reduce__()[1][3]
        assert options == {"hot": "16MiB", "cold": "32MiB", "background": False, "create": False}
    thermae.destroy(place)


def test_a_relative_location_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of directory, copies, forks and snapshots once looked for the store in the new one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with thermae.open("data/", hot="16MiB", cold="32MiB") as store:
        assert store.location == str(tmp_path / "data")
        store["a"] = 1
        monkeypatch.chdir(elsewhere)
        with pickle.loads(pickle.dumps(store)) as again:
            assert again.location == store.location
            assert again["a"] == 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store["from the child"] = True
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert store["from the child"] is True
        store.snapshot("copy")
        assert (elsewhere / "copy").is_dir()
        with (
            thermae.open(tmp_path / "data") as other,
            store.lock("name"),
            pytest.raises(thermae.LockTimeoutError, match="holds"),
        ):
            other.lock("name").acquire(5)
    assert [path.name for path in elsewhere.iterdir()] == ["copy"]
    thermae.destroy(tmp_path / "data")


def _square_into(store: thermae.Store, numbers: range) -> None:
    for number in numbers:
        store[f"square:{number}"] = number * number


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_handle_goes_to_another_process(store: thermae.Store, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    processes = [context.Process(target=_square_into, args=(store, range(part, 100, 2))) for part in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store.get_many([f"square:{number}" for number in range(100)]) == [
        number * number for number in range(100)
    ]


def test_a_pool_of_processes(store: thermae.Store) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_square_into, [(store, range(start, start + 10)) for start in range(0, 40, 10)])
    assert len(store) == 40


def test_use_after_fork(store: thermae.Store) -> None:
    store["from the parent"] = 1
    view = store.view("from the parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert store["from the parent"] == 1
            assert bytes(view) == b"1"
            store["from the child"] = os.getpid()
            with store.lock("name", timeout=5), store.transaction() as tx:
                tx["in a transaction"] = True
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store["from the child"] == child
    assert store["in a transaction"] is True
    store["from the parent"] = 2
    assert store["from the parent"] == 2


def test_closing_in_a_child_leaves_the_parents_open(store: thermae.Store) -> None:
    store["a"] = 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store["a"] == 1
    store["b"] = 2


def test_threads_share_a_handle(store: thermae.Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(500):
                key = f"{number}:{step % 20}"
                store[key] = [number, step]
                assert store[key] == [number, step]
                store.incr("all")
                if step % 100 == 0:
                    assert len(store.get_many([f"{number}:{other}" for other in range(20)])) == 20
                    for found in store.keys(prefix=f"{number}:"):
                        assert str(found).startswith(f"{number}:")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store["all"] == 4000


def test_closing_while_others_are_inside(store: thermae.Store, location: str) -> None:
    store["large"] = bytes(1_000_000)
    outcomes: list[str] = []
    started = threading.Barrier(5)

    def read() -> None:
        started.wait(10)
        try:
            while True:
                assert len(store["large"]) == 1_000_000
        except thermae.StoreClosedError:
            outcomes.append("closed")

    def wait() -> None:
        started.wait(10)
        try:
            store.lock("name").acquire()
        except (thermae.StoreClosedError, thermae.LockTimeoutError):
            outcomes.append("closed")

    with thermae.open(location) as other, other.lock("name"):
        threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=wait)]
        for thread in threads:
            thread.start()
        started.wait(10)
        time.sleep(0.05)
        store.close()
        assert store.closed
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert outcomes == ["closed"] * 4


def test_after_the_close_nothing_is_held(location: str) -> None:
    store = thermae.open(location, hot="16MiB")
    # So many that the first look at the index does not find all: an iterator with nothing more to look for
    # ends as ever.
    store.set_many({str(number): number for number in range(5_000)})
    iterator = iter(store)
    next(iterator)
    store.close()
    with pytest.raises(thermae.StoreClosedError):
        list(iterator)
    thermae.destroy(location)
    assert store.closed


def test_a_store_that_is_dropped_is_closed(location: str) -> None:
    store = thermae.open(location, hot="16MiB")
    store["a"] = 1
    del store
    gc.collect()
    thermae.destroy(location)


def test_iterators_and_views_of_a_store_that_is_dropped(location: str) -> None:
    store = thermae.open(location, hot="16MiB")
    store.set_many({str(number): number for number in range(100)})
    keys, view = iter(store), store.view("5")
    del store
    gc.collect()
    assert len(list(keys)) == 100
    assert bytes(view) == b"5"


def test_stores_that_are_open_at_the_end_are_closed(tmp_path: Path) -> None:
    program = """
import sys, thermae
store = thermae.open(sys.argv[1], hot="16MiB", cold="32MiB")
store["a"] = 1
keep = [store]; keep.append(keep)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "data")], check=True, timeout=60)
    with thermae.open(tmp_path / "data", create=False) as store:
        assert store["a"] == 1
    thermae.destroy(tmp_path / "data")


def test_importing_is_light() -> None:
    program = (
        "import sys, thermae;print([name for name in ('numpy', 'pyarrow', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
