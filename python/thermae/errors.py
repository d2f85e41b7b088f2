"""The exceptions of thermae: one small hierarchy under `ThermaeError`.

Every class stands for one variant of the engine's error enum, and the native module raises them; a test
compares the two sets. Each message says what was wrong, with which file or key, and what to do. Where Python
has a class of the same meaning, it is a base too, so that `except TimeoutError` or `except ValueError` work
as one would expect. A key that is not there is no error of the store: it is a plain `KeyError`, as for any
mapping.
"""

from __future__ import annotations


class ThermaeError(Exception):
    """The base of everything that thermae raises on purpose."""


class StoreIOError(ThermaeError, OSError):
    """The operating system refused an operation on a file; `errno` has its number, where there is one."""


class StoreFullError(ThermaeError):
    """A tier has no room, and the store may not evict or has nothing to evict."""


class InvalidKeyError(ThermaeError, ValueError):
    """A key that no store takes, such as one that is too long."""


class ValueTooLargeError(ThermaeError, ValueError):
    """A value above the limit, or one that the store's tiers can never hold."""


class InvalidOptionError(ThermaeError, ValueError):
    """An option, size or argument that is not understood, out of range, or contradicts the store."""


class NotAStoreError(ThermaeError):
    """There is no store at the location, or something that is not a store."""


class WrongLayoutError(ThermaeError):
    """A store written in a layout that this version cannot share."""


class StoreInUseError(ThermaeError):
    """Somebody is attached, and the operation needs the store for itself."""


class StorePermissionError(ThermaeError, PermissionError):
    """The store's files belong to somebody else, or their modes forbid the operation."""


class ReadOnlyStoreError(ThermaeError):
    """A write to a store that was opened read-only."""


class StoreClosedError(ThermaeError):
    """The store was closed: open it again."""


class CorruptStoreError(ThermaeError):
    """Stored bytes contradict their checksum: `thermae check` reports the damage."""


class TransactionConflictError(ThermaeError):
    """Somebody changed a key that a transaction had read: do it again, or use `Store.transact`."""


class WrongTypeError(ThermaeError, TypeError):
    """A key or value of a type that the operation does not take, or a value that does not decode as asked."""


class CounterOverflowError(ThermaeError, OverflowError):
    """A counter would leave the range of 64-bit integers."""


class LockTimeoutError(ThermaeError, TimeoutError):
    """A lock was not free in time."""


class WritesStoppedError(ThermaeError):
    """A flush failed earlier, so writes stay refused until the store is opened again; reads go on."""


class TooManyParticipantsError(ThermaeError):
    """As many handles are open, in all processes together, as the store was created for."""


class TransactionTooLargeError(ThermaeError):
    """A transaction that does not fit into one segment of the log."""


class CallCancelledError(ThermaeError):
    """A long call was given up before its end because its caller asked for that."""
