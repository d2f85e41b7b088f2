"""A store is a mutable mapping: CPython's own tests of the protocol, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest

import thermae

mapping_tests = pytest.importorskip("test.mapping_tests", reason="this Python comes without its own tests")


@pytest.fixture(autouse=True)
def _factory(request: pytest.FixtureRequest, new_store: Callable[[], thermae.Store]) -> None:
    """Gives unittest classes, which take no fixtures, their way to make stores."""
    if request.cls is not None:
        request.cls.make_store = staticmethod(new_store)


class TestBasicProtocol(mapping_tests.BasicTestMappingProtocol):  # type: ignore[misc, name-defined]
    """All of CPython's basic tests, as they are."""

    make_store: Callable[[], thermae.Store]

    def type2test(self, *args: Any, **kwargs: Any) -> thermae.Store:
        made = self.make_store()
        made.update(*args, **kwargs)
        return made

    def _reference(self) -> dict[str, str | int]:
        # Values that are hashable and come back as they are; the original has a tuple.
        return {"1": "2", "key1": "value1", "key2": 123}


class TestWholeProtocol(mapping_tests.TestMappingProtocol):  # type: ignore[misc, name-defined]
    """CPython's tests of whole mappings; where those use integers as keys, the same with text."""

    make_store: Callable[[], thermae.Store]
    type2test = TestBasicProtocol.type2test
    _reference = TestBasicProtocol._reference

    # A store is one place: there is nothing that `fromkeys` could make and `copy` could copy to.
    test_fromkeys = None
    test_copy = None

    def test_values(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_values(self)
        assert list(self._full_mapping({"1": 2}).values()) == [2]

    def test_items(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_items(self)
        assert list(self._full_mapping({"1": 2}).items()) == [("1", 2)]

    def test_clear(self) -> None:
        d = self._full_mapping({"1": 1, "2": 2, "3": 3})
        d.clear()
        assert d == {}
        with pytest.raises(TypeError):
            d.clear(None)

    def test_update(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_update(self)
        d = self._empty_mapping()
        d.update({"1": 100})
        d.update({"2": 20})
        d.update({"1": 1, "2": 2, "3": 3})
        assert d == {"1": 1, "2": 2, "3": 3}
        d.update()
        assert d == {"1": 1, "2": 2, "3": 3}
        d = self._empty_mapping()
        d.update([("x", 100), ("y", 20)], x=1, y=2, z=3)
        assert d == {"x": 1, "y": 2, "z": 3}
        d = self._full_mapping({"1": 3, "2": 4})
        d.update(self._full_mapping({"1": 2, "3": 4, "5": 6}).items())
        assert d == {"1": 2, "2": 4, "3": 4, "5": 6}

        class Pairs:
            def keys(self) -> list[str]:
                return ["1", "2"]

            def __getitem__(self, key: str) -> int:
                return int(key)

        d.clear()
        d.update(Pairs())
        assert d == {"1": 1, "2": 2}

    def test_get(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_get(self)
        d = self._full_mapping({"a": 1, "b": 2})
        assert d.get("c") is None
        assert d.get("c", 3) == 3
        assert d.get("a", 3) == 1

    def test_setdefault(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_setdefault(self)
        d = self._empty_mapping()
        assert d.setdefault("key0") is None
        assert d.setdefault("key0", []) is None
        assert d.setdefault("key", []) == []
        # A store holds values, not objects: what is done to the list stays with the list.
        d.setdefault("key", []).append(3)
        assert d["key"] == []

    def test_popitem(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_popitem(self)
        d = self._full_mapping({str(number): number for number in range(100)})
        seen = {}
        while d:
            key, value = d.popitem()
            assert key not in seen
            seen[key] = value
        assert seen == {str(number): number for number in range(100)}

    def test_pop(self) -> None:
        mapping_tests.BasicTestMappingProtocol.test_pop(self)
        d = self._full_mapping({"abc": "def"})
        assert d.pop("abc", "default") == "def"
        assert d.pop("abc", "default") == "default"
        assert d.pop("abc", None) is None
        assert d.pop("abc", default=5) == 5
        with pytest.raises(KeyError):
            d.pop("abc")


def test_is_a_mutable_mapping(store: thermae.Store) -> None:
    assert isinstance(store, MutableMapping)


def test_keys_are_str_where_utf8_else_bytes(store: thermae.Store) -> None:
    store.set_many([("name", 1), (b"also text", 2), (b"\xff\x00", 3), ("ä€𝄞", 4), ("nul\0inside", 5)])
    assert sorted(store.keys(), key=str) == sorted(
        ["name", "also text", b"\xff\x00", "ä€𝄞", "nul\0inside"], key=str
    )


def test_a_str_and_its_utf8_bytes_are_one_key(store: thermae.Store) -> None:
    store["ä"] = 1
    store["ä".encode()] = 2
    assert store["ä"] == 2
    assert len(store) == 1


def test_a_missing_key_is_named(store: thermae.Store) -> None:
    with pytest.raises(KeyError) as missing:
        store[b"\xff"]
    assert missing.value.args == (b"\xff",)
    with pytest.raises(KeyError):
        del store["nothing"]


@pytest.mark.parametrize("prefix", ["user:", b"user:"])
def test_views_of_a_prefix(store: thermae.Store, prefix: str | bytes) -> None:
    store.set_many({"user:1": "Ada", "user:2": "Bob", "group:1": "all"})
    assert set(store.keys(prefix=prefix)) == {"user:1", "user:2"}
    assert len(store.keys(prefix=prefix)) == len(store.values(prefix=prefix)) == 2
    assert "user:1" in store.keys(prefix=prefix)
    assert "group:1" not in store.keys(prefix=prefix)
    no_key: object = 7
    assert no_key not in store.keys(prefix=prefix)
    assert dict(store.items(prefix=prefix)) == {"user:1": "Ada", "user:2": "Bob"}
    assert ("user:1", "Ada") in store.items(prefix=prefix)
    assert ("user:1", "Bob") not in store.items(prefix=prefix)
    assert ("group:1", "all") not in store.items(prefix=prefix)
    assert sorted(store.values(prefix=prefix)) == ["Ada", "Bob"]
    assert "Ada" in store.values(prefix=prefix)
    assert "all" not in store.values(prefix=prefix)


def test_views_are_live(store: thermae.Store) -> None:
    keys, items = store.keys(), store.items()
    store["a"] = 1
    assert list(keys) == ["a"]
    assert list(items) == [("a", 1)]
    assert keys | {"b"} == {"a", "b"}
    assert keys & {"a", "b"} == {"a"}


def test_iterating_while_the_store_changes(store: thermae.Store) -> None:
    stays = {f"stays:{number}" for number in range(1000)}
    store.set_many(dict.fromkeys(stays, 0))
    seen: list[str | bytes] = []
    for number, key in enumerate(store):
        seen.append(key)
        store[f"new:{number}"] = number
        store.delete(f"new:{number - 1}")
        if number > 20_000:
            break
    given = [key for key in seen if key in stays]
    assert sorted(given) == sorted(stays)


def test_items_leave_out_what_was_deleted_meanwhile(store: thermae.Store) -> None:
    store.set_many({str(number): number for number in range(100)})
    items: Iterator[tuple[str | bytes, Any]] = iter(store.items())
    next(items)
    store.clear()
    assert list(items) == []


def test_an_exhausted_iterator_stays_exhausted(store: thermae.Store) -> None:
    store["a"] = 1
    keys = iter(store)
    assert list(keys) == ["a"]
    assert list(keys) == []


def test_comparison_is_by_contents(store: thermae.Store, new_store: Callable[[], thermae.Store]) -> None:
    other = new_store()
    store["a"] = other["a"] = [1]
    assert store == other == {"a": [1]}
    other["b"] = 1
    assert store != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(store)


def test_update_in_place(store: thermae.Store) -> None:
    same = store
    same |= {"a": 1}
    same |= [("b", 2), ["c", 3]]
    assert same is store
    assert store == {"a": 1, "b": 2, "c": 3}


def test_a_transaction_is_not_iterable(store: thermae.Store) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(store.transaction())  # type: ignore[call-overload]
