"""The cache verbs, one capability after the other."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest

import thermae


def test_get_set_delete(store: thermae.Store) -> None:
    assert store.get("key") is None
    assert store.get("key", 5) == 5
    assert store.get("key", default="x") == "x"
    assert store.set("key", "value") is True
    assert store.get("key") == "value"
    assert store.delete("key") is True
    assert store.delete("key") is False


def test_set_on_conditions(store: thermae.Store) -> None:
    assert store.set("key", 1, if_present=True) is False
    assert store.set("key", 1, if_absent=True) is True
    assert store.set("key", 2, if_absent=True) is False
    assert store.set("key", 3, if_present=True) is True
    version = store.version("key")
    assert store.set("key", 4, if_version=version + 1) is False
    assert store.set("key", 5, if_version=version) is True
    assert store.set("key", 6, if_version=version) is False
    assert store.set("other", 7, if_version=0) is True
    assert (store["key"], store["other"]) == (5, 7)


def test_conditions_exclude_each_other(store: thermae.Store) -> None:
    with pytest.raises(thermae.InvalidOptionError, match="exclude each other"):
        store.set("key", 1, if_absent=True, if_present=True)
    with pytest.raises(thermae.InvalidOptionError, match="exclude each other"):
        store.set("key", 1, ttl=1, keep_ttl=True)


def test_add(store: thermae.Store) -> None:
    assert store.add("key", 1, ttl=60) is True
    assert store.add("key", 2) is False
    assert store["key"] == 1
    assert store.ttl("key") == pytest.approx(60, abs=2)


def test_versions_and_compare_and_set(store: thermae.Store) -> None:
    assert store.get_with_version("key", "none") == ("none", 0)
    assert store.version("key") == 0
    assert store.compare_and_set("key", "first", 0) is True
    assert store.compare_and_set("key", "again", 0) is False
    value, version = store.get_with_version("key")
    assert value == "first"
    assert version == store.version("key") > 0
    assert store.compare_and_set("key", "second", version, ttl=60) is True
    assert store.compare_and_set("key", "third", version) is False
    assert store["key"] == "second"
    assert store.ttl("key") == pytest.approx(60, abs=2)


def test_pop(store: thermae.Store) -> None:
    store["key"] = {"a": 1}
    assert store.pop("key") == {"a": 1}
    with pytest.raises(KeyError):
        store.pop("key")
    assert store.pop("key", None) is None
    assert store.pop("key", default=1) == 1


def test_what_cannot_be_read_is_not_popped(store: thermae.Store) -> None:
    """Popping once deleted the value first, and then raised."""
    store["key"] = "text"
    with pytest.raises(thermae.WrongTypeError):
        store.pop("key", as_type=int)
    with pytest.raises(thermae.WrongTypeError):
        store.pop("key", None, as_type=int)
    assert store["key"] == "text"
    store.clear()
    store.set("pickled", 1j, ttl=60, codec="pickle")
    with pytest.raises(thermae.WrongTypeError, match='codec="pickle"'):
        store.pop("pickled")
    with pytest.raises(thermae.WrongTypeError, match='codec="pickle"'):
        store.popitem()
    assert store.ttl("pickled") == pytest.approx(60, abs=2)
    assert store.pop("pickled", codec="pickle") == 1j
    assert len(store) == 0


def test_a_value_that_changes_while_it_is_popped_is_read_again(store: thermae.Store) -> None:
    class Changing:
        encoding = 42
        decoded = 0

        def encode(self, value: object, /) -> bytes:
            return str(value).encode()

        def decode(self, data: bytes, /) -> str:
            self.decoded += 1
            if self.decoded < 3:
                # As another process might, between the reading and the deleting.
                store.set("key", [self.decoded], codec=self)
            return data.decode()

    codec = Changing()
    store.set("key", [0], codec=codec)
    assert store.pop("key", codec=codec) == "[2]"
    assert codec.decoded == 3
    assert "key" not in store


def test_each_item_is_popped_by_one_caller(store: thermae.Store) -> None:
    store.set_many({str(number): number for number in range(500)})
    popped: list[int] = []

    def pop_all() -> None:
        for number in range(500):
            value = store.pop(str(number), None)
            if value is not None:
                popped.append(value)

    threads = [threading.Thread(target=pop_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(popped) == list(range(500))


def test_counters(store: thermae.Store) -> None:
    assert store.incr("hits") == 1
    assert store.incr("hits", 5) == 6
    assert store.decr("hits", 2) == 4
    assert store["hits"] == 4
    assert store.incr("from", by=1, default=10) == 11
    assert store.incr("hits", by=-10) == -6
    with pytest.raises(KeyError):
        store.incr("missing", default=None)
    assert "missing" not in store
    store["set"] = 41
    assert store.incr("set") == 42
    assert store.incr("expiring", ttl=60) == 1
    assert store.ttl("expiring") == pytest.approx(60, abs=2)


def test_a_counter_keeps_its_lifetime(store: thermae.Store) -> None:
    store.set("hits", 1, ttl=60)
    store.incr("hits")
    assert store.ttl("hits") == pytest.approx(60, abs=2)


def test_counters_end_at_64_bits(store: thermae.Store) -> None:
    store["counter"] = 2**63 - 1
    with pytest.raises(thermae.CounterOverflowError):
        store.incr("counter")
    with pytest.raises(OverflowError):
        store.incr("counter", 1)
    assert store["counter"] == 2**63 - 1
    with pytest.raises(OverflowError):
        store.incr("counter", 2**63)
    with pytest.raises(thermae.InvalidOptionError, match="smaller step"):
        store.decr("counter", -(2**63))


@pytest.mark.parametrize("value", ["text", 1.5, [1], None])
def test_only_integers_count(store: thermae.Store, value: object) -> None:
    store["value"] = value
    with pytest.raises(thermae.WrongTypeError):
        store.incr("value")
    assert store["value"] == value


def test_batches(store: thermae.Store) -> None:
    items = {f"key:{number}": number for number in range(5000)}
    store.set_many(items)
    assert len(store) == 5000
    assert store.get_many(list(items)) == list(items.values())
    assert store.get_many(["key:1", "nothing", b"key:2"], default="-") == [1, "-", 2]
    assert store.get_many([]) == []
    assert store.delete_many(["key:1", "key:2", "nothing", "key:1"]) == 2
    assert store.delete_many(key for key in items) == 4998
    assert store.delete_many([]) == 0
    assert len(store) == 0


def test_batches_take_any_iterable(store: thermae.Store) -> None:
    store.set_many((f"{number}", [number]) for number in range(3000))
    assert store.get_many(str(number) for number in range(3)) == [[0], [1], [2]]
    assert store.get_many({"0": None, "1": None}) == [[0], [1]]
    store.set_many([])
    store.set_many({})
    mixed: dict[str | bytes, int] = {"a": 1, b"b": 2}
    store.set_many(mixed.items(), ttl=60)
    assert store.ttl("b") == pytest.approx(60, abs=2)


def test_a_batch_of_every_kind_of_value(store: thermae.Store) -> None:
    values = [b"x" * 100_000, "text", "ä" * 1000, 1, 10**40, 1.5, True, None, [1, {"a": None}], b"", ""]
    store.set_many({str(number): value for number, value in enumerate(values)})
    read = store.get_many([str(number) for number in range(len(values))])
    assert read == values
    assert [type(value) for value in read] == [type(value) for value in values]


def test_clear(store: thermae.Store) -> None:
    store.set_many({"a": 1, "b": 2})
    store.clear()
    assert list(store) == []
    store.clear()


# Lifetimes.


def test_ttl(store: thermae.Store) -> None:
    store["for ever"] = 1
    assert store.ttl("for ever") is None
    store.set("soon", 1, ttl=0.2)
    left = store.ttl("soon")
    assert left is not None
    assert 0 < left <= 0.2
    with pytest.raises(KeyError):
        store.ttl("nothing")
    time.sleep(0.25)
    assert "soon" not in store
    assert store.get("soon") is None
    assert list(store) == ["for ever"]
    assert len(store) == 1
    assert store.get_many(["soon", "for ever"]) == [None, 1]
    with pytest.raises(KeyError):
        store.ttl("soon")
    assert store.add("soon", 2) is True


def test_touch(store: thermae.Store) -> None:
    store.set("key", 1, ttl=60)
    assert store.touch("key", 3600) is True
    assert store.ttl("key") == pytest.approx(3600, abs=2)
    assert store.touch("key") is True
    assert store.ttl("key") is None
    assert store.touch("nothing", 1) is False


def test_setting_again_forgets_the_lifetime_unless_kept(store: thermae.Store) -> None:
    store.set("key", 1, ttl=60)
    store.set("key", 2, keep_ttl=True)
    assert store.ttl("key") == pytest.approx(60, abs=2)
    store["key"] = 3
    assert store.ttl("key") is None
    store.set("new", 1, keep_ttl=True)
    assert store.ttl("new") is None


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, -0.001, 1e300])
def test_lifetimes_that_are_none(store: thermae.Store, ttl: float) -> None:
    for call in (
        lambda: store.set("key", 1, ttl=ttl),
        lambda: store.add("key", 1, ttl),
        lambda: store.set_many({"key": 1}, ttl=ttl),
        lambda: store.touch("key", ttl),
        lambda: store.incr("key", ttl=ttl),
        lambda: store.compare_and_set("key", 1, 0, ttl),
    ):
        with pytest.raises(thermae.InvalidOptionError, match="ttl"):
            call()
    assert "key" not in store
    with pytest.raises(thermae.WrongTypeError, match="seconds"):
        store.set("key", 1, ttl="soon")  # type: ignore[arg-type]


def test_a_very_short_lifetime_is_at_least_a_millisecond(store: thermae.Store) -> None:
    assert store.set("key", 1, ttl=1e-9) is True
    time.sleep(0.01)
    assert "key" not in store


# The store as a whole.


def test_what_it_was_opened_as(tmp_path: Path) -> None:
    with thermae.open(tmp_path / "data", hot="16MiB", cold="32MiB", durability="none") as store:
        assert store.location == str(tmp_path / "data")
        assert (store.hot_bytes, store.warm_bytes) == (16 << 20, 0)
        assert (store.cold_bytes, store.frame_bytes) == (32 << 20, 1 << 20)
        assert (store.durability, store.when_full, store.read_only) == ("none", "evict", False)
        store.durability = "always"
        store.when_full = "error"
        assert (store.durability, store.when_full) == ("always", "error")
        store["a"] = 1
        store.flush()
        assert "open" in repr(store)
    assert store.closed
    assert "closed" in repr(store)
    thermae.destroy(tmp_path / "data")


def test_reports_are_plain_mappings(directory_store: thermae.Store, tmp_path: Path) -> None:
    directory_store["a"] = 1
    stats = directory_store.stats()
    assert stats
    assert all(isinstance(name, str) for name in stats)
    assert isinstance(directory_store.check(), dict)
    assert isinstance(directory_store.snapshot(tmp_path / "copy"), dict)
    assert isinstance(thermae.restore(tmp_path / "copy", tmp_path / "restored"), dict)
    with thermae.open(tmp_path / "restored", create=False) as restored:
        assert restored == {"a": 1}
    thermae.destroy(tmp_path / "restored")
    thermae.restore(tmp_path / "copy", tmp_path / "larger", hot="32MiB", cold="64MiB")
    with thermae.open(tmp_path / "larger", create=False) as larger:
        assert larger == {"a": 1}
        assert larger.hot_bytes == 32 << 20
    thermae.destroy(tmp_path / "larger")
    with pytest.raises(thermae.NotAStoreError):
        thermae.restore(tmp_path / "nothing", tmp_path / "restored")
    with pytest.raises(thermae.InvalidOptionError, match="hott"):
        thermae.restore(tmp_path / "copy", tmp_path / "restored", hott=1)  # type: ignore[call-arg]


def test_two_handles_are_one_store(store: thermae.Store, location: str) -> None:
    with thermae.open(location) as other:
        other["a"] = 1
        assert store["a"] == 1
    assert store["a"] == 1


def test_closing_twice_is_closing_once(store: thermae.Store) -> None:
    store.close()
    store.close()
    assert store.closed
