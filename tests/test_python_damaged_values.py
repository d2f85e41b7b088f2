"""Bytes that are not what their mark says: an error of thermae's for every one, and never a crash.

The record's checksum tells what was damaged in the store. Here the writer was at fault, or meant harm: the
bytes are just as they were written, and are no MessagePack, no array, no table.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest

import thermae
from thermae import arrays

MESSAGEPACK, ARRAY, ARROW = 6, 7, 8


def refused_or_read(store: thermae.Store, encoding: int, data: bytes) -> object:
    """What reading it comes to; any other exception than the one that may come fails the test."""
    try:
        return store._decode(encoding, data)
    except thermae.WrongTypeError:
        return None


def array_bytes(
    descriptor: bytes, shape: tuple[int, ...] = (), elements: bytes = b"", kind: int = 0
) -> bytes:
    """What `arrays.encode` writes, around any descriptor."""
    used = 16 + 8 * len(shape) + len(descriptor)
    header_bytes = -(-used // 64) * 64
    fixed = struct.pack("<BBHII4x", 1, kind, len(shape), header_bytes, len(descriptor))
    return fixed + struct.pack(f"<{len(shape)}Q", *shape) + descriptor + bytes(header_bytes - used) + elements


@pytest.mark.parametrize(
    "data", [b"\xa1\xff", b"\x81\xa1\xff\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc1", b""]
)
def test_messagepack_that_is_none(store: thermae.Store, data: bytes) -> None:
    with pytest.raises(thermae.WrongTypeError, match="MessagePack"):
        store._decode(MESSAGEPACK, data)
    with pytest.raises(thermae.WrongTypeError, match="MessagePack"):
        store._decode(MESSAGEPACK, data, None, list[str])


@pytest.mark.parametrize(
    "descriptor",
    [
        b"()",
        b"[]",
        b"{}",
        b"1",
        b"None",
        b"''",
        b"'?!'",
        b"'<i3'",
        b"'<i8', 'x'",
        b"('<i8',)",
        b"('<i8', -1)",
        b"('<i8', (2, 1 << 70))",
        b"('<i8', (%d,))" % 2**70,
        b"[()]",
        b"[('a',)]",
        b"[('a', ())]",
        b"[('a', '<i8'), ('a', '<i8')]",
        b"[(('a',), '<i8')]",
        b"{'names': ['a']}",
        b"'|O'",
        b"'T'",
        b"'<U99999999999'",
        b"'S%d'" % 2**31,
        b"\xff\xfe",
        b"(" * 5000,
        b"'\\d'",
        b"-" * 5000 + b"1",
    ],
)
def test_descriptors_that_are_none(store: thermae.Store, descriptor: bytes) -> None:
    with pytest.raises(thermae.WrongTypeError, match="array"):
        store._decode(ARRAY, array_bytes(descriptor, (1,), bytes(8)))


def test_shapes_that_are_none(store: thermae.Store) -> None:
    for shape in [(2**63, 2), (0, 2**64 - 1), (2**32, 2**32), (2**64 - 1,), (3,), ()]:
        read = refused_or_read(store, ARRAY, array_bytes(b"'<i8'", shape, b""))
        assert read is None or (isinstance(read, np.ndarray) and read.size == 0)
    for shape in [(0,), (1,)]:
        with pytest.raises(thermae.WrongTypeError, match="scalar"):
            store._decode(ARRAY, array_bytes(b"'<i8'", shape, bytes(8 * shape[0]), kind=1))


def test_the_helper_writes_what_the_encoder_writes() -> None:
    assert array_bytes(b"'<i8'", (2,), np.arange(2).tobytes()) == arrays.encode(np.arange(2))


def mutations(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """The bytes with a few of them changed, cut short, or made longer."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(changed))
            match chance.randrange(4):
                case 0:
                    changed[place] = chance.randrange(256)
                case 1:
                    changed[place] ^= 1 << chance.randrange(8)
                case 2:
                    del changed[place : place + chance.randint(1, 8)]
                case _:
                    changed[place:place] = chance.randbytes(chance.randint(1, 8))
            if not changed:
                break
        yield bytes(changed)


def test_messagepack_changed_at_random(store: thermae.Store) -> None:
    _, data = store._encode(
        {"text": "ä" * 10, "list": [1, 2.5, None, True], "bytes": b"x" * 40, "map": {1: 2}}
    )
    for changed in mutations(data, 1, 3000):
        refused_or_read(store, MESSAGEPACK, changed)


def test_arrays_changed_at_random(store: thermae.Store) -> None:
    record = np.zeros(3, dtype=[("a", "<i4"), ("b", "<f8", (2,)), ("c", "S3")])
    for number, array in enumerate([np.arange(6).reshape(2, 3), record, np.array("2020", dtype="M8[D]")]):
        _, data = store._encode(array)
        for changed in mutations(data, number, 2000):
            read = refused_or_read(store, ARRAY, changed)
            if isinstance(read, np.ndarray):
                assert read.nbytes <= len(changed)
                assert not read.dtype.hasobject


def test_tables_changed_at_random(store: thermae.Store) -> None:
    """A table that is read is valid all through: its offsets are what everything that works on it trusts."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "number": [1, 2, None],
            "text": ["a", "ä", None],
            "list": [[1], [], None],
            "word": pa.array(["x", "y", "x"]).dictionary_encode(),
        }
    )
    _, data = store._encode(table)
    for changed in mutations(data, 2, 2000):
        read = refused_or_read(store, ARROW, changed)
        if read is not None:
            read.to_pylist()  # type: ignore[attr-defined]


def test_tables_that_are_not_valid_all_through_are_refused(store: thermae.Store) -> None:
    pa = pytest.importorskip("pyarrow")
    _, data = store._encode(pa.table({"text": ["a", "b"]}))
    # The last part of the stream: the column's offsets, then its text.
    before, column, end = data.rpartition(struct.pack("<4i", 0, 1, 2, 0) + b"ab")
    assert column
    for changed in (
        before + struct.pack("<4i", 0, 1 << 20, 2, 0) + b"ab" + end,
        before + struct.pack("<4i", 0, 1, 2, 0) + b"\xffb" + end,
        before.replace(b"text", b"\xffext") + column + end,
    ):
        with pytest.raises(thermae.WrongTypeError, match="Arrow"):
            store._decode(ARROW, changed)
    assert refused_or_read(store, ARROW, data) is not None
