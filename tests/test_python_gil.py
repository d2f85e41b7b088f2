"""Other threads run while one waits inside of the engine, and only then.

With a switch interval of a quarter of an hour, no thread gets the GIL unless the one that has it lets go. So
these tests measure no time: another thread either has run, or could not.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thermae

KEYS = 24_000
VALUE_BYTES = 1000
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def _no_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def value_of(number: int) -> bytes:
    return number.to_bytes(8, "little") * (VALUE_BYTES // 8)


class Other:
    """A thread that needs the GIL from `begin` on, and notes when it got it."""

    def __init__(self) -> None:
        self.has_run = False
        self._gate = threading.Lock()
        self._gate.acquire()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._gate:
            self.has_run = True

    def begin(self) -> None:
        # Letting a lock go does not let the GIL go.
        self._gate.release()

    def end(self) -> None:
        self._thread.join()


def runs_meanwhile(step: Callable[[int], object], steps_max: int | None = None) -> bool:
    """Whether another thread gets to run while this one does nothing but these steps.

    One wait may be too short for a thread to wake up in, so that steps are repeated until it does.
    """
    other = Other()
    number = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    other.begin()
    while not other.has_run and number != steps_max and time.monotonic() < deadline:
        step(number)
        number += 1
    has_run = other.has_run
    other.end()
    return has_run


@pytest.fixture
def cold_store(tmp_path: Path) -> Iterator[thermae.Store]:
    """A store most of whose values are cold, and which has no threads of its own to wait for."""
    with thermae.open(tmp_path / "data", hot="16MiB", cold="64MiB", durability="none") as store:
        store.set_many((f"key:{number}", value_of(number)) for number in range(KEYS))
    with thermae.open(tmp_path / "data", background=False) as store:
        yield store
    thermae.destroy(tmp_path / "data")


def test_hot_reads_and_writes_keep_the_gil(location: str) -> None:
    with thermae.open(location, hot="16MiB", background=False) as store:
        store["key"] = b"value"

        def step(number: int) -> None:
            store["key"] = b"value"
            assert store["key"] == b"value"
            assert "key" in store
            assert store.get_many(["key", "nothing"]) == [b"value", None]
            store.incr("count")

        assert not runs_meanwhile(step, steps_max=2000)


@pytest.mark.parametrize(
    "read",
    [
        lambda store, key, value: store[key] == value,
        lambda store, key, value: store.get(key) == value,
        lambda store, key, value: store.get_with_version(key)[0] == value,
        lambda store, key, value: bytes(store.view(key)) == value,
        lambda store, key, value: store.get_many([key]) == [value],
        # What is told without reading the value asks the same record.
        lambda store, key, value: key in store,
        lambda store, key, value: store.version(key) > 0,
        lambda store, key, value: store.value_bytes(key) == len(value),
        lambda store, key, value: store.ttl(key) is None,
    ],
    ids=[
        "getitem",
        "get",
        "get_with_version",
        "view",
        "get_many",
        "contains",
        "version",
        "value_bytes",
        "ttl",
    ],
)
def test_a_cold_read_lets_others_run(
    cold_store: thermae.Store, read: Callable[[thermae.Store, str, bytes], bool]
) -> None:
    before = cold_store.stats()["cold_reads"]

    def step(number: int) -> None:
        number %= KEYS
        assert read(cold_store, f"key:{number}", value_of(number))

    assert runs_meanwhile(step)
    assert cold_store.stats()["cold_reads"] > before


LARGE = bytes(8 << 20)


@pytest.fixture
def roomy_store(tmp_path: Path) -> Iterator[thermae.Store]:
    """With room for a dozen large values, so that no write waits for that."""
    with thermae.open(tmp_path / "data", hot="160MiB", cold=0, background=False) as store:
        store["large"] = LARGE
        yield store
    thermae.destroy(tmp_path / "data")


@pytest.mark.parametrize(
    "call",
    [
        lambda store, number: store["large"],
        lambda store, number: store.get("large"),
        lambda store, number: store.get_with_version("large"),
        lambda store, number: store.get_many(["large"]),
        lambda store, number: store.__setitem__(f"{number}", LARGE),
        lambda store, number: store.set(f"{number}", LARGE, ttl=60),
        lambda store, number: store.add(f"{number}", LARGE),
        lambda store, number: store.set_many({f"{number}": LARGE}),
    ],
    ids=["getitem", "get", "get_with_version", "get_many", "setitem", "set", "add", "set_many"],
)
def test_a_large_value_lets_others_run(
    roomy_store: thermae.Store, call: Callable[[thermae.Store, int], object]
) -> None:
    assert runs_meanwhile(lambda number: call(roomy_store, number), steps_max=12)


def test_a_value_that_is_not_large_keeps_the_gil(roomy_store: thermae.Store) -> None:
    value = bytes((64 << 10) - 1)

    def step(number: int) -> None:
        roomy_store["key"] = value
        assert roomy_store["key"] == value

    assert not runs_meanwhile(step, steps_max=200)


def test_a_write_over_a_cold_value_lets_others_run(cold_store: thermae.Store) -> None:
    def step(number: int) -> None:
        assert cold_store.set(f"key:{number % KEYS}", number, if_present=True)

    assert runs_meanwhile(step)


def test_a_write_that_makes_room_lets_others_run(location: str) -> None:
    with thermae.open(location, hot="16MiB", background=False) as store:

        def step(number: int) -> None:
            store[f"key:{number}"] = value_of(number)

        assert runs_meanwhile(step)
        assert store.stats()["evicted"] > 0


def test_a_durable_write_lets_others_run(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", cold="32MiB", durability="always", background=False) as store:
        writes: list[Callable[[int], object]] = [
            lambda number: store.set("key", number),
            lambda number: store.incr("count"),
            lambda number: store.set_many({"a": number, "b": number}),
            lambda number: store.add(f"new:{number}", number) and store.delete(f"new:{number}"),
        ]
        for write in writes:
            assert runs_meanwhile(write)
    thermae.destroy(place)


def test_threads_that_wait_see_each_others_values_whole(cold_store: thermae.Store) -> None:
    """Every kind of call, cold and hot, from several threads, each of which lets the GIL go in the middle."""
    sys.setswitchinterval(1e-4)
    failures: list[BaseException] = []
    deadline = time.monotonic() + 2

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while time.monotonic() < deadline:
                numbers = [chance.randrange(KEYS) for _ in range(20)]
                found = cold_store.get_many([f"key:{number}" for number in numbers])
                for number, value in zip(numbers, found, strict=True):
                    assert value in (value_of(number), None)
                number = numbers[0]
                assert cold_store.get(f"key:{number}", value_of(number)) == value_of(number)
                assert cold_store.pop(f"key:{number}", value_of(number)) == value_of(number)
                cold_store[f"key:{number}"] = value_of(number)
                cold_store[f"large:{seed}"] = bytes(100_000)
                assert len(cold_store[f"large:{seed}"]) == 100_000
                view = cold_store.view(f"key:{numbers[1]}")
                assert view is None or bytes(view) == value_of(numbers[1])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cold_store.check()["ok"]
