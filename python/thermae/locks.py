"""Named locks of a store: one holder at a time among all threads of all processes.

The engine frees the lock of a process that dies. The lock belongs to the thread that took it and to no child
that is forked meanwhile. Not reentrant: a thread that waits for a lock it holds would wait for ever, so that
is an error. (Tasks of `thermae.aio` share a thread; one of them may well wait for another.)
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from thermae import _thermae
from thermae.errors import LockTimeoutError

_held = threading.local()


def _names_held() -> set[tuple[int, str, bytes]]:
    """The locks that this thread of this process holds."""
    names: set[tuple[int, str, bytes]] | None = getattr(_held, "names", None)
    if names is None:
        names = _held.names = set()
    return names


class Lock:
    """A lock of a store by name, made by `Store.lock`; a context manager.

    Example:
        >>> import thermae
        >>> store = thermae.open("shm://thermae-doc-lock", hot="16MiB")
        >>> with store.lock("nightly-report"):
        ...     pass  # at most one process is here
        >>> store.close()
        >>> thermae.destroy("shm://thermae-doc-lock")
    """

    __slots__ = ("_identity", "_names", "_per_thread", "_process", "_token", "name", "store", "timeout")

    def __init__(
        self,
        store: _thermae.Store,
        name: str | bytes,
        timeout: float | None = None,
        *,
        per_thread: bool = True,
    ) -> None:
        self._per_thread = per_thread
        self.store = store
        self.name = name
        self.timeout = timeout
        self._token: _thermae.LockToken | None = None
        self._process = 0
        self._identity = (0, "", b"")
        # Where the thread that took it notes what it holds: another one may release it.
        self._names: set[tuple[int, str, bytes]] = set()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._token is not None and self._process == os.getpid()

    def acquire(self, timeout: float | None = None) -> None:
        """Waits for the lock.

        Args:
            timeout: Seconds to wait at most: 0 does not wait, None waits as long as the lock was made for.

        Raises:
            LockTimeoutError: It was not free in time, or this thread holds it already.
        """
        identity = (os.getpid(), self.store.location, _thermae.key_bytes(self.name))
        if self._per_thread and identity in _names_held():
            raise LockTimeoutError(
                f"this thread holds the lock {self.name!r} already and would wait for itself: "
                "release it first, or use another name"
            )
        self._token = self.store._lock_acquire(self.name, self.timeout if timeout is None else timeout)
        self._process = os.getpid()
        self._identity = identity
        if self._per_thread:
            self._names = _names_held()
            self._names.add(identity)

    def release(self) -> None:
        """Gives the lock back; any thread of the process that took it may.

        Raises:
            RuntimeError: This object does not hold it, as for `threading.Lock`.
        """
        if not self.held:
            raise RuntimeError(f"the lock {self.name!r} is not held here: acquire it first")
        token, self._token = self._token, None
        self._names.discard(self._identity)
        assert token is not None
        self.store._lock_release(token)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A child forked inside the block leaves it too, without ever having held the lock.
        if self._process == os.getpid():
            self.release()
