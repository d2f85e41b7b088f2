"""thermae.aio: the same verbs, awaited; cancelled calls keep their answers to themselves."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

import thermae
import thermae.aio
from thermae.transactions import Transaction

T = TypeVar("T")


@pytest.fixture
def run(location: str) -> Callable[[Callable[[thermae.aio.Store], Awaitable[Any]]], Any]:
    """Runs an asynchronous test on an empty store."""

    def run_test(test: Callable[[thermae.aio.Store], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with await thermae.aio.open(location, hot="16MiB") as store:
                return await asyncio.wait_for(test(store), 30)

        return asyncio.run(main())

    return run_test


Runner = Callable[[Callable[[thermae.aio.Store], Awaitable[Any]]], Any]


async def _listed(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def test_every_verb(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        assert await store.get("key") is None
        assert await store.set("key", [1], ttl=60) is True
        assert await store.get("key") == [1]
        assert await store.ttl("key") == pytest.approx(60, abs=2)
        assert await store.touch("key") is True
        assert await store.ttl("key") is None
        assert await store.add("key", 2) is False
        version = await store.version("key")
        assert await store.get_with_version("key") == ([1], version)
        assert await store.compare_and_set("key", 2, version) is True
        assert await store.contains("key")
        assert await store.pop("key") == 2
        assert await store.pop("key", None) is None
        with pytest.raises(KeyError):
            await store.pop("key")
        assert await store.incr("hits") == 1
        assert await store.decr("hits", 3) == -2
        assert await store.delete("hits") is True
        await store.set_many({f"{number:03}": number for number in range(250)})
        assert await store.get_many(["001", "x"], default=0) == [1, 0]
        assert sorted(await _listed(store.keys())) == [f"{number:03}" for number in range(250)]
        assert sorted(await _listed(store.items(prefix="00"))) == [
            (f"00{number}", number) for number in range(10)
        ]
        assert await store.delete_many(["001", "002"]) == 2
        assert await store.length() == 248
        await store.set("view", b"x" * 100_000)
        assert await store.view("view") == b"x" * 100_000
        assert await store.stats()
        assert isinstance(await store.check(), dict)
        await store.flush()
        await store.clear()
        assert await store.length() == 0

    run(test)


def test_the_verbs_are_those_of_the_store() -> None:
    own = {name for name in vars(thermae.aio.Store) if not name.startswith("_")}
    verbs = {name for name, _ in inspect.getmembers(thermae.Store) if not name.startswith("_")}
    properties = {
        "closed",
        "location",
        "read_only",
        "hot_bytes",
        "warm_bytes",
        "cold_bytes",
        "frame_bytes",
        "durability",
        "when_full",
    }
    # A mapping's conveniences, and what would hold the event loop up between two awaits.
    left_out = {"popitem", "setdefault", "update", "values", "value_bytes", "transaction"}
    assert verbs - own == properties | left_out
    assert own - verbs == {"contains", "length"}


def test_errors_come_through(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        with pytest.raises(thermae.WrongTypeError):
            await store.get(1)  # type: ignore[arg-type]
        with pytest.raises(thermae.WrongTypeError):
            await store.set("key", object())
        with pytest.raises(thermae.InvalidOptionError):
            await store.set("key", 1, ttl=0)
        with pytest.raises(thermae.InvalidOptionError):
            thermae.aio.Store(store.sync, threads_max=0)

    run(test)


def test_get_or_set_is_single_flight_among_tasks(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        calls: list[int] = []

        async def make() -> int:
            calls.append(1)
            await asyncio.sleep(0.05)
            return 7

        found = await asyncio.gather(*(store.get_or_set("key", make, ttl=60) for _ in range(20)))
        assert found == [7] * 20
        assert len(calls) == 1
        assert await store.ttl("key") == pytest.approx(60, abs=2)

    run(test)


def test_a_cancelled_maker_leaves_the_key_to_the_next(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        async def never() -> int:
            await asyncio.sleep(600)
            return 1

        async def soon() -> int:
            return 2

        first = asyncio.create_task(store.get_or_set("key", never))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(store.get_or_set("key", soon))
        await asyncio.sleep(0.02)
        first.cancel()
        assert await second == 2
        with pytest.raises(asyncio.CancelledError):
            await first

    run(test)


def test_memoize(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        calls: list[int] = []

        @store.memoize(ttl=60)
        async def pair(number: int) -> tuple[int, str]:
            calls.append(number)
            await asyncio.sleep(0.01)
            return number, "a"

        assert await asyncio.gather(*(pair(1) for _ in range(5))) == [(1, "a")] * 5
        assert calls == [1]
        assert await pair.forget(1) is True
        assert await pair(1) == (1, "a")
        assert calls == [1, 1]

    run(test)


def test_a_memoized_method(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        class Service:
            calls = 0

            @store.memoize(ignore=["self"])
            async def fetch(self, number: int) -> int:
                self.calls += 1
                return number * 2

        service = Service()
        assert await service.fetch(2) == await service.fetch(2) == await Service().fetch(2) == 4
        assert service.calls == 1
        await service.fetch(3)
        await store.set("other", 1)
        assert await Service.fetch.forget_all() == 2
        assert await _listed(store.keys()) == ["other"]

    run(test)


def test_what_cannot_be_memoized(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        def plain(number: int) -> int:
            return number

        async def asynchronous() -> int:
            return 1

        with pytest.raises(thermae.WrongTypeError, match="not asynchronous"):
            store.memoize()(plain)  # type: ignore[arg-type]
        with pytest.raises(thermae.InvalidOptionError, match="parentheses"):
            store.memoize(asynchronous)  # type: ignore[arg-type]
        with pytest.raises(thermae.InvalidOptionError, match="name="):
            store.memoize()(functools.partial(asynchronous))
        assert await store.memoize(name="named")(functools.partial(asynchronous))() == 1

    run(test)


def test_a_cold_key_is_looked_at_on_a_thread(directory_store: thermae.Store) -> None:
    """Whether a key is there was once read from flash in the event loop itself."""

    async def main() -> None:
        store = thermae.aio.Store(directory_store, threads_max=1)
        await store.set("key", 1, ttl=60)
        free, occupied = threading.Event(), asyncio.create_task(store._wait(lambda: free.wait(30)))
        found_task = asyncio.create_task(store.contains("key"))
        version_task = asyncio.create_task(store.version("key"))
        ttl_task = asyncio.create_task(store.ttl("key"))
        done, _ = await asyncio.wait((found_task, version_task, ttl_task), timeout=0.05)
        assert not done
        free.set()
        found, version, ttl = await asyncio.gather(found_task, version_task, ttl_task)
        assert found is True
        assert version > 0
        assert ttl == pytest.approx(60, abs=2)
        await occupied

    asyncio.run(main())


def test_a_write_that_may_wait_for_room_is_done_on_a_thread(store: thermae.Store) -> None:
    store.when_full = "error"

    async def main() -> None:
        wrapped = thermae.aio.Store(store, threads_max=1)
        free, occupied = threading.Event(), asyncio.create_task(wrapped._wait(lambda: free.wait(30)))
        writing = asyncio.create_task(wrapped.set("key", 1))
        done, _ = await asyncio.wait([writing], timeout=0.05)
        assert not done
        free.set()
        assert await writing is True
        await occupied

    asyncio.run(main())


def test_closing_waits_for_calls_in_flight(location: str) -> None:
    """A batch in flight was once cut off half way by the close."""

    async def main() -> list[object]:
        store = await thermae.aio.open(location, hot="64MiB", threads_max=3)
        started = threading.Event()

        def items() -> Iterator[tuple[str, int]]:
            for number in range(5000):
                started.set()
                if number % 1000 == 0:
                    time.sleep(0.01)
                yield str(number), number

        writing = asyncio.create_task(store.set_many(items()))
        reading = [asyncio.create_task(store.get_many(["1"] * 1000)) for _ in range(6)]
        await asyncio.to_thread(started.wait, 10)
        closing = [asyncio.create_task(store.close()) for _ in range(2)]
        found: list[object] = await asyncio.wait_for(
            asyncio.gather(writing, *reading, *closing, return_exceptions=True), timeout=30
        )
        with pytest.raises(thermae.StoreClosedError):
            await store.get_many(["1"])
        return found

    found = asyncio.run(main())
    assert [result for result in found if isinstance(result, BaseException)] == []
    with thermae.open(location) as store:
        assert len(store) == 5000


def test_a_close_that_is_cancelled_leaves_the_store_to_others(location: str) -> None:
    async def main() -> None:
        async with await thermae.aio.open(location, hot="16MiB", threads_max=2) as store:
            free = threading.Event()
            occupied = asyncio.create_task(store._wait(lambda: free.wait(30)))
            await asyncio.sleep(0.01)
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            free.set()
            await occupied
            await asyncio.gather(*(store.set_many({"a": 1}) for _ in range(10)))

    asyncio.run(main())


def test_arguments_that_are_none(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        for threads_max in ("8", 1.5, True):
            with pytest.raises(thermae.WrongTypeError, match="threads_max"):
                thermae.aio.Store(store.sync, threads_max=threads_max)  # type: ignore[arg-type]
        for timeout in ("x", True):
            with pytest.raises(thermae.WrongTypeError, match="timeout"):
                store.lock("name", timeout=timeout)  # type: ignore[arg-type]
        for seconds in (-1, float("nan")):
            with pytest.raises(thermae.InvalidOptionError, match="timeout"):
                store.lock("name", timeout=seconds)
        with pytest.raises(thermae.WrongTypeError, match="make"):
            await store.get_or_set("key", 5)  # type: ignore[arg-type]
        with pytest.raises(thermae.WrongTypeError, match="async def"):
            await store.get_or_set("key", lambda: 5)  # type: ignore[arg-type, return-value]
        with pytest.raises(thermae.WrongTypeError, match="repair"):
            await store.check(repair="no")  # type: ignore[arg-type]
        assert not await store.contains("key")
        async with store.lock("name", timeout=0):
            pass

    run(test)


def test_locks_are_those_of_the_store(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        inside = 0

        async def work() -> None:
            nonlocal inside
            async with store.lock("name"):
                inside += 1
                assert inside == 1
                await asyncio.sleep(0.005)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(5)))
        async with store.lock("name") as lock:
            assert lock.held
            with pytest.raises(thermae.LockTimeoutError):
                await asyncio.to_thread(store.sync.lock("name").acquire, 0.05)
            with pytest.raises(thermae.LockTimeoutError, match="not free"):
                await store.lock("name", timeout=0.05).acquire()
        with store.sync.lock("name", timeout=0):
            pass

    run(test)


def test_a_cancelled_wait_for_a_lock_leaves_it_free(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        async with store.lock("name"):
            waiting = asyncio.create_task(store.lock("name").acquire())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with store.lock("name", timeout=0):
            pass

    run(test)


def test_transact(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        await store.set("number", 0)

        def increase(tx: Transaction) -> None:
            tx["number"] += 1

        await asyncio.gather(*(store.transact(increase, attempts_max=10_000) for _ in range(50)))
        assert await store.get("number") == 50

    run(test)


def test_a_cancelled_call_keeps_its_answer_to_itself(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        for number in range(20):
            await store.set(f"key:{number}", b"%d" % number * 100_000)
        tasks = [asyncio.create_task(store.get(f"key:{number}")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 2:
                assert answer == b"%d" % number * 100_000
            else:
                assert isinstance(answer, asyncio.CancelledError)
        # Every turn was given back, whoever was cancelled.
        again = await asyncio.gather(*(store.get(f"key:{number}") for number in range(20)))
        assert again == [b"%d" % number * 100_000 for number in range(20)]

    run(test)


def test_calls_that_wait_are_bounded_and_do_not_hold_the_loop(location: str) -> None:
    running = most = 0
    guard = threading.Lock()

    def slow() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with guard:
            running -= 1

    async def main() -> int:
        ticks = 0
        async with await thermae.aio.open(location, hot="16MiB", threads_max=3) as store:
            work = asyncio.gather(*(store._wait(slow) for _ in range(12)))
            while not work.done():
                ticks += 1
                await asyncio.sleep(0.001)
            await work
        return ticks

    assert asyncio.run(main()) > 5
    assert most == 3


def test_one_store_in_loops_one_after_the_other(store: thermae.Store) -> None:
    wrapped = thermae.aio.Store(store)
    for number in range(3):
        asyncio.run(wrapped.set_many({"number": number}))
        assert asyncio.run(wrapped.get("number")) == number


def test_a_transaction_calls_no_coroutine(run: Runner) -> None:
    async def test(store: thermae.aio.Store) -> None:
        await store.set("key", 10)

        async def change(transaction: Transaction) -> None:
            transaction["key"] = 7

        with pytest.raises(thermae.InvalidOptionError, match="change is an async def"):
            await store.transact(change)  # type: ignore[unused-coroutine]
        assert await store.get("key") == 10

    run(test)
