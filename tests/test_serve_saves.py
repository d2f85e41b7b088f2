"""SAVE and BGSAVE: snapshots of a served store, while its clients go on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import thermae
from resp import wait_until
from serving import Serving, thermae_serve


@pytest.fixture
def location() -> Iterator[str]:
    location = f"shm://thermae-test-{os.getpid()}-saves"
    yield location
    with contextlib.suppress(thermae.NotAStoreError):
        thermae.destroy(location)


def client_of(serving: Serving) -> redis.Redis:
    host, _, port = serving.redis.rpartition(":")
    return redis.Redis(host, int(port))


def persistence(client: redis.Redis) -> dict[str, object]:
    information: dict[str, object] = client.info("persistence")
    return information


def wait_for_the_end(client: redis.Redis) -> None:
    wait_until(lambda: persistence(client)["rdb_bgsave_in_progress"] == 0)


def contents(snapshot: Path, directory: Path) -> dict[str | bytes, object]:
    restored = thermae.restore(snapshot, directory)
    try:
        with thermae.open(restored["location"]) as store:
            return dict(store.items())
    finally:
        thermae.destroy(restored["location"])


def test_each_save_takes_the_place_of_the_one_before(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "16MiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
    ):
        client.set("key", "first")
        before = client.lastsave()
        assert client.bgsave()
        wait_for_the_end(client)
        (first,) = snapshots.iterdir()
        assert contents(first, tmp_path / "first") == {"key": b"first"}
        assert client.lastsave() >= before
        client.set("key", "second")
        assert persistence(client)["rdb_changes_since_last_save"] == 1
        assert client.save()
        (second,) = snapshots.iterdir()
        assert second != first
        assert contents(second, tmp_path / "second") == {"key": b"second"}
        found = persistence(client)
        assert (found["rdb_saves"], found["rdb_last_bgsave_status"]) == (2, "ok")


def test_clients_go_on_while_a_snapshot_is_written(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "256MiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
    ):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.set(f"large:{number}", bytes(1 << 20))
            pipeline.execute()
        client.set("counter", 0)
        client.bgsave()
        counted = 0
        is_refused = False
        while persistence(client)["rdb_bgsave_in_progress"]:
            counted = client.incr("counter")
            if not is_refused:
                with pytest.raises(redis.ResponseError, match="Background save already in progress"):
                    client.bgsave()
                is_refused = True
        assert counted > 0, "the snapshot was written before a client could do anything"
        (snapshot,) = snapshots.iterdir()
        saved = contents(snapshot, tmp_path / "restored")
        assert len(saved) == 101
        assert 0 <= int(saved["counter"]) <= counted  # type: ignore[call-overload]


def test_a_server_that_ends_gives_a_snapshot_up(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "256MiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
    ):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(150):
                pipeline.set(f"large:{number}", bytes(1 << 20))
            pipeline.execute()
        client.bgsave()
        # Part of it is there.
        wait_until(lambda: snapshots.exists() and any(snapshots.iterdir()))
        assert serving.terminate() == 0
    # It is whole, or nothing is left of it.
    left = list(snapshots.iterdir())
    assert len(left) <= 1
    for path in left:
        assert len(contents(path, tmp_path / "restored")) == 150


def test_what_a_killed_server_left_is_cleared_away(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    options = ("--hot", "256MiB", "--snapshots", str(snapshots))
    with thermae_serve(location, *options) as serving, client_of(serving) as client:
        with client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.set(f"large:{number}", bytes(1 << 20))
            pipeline.execute()
        client.bgsave()
        wait_until(lambda: snapshots.exists() and any(snapshots.iterdir()))
        serving.kill()
    with thermae_serve(location, *options) as serving, client_of(serving) as client:
        assert client.save()
        (snapshot,) = snapshots.iterdir()
        assert len(contents(snapshot, tmp_path / "restored")) == 100


def test_a_snapshot_that_cannot_be_written_is_an_error(location: str, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    with (
        thermae_serve(location, "--hot", "16MiB", "--snapshots", str(taken)) as serving,
        client_of(serving) as client,
    ):
        # What can't hold snapshots at the start is refused there: here it comes to be so later.
        taken.write_text("no directory")
        with pytest.raises(redis.ResponseError, match="file"):
            client.save()
        client.bgsave()
        wait_for_the_end(client)
        assert persistence(client)["rdb_last_bgsave_status"] == "err"
        assert client.set("key", "value")


def test_without_a_directory_only_a_durable_store_can_be_saved(location: str, tmp_path: Path) -> None:
    with (
        thermae_serve(location, "--hot", "16MiB") as serving,
        client_of(serving) as client,
        pytest.raises(redis.ResponseError, match="start the server with --snapshots"),
    ):
        client.bgsave()
    place = tmp_path / "data"
    try:
        with (
            thermae_serve(place, "--hot", "16MiB", "--cold", "64MiB", "--durability", "everysec") as serving,
            client_of(serving) as client,
        ):
            client.set("key", "value")
            assert client.save()
            with thermae.open(place) as store:
                assert store.stats()["watermark"] >= 1
    finally:
        thermae.destroy(place)


def test_two_saves_at_once_are_one(location: str, tmp_path: Path) -> None:
    with thermae_serve(
        location, "--hot", "256MiB", "--threads", "2", "--snapshots", str(tmp_path / "snapshots")
    ) as serving:
        with client_of(serving) as client, client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.set(f"large:{number}", bytes(1 << 20))
            pipeline.execute()
        with client_of(serving) as first, client_of(serving) as second:
            # They are on loops of their own.
            assert first.ping()
            assert second.ping()
            saver = threading.Thread(target=first.save)
            saver.start()
            wait_until(lambda: persistence(second)["rdb_bgsave_in_progress"] == 1)
            with pytest.raises(redis.ResponseError, match="Background save already in progress"):
                second.save()
            saver.join()
            wait_for_the_end(second)
            assert persistence(second)["rdb_saves"] == 1
            assert second.save()
            assert persistence(second)["rdb_saves"] == 2
        assert len(list((tmp_path / "snapshots").iterdir())) == 1
