"""Reports have the fields that their types and docs/python.md say, and mean what they say."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import thermae
from thermae import _thermae, reports

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "python.md"
KINDS: list[Any] = [
    reports.Stats,
    reports.CheckReport,
    reports.Problem,
    reports.SnapshotReport,
    reports.RestoreReport,
    reports.SharedMemory,
]


def assert_is(report: Mapping[str, Any], kind: Any) -> None:
    """Exactly these fields, of these types."""
    assert set(report) == set(kind.__annotations__)
    assert msgspec.convert(report, kind, strict=True) == report


def shared_memory_file(location: str, name: str) -> Path:
    return Path(f"/dev/shm/thermae-shm-{os.getuid()}-{location.removeprefix('shm://')}/{name}")


def damage(location: str, value: bytes) -> None:
    """Changes one byte of a value where it lies."""
    path = shared_memory_file(location, "hot")
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(content.index(value))
        file.write(bytes([value[0] ^ 1]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind: Any) -> None:
    section = DOCUMENT.read_text().split(f"`thermae.reports.{kind.__name__}`:\n", 1)
    assert len(section) == 2, f"docs/python.md has no table of {kind.__name__}"
    table = section[1].lstrip("\n").split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE) == list(kind.__annotations__)


def test_stats(store: thermae.Store) -> None:
    empty = store.stats()
    assert_is(empty, reports.Stats)
    assert empty["item_bytes_mean"] is None
    assert empty["warm_is_synchronous"] is None
    assert empty["writes_stopped"] is False
    assert (empty["participants"], empty["participants_max"]) == (1, 128)
    assert Path(empty["memory_directory"], "hot").is_file()

    store.set_many({f"key:{number}": bytes(1000) for number in range(1000)})
    store.get_many(["key:1", "key:2", "nothing"])
    store.delete("key:1")
    store.set("short", 1, ttl=0.001)
    time.sleep(0.01)
    assert len(store) == 999
    figures = store.stats()
    assert (figures["keys"], figures["sets"], figures["deletes"]) == (999, 1001, 1)
    assert (figures["hits"], figures["misses"], figures["expired"]) == (2, 1, 1)
    assert figures["live_bytes"] > 999_000
    # The value, the key, the header, and some 16 bytes of an index that is never quite full.
    assert figures["item_bytes_mean"] is not None
    assert 1000 < figures["item_bytes_mean"] < 1500
    assert figures["hot_used_bytes"] <= figures["hot_bytes"] == store.hot_bytes


def test_stats_of_a_store_with_all_tiers(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with thermae.open(place, hot="16MiB", warm="16MiB", cold="32MiB", participants_max=7) as store:
        store["key"] = "value"
        store.flush()
        figures = store.stats()
        assert_is(figures, reports.Stats)
        # No file system of a test is mounted for persistent memory.
        assert figures["warm_is_synchronous"] is False
        assert figures["participants_max"] == 7
        assert Path(figures["memory_directory"]).parent == Path("/dev/shm")
        assert figures["warm_bytes"] == store.warm_bytes
        assert figures["warm_written_bytes"] > 0
        assert figures["watermark"] == figures["sequence"] > 0
        with thermae.open(place) as another:
            assert another.stats()["participants"] == 2
    thermae.destroy(place)


def test_counts_go_on_after_a_close(tmp_path: Path) -> None:
    place = tmp_path / "data"
    for opened in (1, 2, 3):
        with thermae.open(place, hot="16MiB", cold="32MiB") as store:
            store[f"key:{opened}"] = opened
            assert store[f"key:{opened}"] == opened
            figures = store.stats()
            assert (figures["sets"], figures["hits"], figures["keys"]) == (opened, opened, opened)
    _thermae.forget_shared_memory(str(place))
    with thermae.open(place) as store:
        figures = store.stats()
        assert (figures["sets"], figures["hits"], figures["keys"]) == (0, 0, 3)
    thermae.destroy(place)


def test_participants_are_counted(store: thermae.Store, location: str) -> None:
    with thermae.open(location), thermae.open(location, read_only=True) as reader:
        assert reader.stats()["participants"] == 3
    assert store.stats()["participants"] == 1


def test_check(store: thermae.Store, location: str) -> None:
    value = b"a value that is easily found in memory" * 30
    store["victim"] = value
    store["other"] = 1
    report = store.check()
    assert_is(report, reports.CheckReport)
    assert (report["ok"], report["problems"], report["keys"]) == (True, [], 2)
    damage(location, value)
    report = store.check()
    assert_is(report, reports.CheckReport)
    assert not report["ok"]
    assert report["keys"] == 1
    for problem in report["problems"]:
        assert_is(problem, reports.Problem)
    assert {problem["kind"] for problem in report["problems"]} == {"damaged", "entry"}
    assert (len(report["quarantined"]), report["missing_sequences"]) == (1, "1")


def test_snapshot_and_restore(directory_store: thermae.Store, tmp_path: Path) -> None:
    directory_store.set_many({"a": 1, "b": 2})
    copied = directory_store.snapshot(tmp_path / "copy")
    assert_is(copied, reports.SnapshotReport)
    assert copied["directory"] == str(tmp_path / "copy")
    assert copied["sequence"] == directory_store.stats()["sequence"]
    assert (copied["segments"] > 0, copied["bytes"] > 0, copied["damaged"]) == (True, True, [])
    restored = thermae.restore(tmp_path / "copy", tmp_path / "restored")
    assert_is(restored, reports.RestoreReport)
    assert restored["location"] == str(tmp_path / "restored")
    assert (restored["keys"], restored["sequence"]) == (2, copied["sequence"])
    assert (restored["segments"], restored["bytes"]) == (copied["segments"], copied["bytes"])
    thermae.destroy(tmp_path / "restored")


def test_shared_memory(store: thermae.Store, location: str) -> None:
    found = {memory["location"]: memory for memory in thermae.shared_memory()}
    assert_is(found[location], reports.SharedMemory)
    assert found[location]["state"] == "in_use"
    assert found[location]["bytes"] <= 16 << 20
    assert Path("/dev/shm", found[location]["name"]).is_dir()


def test_reports_are_plain(store: thermae.Store) -> None:
    """They go into JSON as they are."""
    assert json.loads(json.dumps(store.stats())).keys() == store.stats().keys()
    assert json.loads(json.dumps(store.check())) == store.check()
