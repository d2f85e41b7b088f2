"""What goes wrong below the store, as a Python user meets it: damage, other versions, disks that refuse."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import thermae
from thermae import errors

TESTS = Path(__file__).resolve().parent
BLOCK_BYTES = 4096
LAYOUT_OFFSET, CHECKSUM_OFFSET = 8, 12
VALUE = b"a value that is easily found in memory" * 30


def crc32c(data: bytes) -> int:
    """The checksum of blocks, bit by bit; see docs/format.md."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def with_layout(block: bytes, layout: int) -> bytes:
    """A block as another version would have written it: intact, in a layout of its own."""
    changed = bytearray(block)
    struct.pack_into("<I", changed, LAYOUT_OFFSET, layout)
    struct.pack_into("<I", changed, CHECKSUM_OFFSET, 0)
    struct.pack_into("<I", changed, CHECKSUM_OFFSET, crc32c(bytes(changed)))
    return bytes(changed)


def change_one_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_the_checksum_is_the_one_of_blocks(directory_store: thermae.Store) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    superblock = Path(directory_store.location, "store").read_bytes()
    for begin in (0, BLOCK_BYTES):
        block = superblock[begin : begin + BLOCK_BYTES]
        (layout,) = struct.unpack_from("<I", block, LAYOUT_OFFSET)
        assert with_layout(block, layout) == block


def test_a_store_of_another_version(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", cold="32MiB") as store:
        store["key"] = "value"
    file = place / "store"
    original = file.read_bytes()
    newer = b"".join(with_layout(original[begin : begin + BLOCK_BYTES], 99) for begin in (0, BLOCK_BYTES))
    file.write_bytes(newer)
    for use in (lambda: thermae.open(place), lambda: thermae.destroy(place)):
        with pytest.raises(thermae.WrongLayoutError, match=r"layout 99.*layout \d+.*snapshot"):
            use()
    assert file.read_bytes() == newer
    file.write_bytes(original)
    with thermae.open(place) as store:
        assert store["key"] == "value"
    thermae.destroy(place)


def test_a_store_whose_identity_is_damaged(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", cold="32MiB") as store:
        store["key"] = "value"
    original = (place / "store").read_bytes()
    # One of two copies is enough.
    change_one_byte(place / "store", 100)
    with thermae.open(place) as store:
        assert store["key"] == "value"
    (place / "store").write_bytes(original)
    change_one_byte(place / "store", 100)
    change_one_byte(place / "store", BLOCK_BYTES + 100)
    with pytest.raises(thermae.CorruptStoreError, match="neither of its two copies"):
        thermae.open(place)
    (place / "store").write_bytes(original)
    thermae.destroy(place)


def test_a_value_that_is_damaged(store: thermae.Store, location: str) -> None:
    store["victim"] = VALUE
    store["other"] = 1
    hot = Path(f"/dev/shm/thermae-shm-{os.getuid()}-{location.removeprefix('shm://')}/hot")
    change_one_byte(hot, hot.read_bytes().index(VALUE))
    reads: list[Callable[[], object]] = [
        lambda: store["victim"],
        lambda: store.get("victim", "default"),
        lambda: store.get_with_version("victim"),
        lambda: store.get_many(["other", "victim"]),
        lambda: store.get_or_set("victim", lambda: 1),
        lambda: store.transaction().get("victim"),
        lambda: dict(store.items()),
    ]
    for number, read in enumerate(reads):
        with pytest.raises(thermae.CorruptStoreError, match="victim"):
            pytest.fail(f"read {number} answered {read()!r}")
    # What is not damaged is served, and what is can be written anew.
    assert store["other"] == 1
    store["victim"] = "new"
    assert store["victim"] == "new"


def test_all_participants_are_there(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", cold="32MiB", participants_max=2) as store:
        with thermae.open(place):
            with pytest.raises(thermae.TooManyParticipantsError, match=r"all 2 .*participants_max"):
                thermae.open(place)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    with pytest.raises(thermae.TooManyParticipantsError, match="forked process"):
                        store["key"] = "from the child"
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            store["key"] = 1
        # Whoever leaves makes room.
        with thermae.open(place) as another:
            assert another["key"] == 1
    thermae.destroy(place)


def test_a_transaction_that_is_too_large(store: thermae.Store) -> None:
    store["key"] = 1

    def change(count: int) -> None:
        with store.transaction() as tx:
            tx["key"] = 2
            for number in range(count):
                tx[f"large:{number}"] = bytes(200_000)

    with pytest.raises(thermae.TransactionTooLargeError, match="split it"):
        change(3)
    assert store == {"key": 1}
    change(2)
    assert len(store) == 3
    # Values of more than a quarter of a frame have segments of their own.
    with store.transaction() as tx:
        for number in range(3):
            tx[f"larger:{number}"] = bytes(400_000)
    assert len(store) == 6


def test_the_operating_system_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else")
    with pytest.raises(thermae.StoreIOError) as refused:
        thermae.open(tmp_path / "file" / "data")
    assert isinstance(refused.value, OSError)
    assert refused.value.errno == errno.ENOTDIR
    assert str(tmp_path / "file") in str(refused.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_snapshot_that_cannot_be_written(directory_store: thermae.Store, tmp_path: Path) -> None:
    directory_store["key"] = "value"
    (tmp_path / "file").write_text("something else")
    with pytest.raises(thermae.StoreIOError) as refused:
        directory_store.snapshot(tmp_path / "file" / "copy")
    assert refused.value.errno == errno.ENOTDIR
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(thermae.InvalidOptionError, match="something"):
        directory_store.snapshot(tmp_path / "full")
    assert sorted(os.listdir(tmp_path)) == ["data", "file", "full"]


# A limit on the size of files refuses what a broken disk would: each write past it fails.
FAILING_DISK = """
import resource, sys, thermae
store = thermae.open(sys.argv[1], create=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    store["during"] = 1
except thermae.WritesStoppedError:
    print("stopped", flush=True)
sys.stdin.readline()
"""


def test_a_disk_that_fails_stops_writes_for_everybody(tmp_path: Path) -> None:
    place = tmp_path / "data"
    store = thermae.open(place, hot="16MiB", cold="32MiB", durability="always", background=False)
    store["before"] = 1
    with subprocess.Popen(
        [sys.executable, "-c", FAILING_DISK, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "stopped\n"
        writes: list[Callable[[], object]] = [
            lambda: store.__setitem__("after", 1),
            lambda: store.add("after", 1),
            lambda: store.incr("after"),
            lambda: store.delete("before"),
            lambda: store.touch("before", 60),
            lambda: store.set_many({"after": 1}),
            lambda: store.delete_many(["before"]),
            lambda: store.transact(lambda tx: tx.set("after", 1)),
            store.flush,
            store.clear,
        ]
        for number, write in enumerate(writes):
            with pytest.raises(thermae.WritesStoppedError, match="flush failed"):
                pytest.fail(f"write {number} answered {write()!r}")
        assert store.stats()["writes_stopped"] is True
        # Reads go on, and a snapshot saves what is there.
        assert store["before"] == 1
        store.snapshot(tmp_path / "copy")
        other.communicate("\n")
    # What durability promises can't be kept, and closing says so; but it closes.
    with pytest.raises(thermae.WritesStoppedError):
        store.close()
    assert store.closed
    with thermae.open(place) as store:
        assert store.stats()["writes_stopped"] is False
        assert store["before"] == 1
        store["after"] = 1
        assert store.check()["ok"]
    thermae.destroy(place)
    thermae.restore(tmp_path / "copy", tmp_path / "restored")
    with thermae.open(tmp_path / "restored") as restored:
        assert restored["before"] == 1
    thermae.destroy(tmp_path / "restored")


def test_every_exception_is_provoked_by_a_test() -> None:
    text = "".join(path.read_text() for path in TESTS.glob("test_*.py"))
    provoked = set(re.findall(r"raises\(\s*thermae\.(\w+)", text))
    classes = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    # A call from Python is given up by a signal, and what its handler raised is what arrives.
    assert classes - provoked == {"ThermaeError", "CallCancelledError"}


def test_a_snapshot_is_kept_from_becoming_a_store_by_a_look(tmp_path: Path) -> None:
    with thermae.open(tmp_path / "data", hot="16MiB", cold="16MiB") as store:
        store["key"] = "value"
        store.snapshot(tmp_path / "backup")
        with pytest.raises(thermae.InvalidOptionError, match="is a store or a snapshot"):
            store.snapshot(tmp_path / "backup")
    with pytest.raises(thermae.NotAStoreError, match="is a snapshot"):
        thermae.open(tmp_path / "backup", read_only=True)
    with pytest.raises(thermae.NotAStoreError, match="is a snapshot"):
        thermae.open(tmp_path / "backup", create=False)
    thermae.restore(tmp_path / "backup", tmp_path / "restored")
    with thermae.open(tmp_path / "restored", create=False) as store:
        assert store["key"] == "value"
    thermae.destroy(tmp_path / "restored")
    thermae.destroy(tmp_path / "data")
