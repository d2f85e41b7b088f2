"""Transactions: changes to several keys that happen all together or not at all, also across a crash.

Optimistic: what a transaction reads is noted with its version, what it writes is kept aside; the commit
checks the versions and applies the changes in one step of the engine. If somebody changed a key in between,
nothing is applied and `TransactionConflictError` says so. Locks held from the first read on were rejected: a
process that stops in the middle of a transaction would stop everybody else.

A transaction belongs to one thread. The values that it reads were each current when they were read; whether
they were so together is known at the commit.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from thermae import _thermae
from thermae.errors import StoreClosedError
from thermae.options import AnyCodec

_MISSING = object()
_Key = str | bytes
_Write = tuple[int, bytes, float | None]


class Transaction:
    """One transaction, made by `Store.transaction`; a context manager that commits where its block ends well.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-transaction", hot="16MiB")
        >>> store.set_many({"alice": 10, "bob": 0})
        >>> with store.transaction() as tx:
        ...     tx["alice"] -= 3
        ...     tx["bob"] += 3
        >>> store["alice"], store["bob"]
        (7, 3)
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-transaction")
    """

    __slots__ = ("_is_over", "_read", "_store", "_versions", "_writes")

    def __init__(self, store: _thermae.Store) -> None:
        self._store = store
        self._versions: dict[bytes, int] = {}
        self._writes: dict[bytes, _Write | None] = {}
        # What was read, and as what.
        self._read: dict[bytes, tuple[AnyCodec | None, Any, Any]] = {}
        self._is_over = False

    def get(
        self, key: _Key, default: Any = None, *, codec: AnyCodec | None = None, as_type: Any = None
    ) -> Any:
        """The key's value as this transaction sees it: its own changes, else what is stored.

        A key is read from the store once: reading it again in the same way gives the same object.

        Raises:
            WrongTypeError: The value is not of type `as_type`, or needs a codec that nobody named.
        """
        name = self._name(key)
        if name in self._writes:
            write = self._writes[name]
            return default if write is None else self._store._decode(write[0], write[1], codec, as_type)
        found = self._read.get(name)
        if found is None or found[0] is not codec or found[1] != as_type:
            value, version = self._store.get_with_version(key, _MISSING, codec=codec, as_type=as_type)
            found = self._read[name] = (codec, as_type, value)
            # What was first seen counts: if it was changed since, the commit says so.
            self._versions.setdefault(name, version)
        return default if found[2] is _MISSING else found[2]

    def __getitem__(self, key: _Key) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: _Key) -> bool:
        name = self._name(key)
        if name in self._writes:
            return self._writes[name] is not None
        # Told by the version: the value may be large, or in need of a codec.
        if name not in self._versions:
            self._versions[name] = self._store.version(key)
        return self._versions[name] != 0

    # What has items by key is iterable to Python, by 0, 1, 2, ..., unless it says that it is not.
    __iter__ = None

    def set(self, key: _Key, value: Any, ttl: float | None = None, *, codec: AnyCodec | None = None) -> None:
        """Sets a value at the commit, to expire `ttl` seconds after it.

        Raises:
            WrongTypeError: The value has no encoding, or `ttl` is no number.
            InvalidOptionError: `ttl` is no lifetime.
        """
        name = self._name(key)
        if ttl is not None:
            _thermae.lifetime_ms(ttl)
        encoding, data = self._store._encode(value, codec)
        self._writes[name] = (encoding, data, ttl)

    def __setitem__(self, key: _Key, value: Any) -> None:
        self.set(key, value)

    def delete(self, key: _Key) -> bool:
        """Deletes a key at the commit; whether it is there now."""
        was_there = key in self
        self._writes[self._name(key)] = None
        return was_there

    def __delitem__(self, key: _Key) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def commit(self) -> None:
        """Applies everything, or nothing. The block of a `with` does it by itself.

        Raises:
            TransactionConflictError: Somebody changed a key that was read.
            TransactionTooLargeError: The changes do not fit into one segment.
        """
        self._end()
        if self._writes or self._versions:
            self._store._commit(list(self._writes.items()), list(self._versions.items()))

    def rollback(self) -> None:
        """Forgets everything; nothing was stored yet. An exception in the `with` block does it by itself."""
        self._end()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_over:
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def _name(self, key: _Key) -> bytes:
        """One name for a str and its bytes."""
        if self._is_over:
            raise StoreClosedError("the transaction is over: begin another one")
        return _thermae.key_bytes(key)

    def _end(self) -> None:
        if self._is_over:
            raise StoreClosedError("the transaction is over: begin another one")
        self._is_over = True
