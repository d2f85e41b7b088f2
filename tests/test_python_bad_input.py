"""Bad input and limits: each a specific exception that says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import thermae
from thermae import _thermae

# Keys.


@pytest.mark.parametrize("key", [1, 1.5, None, (), ["a"], bytearray(b"a"), memoryview(b"a"), object()])
def test_keys_of_another_type(store: thermae.Store, key: Any) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store[key],
        lambda: store.__setitem__(key, 1),
        lambda: store.__delitem__(key),
        lambda: key in store,
        lambda: store.get(key),
        lambda: store.get_with_version(key),
        lambda: store.version(key),
        lambda: store.value_bytes(key),
        lambda: store.set(key, 1),
        lambda: store.add(key, 1),
        lambda: store.compare_and_set(key, 1, 0),
        lambda: store.delete(key),
        lambda: store.pop(key, None),
        lambda: store.touch(key, 1),
        lambda: store.ttl(key),
        lambda: store.incr(key),
        lambda: store.decr(key),
        lambda: store.view(key),
        lambda: store.get_many([key]),
        lambda: store.set_many([(key, 1)]),
        lambda: store.delete_many([key]),
        lambda: store.get_or_set(key, lambda: 1),
        lambda: list(store.keys(prefix=key)),
        lambda: store.lock(key).acquire(),
    ]
    for use in uses:
        with pytest.raises(thermae.WrongTypeError, match="must be str or bytes") as refused:
            use()
        assert isinstance(refused.value, TypeError)
    assert len(store) == 0


def test_keys_that_are_too_long(store: thermae.Store) -> None:
    longest = "k" * thermae.KEY_BYTES_MAX
    assert thermae.KEY_BYTES_MAX == 65_535
    store[longest] = 1
    assert store[longest] == 1
    assert list(store) == [longest]
    for key in (longest + "k", longest.encode() + b"k", "ä" * 32_768):
        # No store has it, so reading finds nothing.
        assert key not in store
        assert store.get(key) is None
        for use in (
            lambda key=key: store.__setitem__(key, 1),
            lambda key=key: store.set_many({key: 1}),
            lambda key=key: store.incr(key),
        ):
            with pytest.raises(thermae.InvalidKeyError, match=r"65,?53[56]") as refused:
                use()
            assert isinstance(refused.value, ValueError)
    with pytest.raises(thermae.InvalidKeyError, match="surrogate"):
        store["\ud800"] = 1


def test_the_empty_key_has_one_answer(store: thermae.Store) -> None:
    """Either it is a key like any other, or every verb refuses it alike."""
    try:
        store[""] = 1
    except thermae.InvalidKeyError:
        for use in (lambda: store[""], lambda: store.get(b""), lambda: store.set_many({"": 1})):
            with pytest.raises(thermae.InvalidKeyError):
                use()
    else:
        assert store[b""] == 1
        assert list(store) == [""]
        assert store.delete("") is True


def test_one_key_is_not_a_batch_of_keys(store: thermae.Store) -> None:
    for keys in ("abc", b"abc"):
        with pytest.raises(thermae.WrongTypeError, match="not one key"):
            store.get_many(keys)
        with pytest.raises(thermae.WrongTypeError, match="not one key"):
            store.delete_many(keys)
    with pytest.raises(thermae.WrongTypeError, match="iterable of keys"):
        store.get_many(5)  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError, match="iterable of pairs"):
        store.set_many(5)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        store.set_many(["abc"])  # type: ignore[list-item]

    def broken() -> Any:
        yield "a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.get_many(broken())


# Values.


def test_values_of_every_size(store: thermae.Store) -> None:
    for size in (0, 1, 7, 8, 9, 255, 4096, 65_535, 65_536, 65_537, 262_144, 1_048_576, 3_000_001):
        value = os.urandom(size)
        store["key"] = value
        assert store["key"] == value
        assert bytes(store.view("key")) == value
        assert store.value_bytes("key") == size
    assert thermae.VALUE_BYTES_MAX == 2**32 - 1


def test_a_value_larger_than_the_tiers(store: thermae.Store) -> None:
    store["small"] = 1
    with pytest.raises((thermae.ValueTooLargeError, thermae.StoreFullError)):
        store["key"] = bytes(64 << 20)
    assert "key" not in store
    assert store.get("small", 1) == 1
    store["again"] = 2
    assert store["again"] == 2


def test_a_value_above_the_limit(store: thermae.Store) -> None:
    try:
        value = bytes(2**32)
    except MemoryError:
        pytest.skip("this machine has no 4 GiB to spare")
    with pytest.raises(thermae.ValueTooLargeError) as refused:
        store["key"] = value
    assert isinstance(refused.value, ValueError)


# Arguments.


def test_arguments_of_another_type(store: thermae.Store) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store.incr("key", 1.5),  # type: ignore[arg-type]
        lambda: store.incr("key", True),
        lambda: store.decr("key", "1"),  # type: ignore[arg-type]
        lambda: store.incr("key", default="0"),  # type: ignore[arg-type]
        lambda: store.set("key", 1, if_version="1"),  # type: ignore[arg-type]
        lambda: store.compare_and_set("key", 1, None),  # type: ignore[arg-type]
        lambda: store.set("key", 1, if_absent="no"),  # type: ignore[arg-type]
        lambda: store.set("key", 1, keep_ttl=1),  # type: ignore[arg-type]
        lambda: store.set("key", 1, ttl=True),
        lambda: store.set("key", 1, ttl="60"),  # type: ignore[arg-type]
        lambda: store.touch("key", [60]),  # type: ignore[arg-type]
        lambda: store.set_many(["ab"]),  # type: ignore[list-item]
        lambda: store.lock("name", timeout="1").acquire(),  # type: ignore[arg-type]
        lambda: store.snapshot(5),  # type: ignore[arg-type]
        lambda: thermae.restore(5, "data"),  # type: ignore[arg-type]
        lambda: thermae.restore(b"backup", "data"),  # type: ignore[arg-type]
    ]
    for number, use in enumerate(uses):
        with pytest.raises(thermae.WrongTypeError) as refused:
            use()
        assert isinstance(refused.value, TypeError), number
    assert len(store) == 0


def test_arguments_out_of_range(store: thermae.Store) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store.set_many([("key", 1, 60)]),  # type: ignore[list-item]
        lambda: store.set_many([["key"]]),  # type: ignore[list-item]
        lambda: store.set("key", 1, if_version=-1),
        lambda: store.compare_and_set("key", 1, 2**64),
        lambda: store.set("key", 1, ttl=0),
        lambda: store.set("key", 1, ttl=-1),
        lambda: store.set("key", 1, ttl=float("nan")),
        lambda: store.lock("name", timeout=-1).acquire(),
    ]
    for use in uses:
        with pytest.raises(thermae.InvalidOptionError) as refused:
            use()
        assert isinstance(refused.value, ValueError)
    counts: list[Callable[[], object]] = [
        lambda: store.incr("key", 2**63),
        lambda: store.decr("key", -(2**63) - 1),
        lambda: store.incr("key", default=-(2**63) - 1),
    ]
    for count in counts:
        with pytest.raises(thermae.CounterOverflowError, match="64"):
            count()
    assert len(store) == 0


def test_numbers_of_numpy_count(store: thermae.Store) -> None:
    np = pytest.importorskip("numpy")
    assert store.incr("key", np.int64(2), default=np.int8(1)) == 3
    assert store.compare_and_set("key", 4, np.uint64(store.version("key")))
    assert store.set("key", 5, ttl=np.float32(60))


# Options.


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"hott": "1GiB"}, "did you mean 'hot'"),
        ({"wibble": 1}, "use any of"),
        ({"hot": "12 parsecs"}, "12 parsecs"),
        ({"hot": "-1"}, "-1"),
        ({"hot": -1}, "hot = -1"),
        ({"hot": 2**64}, "hot"),
        ({"hot": ""}, "512MiB"),
        ({"hot": "1KiB"}, "too small"),
        ({"cold": "parsec"}, "parsec"),
        ({"frame": "3MiB"}, "1 MiB or 8 MiB"),
        ({"frame": "64GiB"}, "frame"),
        ({"durability": "sometimes"}, "everysec"),
        ({"when_full": "panic"}, "evict"),
        ({"placement": "moon"}, "shared_memory"),
        ({"participants_max": 0}, "participants_max"),
        ({"participants_max": "many"}, "participants_max"),
        ({"codec": "marshal"}, "msgpack"),
        ({"durability": "always"}, "cold tier"),
        ({"cold": "1GiB"}, "shared memory"),
    ],
)
def test_options_that_are_refused(location: str, options: dict[str, Any], part: str) -> None:
    with pytest.raises(thermae.InvalidOptionError) as refused:
        thermae.open(location, **options)
    assert part in str(refused.value)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"hot": 1.5},
        {"hot": [1]},
        {"hot": True},
        {"durability": 1},
        {"read_only": "yes"},
        {"when_full": b"evict"},
    ],
)
def test_options_of_another_type(location: str, options: dict[str, Any]) -> None:
    with pytest.raises(thermae.WrongTypeError):
        thermae.open(location, **options)


def test_sizes_are_read_as_written() -> None:
    assert _thermae.parse_size("512MiB") == 512 << 20
    assert _thermae.parse_size(4096) == 4096


@pytest.mark.parametrize("place", ["", "shm://", "shm://a/b", "redis://host", "a\0b"])
def test_locations_that_are_none(place: str) -> None:
    with pytest.raises(thermae.InvalidOptionError):
        thermae.open(place)


@pytest.mark.parametrize("place", [5, None, b"data", ["data"]])
def test_locations_of_another_type(place: Any) -> None:
    with pytest.raises(thermae.WrongTypeError, match="location"):
        thermae.open(place)


def test_a_layout_that_differs_from_the_stores(store: thermae.Store, location: str) -> None:
    with pytest.raises(thermae.InvalidOptionError, match="16MiB"):
        thermae.open(location, hot="32MiB")
    with thermae.open(location, hot="16MiB", when_full="error") as same:
        assert same.when_full == "error"
    with pytest.raises(thermae.InvalidOptionError):
        store.durability = "sometimes"  # type: ignore[assignment]
    with pytest.raises(thermae.WrongTypeError):
        store.when_full = 5  # type: ignore[assignment]


# Places.


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else")
    with pytest.raises(thermae.ThermaeError, match="file"):
        thermae.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "something else"


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "store").write_text("something else")
    with pytest.raises((thermae.NotAStoreError, thermae.CorruptStoreError, thermae.StorePermissionError)):
        thermae.open(tmp_path / "data")
    assert (tmp_path / "data" / "store").read_text() == "something else"


def test_no_store_where_one_must_be(tmp_path: Path, location: str) -> None:
    for place in (tmp_path / "nothing", location):
        with pytest.raises(thermae.NotAStoreError):
            thermae.open(place, create=False)
        with pytest.raises(thermae.NotAStoreError):
            thermae.destroy(place)
    assert not (tmp_path / "nothing").exists()


def test_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                # Modes do not hold the superuser back.
                os.setuid(65534)
            with pytest.raises(thermae.StorePermissionError) as refused:
                thermae.open(tmp_path / "data")
            assert isinstance(refused.value, PermissionError)
            assert str(tmp_path) in str(refused.value)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_a_store_of_another_user(tmp_path: Path) -> None:
    with thermae.open(tmp_path / "data", hot="16MiB", cold="32MiB") as store:
        store["a"] = 1
    os.chown(tmp_path / "data", 12345, 12345)
    with pytest.raises(thermae.StorePermissionError) as refused:
        thermae.open(tmp_path / "data")
    assert isinstance(refused.value, PermissionError)
    assert "data" in str(refused.value)
    os.chown(tmp_path / "data", 0, 0)
    thermae.destroy(tmp_path / "data")


def test_links_are_not_followed(tmp_path: Path) -> None:
    with thermae.open(tmp_path / "data", hot="16MiB", cold="32MiB"):
        pass
    (tmp_path / "data" / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(thermae.ThermaeError):
        thermae.open(tmp_path / "data")
    (tmp_path / "data" / "store").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "data" / "store")
    thermae.destroy(tmp_path / "data")


def test_modes_are_private(directory_store: thermae.Store) -> None:
    place = Path(directory_store.location)
    assert place.stat().st_mode & 0o777 == 0o700
    files = [path for path in place.rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


# States.


def test_read_only(directory_store: thermae.Store) -> None:
    directory_store["a"] = 1
    with thermae.open(directory_store.location, read_only=True) as reader:
        assert reader["a"] == 1
        directory_store["b"] = 2
        assert reader["b"] == 2
        assert sorted(reader) == ["a", "b"]
        assert bytes(reader.view("a")) == b"1"
        uses: list[Callable[[], object]] = [
            lambda: reader.__setitem__("a", 2),
            lambda: reader.__delitem__("a"),
            lambda: reader.set("a", 2),
            lambda: reader.add("c", 2),
            lambda: reader.delete("a"),
            lambda: reader.pop("a"),
            lambda: reader.touch("a", 1),
            lambda: reader.incr("a"),
            lambda: reader.set_many({"a": 1}),
            lambda: reader.delete_many(["a"]),
            reader.clear,
        ]
        for use in uses:
            with pytest.raises(thermae.ReadOnlyStoreError):
                use()
        assert "read-only" in repr(reader)
    assert directory_store == {"a": 1, "b": 2}


def test_use_after_close(store: thermae.Store) -> None:
    store["a"] = 1
    iterator = iter(store)
    lock = store.lock("name")
    transaction = store.transaction()
    transaction["b"] = 1
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: store["a"],
        lambda: store.get("a"),
        lambda: store.__setitem__("a", 1),
        lambda: store.__delitem__("a"),
        lambda: "a" in store,
        lambda: len(store),
        lambda: list(store),
        lambda: next(iterator),
        lambda: store.get_many(["a"]),
        lambda: store.set_many({"a": 1}),
        lambda: store.delete_many(["a"]),
        lambda: store.incr("a"),
        lambda: store.pop("a"),
        lambda: store.touch("a"),
        lambda: store.ttl("a"),
        lambda: store.view("a"),
        lambda: store.get_or_set("a", lambda: 1),
        store.clear,
        store.flush,
        store.check,
        lock.acquire,
        transaction.commit,
    ]
    for use in uses:
        with pytest.raises(thermae.StoreClosedError, match=r"open it again|reopen"):
            use()


def test_a_full_store_that_may_not_evict(location: str) -> None:
    with thermae.open(location, hot="16MiB", when_full="error") as store:
        written = 0
        full = None
        while full is None and written < 1000:
            try:
                store[f"key:{written}"] = b"x" * 100_000
                written += 1
            except thermae.StoreFullError as error:
                full = str(error)
        assert full is not None
        assert "evict" in full or "delete" in full
        assert written > 50
        assert all(value == b"x" * 100_000 for value in store.get_many([f"key:{n}" for n in range(written)]))
        assert store.delete("key:0") is True
        assert "key:0" not in store


def test_a_full_store_that_evicts(store: thermae.Store) -> None:
    for number in range(1000):
        store[f"key:{number}"] = b"x" * 100_000
    assert 0 < len(store) < 1000
    assert store["key:999"] == b"x" * 100_000


def test_a_store_in_use_is_not_destroyed(store: thermae.Store, location: str) -> None:
    store["a"] = 1
    with pytest.raises(thermae.StoreInUseError):
        thermae.destroy(location)
    assert store["a"] == 1
