"""Thermae: a memory-speed data store for Python, shared by all processes, that stays warm across restarts.

>>> import thermae
>>> with thermae.open("shm://thermae-doc-package", hot="16MiB") as store:
...     store["greeting"] = "salve"
...     store["greeting"]
'salve'
>>> thermae.destroy("shm://thermae-doc-package")

Layers, top to bottom; imports only point down:

- cli: the command line
- demo: the main job on real input, end to end
- bench: the measurements behind every published figure
- aio: the same store for asyncio
- store: the mapping and cache that one opens
- memo: functions whose results are kept in a store
- flight: one computation of a missing value among all processes
- transactions: several keys changed together or not at all
- locks: named locks among all processes
- mapping: keys, values and items as live views
- codecs: values to bytes and back, beyond plain scalars
- messagepack: most values as bytes
- tables: Arrow tables as bytes
- arrays: NumPy arrays as bytes
- _thermae: the engine, compiled
- reports: what a store reports about itself, as types
- options: what a store may be opened with
- arguments: numbers, flags and names that verbs take
- encodings: how a value was made bytes, as a number
- errors: the exceptions
"""

from __future__ import annotations

import os
from typing import Unpack

from thermae._thermae import KEY_BYTES_MAX, VALUE_BYTES_MAX, __version__
from thermae.errors import (
    CallCancelledError,
    CorruptStoreError,
    CounterOverflowError,
    InvalidKeyError,
    InvalidOptionError,
    LockTimeoutError,
    NotAStoreError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreFullError,
    StoreInUseError,
    StoreIOError,
    StorePermissionError,
    ThermaeError,
    TooManyParticipantsError,
    TransactionConflictError,
    TransactionTooLargeError,
    ValueTooLargeError,
    WritesStoppedError,
    WrongLayoutError,
    WrongTypeError,
)
from thermae.locks import Lock
from thermae.options import AnyCodec, Codec, OpenOptions
from thermae.store import Store, destroy, remove_orphaned_memory, restore, shared_memory
from thermae.transactions import Transaction

__all__ = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "CallCancelledError",
    "Codec",
    "CorruptStoreError",
    "CounterOverflowError",
    "InvalidKeyError",
    "InvalidOptionError",
    "Lock",
    "LockTimeoutError",
    "NotAStoreError",
    "OpenOptions",
    "ReadOnlyStoreError",
    "Store",
    "StoreClosedError",
    "StoreFullError",
    "StoreIOError",
    "StoreInUseError",
    "StorePermissionError",
    "ThermaeError",
    "TooManyParticipantsError",
    "Transaction",
    "TransactionConflictError",
    "TransactionTooLargeError",
    "ValueTooLargeError",
    "WritesStoppedError",
    "WrongLayoutError",
    "WrongTypeError",
    "__version__",
    "destroy",
    "open",
    "remove_orphaned_memory",
    "restore",
    "shared_memory",
]


def open(  # noqa: A001 - thermae.open, as one says gzip.open
    location: str | os.PathLike[str],
    *,
    codec: AnyCodec = "msgpack",
    **options: Unpack[OpenOptions],
) -> Store:
    """Creates the store at `location`, or attaches to it; any number of processes may do so at once.

    Args:
        location: A directory, or "shm://name" for shared memory alone.
        codec: For values that have no encoding of their own: "msgpack", "pickle", or your own `Codec`.
        **options: See `OpenOptions`: hot, warm, warm_directory, index, cold, frame, durability, when_full,
            read_only, create, verify_reads, salvage, placement, participants_max, background.

    Raises:
        InvalidOptionError: An option is unknown, not understood, or contradicts the store.
        NotAStoreError: There is something else at the location, or nothing and `create` is False.
        StorePermissionError: The store belongs to another user.
        WrongLayoutError: It was written by a version that this one cannot share it with.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-open", hot="16MiB", when_full="error")
        >>> store.hot_bytes, store.when_full
        (16777216, 'error')
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-open")
    """
    return Store(location, codec=codec, **options)
