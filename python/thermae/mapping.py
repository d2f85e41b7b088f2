"""The views that `Store.keys`, `values` and `items` return: live, in no order, and narrowed by a prefix.

They iterate in the engine's bounded batches. A key that is present throughout is given once; one that comes
or goes meanwhile, at most once. A view over a prefix is what that prefix selects: its length counts by
iterating.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any

from thermae import _thermae

if TYPE_CHECKING:
    from collections.abc import Mapping

    _Base = Mapping[str | bytes, Any]


class _Narrowed:
    """What the three views share: a store, and the prefix of the keys concerned."""

    __slots__ = ()

    _mapping: Any
    _prefix: str | bytes

    def _store(self) -> _thermae.Store:
        store: _thermae.Store = self._mapping
        return store

    def __len__(self) -> int:
        if not self._prefix:
            return len(self._store())
        return sum(1 for _ in self._store()._scan(self._prefix, False))

    def _selects(self, key: object) -> bool:
        if not isinstance(key, (str, bytes)):
            return False
        return _thermae.key_bytes(key).startswith(_thermae.key_bytes(self._prefix))


class StoreKeys(_Narrowed, KeysView[str | bytes]):
    """The keys, as `Store.keys` returns them."""

    __slots__ = ("_prefix",)

    def __init__(self, mapping: _Base, prefix: str | bytes) -> None:
        super().__init__(mapping)
        self._prefix = prefix

    def __contains__(self, key: object) -> bool:
        return self._selects(key) and key in self._mapping

    def __iter__(self) -> Iterator[str | bytes]:
        return self._store()._scan(self._prefix, False)


class StoreItems(_Narrowed, ItemsView[str | bytes, Any]):
    """The pairs of key and value, as `Store.items` returns them."""

    __slots__ = ("_prefix",)

    def __init__(self, mapping: _Base, prefix: str | bytes) -> None:
        super().__init__(mapping)
        self._prefix = prefix

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2 or not self._selects(item[0]):
            return False
        missing = object()
        value = self._mapping.get(item[0], missing)
        return value is not missing and bool(value == item[1])

    def __iter__(self) -> Iterator[tuple[str | bytes, Any]]:
        return self._store()._scan(self._prefix, True)


class StoreValues(_Narrowed, ValuesView[Any]):
    """The values, as `Store.values` returns them."""

    __slots__ = ("_prefix",)

    def __init__(self, mapping: _Base, prefix: str | bytes) -> None:
        super().__init__(mapping)
        self._prefix = prefix

    def __contains__(self, value: object) -> bool:
        return any(value is stored or value == stored for stored in self)

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._store()._scan(self._prefix, True))
