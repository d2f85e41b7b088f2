"""Shared memory of stores whose directory was removed by hand: found, and removed where asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import thermae
from thermae.cli import main
from thermae.reports import SharedMemory


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    # Whatever a test left of it: all of it was made here.
    for memory in thermae.shared_memory():
        if memory["location"] is not None and memory["location"].startswith(str(tmp_path)):
            shutil.rmtree(Path("/dev/shm") / memory["name"], ignore_errors=True)


def make(place: Path, **options: Any) -> thermae.Store:
    return thermae.open(place, hot="16MiB", cold=0, placement="shared_memory", **options)


def memory_of(place: Path) -> SharedMemory | None:
    """What is known of the memory of the store at a place. Other tests have stores of their own."""
    found = [memory for memory in thermae.shared_memory() if memory["location"] == str(place)]
    assert len(found) <= 1
    return found[0] if found else None


def state_of(place: Path) -> str | None:
    memory = memory_of(place)
    return None if memory is None else memory["state"]


def removed(location: Path | str) -> int:
    """How much memory of stores at a place is removed as orphaned. No other's is touched."""
    names = [memory["name"] for memory in thermae.shared_memory() if memory["location"] == str(location)]
    gone = thermae.remove_orphaned_memory(names)
    assert {memory["location"] for memory in gone} <= {str(location)}
    return len(gone)


def test_memory_is_in_use_then_kept_then_orphaned(place: Path) -> None:
    with make(place) as store:
        store["key"] = "value"
        memory = memory_of(place)
        assert memory is not None
        assert memory["state"] == "in_use"
        assert memory["bytes"] > 15 << 20
        assert removed(place) == 0
    assert state_of(place) == "kept"
    assert removed(place) == 0
    with make(place) as store:
        assert store["key"] == "value"
    shutil.rmtree(place)
    assert state_of(place) == "orphaned"
    assert removed(place) == 1
    assert memory_of(place) is None
    assert not (Path("/dev/shm") / memory["name"]).exists()


def test_memory_of_a_removed_store_that_is_still_used(place: Path) -> None:
    """By a handle, by a view that outlives it, and by another process."""
    store = make(place)
    store["key"] = b"value"
    view = store.view("key")
    shutil.rmtree(place)
    assert state_of(place) == "in_use"
    store.close()
    assert state_of(place) == "in_use"
    assert removed(place) == 0
    assert bytes(view) == b"value"
    del view, store
    assert state_of(place) == "orphaned"

    program = """
import sys, thermae
store = thermae.open(sys.argv[1], hot="16MiB", cold=0, placement="shared_memory")
print("open", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    shutil.rmtree(place)
    states = [memory["state"] for memory in thermae.shared_memory() if memory["location"] == str(place)]
    assert sorted(states) == ["in_use", "orphaned"]
    assert removed(place) == 1
    assert state_of(place) == "in_use"
    other.kill()
    other.communicate()
    assert state_of(place) == "orphaned"
    assert removed(place) == 1


def test_a_store_that_was_moved_keeps_its_memory(place: Path, tmp_path: Path) -> None:
    with make(place) as store:
        store["key"] = "value"
    moved = tmp_path / "elsewhere"
    place.rename(moved)
    assert state_of(place) == "kept"
    assert removed(place) == 0
    with make(moved) as store:
        assert store["key"] == "value"
    assert memory_of(place) is None
    assert state_of(moved) == "kept"
    thermae.destroy(moved)
    assert memory_of(moved) is None


def test_another_store_in_its_place(place: Path) -> None:
    with make(place) as store:
        store["key"] = "old"
    shutil.rmtree(place)
    with make(place) as store:
        assert "key" not in store
        states = [memory["state"] for memory in thermae.shared_memory() if memory["location"] == str(place)]
        assert sorted(states) == ["in_use", "orphaned"]
        assert removed(place) == 1
        store["key"] = "new"
    with make(place) as store:
        assert store["key"] == "new"
    thermae.destroy(place)


def test_what_can_not_be_told_is_left_alone(place: Path, tmp_path: Path) -> None:
    above = tmp_path / "disk"
    inside = above / "data"
    with make(inside) as store:
        store["key"] = "value"
    # As if the disk were not mounted.
    above.rename(tmp_path / "unmounted")
    memory = memory_of(inside)
    assert memory is not None
    assert (memory["state"], "mounted" in memory["reason"]) == ("unknown", True)
    assert removed(inside) == 0
    (tmp_path / "unmounted").rename(above)
    # A superblock that nobody can read any more is no superblock that is gone.
    content = (inside / "store").read_bytes()
    (inside / "store").write_bytes(bytes(len(content)))
    assert state_of(inside) == "kept"
    (inside / "store").write_bytes(content)
    with make(inside) as store:
        assert store["key"] == "value"

    note = Path("/dev/shm") / memory["name"] / "origin"
    assert note.stat().st_mode & 0o777 == 0o600
    note.write_text("")
    shutil.rmtree(inside)
    before = [found for found in thermae.shared_memory() if found["name"] == memory["name"]]
    assert [found["state"] for found in before] == ["unknown"]
    assert thermae.remove_orphaned_memory([memory["name"]]) == []
    assert note.exists()
    note.write_text(str(inside))
    assert removed(inside) == 1


def test_shared_memory_stores_are_listed_and_no_leftovers(store: thermae.Store, location: str) -> None:
    def states() -> list[str]:
        return [memory["state"] for memory in thermae.shared_memory() if memory["location"] == location]

    assert states() == ["in_use"]
    store.close()
    assert states() == ["kept"]
    assert removed(location) == 0
    assert states() == ["kept"]


def test_the_command(place: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["shm", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    with make(place):
        pass
    shutil.rmtree(place)
    memory = memory_of(place)
    assert memory is not None
    name = memory["name"]
    assert "orphaned" in run(name)
    assert memory in json.loads(run("--json"))
    assert json.loads(run("--remove-orphans", "--json", "thermae-of-nobody")) == []
    assert json.loads(run("--remove-orphans", "--json", name)) == [memory]
    assert memory_of(place) is None
    with pytest.raises(thermae.WrongTypeError, match="not one"):
        thermae.remove_orphaned_memory(name)
    assert os.listdir(place.parent) == []
