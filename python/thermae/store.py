"""`Store`: the mapping and cache that one opens.

What is hot (`store[key]`, `get`, `set`, the batches) is inherited from the native class and never passes
through Python code; here is what is made of those verbs: the rest of the mapping protocol, single flight,
memoizing, locks and transactions.

Safe to use from any number of threads, and in a child after fork, which becomes a participant of its own. A
pickled store is "reopen this". Stores that are still open when the interpreter ends are closed then, so that
the next start is a clean one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from thermae import _thermae, flight
from thermae.arguments import checked_collection, checked_count, checked_flag
from thermae.codecs import Codecs
from thermae.errors import InvalidOptionError, ThermaeError, TransactionConflictError, WrongTypeError
from thermae.locks import Lock
from thermae.mapping import StoreItems, StoreKeys, StoreValues
from thermae.memo import Memoized, P, R
from thermae.options import AnyCodec, OpenOptions, checked_names, reopening_options
from thermae.reports import CheckReport, RestoreReport, SharedMemory, SnapshotReport, Stats
from thermae.transactions import Transaction

T = TypeVar("T")

_MISSING = object()

# By identity: as a mapping, a store has no hash. Weak, so that a store that is dropped is closed at once.
_open_stores: weakref.WeakValueDictionary[int, Store] = weakref.WeakValueDictionary()


class Store(_thermae.Store, MutableMapping[str | bytes, Any]):
    """A shared, tiered store of keys and values: a mapping and a cache. Opened by `thermae.open`.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-store", hot="16MiB")
        >>> store["user:1"] = {"name": "Ada"}
        >>> store["user:1"]
        {'name': 'Ada'}
        >>> store.set("session", b"token", ttl=60)
        True
        >>> sorted(store), len(store), "user:2" in store
        (['session', 'user:1'], 2, False)
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-store")
    """

    __slots__ = ("__weakref__", "_codec_name", "_codecs", "_options")

    _codecs: Codecs
    _codec_name: AnyCodec
    _options: dict[str, object]

    def __new__(
        cls,
        location: str | os.PathLike[str],
        *,
        codec: AnyCodec = "msgpack",
        **options: Unpack[OpenOptions],
    ) -> Self:
        """Opens a store; see `thermae.open`."""
        codecs = Codecs(codec)
        checked = checked_names(options)
        self = super().__new__(cls, location_text(location), checked, codecs)
        self._codecs = codecs
        self._codec_name = codec
        self._options = checked
        _open_stores[id(self)] = self
        return self

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        """Pickles as "reopen this": where it is and how it was opened, none of its data."""
        return _reopen, (type(self), self.location, self._codec_name, reopening_options(self._options))

    def __repr__(self) -> str:
        state = "closed" if self.closed else "read-only" if self.read_only else "open"
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.location!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The mapping protocol, beyond what the native class has.

    def __iter__(self) -> Iterator[str | bytes]:
        return self._scan(b"", False)

    def keys(self, *, prefix: str | bytes = b"") -> StoreKeys:
        """The keys that start with `prefix`, in no order: a live view, as that of a dict.

        Raises:
            WrongTypeError: When it is used: the prefix is neither str nor bytes.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-keys", hot="16MiB")
            >>> store.update({"user:1": "Ada", "user:2": "Bob", "group:1": []})
            >>> sorted(store.keys(prefix="user:"))
            ['user:1', 'user:2']
            >>> sorted(store.values(prefix="user:"))
            ['Ada', 'Bob']
            >>> sorted(store.items(prefix="user:"))
            [('user:1', 'Ada'), ('user:2', 'Bob')]
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-keys")
        """
        return StoreKeys(self, prefix)

    def values(self, *, prefix: str | bytes = b"") -> StoreValues:
        """The values of the keys that start with `prefix`, in no order."""
        return StoreValues(self, prefix)

    def items(self, *, prefix: str | bytes = b"") -> StoreItems:
        """The pairs of key and value whose key starts with `prefix`, in no order."""
        return StoreItems(self, prefix)

    def popitem(self) -> tuple[str | bytes, Any]:
        """Removes some item and returns it; of several callers, each gets another one.

        Raises:
            KeyError: The store is empty.
        """
        for key in self:
            value = self.pop(key, _MISSING)
            if value is not _MISSING:
                return key, value
        raise KeyError(f"popitem: {self.location} is empty")

    def setdefault(self, key: str | bytes, default: Any = None) -> Any:
        """The key's value; `default`, stored, where there is none. Of several callers, one stores."""
        while True:
            value = self.get(key, _MISSING)
            if value is not _MISSING:
                return value
            if self.add(key, default):
                return default

    def update(self, other: Any = (), /, **more: Any) -> None:
        """As `dict.update`, in batches."""
        if not isinstance(other, Mapping) and hasattr(other, "keys"):
            self.set_many((key, other[key]) for key in other.keys())  # noqa: SIM118 - what dict.update does
        else:
            self.set_many(other)
        if more:
            self.set_many(more)

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    # Views.

    def view(self, key: str | bytes, default: Any = None) -> Any:
        """The value without a copy: a read-only NumPy array, an Arrow table, or for anything else its bytes.

        What it returns stays as it is while it is held, whatever happens to the key or the store; meanwhile
        it keeps that piece of memory from being reused. A value that is cold is copied once, from flash.

        Args:
            key: The key.
            default: What to return where it is missing.

        Raises:
            CorruptStoreError: The stored bytes contradict their checksum.
            StoreIOError: The disk can't give a cold value back.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-view", hot="16MiB")
            >>> store["document"] = b"a long text"
            >>> view = store.view("document")
            >>> bytes(view[2:6]), view.readonly, store.view("nothing")
            (b'long', True, None)
            >>> del view
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-view")
        """
        found = self._view(key)
        return default if found is None else self._codecs.view(*found)

    # Computed values.

    @overload
    def get_or_set(
        self,
        key: str | bytes,
        make: Callable[[], Any],
        ttl: float | None = None,
        *,
        timeout: float | None = None,
        codec: AnyCodec | None = None,
        as_type: None = None,
    ) -> Any: ...
    @overload
    def get_or_set(
        self,
        key: str | bytes,
        make: Callable[[], Any],
        ttl: float | None = None,
        *,
        timeout: float | None = None,
        codec: AnyCodec | None = None,
        as_type: type[T],
    ) -> T: ...
    def get_or_set(
        self,
        key: str | bytes,
        make: Callable[[], Any],
        ttl: float | None = None,
        *,
        timeout: float | None = None,
        codec: AnyCodec | None = None,
        as_type: Any = None,
    ) -> Any:
        """The key's value, or what `make()` returns, which is then stored for `ttl` seconds.

        Of all threads and processes that miss the key at once, one calls `make` and the others wait for its
        value. Who called `make` gets it as everybody else does: a tuple as a list, unless `as_type` says what
        it is.

        Args:
            key: The key.
            make: Called without arguments, by one caller at a time.
            ttl: Lifetime of the value in seconds; None is for ever.
            timeout: Seconds to wait for another caller's `make`; None is for ever.
            codec: For a value that has no encoding of its own.
            as_type: What to decode the value as.

        Raises:
            LockTimeoutError: Another caller's `make` took longer than `timeout`.
            WrongTypeError: The value, found or made, is not of type `as_type`, or has no encoding. What was
                made is not stored then.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-get-or-set", hot="16MiB")
            >>> store.get_or_set("page", lambda: "<html>", ttl=300)
            '<html>'
            >>> store.get_or_set("pair", lambda: (1, 2))
            [1, 2]
            >>> store.get_or_set("typed", lambda: (1, 2), as_type=tuple[int, int])
            (1, 2)
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-get-or-set")
        """
        if not callable(make):
            raise WrongTypeError(
                f"make must be a function without arguments, not {make!r}: use setdefault or add"
            )
        return flight.get_or_set(
            self, self._codecs, key, make, ttl, timeout=timeout, codec=codec, as_type=as_type
        )

    def memoize(
        self,
        ttl: float | None = None,
        *,
        name: str | None = None,
        ignore: Collection[str] = (),
        codec: AnyCodec | None = None,
    ) -> Callable[[Callable[P, R]], Memoized[P, R]]:
        """A decorator that keeps a function's results in the store, each computed once among all processes.

        Args:
            ttl: Lifetime of a result in seconds; None is for ever.
            name: What the results are stored under; the function's module and name by default. What has no
                name of its own needs one: a lambda, a partial, a method of an instance, an object that is
                called. So does a function that is made several times with other values around it.
            ignore: Names of parameters that do not tell calls apart, such as "self".
            codec: For results that have no encoding of their own.

        Raises:
            InvalidOptionError: A name is missing, or `ignore` names what the function does not take.
            WrongTypeError: It is no function that memoize takes; later, an argument that makes no key, or a
                result that is not what the function is annotated to return.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-memoized", hot="16MiB")
            >>> @store.memoize(ttl=300)
            ... def square(number: int) -> int:
            ...     print("computing")
            ...     return number * number
            >>> square(3), square(3)
            computing
            (9, 9)
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-memoized")
        """
        if callable(ttl):
            raise InvalidOptionError(
                "memoize needs its parentheses: write @store.memoize() or @store.memoize(ttl=300)"
            )
        return lambda function: Memoized(
            self, self._codecs, function, ttl, name=name, ignore=ignore, codec=codec
        )

    # Locks and transactions.

    def lock(self, name: str | bytes, timeout: float | None = None) -> Lock:
        """The lock of this name, shared by all processes; hold it with `with`.

        Args:
            name: Any name; names of locks and keys are apart.
            timeout: Seconds to wait for it; 0 does not wait, None waits for ever.

        Raises:
            LockTimeoutError: When it is acquired: it was not free in time.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-locked", hot="16MiB")
            >>> with store.lock("nightly-report", timeout=10) as lock:
            ...     lock.held
            True
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-locked")
        """
        return Lock(self, name, timeout)

    def transaction(self) -> Transaction:
        """A transaction, which commits at the end of its `with` block.

        Raises:
            TransactionConflictError: At the commit: somebody changed a key that it read.
            TransactionTooLargeError: At the commit: its changes do not fit into one segment.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-changes", hot="16MiB")
            >>> with store.transaction() as tx:
            ...     tx["from"] = 90
            ...     tx["to"] = 110
            >>> sorted(store.items())
            [('from', 90), ('to', 110)]
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-changes")
        """
        return Transaction(self)

    @overload
    def transact(self) -> Transaction: ...
    @overload
    def transact(self, change: Callable[[Transaction], T], *, attempts_max: int = 100) -> T: ...
    def transact(
        self, change: Callable[[Transaction], T] | None = None, *, attempts_max: int = 100
    ) -> T | Transaction:
        """Calls `change(tx)` and commits, again as long as others change what it read.

        Without `change`, as `transaction()`: `with store.transact() as tx:` runs its block once.

        Args:
            change: Reads and writes through the transaction it is given; may be called several times.
            attempts_max: How often at most.

        Returns:
            What `change` returned when it was committed; the transaction, where there is no `change`.

        Raises:
            TransactionConflictError: Every attempt was overtaken.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-transact", hot="16MiB")
            >>> def visit(tx: thermae.Transaction) -> int:
            ...     tx["visits"] = tx.get("visits", 0) + 1
            ...     return tx["visits"]
            >>> store.transact(visit), store.transact(visit)
            (1, 2)
            >>> with store.transact() as tx:
            ...     tx["visits"] += 1
            >>> store["visits"]
            3
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-transact")
        """
        attempts_max = checked_count("attempts_max", attempts_max)
        if change is None:
            return Transaction(self)
        if not callable(change):
            raise WrongTypeError(
                f"change must be a function that takes the transaction, not {type(change).__name__}: "
                "write store.transact(function), or with store.transaction() as tx"
            )
        for attempt in range(1, attempts_max + 1):
            tx = Transaction(self)
            result = change(tx)
            try:
                tx.commit()
            except TransactionConflictError:
                if attempt == attempts_max:
                    raise
            else:
                return result
        raise AssertionError("the last attempt returns or raises")

    # The whole store.

    def stats(self) -> Stats:
        """Figures about the store: what it holds, what it has done, how full its tiers are.

        Nothing is locked for it: each was true a moment ago, but not all at the same moment.

        Returns:
            A dict with the figures that `thermae.reports.Stats` names.

        Raises:
            StoreClosedError: The store was closed.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-stats", hot="16MiB")
            >>> store["key"] = "value"
            >>> figures = store.stats()
            >>> figures["keys"], figures["hot_bytes"], figures["participants"], figures["writes_stopped"]
            (1, 16777216, 1, False)
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-stats")
        """
        report: Stats = json.loads(self._stats())
        return report

    def check(self, *, repair: bool = False) -> CheckReport:
        """Verifies every invariant, down to each record's checksum, while others go on using the store.

        Args:
            repair: Quarantine what is damaged, and rebuild what can be rebuilt from the rest.

        Returns:
            A dict with the findings that `thermae.reports.CheckReport` names.

        Raises:
            StoreClosedError: The store was closed.
            ReadOnlyStoreError: A repair, of a store that was opened read-only.

        Example:
            >>> import thermae
            >>> store = thermae.open("shm://thermae-doc-check", hot="16MiB")
            >>> store["key"] = "value"
            >>> report = store.check()
            >>> report["ok"], report["keys"], report["problems"]
            (True, 1, [])
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-check")
        """
        report: CheckReport = json.loads(self._check(checked_flag("repair", repair)))
        return report

    def snapshot(self, directory: str | os.PathLike[str]) -> SnapshotReport:
        """Writes the store as it is at one moment into `directory`, while others go on writing.

        `thermae.restore` makes a store of it. If it fails or is interrupted, nothing is left behind.

        Args:
            directory: It must not exist yet, or be empty.

        Returns:
            A dict with what was copied, as `thermae.reports.SnapshotReport` names it.

        Raises:
            InvalidOptionError: The directory holds something.
            ReadOnlyStoreError: The store was opened read-only: a snapshot keeps others from reusing memory.
            StoreIOError: The directory can't be written; the disk is full.

        Example:
            >>> import tempfile, thermae
            >>> store = thermae.open("shm://thermae-doc-snapshot", hot="16MiB")
            >>> store["key"] = "value"
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     copied = store.snapshot(f"{directory}/backup")
            ...     restored = thermae.restore(copied["directory"], f"{directory}/data", cold="64MiB")
            ...     with thermae.open(restored["location"]) as copy:
            ...         print(copy["key"])
            ...     thermae.destroy(restored["location"])
            value
            >>> store.close()
            >>> thermae.destroy("shm://thermae-doc-snapshot")
        """
        report: SnapshotReport = json.loads(self._snapshot(directory_text(directory)))
        return report


def location_text(location: str | os.PathLike[str]) -> str:
    """A location as the engine takes it.

    Raises:
        WrongTypeError: It is neither text nor a path.

    Example:
        >>> import pathlib
        >>> location_text(pathlib.Path("data")), location_text("shm://sessions")
        ('data', 'shm://sessions')
    """
    try:
        text: object = os.fspath(location)
    except TypeError:
        text = location
    if not isinstance(text, str):
        raise WrongTypeError(
            f'a location must be a directory or "shm://name" as str or Path, not {type(location).__name__}'
        )
    return text


def directory_text(directory: str | os.PathLike[str]) -> str:
    """A snapshot's directory as the engine takes it.

    Raises:
        WrongTypeError: It is neither text nor a path.

    Example:
        >>> import pathlib
        >>> directory_text(pathlib.Path("backup"))
        'backup'
    """
    try:
        text: object = os.fspath(directory)
    except TypeError:
        text = directory
    if not isinstance(text, str):
        raise WrongTypeError(f"a directory must be a str or Path, not {type(directory).__name__}")
    return text


def restore(
    snapshot: str | os.PathLike[str],
    location: str | os.PathLike[str],
    **options: Unpack[OpenOptions],
) -> RestoreReport:
    """Makes a store at `location`, where none may be, from a snapshot.

    Args:
        snapshot: The directory that `Store.snapshot` wrote.
        location: The directory of the new store.
        **options: Other sizes of the tiers, another durability or `when_full`; the rest is as it was.

    Returns:
        A dict with what was restored, as `thermae.reports.RestoreReport` names it.

    Raises:
        NotAStoreError: There is no snapshot.
        InvalidOptionError: The location is in use, or the sizes have no room for what the snapshot holds.
        CorruptStoreError: The snapshot is damaged beyond use.
    """
    checked = checked_names(options)
    report: RestoreReport = json.loads(
        _thermae.restore(directory_text(snapshot), location_text(location), checked)
    )
    return report


def destroy(location: str | os.PathLike[str]) -> None:
    """Removes a store with all its data: its files and its shared memory.

    Raises:
        StoreInUseError: Somebody is attached.
        NotAStoreError: There is no store.
    """
    _thermae.destroy(location_text(location))


def shared_memory() -> list[SharedMemory]:
    """The shared memory of all stores of this user, which outlives processes.

    Returns:
        For each a dict as `thermae.reports.SharedMemory` names it. The `state` is "in_use"; "kept", where the
        store is there and nobody has it open; "orphaned", where there is no such store any more; or
        "unknown".

    Raises:
        StoreIOError: /dev/shm can't be read.

    Example:
        >>> import thermae
        >>> with thermae.open("shm://thermae-doc-memory", hot="16MiB"):
        ...     for memory in thermae.shared_memory():
        ...         if memory["location"] == "shm://thermae-doc-memory":
        ...             print(memory["state"])
        in_use
        >>> thermae.destroy("shm://thermae-doc-memory")
    """
    found: list[SharedMemory] = json.loads(_thermae.shared_memory())
    return found


def remove_orphaned_memory(names: Collection[str] | None = None) -> list[SharedMemory]:
    """Removes what `shared_memory` calls orphaned, and returns it.

    A store whose directory was removed by hand leaves its memory behind. None is removed unasked: a store
    that was moved far away, and not opened since, looks from here like one that is gone.

    Args:
        names: Of the directories in /dev/shm to remove; all that are orphaned by default.

    Raises:
        WrongTypeError: One name was given instead of a collection of them.
    """
    wanted = None if names is None else list(checked_collection("names", names))
    removed: list[SharedMemory] = json.loads(_thermae.remove_orphaned_memory(wanted))
    return removed


def _reopen(cls: type[Store], location: str, codec: AnyCodec, options: OpenOptions) -> Store:
    return cls(location, codec=codec, **options)


@atexit.register
def _close_open_stores() -> None:
    for store in list(_open_stores.values()):
        # The interpreter is ending: there is nobody left to tell.
        with contextlib.suppress(ThermaeError):
            store.close()
