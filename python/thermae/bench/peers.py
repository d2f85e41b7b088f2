"""dict, py-lmdb and diskcache behind one face, each used the way its own documentation uses it.

Each peer has its own timed loop, or shares it with Thermae where the code is the same: a common adapter
called for every key would charge its call to whoever is fastest. A peer that is not installed is `None` in
`installed_peers`, and named as missing in every report.
"""

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from thermae.bench.report import Peer

Item = tuple[bytes, bytes]


def read_items(mapping: Any, keys: Sequence[bytes]) -> None:
    """`mapping[key]` for each key: the same loop for dict and for Thermae."""
    for key in keys:
        mapping[key]


def write_items(mapping: Any, items: Iterable[Item]) -> None:
    """`mapping[key] = value` for each item: the same loop for dict and for Thermae."""
    for key, value in items:
        mapping[key] = value


def read_with_get(store: Any, keys: Sequence[bytes]) -> None:
    """`store.get(key)` for each key: the same loop for diskcache and for Thermae."""
    get = store.get
    for key in keys:
        get(key)


def write_with_set(store: Any, items: Iterable[Item]) -> None:
    """`store.set(key, value)` for each item: the same loop for diskcache and for Thermae."""
    set_item = store.set
    for key, value in items:
        set_item(key, value)


class PeerStore(Protocol):
    """An opened peer. `read` and `write` are the loops that get timed."""

    def fill(self, items: Iterable[Item]) -> None:
        """Loads the items in the fastest documented way; not timed."""

    def read(self, keys: Sequence[bytes]) -> None:
        """Looks every key up, one at a time."""

    def write(self, items: Iterable[Item]) -> None:
        """Stores every item, one at a time."""

    def used_bytes(self) -> int | None:
        """What the peer says that it uses for its items; None where it can't say."""

    def close(self) -> None:
        """Gives everything back except files."""


class DictStore:
    """A plain `dict` in this process: what shared or durable stores are measured against."""

    def __init__(self, directory: Path, capacity_bytes: int) -> None:
        self.items: dict[bytes, bytes] = {}

    def fill(self, items: Iterable[Item]) -> None:
        """See `PeerStore.fill`."""
        self.items.update(items)

    def read(self, keys: Sequence[bytes]) -> None:
        """See `PeerStore.read`."""
        read_items(self.items, keys)

    def write(self, items: Iterable[Item]) -> None:
        """See `PeerStore.write`."""
        write_items(self.items, items)

    def used_bytes(self) -> int:
        """The sizes that Python gives for the table, the keys and the values."""
        objects = sum(key.__sizeof__() + value.__sizeof__() for key, value in self.items.items())
        return self.items.__sizeof__() + objects

    def close(self) -> None:
        """Frees the items."""
        self.items = {}


class LmdbStore:
    """py-lmdb with one transaction per get and one per put, `sync=False`, no write map."""

    def __init__(self, directory: Path, capacity_bytes: int) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        directory.mkdir(parents=True, exist_ok=True)
        self._environment = lmdb.open(str(directory), map_size=capacity_bytes, sync=False, writemap=False)

    def fill(self, items: Iterable[Item]) -> None:
        """See `PeerStore.fill`."""
        with self._environment.begin(write=True) as transaction:
            for key, value in items:
                transaction.put(key, value)

    def read(self, keys: Sequence[bytes]) -> None:
        """See `PeerStore.read`."""
        begin = self._environment.begin
        for key in keys:
            with begin() as transaction:
                transaction.get(key)

    def write(self, items: Iterable[Item]) -> None:
        """See `PeerStore.write`."""
        begin = self._environment.begin
        for key, value in items:
            with begin(write=True) as transaction:
                transaction.put(key, value)

    def used_bytes(self) -> int:
        """The pages that the file has in use."""
        statistics = self._environment.stat()
        return int(self._environment.info()["last_pgno"] + 1) * int(statistics["psize"])

    def close(self) -> None:
        """Closes the environment."""
        self._environment.close()


class DiskcacheStore:
    """diskcache's `Cache` with its default settings, and room for everything."""

    def __init__(self, directory: Path, capacity_bytes: int) -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self.cache = diskcache.Cache(str(directory), size_limit=capacity_bytes)

    def fill(self, items: Iterable[Item]) -> None:
        """See `PeerStore.fill`."""
        with self.cache.transact():
            for key, value in items:
                self.cache.set(key, value)

    def read(self, keys: Sequence[bytes]) -> None:
        """See `PeerStore.read`."""
        read_with_get(self.cache, keys)

    def write(self, items: Iterable[Item]) -> None:
        """See `PeerStore.write`."""
        write_with_set(self.cache, items)

    def used_bytes(self) -> int:
        """The size of its database and of the files beside it."""
        return int(self.cache.volume())

    def close(self) -> None:
        """Closes the cache's connection."""
        self.cache.close()


_PEERS: dict[str, tuple[Callable[[Path, int], PeerStore], str | None]] = {
    "dict": (DictStore, None),
    "py-lmdb": (LmdbStore, "lmdb"),
    "diskcache": (DiskcacheStore, "diskcache"),
}


def describe_peer(name: str) -> Peer:
    """The peer's name and version, or that it is not installed and how to change that."""
    _, distribution = _PEERS[name]
    if distribution is None:
        return Peer(name, f"of Python {platform.python_version()}")
    try:
        importlib.import_module(distribution)
        return Peer(name, importlib.metadata.version(distribution))
    except ImportError:
        return Peer(name, None, f"pip install {distribution}")


def open_peer(name: str, directory: Path, capacity_bytes: int) -> PeerStore | None:
    """The peer, opened with its files under `directory`; None where it is not installed."""
    if describe_peer(name).version is None:
        return None
    opener, _ = _PEERS[name]
    return opener(directory / name, capacity_bytes)
