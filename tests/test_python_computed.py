"""get_or_set and memoize: one computation among all threads and processes, and results as they were."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import functools
import math
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

import thermae

SPAWN = multiprocessing.get_context("spawn")


def test_get_or_set(store: thermae.Store) -> None:
    calls: list[int] = []

    def make() -> list[int]:
        calls.append(1)
        return [1, 2]

    assert store.get_or_set("key", make, ttl=60) == [1, 2]
    assert store.get_or_set("key", make) == [1, 2]
    assert len(calls) == 1
    assert store.ttl("key") == pytest.approx(60, abs=2)


def test_every_caller_gets_the_same(store: thermae.Store) -> None:
    def pair() -> Any:
        return 1, 2

    assert store.get_or_set("tuple", pair) == [1, 2]
    assert store.get_or_set("tuple", pair) == [1, 2]
    assert store.get_or_set("typed", lambda: (1, 2), as_type=tuple[int, int]) == (1, 2)
    assert store.get_or_set("typed", lambda: (1, 2), as_type=tuple[int, int]) == (1, 2)
    assert store.get_or_set("pickled", lambda: (1, {2}), codec="pickle") == (1, {2})
    assert store.get_or_set("pickled", lambda: (1, {2}), codec="pickle") == (1, {2})
    assert store.get_or_set("none", lambda: None) is None
    assert store.get_or_set("none", lambda: 5) is None
    for _ in range(2):
        number = store.get_or_set("number", lambda: 3, as_type=float)
        assert (number, type(number)) == (3.0, float)


def test_what_is_not_of_the_type_is_not_stored(store: thermae.Store) -> None:
    """The first caller once got a value that every later one was refused."""
    for _ in range(2):
        with pytest.raises(thermae.WrongTypeError, match="is not stored"):
            store.get_or_set("text", lambda: "text", as_type=int)
        assert "text" not in store
    assert store.get_or_set("text", lambda: 5, as_type=int) == 5
    assert store.ttl("text") is None
    assert store.get_or_set("pair", lambda: (1, 2), ttl=60, as_type=tuple[int, int]) == (1, 2)
    assert store.ttl("pair") == pytest.approx(60, abs=2)


def test_a_failure_stores_nothing_and_frees_the_next(store: thermae.Store) -> None:
    with pytest.raises(ZeroDivisionError):
        store.get_or_set("key", lambda: 1 // 0)
    assert "key" not in store
    assert store.get_or_set("key", lambda: 2) == 2


def test_one_thread_makes_and_the_others_wait(store: thermae.Store) -> None:
    calls: list[int] = []

    def make() -> int:
        calls.append(1)
        time.sleep(0.1)
        return 7

    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(store.get_or_set("key", make))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8
    assert len(calls) == 1


def test_waiting_for_another_maker_ends_in_time(store: thermae.Store) -> None:
    started, done = threading.Event(), threading.Event()

    def make() -> int:
        started.set()
        done.wait(10)
        return 1

    maker = threading.Thread(target=lambda: store.get_or_set("key", make))
    maker.start()
    assert started.wait(10)
    with pytest.raises(thermae.LockTimeoutError):
        store.get_or_set("key", lambda: 2, timeout=0.05)
    done.set()
    maker.join()
    assert store["key"] == 1


def test_making_a_key_out_of_itself_is_refused(store: thermae.Store) -> None:
    with pytest.raises(thermae.LockTimeoutError, match="wait for itself"):
        store.get_or_set("key", lambda: store.get_or_set("key", lambda: 1))
    assert store.get_or_set("key", lambda: store.get_or_set("other", lambda: 1)) == 1


def _count_up(location: str, barrier: Any) -> None:
    with thermae.open(location, create=False) as store:

        def make() -> int:
            time.sleep(0.1)
            return store.incr("calls")

        barrier.wait(60)
        for number in range(5):
            store.get_or_set(f"key:{number}", make)


def test_one_process_makes_and_the_others_wait(store: thermae.Store, location: str) -> None:
    barrier = SPAWN.Barrier(4)
    processes = [SPAWN.Process(target=_count_up, args=(location, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert store["calls"] == 5


def _make_for_ever(location: str) -> None:
    with thermae.open(location, create=False) as store:

        def make() -> None:
            store["started"] = True
            time.sleep(600)

        store.get_or_set("key", make)


def test_when_the_maker_is_killed_the_next_one_makes(store: thermae.Store, location: str) -> None:
    process = SPAWN.Process(target=_make_for_ever, args=(location,))
    process.start()
    while "started" not in store:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    begun = time.monotonic()
    assert store.get_or_set("key", lambda: "mine", timeout=10) == "mine"
    assert time.monotonic() - begun < 5


# Memoizing.


def test_memoize(store: thermae.Store) -> None:
    calls: list[tuple[int, int]] = []

    @store.memoize(ttl=60)
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        calls.append((a, b))
        return a + b

    assert (add(1), add(1, 1), add(1, b=1), add(a=1, b=1)) == (2, 2, 2, 2)
    assert calls == [(1, 1)]
    assert (vars(add)["__name__"], add.__doc__, add.__wrapped__(1, 5)) == ("add", "Adds.", 6)
    assert store.ttl(add.key(1)) == pytest.approx(60, abs=2)
    assert add.forget(1) is True
    assert add.forget(1) is False
    assert add(1) == 2
    assert add(2) == 3
    assert add.forget_all() == 2
    assert len(store) == 0


def test_arguments_of_different_types_are_different_calls(store: thermae.Store) -> None:
    @store.memoize()
    def kind(value: Any) -> str:
        return type(value).__name__

    for value in (1, 1.0, True, "1", b"1", None, [1], (1,), {"a": 1}):
        assert kind(value) == type(value).__name__
        assert kind(value) == type(value).__name__


@dataclasses.dataclass
class Inner:
    x: Any


@dataclasses.dataclass
class Outer:
    x: Any


class Pair(NamedTuple):
    a: Any
    b: Any


class Record(msgspec.Struct):
    x: Any


def test_values_inside_of_arguments_tell_calls_apart(store: thermae.Store) -> None:
    """Only the class of a whole argument was once part of the key, and that without its module."""

    @store.memoize()
    def show(*args: Any, **kwargs: Any) -> str:
        return f"{args} {kwargs}"

    values: list[Any] = [
        [(1,)],
        [[1]],
        [{1}],
        [frozenset({1})],
        [1.0],
        [1],
        [True],
        ["1"],
        [b"1"],
        {"a": (1,)},
        {"a": [1]},
        {1: 1},
        {1.0: 1},
        {True: 1},
        Inner((1,)),
        Inner([1]),
        Outer([1]),
        {"x": [1]},
        Inner(Inner(1)),
        Inner(Outer(1)),
        Record((1,)),
        Record([1]),
        Pair(1, 2),
        Pair(1, (2,)),
        Pair(1, [2]),
        (1, 2),
        [Pair(1, 2)],
        [(1, 2)],
        collections.OrderedDict(a=1),
        {"a": 1},
        datetime.date(2020, 1, 1),
        "2020-01-01",
        uuid.UUID(int=1),
        decimal.Decimal(1),
    ]
    for value in values:
        for _ in range(2):
            assert show(value) == f"{(value,)} {{}}"
            assert show(named=value) == f"() {{'named': {value!r}}}"
    assert len({show.key(value) for value in values}) == len(values)


def test_the_same_call_is_one_key_however_it_is_written(store: thermae.Store) -> None:
    @store.memoize()
    def count(*args: Any, **kwargs: Any) -> int:
        return store.incr("calls")

    assert count({"a": 1, "b": (2,)}, x=1, y={1, 2, 3}) == 1
    assert count({"b": (2,), "a": 1}, y={3, 2, 1}, x=1) == 1


def test_classes_of_one_name_are_told_apart(store: thermae.Store) -> None:
    here = dataclasses.make_dataclass("Same", ["x"], namespace={"__module__": "here"})
    there = dataclasses.make_dataclass("Same", ["x"], namespace={"__module__": "there"})

    @store.memoize()
    def module(value: Any) -> str:
        return str(type(value).__module__)

    assert [module(here(1)), module(there(1)), module(here(1))] == ["here", "there", "here"]


def test_results_come_back_as_annotated(store: thermae.Store) -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    @store.memoize()
    def pair(x: int) -> tuple[int, str]:
        return (x, "a")

    @store.memoize()
    def array(x: int) -> np.ndarray[Any, Any]:
        return np.arange(x)

    def point(x: int) -> Any:
        return Point(x)

    point.__annotations__["return"] = Point
    points = store.memoize()(point)

    for _ in range(2):
        assert pair(1) == (1, "a")
        assert array(3).tolist() == [0, 1, 2]
        assert points(1) == Point(1)


def test_methods_and_ignored_arguments(store: thermae.Store) -> None:
    class Service:
        def __init__(self) -> None:
            self.calls = 0

        @store.memoize(ignore=["self"])
        def fetch(self, number: int) -> int:
            self.calls += 1
            return number * 2

        @staticmethod
        @store.memoize(name="static")
        def double(number: int) -> int:
            return number * 2

    service = Service()
    assert service.fetch(2) == service.fetch(2) == Service().fetch(2) == 4
    assert service.calls == 1
    assert service.double(3) == 6
    assert len(store.keys(prefix="memoize:static:")) == 1


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, number: int) -> int:
        return self.factor * number

    def __call__(self, number: int) -> int:
        return self.factor * number

    @classmethod
    def name(cls) -> str:
        return cls.__name__


class Other(Multiplier):
    pass


def test_what_has_no_name_of_its_own_needs_one(store: thermae.Store) -> None:
    """Two lambdas, partials, methods of two instances once returned each other's results."""
    unnamed: list[Callable[[int], int]] = [
        lambda number: 2 * number,
        functools.partial(pow, 2),
        Multiplier(2).times,
        Multiplier(2),
        [1, 2].index,
    ]
    for function in unnamed:
        with pytest.raises(thermae.InvalidOptionError, match="name="):
            store.memoize()(function)
    for number, function in enumerate(unnamed[:4]):
        named = store.memoize(name=f"number {number}")(function)
        assert named(2) == function(2)
        assert named(2) == 4


def test_class_methods_are_those_of_their_class(store: thermae.Store) -> None:
    names = [store.memoize()(kind.name) for kind in (Multiplier, Other)]
    assert [name() for name in names] == [name() for name in names] == ["Multiplier", "Other"]
    assert store.memoize()(math.sqrt)(4) == 2


def test_results_are_of_the_annotated_type_from_the_first_call_on(store: thermae.Store) -> None:
    @store.memoize()
    def number(value: int) -> float:
        return value

    @store.memoize()
    def mean(value: int) -> float:
        return np.mean([value])  # type: ignore[return-value]

    @store.memoize()
    def wrong(value: int) -> int:
        return str(value)  # type: ignore[return-value]

    for _ in range(2):
        assert (number(3), type(number(3))) == (3.0, float)
        assert (mean(3), type(mean(3))) == (3.0, float)
        with pytest.raises(thermae.WrongTypeError, match="is not stored"):
            wrong(3)
    assert wrong.key(3) not in store


def test_a_memoized_function_may_be_memoized_again(store: thermae.Store) -> None:
    @store.memoize(name="outer")
    @store.memoize(name="inner")
    def double(number: int) -> int:
        return 2 * number

    assert double(2) == double(2) == 4
    assert sorted(str(key).split(":")[1] for key in store) == ["inner", "outer"]


def test_names_keep_functions_apart(store: thermae.Store) -> None:
    def same(number: int) -> int:
        return number

    functions: list[Callable[[], int]] = [
        store.memoize(name=f"number-{number}")(functools.partial(same, number)) for number in range(3)
    ]
    assert [function() for function in functions] == [0, 1, 2]
    assert [function() for function in functions] == [0, 1, 2]


def test_what_cannot_be_memoized(store: thermae.Store) -> None:
    def function(value: object) -> int:
        return 1

    async def asynchronous() -> int:
        return 1

    with pytest.raises(thermae.WrongTypeError, match="ignore"):
        store.memoize()(function)(object())
    with pytest.raises(thermae.InvalidOptionError, match="does not take"):
        store.memoize(ignore=["nothing"])(function)
    with pytest.raises(thermae.InvalidOptionError, match="parentheses"):
        store.memoize(function)  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError, match=r"aio\.Store"):
        store.memoize()(asynchronous)
    with pytest.raises(thermae.WrongTypeError, match="function"):
        store.memoize()(5)  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError, match="parameters"):
        store.memoize()(int)
    with pytest.raises(thermae.WrongTypeError, match="not one"):
        store.memoize(ignore="value")(function)
    with pytest.raises(thermae.WrongTypeError, match="collection of names"):
        store.memoize(ignore=5)(function)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.memoize()(function)()  # type: ignore[call-arg]
