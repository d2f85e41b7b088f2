"""`thermae.aio.Store`: the same store for asyncio.

What never waits runs at once in the event loop: reading a small value takes a microsecond, handing it to a
thread fifty. What may wait, for the disk or for a long copy, runs on a few threads of this store, never more
calls at a time than there are threads. Waiting for a lock holds no thread. Use one object from one event loop
at a time.

So a store with a cold tier is read on threads, even for whether a key is there, which may be written on flash
only. Writes run on threads too, where there is a durable tier, and where a full store may not evict. A small
write to a store in shared memory that evicts runs at once, as background work keeps room free for it; where
that can't keep up, the write makes room itself, which holds the loop up for a millisecond or so.

Every call has its own answer. A call that is cancelled before its thread took it up never happens; one that
is cancelled later ends on its own, and its answer goes to nobody. So a cancelled `pop` may have removed its
value.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import thermae.store
from thermae.arguments import checked_count, checked_timeout
from thermae.errors import InvalidOptionError, LockTimeoutError, WrongTypeError
from thermae.flight import keep, lock_name
from thermae.locks import Lock
from thermae.memo import AsyncMemoized, P, R
from thermae.options import AnyCodec, OpenOptions
from thermae.reports import CheckReport, SnapshotReport, Stats
from thermae.transactions import Transaction

T = TypeVar("T")

THREADS_MAX_DEFAULT = 8
# A copy of so many bytes takes longer than handing it to a thread and back.
INLINE_BYTES_MAX = 64 << 10
SCAN_BATCH_KEYS = 100
# Waiting for a lock: how long to sleep between two looks, at first and at most.
LOCK_SLEEP_SECONDS_MIN = 0.001
LOCK_SLEEP_SECONDS_MAX = 0.05

_MISSING = object()


async def open(  # noqa: A001 - thermae.aio.open, as thermae.open
    location: str | os.PathLike[str],
    *,
    codec: AnyCodec = "msgpack",
    threads_max: int = THREADS_MAX_DEFAULT,
    **options: Unpack[OpenOptions],
) -> Store:
    """Opens a store as `thermae.open` does, without holding up the event loop.

    Example:
        >>> import asyncio, thermae, thermae.aio
        >>> async def main() -> object:
        ...     async with await thermae.aio.open("shm://thermae-doc-aio", hot="16MiB") as store:
        ...         await store.set("key", [1, 2, 3], ttl=60)
        ...         return await store.get("key")
        >>> asyncio.run(main())
        [1, 2, 3]
        >>> thermae.destroy("shm://thermae-doc-aio")
    """
    opened = await asyncio.to_thread(functools.partial(thermae.store.Store, location, codec=codec, **options))
    return Store(opened, threads_max=threads_max)


class Store:
    """An open store with asynchronous verbs.

    Each does what the verb of that name in `thermae.Store` does, takes the same, and raises the same.

    Args:
        store: An open `thermae.Store`, which stays available as `sync`.
        threads_max: How many calls that may wait run at the same time.

    Raises:
        InvalidOptionError: `threads_max` leaves no thread.

    Example:
        >>> import asyncio, thermae, thermae.aio
        >>> async def main() -> None:
        ...     with thermae.open("shm://thermae-doc-asynchronous", hot="16MiB") as opened:
        ...         store = thermae.aio.Store(opened, threads_max=2)
        ...         await store.set_many({"a": 1, "b": 2})
        ...         print(await store.get_many(["b", "a"]), await store.length())
        ...         async with store.lock("name"):
        ...             print(await store.incr("a"), sorted([key async for key in store.keys()]))
        >>> asyncio.run(main())
        [2, 1] 2
        2 ['a', 'b']
        >>> thermae.destroy("shm://thermae-doc-asynchronous")
    """

    def __init__(self, store: thermae.store.Store, *, threads_max: int = THREADS_MAX_DEFAULT) -> None:
        self._threads_max = checked_count("threads_max", threads_max)
        self.sync = store
        self._process = 0
        self._threads: ThreadPoolExecutor | None = None
        # A call takes its turn in its own loop, so that no queue grows out of sight of its caller.
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]
        self._turns = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<thermae.aio.Store of {self.sync!r}>"

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None or self._process != os.getpid():
            # Threads do not come along through a fork.
            self._process = os.getpid()
            self._threads = ThreadPoolExecutor(self._threads_max, thread_name_prefix="thermae-aio")
        return self._threads

    def _turns_here(self) -> _Turns:
        loop = asyncio.get_running_loop()
        turns = self._turns.get(loop)
        if turns is None:
            turns = self._turns[loop] = _Turns(self._threads_max)
        return turns

    async def _wait(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a call that may wait on a thread of this store."""
        loop = asyncio.get_running_loop()
        free = self._turns_here().free
        await free.acquire()
        try:
            running = self._executor().submit(functools.partial(call, *args, **kwargs))
        except BaseException:
            free.release()
            raise

        def ended(_: object) -> None:
            try:
                loop.call_soon_threadsafe(free.release)
            except RuntimeError:
                # The loop was closed meanwhile, and its turns with it.
                return

        # The turn ends with the call, not with who waits for it: a cancelled call still has its thread.
        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    async def _read(self, key: str | bytes, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.sync.cold_bytes or (self.sync.value_bytes(key) or 0) > INLINE_BYTES_MAX:
            return await self._wait(call, *args, **kwargs)
        return call(*args, **kwargs)

    async def _look(self, key: str | bytes, call: Callable[[str | bytes], T]) -> T:
        """Looks at what a key's record says, which may be in the cold tier only."""
        return await self._wait(call, key) if self.sync.cold_bytes else call(key)

    async def _write(self, value: object, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        is_small = isinstance(value, (int, float)) or (
            isinstance(value, (str, bytes)) and len(value) <= INLINE_BYTES_MAX
        )
        has_durable_tier = self.sync.cold_bytes or self.sync.warm_bytes
        if has_durable_tier or self.sync.when_full == "error" or not (is_small or value is None):
            return await self._wait(call, *args, **kwargs)
        return call(*args, **kwargs)

    # One key.

    async def get(
        self, key: str | bytes, default: Any = None, *, codec: AnyCodec | None = None, as_type: Any = None
    ) -> Any:
        """The key's value, or `default`; see `thermae.Store.get`."""
        return await self._read(key, self.sync.get, key, default, codec=codec, as_type=as_type)

    async def get_with_version(
        self, key: str | bytes, default: Any = None, *, codec: AnyCodec | None = None, as_type: Any = None
    ) -> tuple[Any, int]:
        """The key's value and version; `default` and 0 where it is missing.

        See `thermae.Store.get_with_version`.
        """
        return await self._read(key, self.sync.get_with_version, key, default, codec=codec, as_type=as_type)

    async def view(self, key: str | bytes, default: Any = None) -> Any:
        """The value without a copy; see `thermae.Store.view`."""
        return await self._read(key, self.sync.view, key, default)

    async def contains(self, key: str | bytes) -> bool:
        """Whether the key is there; see `thermae.Store.__contains__`."""
        return await self._look(key, self.sync.__contains__)

    async def version(self, key: str | bytes) -> int:
        """The key's version; 0 where it is missing; see `thermae.Store.version`."""
        return await self._look(key, self.sync.version)

    async def ttl(self, key: str | bytes) -> float | None:
        """Seconds until the key expires; None for never; see `thermae.Store.ttl`."""
        return await self._look(key, self.sync.ttl)

    async def set(
        self,
        key: str | bytes,
        value: Any,
        ttl: float | None = None,
        *,
        if_absent: bool = False,
        if_present: bool = False,
        if_version: int | None = None,
        keep_ttl: bool = False,
        codec: AnyCodec | None = None,
    ) -> bool:
        """Sets the key's value; whether it did; see `thermae.Store.set`."""
        return await self._write(
            value,
            self.sync.set,
            key,
            value,
            ttl,
            if_absent=if_absent,
            if_present=if_present,
            if_version=if_version,
            keep_ttl=keep_ttl,
            codec=codec,
        )

    async def add(
        self, key: str | bytes, value: Any, ttl: float | None = None, *, codec: AnyCodec | None = None
    ) -> bool:
        """Sets a key that is missing; whether it did; see `thermae.Store.add`."""
        return await self._write(value, self.sync.add, key, value, ttl, codec=codec)

    async def compare_and_set(
        self,
        key: str | bytes,
        value: Any,
        version: int,
        ttl: float | None = None,
        *,
        codec: AnyCodec | None = None,
    ) -> bool:
        """Sets a key that still has this version; whether it did; see `thermae.Store.compare_and_set`."""
        return await self._write(value, self.sync.compare_and_set, key, value, version, ttl, codec=codec)

    async def delete(self, key: str | bytes) -> bool:
        """Deletes a key; whether it was there; see `thermae.Store.delete`."""
        return await self._write(None, self.sync.delete, key)

    async def pop(
        self, key: str | bytes, default: Any = _MISSING, *, codec: AnyCodec | None = None, as_type: Any = None
    ) -> Any:
        """Removes a key and returns its value, or `default`; see `thermae.Store.pop`."""
        given = () if default is _MISSING else (default,)
        return await self._wait(self.sync.pop, key, *given, codec=codec, as_type=as_type)

    async def touch(self, key: str | bytes, ttl: float | None = None) -> bool:
        """Gives a key another lifetime; whether it was there; see `thermae.Store.touch`."""
        return await self._write(None, self.sync.touch, key, ttl)

    async def incr(
        self, key: str | bytes, by: int = 1, default: int | None = 0, ttl: float | None = None
    ) -> int:
        """Adds to a counter and returns it; see `thermae.Store.incr`."""
        return await self._write(None, self.sync.incr, key, by, default, ttl)

    async def decr(
        self, key: str | bytes, by: int = 1, default: int | None = 0, ttl: float | None = None
    ) -> int:
        """Subtracts from a counter and returns it; see `thermae.Store.decr`."""
        return await self._write(None, self.sync.decr, key, by, default, ttl)

    # Many keys.

    async def get_many(
        self,
        keys: Iterable[str | bytes],
        default: Any = None,
        *,
        codec: AnyCodec | None = None,
        as_type: Any = None,
    ) -> list[Any]:
        """The values of the keys, in their order, with `default` for those that are missing.

        See `thermae.Store.get_many`.
        """
        return await self._wait(self.sync.get_many, list(keys), default, codec=codec, as_type=as_type)

    async def set_many(
        self,
        items: Mapping[Any, Any] | Iterable[tuple[str | bytes, Any]],
        ttl: float | None = None,
        *,
        codec: AnyCodec | None = None,
    ) -> None:
        """Sets every item; see `thermae.Store.set_many`."""
        await self._wait(self.sync.set_many, items, ttl, codec=codec)

    async def delete_many(self, keys: Iterable[str | bytes]) -> int:
        """Deletes the keys; how many were there; see `thermae.Store.delete_many`."""
        return await self._wait(self.sync.delete_many, list(keys))

    async def clear(self) -> None:
        """Deletes every key; see `thermae.Store.clear`."""
        await self._wait(self.sync.clear)

    async def length(self) -> int:
        """How many keys there are; see `thermae.Store.__len__`."""
        return await self._wait(len, self.sync)

    async def keys(self, *, prefix: str | bytes = b"") -> AsyncIterator[str | bytes]:
        """Iterates over the keys that start with `prefix`; see `thermae.Store.keys`."""
        scan = self.sync._scan(prefix, False)
        while batch := await self._wait(_up_to, scan, SCAN_BATCH_KEYS):
            for key in batch:
                yield key

    async def items(self, *, prefix: str | bytes = b"") -> AsyncIterator[tuple[str | bytes, Any]]:
        """Iterates over the pairs of key and value whose key starts with `prefix`.

        See `thermae.Store.items`.
        """
        scan = self.sync._scan(prefix, True)
        while batch := await self._wait(_up_to, scan, 1):
            for item in batch:
                yield item

    # Computed values.

    async def get_or_set(
        self,
        key: str | bytes,
        make: Callable[[], Awaitable[Any]],
        ttl: float | None = None,
        *,
        timeout: float | None = None,
        codec: AnyCodec | None = None,
        as_type: Any = None,
    ) -> Any:
        """The key's value, or what `await make()` returns, which is then stored.

        Of all tasks, threads and processes that miss the key at once, one calls `make` and the others wait
        for its value.

        Raises:
            LockTimeoutError: Another caller's `make` took longer than `timeout`.
            WrongTypeError: `make` is no asynchronous function; or as for `thermae.Store.get_or_set`.
        """
        if not callable(make):
            raise WrongTypeError(
                f"make must be an asynchronous function without arguments, not {make!r}: use add"
            )
        value = await self.get(key, _MISSING, codec=codec, as_type=as_type)
        if value is not _MISSING:
            return value
        async with self.lock(lock_name(key), timeout):
            value = await self.get(key, _MISSING, codec=codec, as_type=as_type)
            if value is not _MISSING:
                return value
            making = make()
            if not inspect.isawaitable(making):
                raise WrongTypeError(
                    f"make returned {type(making).__name__}, which can't be awaited: make it an async def"
                )
            made = await making
            return await self._wait(
                keep, self.sync, self.sync._codecs, key, made, ttl, codec=codec, as_type=as_type
            )

    def memoize(
        self,
        ttl: float | None = None,
        *,
        name: str | None = None,
        ignore: Collection[str] = (),
        codec: AnyCodec | None = None,
    ) -> Callable[[Callable[P, Awaitable[R]]], AsyncMemoized[P, R]]:
        """A decorator that keeps an asynchronous function's results, as `thermae.Store.memoize` does.

        Raises:
            InvalidOptionError: A name is missing, or `ignore` names what the function does not take.
            WrongTypeError: It is no asynchronous function.
        """
        if callable(ttl):
            raise InvalidOptionError(
                "memoize needs its parentheses: write @store.memoize() or @store.memoize(ttl=300)"
            )

        async def find(key: str, make: Callable[[], Awaitable[R]], kind: Any) -> R:
            value: R = await self.get_or_set(key, make, ttl, codec=codec, as_type=kind)
            return value

        async def forget_all(prefix: str) -> int:
            return await self._wait(lambda: self.sync.delete_many(list(self.sync._scan(prefix, False))))

        return lambda function: AsyncMemoized(
            function, find, self.delete, forget_all, name=name, ignore=ignore
        )

    # Locks and transactions.

    def lock(self, name: str | bytes, timeout: float | None = None) -> AsyncLock:
        """The lock of this name; hold it with `async with`.

        Args:
            name: Any name; names of locks and keys are apart.
            timeout: Seconds to wait for it; 0 does not wait, None waits for ever.

        Raises:
            WrongTypeError: `timeout` is no number of seconds.
            InvalidOptionError: `timeout` is negative.
        """
        return AsyncLock(self.sync, name, timeout)

    async def transact(self, change: Callable[[Transaction], T], *, attempts_max: int = 100) -> T:
        """Calls `change(tx)`, a plain function, on a thread and commits; see `thermae.Store.transact`.

        Raises:
            InvalidOptionError: `change` is an `async def`, which would hold the transaction while it waits.
            TransactionConflictError: Every attempt was overtaken.
        """
        if inspect.iscoroutinefunction(change):
            name = getattr(change, "__name__", repr(change))
            raise InvalidOptionError(
                f"transact calls plain functions, and {name} is an async def: await what it needs before, and"
                " give a plain function that only reads and changes the transaction"
            )
        return await self._wait(self.sync.transact, change, attempts_max=attempts_max)

    # The whole store.

    async def flush(self) -> None:
        """Returns when everything acknowledged so far is durable; see `thermae.Store.flush`."""
        await self._wait(self.sync.flush)

    async def stats(self) -> Stats:
        """Figures about the store now; see `thermae.Store.stats`."""
        return await self._wait(self.sync.stats)

    async def check(self, *, repair: bool = False) -> CheckReport:
        """Verifies the store, and reports; see `thermae.Store.check`."""
        return await self._wait(self.sync.check, repair=repair)

    async def snapshot(self, directory: str | os.PathLike[str]) -> SnapshotReport:
        """Writes a consistent copy into `directory`; see `thermae.Store.snapshot`."""
        return await self._wait(self.sync.snapshot, directory)

    async def close(self) -> None:
        """Closes the store once the calls that have a thread, or wait for one, have ended.

        A call that is made while it closes finds the store closed. Else as `thermae.Store.close`.
        """
        turns = self._turns_here()
        # One at a time: two that each held some of the turns would wait for each other.
        async with turns.closing:
            taken = 0
            try:
                while taken < self._threads_max:
                    await turns.free.acquire()
                    taken += 1
                # No turn is left to run it on a thread of this store.
                await asyncio.to_thread(self.sync.close)
            finally:
                for _ in range(taken):
                    turns.free.release()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Turns:
    """How the calls of one event loop share the threads."""

    def __init__(self, threads_max: int) -> None:
        self.free = asyncio.Semaphore(threads_max)
        self.closing = asyncio.Lock()


class AsyncLock:
    """A lock of a store by name, held by a task; made by `Store.lock`.

    It is the same lock that `thermae.Store.lock` takes under that name. Waiting for it looks again at growing
    intervals up to 50 ms, so that no thread is held and a cancelled wait leaves nothing behind.
    """

    def __init__(self, store: thermae.store.Store, name: str | bytes, timeout: float | None = None) -> None:
        self.name = name
        self.timeout = checked_timeout(timeout)
        self._lock = Lock(store, name, 0, per_thread=False)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.held

    async def acquire(self) -> None:
        """Waits for the lock.

        Raises:
            LockTimeoutError: It was not free in time.
        """
        loop = asyncio.get_running_loop()
        deadline = None if self.timeout is None else loop.time() + self.timeout
        sleep_seconds = LOCK_SLEEP_SECONDS_MIN
        while True:
            try:
                self._lock.acquire()
            except LockTimeoutError:
                if deadline is not None and loop.time() >= deadline:
                    raise LockTimeoutError(
                        f"the lock {self.name!r} was not free within {self.timeout} s: "
                        "wait longer, or see which process holds it"
                    ) from None
            else:
                return
            await asyncio.sleep(sleep_seconds)
            sleep_seconds = min(2 * sleep_seconds, LOCK_SLEEP_SECONDS_MAX)

    def release(self) -> None:
        """Gives the lock back; it never waits."""
        self._lock.release()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)


def _up_to(items: Iterable[T], count: int) -> list[T]:
    """The next `count` items at most."""
    taken: list[T] = []
    for item in items:
        taken.append(item)
        if len(taken) == count:
            break
    return taken
