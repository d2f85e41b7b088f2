"""Bad input and limits: each a specific exception that says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
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


def test_the_empty_key_is_a_key_like_any_other(directory_store: thermae.Store, tmp_path: Path) -> None:
    store = directory_store
    store[""] = 1
    assert store[b""] == 1
    assert "" in store
    assert (list(store), list(store.keys(prefix="")), len(store)) == ([""], [""], 1)
    assert store.get_many(["", "nothing"]) == [1, None]
    assert store.incr("") == 2
    assert store.set("", 3, ttl=60)
    assert bytes(store.view("")) == b"3"
    with store.transaction() as tx:
        tx[""] += 1
    store.flush()
    store.snapshot(tmp_path / "copy")
    assert store.pop("") == 4
    assert "" not in store
    assert store.delete("") is False
    thermae.restore(tmp_path / "copy", tmp_path / "restored")
    with thermae.open(tmp_path / "restored") as restored:
        assert restored == {"": 4}
        assert restored.check()["ok"]
    thermae.destroy(tmp_path / "restored")


def test_one_key_is_not_a_batch_of_keys(store: thermae.Store) -> None:
    single: list[Any] = ["abc", b"abc"]
    for keys in single:
        with pytest.raises(thermae.WrongTypeError, match="not one key"):
            store.get_many(keys)
        with pytest.raises(thermae.WrongTypeError, match="not one key"):
            store.delete_many(keys)
    with pytest.raises(thermae.WrongTypeError, match="iterable of keys"):
        store.get_many(5)  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError, match="iterable of pairs"):
        store.set_many(5)  # type: ignore[arg-type]
    with pytest.raises(thermae.WrongTypeError, match="pair"):
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
    with pytest.raises(thermae.ValueTooLargeError, match="hot"):
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


def test_a_path_is_no_place_in_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path joins its slashes, and would name a directory "shm:"."""
    monkeypatch.chdir(tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: thermae.open(Path("shm://name"), hot="16MiB"),
        lambda: thermae.open("shm:/name", hot="16MiB"),
        lambda: thermae.destroy(Path("shm://name")),
        lambda: thermae.restore(tmp_path / "copy", Path("shm://name")),
    ]
    for use in uses:
        with pytest.raises(thermae.InvalidOptionError, match='give "shm://name" as text'):
            use()
    assert os.listdir(tmp_path) == []


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
    with pytest.raises(thermae.NotAStoreError, match="file"):
        thermae.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "something else"


@pytest.mark.parametrize("name", ["store", "notes.txt"])
def test_a_directory_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("something else")
    with pytest.raises(thermae.NotAStoreError, match=name):
        thermae.open(tmp_path / "data")
    # Whoever looks takes the attach lock first, and leaves its file.
    assert set(os.listdir(tmp_path / "data")) - {"lock"} == {name}
    assert (tmp_path / "data" / name).read_text() == "something else"


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


def shared_memory_of(place: Path) -> Path:
    (name,) = [
        memory["name"] for memory in thermae.shared_memory() if memory["location"] == str(place.absolute())
    ]
    return Path("/dev/shm", name)


@pytest.fixture
def closed_store(tmp_path: Path) -> Iterator[Path]:
    """The place of a store that has every file that a store may have, and that nobody has open."""
    place = tmp_path / "data"
    with thermae.open(
        place, hot="16MiB", warm="16MiB", cold="32MiB", placement="shared_memory", durability="everysec"
    ) as store:
        store["key"] = "value"
    yield place
    thermae.destroy(place)


FILES = ["store", "lock", "warm", "cold"]


@pytest.mark.parametrize("name", [*FILES, "control", "hot"])
def test_links_to_files_are_not_followed(closed_store: Path, tmp_path: Path, name: str) -> None:
    path = (closed_store if name in FILES else shared_memory_of(closed_store)) / name
    # On the same file system, where following it would work.
    elsewhere = path.parent.parent / f"thermae-test-{os.getpid()}-{name}"
    path.rename(elsewhere)
    content = elsewhere.stat()
    path.symlink_to(elsewhere)
    try:
        with pytest.raises(thermae.StoreIOError, match="symbolic links are not followed") as refused:
            thermae.open(closed_store)
        assert refused.value.errno == errno.ELOOP
        assert str(path) in str(refused.value)
        assert path.is_symlink()
        assert elsewhere.stat() == content
    finally:
        path.unlink()
        elsewhere.rename(path)
    with thermae.open(closed_store, create=False) as store:
        assert store["key"] == "value"


def test_a_link_to_a_directory_is_not_followed(closed_store: Path, tmp_path: Path) -> None:
    closed_store.rename(tmp_path / "elsewhere")
    closed_store.symlink_to(tmp_path / "elsewhere")
    try:
        with pytest.raises(thermae.NotAStoreError, match="is a link") as refused:
            thermae.open(closed_store)
        assert str(closed_store) in str(refused.value)
        assert closed_store.is_symlink()
    finally:
        closed_store.unlink()
        (tmp_path / "elsewhere").rename(closed_store)
    with thermae.open(closed_store, create=False) as store:
        assert store["key"] == "value"


def test_a_link_in_the_place_of_shared_memory_is_not_followed(closed_store: Path) -> None:
    memory = shared_memory_of(closed_store)
    elsewhere = memory.parent / f"thermae-test-{os.getpid()}-elsewhere"
    memory.rename(elsewhere)
    memory.symlink_to(elsewhere)
    try:
        with pytest.raises(thermae.StorePermissionError, match="is a link") as refused:
            thermae.open(closed_store)
        assert str(memory) in str(refused.value)
    finally:
        memory.unlink()
        elsewhere.rename(memory)
    with thermae.open(closed_store, create=False) as store:
        assert store["key"] == "value"


def test_modes_are_private(closed_store: Path, tmp_path: Path, location: str) -> None:
    """Whatever the process's mask allows."""
    mask = os.umask(0)
    try:
        with thermae.open(closed_store) as store:
            store["another"] = 1
            store.flush()
            store.snapshot(tmp_path / "copy")
        with thermae.open(tmp_path / "made", hot="16MiB", cold="32MiB"), thermae.open(location, hot="16MiB"):
            pass
        thermae.restore(tmp_path / "copy", tmp_path / "restored")
        places = [closed_store, tmp_path / "made", tmp_path / "restored"]
        memory = [shared_memory_of(place) for place in places]
        memory.append(Path(f"/dev/shm/thermae-shm-{os.getuid()}-{location.removeprefix('shm://')}"))
        for place in [*places, tmp_path / "copy", *memory]:
            assert place.stat().st_mode & 0o777 == 0o700, place
            files = [path for path in place.rglob("*") if path.is_file()]
            assert files
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}, place
    finally:
        os.umask(mask)
    for place in (tmp_path / "made", tmp_path / "restored"):
        thermae.destroy(place)


# States.


def test_read_only(directory_store: thermae.Store, tmp_path: Path) -> None:
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
            lambda: reader.decr("a"),
            lambda: reader.compare_and_set("a", 2, reader.version("a")),
            reader.popitem,
            lambda: reader.setdefault("c", 2),
            lambda: reader.update({"a": 1}),
            lambda: reader.set_many({"a": 1}),
            lambda: reader.delete_many(["a"]),
            lambda: reader.get_or_set("c", lambda: 1),
            lambda: reader.transact(lambda tx: tx.set("a", 2)),
            lambda: reader.lock("name").acquire(),
            lambda: reader.check(repair=True),
            lambda: reader.snapshot(tmp_path / "copy"),
            lambda: setattr(reader, "durability", "always"),
            lambda: setattr(reader, "when_full", "error"),
            reader.clear,
        ]
        for number, use in enumerate(uses):
            with pytest.raises(thermae.ReadOnlyStoreError, match="read-only"):
                pytest.fail(f"use {number} answered {use()!r}")
        assert "read-only" in repr(reader)
    assert directory_store == {"a": 1, "b": 2}


def test_use_after_close(store: thermae.Store, tmp_path: Path) -> None:
    store["a"] = 1
    version = store.version("a")
    iterator = iter(store)
    lock = store.lock("name")
    transaction = store.transaction()
    transaction["b"] = 1
    unread = store.transaction()
    memoized = store.memoize()(abs_of)
    store.close()
    uses: dict[str, Callable[[], object]] = {
        "__getitem__": lambda: store["a"],
        "__setitem__": lambda: store.__setitem__("a", 1),
        "__delitem__": lambda: store.__delitem__("a"),
        "__contains__": lambda: "a" in store,
        "__len__": lambda: len(store),
        "__iter__": lambda: list(store),
        "__iter__ begun before": lambda: next(iterator),
        "__eq__": lambda: store == {"a": 1},
        "__ior__": lambda: store.__ior__({"a": 1}),
        "keys": lambda: list(store.keys()),
        "values": lambda: list(store.values()),
        "items": lambda: list(store.items(prefix="a")),
        "get": lambda: store.get("a"),
        "get_with_version": lambda: store.get_with_version("a"),
        "version": lambda: store.version("a"),
        "value_bytes": lambda: store.value_bytes("a"),
        "ttl": lambda: store.ttl("a"),
        "set": lambda: store.set("a", 1),
        "add": lambda: store.add("a", 1),
        "compare_and_set": lambda: store.compare_and_set("a", 1, version),
        "delete": lambda: store.delete("a"),
        "pop": lambda: store.pop("a", None),
        "popitem": store.popitem,
        "setdefault": lambda: store.setdefault("a"),
        "update": lambda: store.update({"a": 1}),
        "touch": lambda: store.touch("a"),
        "incr": lambda: store.incr("a"),
        "decr": lambda: store.decr("a"),
        "get_many": lambda: store.get_many(["a"]),
        "set_many": lambda: store.set_many({"a": 1}),
        "delete_many": lambda: store.delete_many(["a"]),
        "view": lambda: store.view("a"),
        "get_or_set": lambda: store.get_or_set("a", lambda: 1),
        "memoize": lambda: memoized(5),
        "clear": store.clear,
        "flush": store.flush,
        "stats": store.stats,
        "check": store.check,
        "snapshot": lambda: store.snapshot(tmp_path / "copy"),
        "lock": lock.acquire,
        "transact": lambda: store.transact(lambda tx: tx.set("a", 1)),
        "transaction": transaction.commit,
        "transaction that reads": lambda: unread.get("a"),
        "durability": lambda: store.durability,
        "durability set": lambda: setattr(store, "durability", "none"),
        "when_full": lambda: store.when_full,
        "when_full set": lambda: setattr(store, "when_full", "error"),
    }
    for name, use in uses.items():
        with pytest.raises(thermae.StoreClosedError, match=r"open it again|reopen"):
            pytest.fail(f"{name} answered {use()!r}")
    # What it was opened as can still be told.
    told = {
        "close",
        "closed",
        "location",
        "read_only",
        "hot_bytes",
        "warm_bytes",
        "cold_bytes",
        "frame_bytes",
    }
    assert (store.closed, store.hot_bytes) == (True, 16 << 20)
    public = {name for name in dir(store) if not name.startswith("_")}
    assert public - told == {name for name in uses if not name.startswith("_") and " " not in name}
    assert not (tmp_path / "copy").exists()


def abs_of(number: int) -> int:
    return abs(number)


def test_a_lock_that_is_held_when_its_store_closes(store: thermae.Store, location: str) -> None:
    lock = store.lock("name")
    lock.acquire()
    store.close()
    with pytest.raises(thermae.StoreClosedError):
        lock.release()
    with thermae.open(location) as again, again.lock("name", timeout=5) as taken:
        assert taken.held


def test_a_full_store_that_may_not_evict(location: str) -> None:
    value = b"x" * 100_000
    with thermae.open(location, hot="16MiB", when_full="error") as store:

        def fill() -> None:
            for number in range(1000):
                store[f"key:{number}"] = value

        with pytest.raises(thermae.StoreFullError, match=r"evict|delete"):
            fill()
        written = len(store)
        assert 50 < written < 200
        assert store.get_many([f"key:{number}" for number in range(written)]) == [value] * written
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
