"""Values come back equal and of their own type; nothing is guessed, and nothing is pickled unless named."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import pickle
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

import thermae


def written_and_read(store: thermae.Store, value: Any, **named: Any) -> Any:
    store.set("key", value, **named)
    return store.get("key", **named)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"bytes \x00\xff",
        b"x" * 300_000,
        "",
        "text",
        "ä€𝄞\0",
        "x" * 255,
        "x" * 256,
        "x" * 257,
        "ä" * 100_000,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        -(2**200),
        10**1000,
        0.0,
        1.5,
        -2.2250738585072014e-308,
        5e-324,
        1.7976931348623157e308,
        1e16,
        0.1,
        math.inf,
        -math.inf,
        True,
        False,
        None,
        [],
        {},
        [1, "a", b"b", 2.5, None, True, [], {}],
        {"a": {"b": [1]}, 1: 2},
        "007",
        "1.0",
        "True",
    ],
)
def test_round_trip(store: thermae.Store, value: Any) -> None:
    read = written_and_read(store, value)
    assert read == value
    assert type(read) is type(value)
    assert store.get_many(["key"]) == [value]
    assert store.pop("key") == value


def test_floats_that_equal_nothing_or_zero(store: thermae.Store) -> None:
    assert math.isnan(written_and_read(store, math.nan))
    assert math.copysign(1, written_and_read(store, -0.0)) == -1


def test_scalars_are_stored_as_their_text(store: thermae.Store) -> None:
    for value, stored in [("ä", "ä".encode()), (-12, b"-12"), (1.5, b"1.5"), (True, b"1"), (None, b"")]:
        store["key"] = value
        assert bytes(store.view("key")) == stored


def test_buffers_are_stored_as_bytes(store: thermae.Store) -> None:
    assert written_and_read(store, bytearray(b"abc")) == b"abc"
    assert written_and_read(store, memoryview(b"abcdef")[::2]) == b"ace"
    store["copy"] = store.view("key")
    assert store["copy"] == b"ace"


def test_subclasses_of_scalars_are_stored_as_what_they_derive_from(store: thermae.Store) -> None:
    class Name(str):
        __slots__ = ()

    class Number(int):
        pass

    class Level(enum.IntEnum):
        HIGH = 3

    for value, read in [(Name("ä"), "ä"), (Number(7), 7), (Level.HIGH, 3)]:
        assert written_and_read(store, value) == read
        assert type(store["key"]) is type(read)


def test_what_messagepack_turns_into_plain_values(store: thermae.Store) -> None:
    assert written_and_read(store, (1, (2, 3))) == [1, [2, 3]]
    now = datetime.datetime.now(datetime.UTC)
    assert store.set("key", now)
    assert store.get("key", as_type=datetime.datetime) == now


@dataclasses.dataclass
class Point:
    x: int
    y: int


class User(msgspec.Struct):
    name: str
    tags: set[str]


def test_reading_as_a_type(store: thermae.Store) -> None:
    store["point"] = Point(1, 2)
    assert store["point"] == {"x": 1, "y": 2}
    assert store.get("point", as_type=Point) == Point(1, 2)
    store["user"] = User("Ada", {"a", "b"})
    assert store.get("user", as_type=User) == User("Ada", {"a", "b"})
    store["pair"] = (1, "a")
    assert store.get("pair", as_type=tuple[int, str]) == (1, "a")
    assert store.get_many(["pair"], as_type=tuple[int, str]) == [(1, "a")]
    assert store.get_with_version("pair", as_type=tuple[int, str])[0] == (1, "a")
    store["number"] = 5
    assert store.get("number", as_type=int) == 5
    assert store.get("nothing", 7, as_type=int) == 7
    with pytest.raises(thermae.WrongTypeError, match="Point"):
        store.get("user", as_type=Point)
    with pytest.raises(thermae.WrongTypeError, match="str"):
        store.get("number", as_type=str)
    assert store.pop("pair", as_type=tuple[int, str]) == (1, "a")
    store["scalar"] = np.float64(1.5)
    assert type(store.get("scalar", as_type=float)) is float
    assert type(store.get("scalar", as_type=np.float64)) is np.float64
    for scalar in (np.float64(1.5), np.longdouble(1.5), np.datetime64(5, "ns")):
        store["scalar"] = scalar
        with pytest.raises(thermae.WrongTypeError, match="int"):
            store.get("scalar", as_type=int)


@pytest.mark.parametrize("value", [object(), print, 1j, [object()], {"a": {2**70}}, lambda: 0, type])
def test_values_without_an_encoding(store: thermae.Store, value: Any) -> None:
    with pytest.raises(thermae.WrongTypeError, match="no encoding") as refused:
        store["key"] = value
    assert isinstance(refused.value, TypeError)
    assert "key" not in store


def test_values_that_contain_themselves_or_have_no_utf8(store: thermae.Store) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(thermae.WrongTypeError):
        store["key"] = circle
    with pytest.raises(thermae.WrongTypeError, match="surrogate"):
        store["key"] = "\udc80"
    with pytest.raises(thermae.WrongTypeError, match="digits"):
        store["key"] = 10**5000

    class Name(str):
        __slots__ = ()

    class Number(int):
        pass

    with pytest.raises(thermae.WrongTypeError, match="surrogate"):
        store["key"] = Name("\udc80")
    with pytest.raises(thermae.WrongTypeError, match="digits"):
        store["key"] = Number(10**5000)


# Pickle, only where it is named.


class Anything:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anything) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


def test_pickle_named_in_the_call(store: thermae.Store) -> None:
    assert written_and_read(store, Anything(1), codec="pickle") == Anything(1)
    assert store.get_many(["key"], codec="pickle") == [Anything(1)]
    for read in (
        lambda: store["key"],
        lambda: store.get("key"),
        lambda: store.get("key", codec="msgpack"),
        lambda: store.get_many(["key"]),
        lambda: list(store.values()),
        lambda: store.pop("key", None),
    ):
        with pytest.raises(thermae.WrongTypeError, match='codec="pickle"'):
            read()


def test_unpickling_never_happens_unnamed(store: thermae.Store, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("boom",)

    store.set("key", Bomb(), codec="pickle")
    with pytest.raises(thermae.WrongTypeError):
        store["key"]
    bytes(store.view("key"))
    assert capsys.readouterr().out == ""


def test_pickle_named_when_opening(store: thermae.Store, location: str) -> None:
    with thermae.open(location, codec="pickle") as pickling:
        pickling["key"] = Anything(2)
        pickling["tuple"] = (1, {2})
        pickling["plain"] = 5
        assert pickling["key"] == Anything(2)
        assert pickling["tuple"] == (1, {2})
        assert pickling.incr("plain") == 6
        store["list"] = [1]
        assert pickling["list"] == [1]
    assert store["plain"] == 6
    with pytest.raises(thermae.WrongTypeError):
        store["key"]


def test_what_cannot_be_pickled(store: thermae.Store) -> None:
    with pytest.raises(thermae.WrongTypeError, match="pickled"):
        store.set("key", lambda: 0, codec="pickle")


# Codecs of one's own.


class Reversed:
    """Text, backwards."""

    encoding = 42

    def encode(self, value: Any, /) -> bytes:
        return str(value)[::-1].encode()

    def decode(self, data: bytes, /) -> Any:
        return data.decode()[::-1]


def test_a_codec_of_ones_own(store: thermae.Store, location: str) -> None:
    store.set("key", ["abc"], codec=Reversed())
    assert store.get("key", codec=Reversed()) == "['abc']"
    with pytest.raises(thermae.WrongTypeError, match="encoding 42"):
        store["key"]
    with thermae.open(location, codec=Reversed()) as opened:
        assert opened["key"] == "['abc']"


def test_codecs_that_are_none(store: thermae.Store) -> None:
    class Reserved(Reversed):
        encoding = 9

    class Wrong(Reversed):
        def encode(self, value: Any, /) -> Any:
            return "text"

    with pytest.raises(thermae.InvalidOptionError, match="unknown"):
        store.set("key", [1], codec="marshal")  # type: ignore[arg-type]
    with pytest.raises(thermae.InvalidOptionError, match="encoding, encode and decode"):
        store.set("key", [1], codec=5)  # type: ignore[arg-type]
    with pytest.raises(thermae.InvalidOptionError, match="10 to 255"):
        store.set("key", [1], codec=Reserved())
    with pytest.raises(thermae.WrongTypeError, match="must return bytes"):
        store.set("key", [1], codec=Wrong())


def test_bytes_that_are_not_what_their_mark_says(store: thermae.Store) -> None:
    marked = {1: b"\xff", 2: b"1_0", 3: b"fast", 4: b"yes", 5: b"x", 6: b"\xc1", 7: b"short", 8: b"no stream"}
    for encoding, data in marked.items():
        with store.transaction() as tx:
            tx._writes[b"key"] = (encoding, data, None)
        with pytest.raises(thermae.WrongTypeError):
            store["key"]
        with pytest.raises(thermae.WrongTypeError):
            store.get_many(["key"])


# NumPy.

ARRAYS = [
    np.arange(10),
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.zeros((0, 3)),
    np.array(5),
    np.array([True, False]),
    np.array(["ab", "ä"]),
    np.array([b"ab", b"c"]),
    np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    np.array([1, 2], dtype="m8[ms]"),
    np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    np.arange(6, dtype=">i4"),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(20)[::2],
    np.array([1 + 2j]),
    np.arange(100_000, dtype=np.float64),
    np.array([1.5], dtype=np.float16),
    np.zeros((1,) * 20),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays(store: thermae.Store, array: np.ndarray[Any, Any]) -> None:
    store["key"] = array
    for read in (store["key"], store.get_many(["key"])[0], store.view("key")):
        assert type(read) is np.ndarray
        assert read.dtype == array.dtype
        assert read.shape == array.shape
        np.testing.assert_array_equal(read, array)
    copy = store["key"]
    assert copy.flags.writeable
    assert copy.flags.c_contiguous
    view = store.view("key")
    assert not view.flags.writeable
    assert view.flags.aligned
    assert view.__array_interface__["data"][0] % 64 == 0 or view.size == 0


def test_writing_into_a_copy_leaves_the_store_alone(store: thermae.Store) -> None:
    store["key"] = np.zeros(1000)
    copy = store["key"]
    copy += 1
    assert store["key"].sum() == 0
    popped = store.pop("key")
    popped += 1


@pytest.mark.parametrize(
    "scalar", [np.float64(1.5), np.int8(-3), np.bool_(True), np.str_("ä"), np.datetime64(5, "s")]
)
def test_numpy_scalars(store: thermae.Store, scalar: np.generic) -> None:
    read = written_and_read(store, scalar)
    assert read == scalar
    assert type(read) is type(scalar)


def test_arrays_that_are_refused(store: thermae.Store) -> None:
    with pytest.raises(thermae.WrongTypeError, match="objects"):
        store["key"] = np.array([object()])
    with pytest.raises(thermae.WrongTypeError, match="objects"):
        store["key"] = np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])
    with pytest.raises(thermae.WrongTypeError, match="asarray"):
        store["key"] = np.ma.masked_array([1, 2], mask=[True, False])
    value = np.array([Anything(1)], dtype=object)
    assert written_and_read(store, value, codec="pickle")[0] == Anything(1)


def test_arrays_that_are_more_than_their_elements_go_to_a_codec(store: thermae.Store, location: str) -> None:
    """The refusal once named a remedy that was refused as well."""
    masked = np.ma.masked_array([1, 2], mask=[True, False])
    with pytest.raises(thermae.WrongTypeError, match='codec="pickle"'):
        store["key"] = masked
    read = written_and_read(store, masked, codec="pickle")
    assert type(read) is np.ma.MaskedArray
    assert read.tolist() == [None, 2]
    with thermae.open(location, codec="pickle") as pickling:
        pickling["key"] = np.zeros(2, dtype=[("a", "i4")]).view(np.recarray)
        assert type(pickling["key"]) is np.recarray
    # What has an encoding of its own keeps it, whatever codec is named.
    store.set("plain", np.arange(3), codec="pickle")
    assert store["plain"].tolist() == [0, 1, 2]


def test_damaged_arrays_are_errors_and_never_pointers(store: thermae.Store) -> None:
    encoding, data = store._encode(np.arange(4))
    assert encoding == 7
    damaged = [data[:length] for length in (0, 10, 63, 64, len(data) - 1)]
    damaged += [data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :] for place in range(34)]
    damaged.append(data.replace(b"'<i8'", b"'|O8'"))
    for number, value in enumerate(damaged):
        try:
            read = store._decode(7, value)
        except thermae.WrongTypeError:
            continue
        # Padding may differ; a read that succeeds must own what it shows.
        assert read.nbytes <= len(value), number
        assert not read.dtype.hasobject


# Arrow.


def test_arrow_tables(store: thermae.Store) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"number": [1, 2, None], "text": ["a", "ä", None], "list": [[1], [], None]})
    store["table"] = table
    assert store["table"].equals(table)
    assert store.get_many(["table"])[0].equals(table)
    store["batch"] = table.to_batches()[0]
    assert store["batch"].equals(table)
    store["empty"] = table.slice(0, 0)
    assert store["empty"].equals(table.slice(0, 0))


def test_an_arrow_view_is_on_the_stored_bytes(store: thermae.Store) -> None:
    pa = pytest.importorskip("pyarrow")
    store["table"] = pa.table({"number": np.arange(100_000)})
    before = pa.total_allocated_bytes()
    view = store.view("table")
    assert pa.total_allocated_bytes() - before < 10_000
    store.delete("table")
    assert view["number"].to_numpy().sum() == sum(range(100_000))


def test_pickles_of_other_protocols_are_values_like_any_other(store: thermae.Store) -> None:
    store["key"] = pickle.dumps([1])
    assert pickle.loads(store["key"]) == [1]


def test_what_takes_long_to_import_is_imported_once_by_who_needs_it() -> None:
    """Stores that threads open at once have one codec: values of classes derived from str are told by it."""
    program = """
import sys, threading
import thermae
with thermae.open("shm://thermae-test-imports", hot="16MiB") as store:
    store["key"] = b"value"
    assert store["key"] == b"value"
thermae.destroy("shm://thermae-test-imports")
assert "msgspec" not in sys.modules
from thermae.codecs import Codecs
made = []
threads = [threading.Thread(target=lambda: made.append(Codecs("msgpack"))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
class Text(str):
    pass
assert {codecs.encode(Text("a"), None) for codecs in made} == {(1, b"a")}
"""
    subprocess.run([sys.executable, "-c", program], check=True)
