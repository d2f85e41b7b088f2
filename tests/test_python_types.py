"""The types that users of a type checker see: mypy reads this file, and the tests run it as well.

`assert_type` fails the check where a type is another one, and a `type: ignore` where nothing is wrong any
more: so this file says what is accepted as what, and what is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
import pytest

import thermae
import thermae.aio
from thermae.reports import CheckReport, RestoreReport, SharedMemory, SnapshotReport, Stats

Key = str | bytes


@dataclasses.dataclass
class Point:
    x: int
    y: int


class TextCodec:
    encoding = 11

    def encode(self, value: object, /) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()


def test_a_store_is_a_mapping(store: thermae.Store) -> None:
    mapping: MutableMapping[str | bytes, Any] = store
    mapping["key"] = 1
    mapping[b"key"] = [1, 2]
    assert_type(store["key"], Any)
    assert_type(len(store), int)
    assert_type("key" in store, bool)
    assert_type(iter(store), Iterator[Key])
    keys: KeysView[Key] = store.keys(prefix="k")
    items: ItemsView[Key, Any] = store.items()
    view_of_values: ValuesView[Any] = store.values()
    assert (list(keys), list(items), list(view_of_values)) == (["key"], [("key", [1, 2])], [[1, 2]])
    assert_type(store.popitem(), tuple[Key, Any])
    store |= {"a": 1}
    assert_type(store, thermae.Store)


def test_verbs(store: thermae.Store) -> None:
    assert_type(store.set("key", 1, ttl=60), bool)
    assert_type(store.set("key", 1, 0.5, if_absent=True), bool)
    assert_type(store.add("key", 1), bool)
    assert_type(store.compare_and_set("key", 1, store.version("key")), bool)
    assert_type(store.get_with_version("key"), tuple[Any, int])
    assert_type(store.version("key"), int)
    assert_type(store.value_bytes("key"), int | None)
    assert_type(store.ttl("key"), float | None)
    assert_type(store.touch("key", 60), bool)
    assert_type(store.incr("hits"), int)
    assert_type(store.decr("hits", 2, default=None), int)
    assert_type(store.get_many(["key", b"key"]), list[Any])
    assert_type(store.delete_many(["key"]), int)
    assert_type(store.delete("key"), bool)
    assert_type(store.pop("hits"), Any)


def test_what_a_value_is_decoded_as(store: thermae.Store) -> None:
    store["point"] = Point(1, 2)
    assert_type(store.get("point"), Any)
    point = store.get("point", as_type=Point)
    assert_type(point, Point | None)
    assert_type(store.get("nothing", 0, as_type=Point), Point | int)
    assert point == Point(1, 2)
    assert_type(store.get_or_set("number", lambda: 5, as_type=int), int)


def test_codecs(store: thermae.Store, location: str) -> None:
    codec: thermae.Codec = TextCodec()
    store.set("complex", 1j, codec=codec)
    assert store.get("complex", codec=TextCodec()) == "1j"
    store.set("complex", 1j, codec="pickle")
    with thermae.open(location, codec="pickle") as again:
        assert again["complex"] == 1j


def test_memoized_functions_keep_their_types(store: thermae.Store) -> None:
    @store.memoize(ttl=60)
    def times(number: int, by: float = 2.0) -> str:
        return str(number * by)

    assert_type(times(3), str)
    assert_type(times(number=3, by=2.5), str)
    assert_type(times.key(3), str)
    assert_type(times.forget(3), bool)
    assert_type(times.forget_all(), int)


def test_transactions_and_locks(store: thermae.Store) -> None:
    with store.transaction() as tx:
        assert_type(tx, thermae.Transaction)
        tx["a"] = 1
        assert_type(tx["a"], Any)
        assert_type(tx.delete("a"), bool)
    assert_type(store.transact(lambda tx: "a" in tx), bool)
    with store.lock("name", timeout=1) as lock:
        assert_type(lock, thermae.Lock)
        assert_type(lock.held, bool)


def test_opening(location: str, tmp_path: Path) -> None:
    with thermae.open(location, hot="16MiB", when_full="error") as store:
        assert_type(store, thermae.Store)
        assert_type(store.durability, Literal["none", "everysec", "always"])
        assert_type(store.when_full, Literal["evict", "error"])
        assert_type(store.hot_bytes, int)
        assert_type(store.closed, bool)
    options: thermae.OpenOptions = {"hot": 16 << 20, "cold": "16MiB", "durability": "none", "create": True}
    with thermae.open(tmp_path / "data", **options) as store:
        assert store.cold_bytes == 16 << 20
    thermae.destroy(tmp_path / "data")


def test_reports(directory_store: thermae.Store, tmp_path: Path) -> None:
    assert_type(directory_store.stats(), Stats)
    assert_type(directory_store.stats()["item_bytes_mean"], int | None)
    report = directory_store.check()
    assert_type(report, CheckReport)
    assert_type([problem["place"] for problem in report["problems"]], list[str])
    assert_type(directory_store.snapshot(tmp_path / "copy"), SnapshotReport)
    assert_type(thermae.restore(tmp_path / "copy", tmp_path / "restored", cold="32MiB"), RestoreReport)
    thermae.destroy(tmp_path / "restored")
    assert_type(thermae.shared_memory(), list[SharedMemory])
    assert_type(thermae.remove_orphaned_memory([]), list[SharedMemory])


def test_asyncio(location: str) -> None:
    async def main() -> None:
        async with await thermae.aio.open(location, hot="16MiB") as store:
            assert_type(store, thermae.aio.Store)
            assert_type(store.sync, thermae.Store)
            assert_type(await store.set("key", 1), bool)
            assert_type(await store.get_many(["key"]), list[Any])
            assert_type(await store.length(), int)
            assert_type(await store.contains("key"), bool)
            assert_type([key async for key in store.keys(prefix="k")], list[Key])
            assert_type(await store.transact(lambda tx: 5), int)
            assert_type(await store.stats(), Stats)
            assert_type(await store.check(), CheckReport)

            @store.memoize(ttl=60)
            async def times(number: int) -> str:
                return str(number)

            assert_type(await times(3), str)
            async with store.lock("name") as lock:
                assert_type(lock.held, bool)

    asyncio.run(main())


def test_what_is_no_key_or_argument_is_refused(store: thermae.Store, location: str) -> None:
    """By the type checker, and by the store as well."""
    with pytest.raises(thermae.WrongTypeError):
        store[1] = 1  # type: ignore[index]
    with pytest.raises(thermae.WrongTypeError):
        store.set("key", 1, ttl="60")  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError):
        store.incr("key", 1.5)  # type: ignore[arg-type]
    with pytest.raises(thermae.InvalidOptionError):
        thermae.open(location, hott="16MiB")  # type: ignore[call-arg]
    with pytest.raises(thermae.InvalidOptionError):
        thermae.open(location, durability="sometimes")  # type: ignore[arg-type]
    with pytest.raises(thermae.InvalidOptionError):
        store.when_full = "panic"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        store.get("key", ttl=1)  # type: ignore[call-overload]

    @store.memoize()
    def times(number: int) -> int:
        return number

    with pytest.raises(TypeError):
        times()  # type: ignore[call-arg]
    with pytest.raises(thermae.WrongTypeError):
        times("text")  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        store.stats()["wibble"]  # type: ignore[typeddict-item]


def test_arrays_are_values(store: thermae.Store) -> None:
    array = np.arange(3)
    store["array"] = array
    assert_type(store["array"], Any)
    assert store["array"].tolist() == [0, 1, 2]
