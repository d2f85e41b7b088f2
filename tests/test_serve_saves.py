"""SAVE and BGSAVE: snapshots of a served store, while its clients go on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

import thermae
from resp import Connection, Reply, wait_until
from serving import Serving, thermae_serve
from test_serve_metrics import scraped, value
from test_serve_operations import SMALL, address_of, logging


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


def fill(client: redis.Redis, megabytes: int) -> None:
    # A pipeline keeps all that it is to send.
    for first in range(0, megabytes, 64):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(first, min(first + 64, megabytes)):
                pipeline.set(f"large:{number}", bytes(1 << 20))
            pipeline.execute()


def test_clients_go_on_while_a_snapshot_is_written(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "256MiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
        serving.connection() as connection,
    ):
        fill(client, 100)
        # What comes in one piece is done without a pause, sooner than any snapshot.
        commands = ["SET counter 0", "BGSAVE", "BGSAVE", *["INCR counter"] * 100, "INFO persistence"]
        replies = connection.pipelined(command.split() for command in commands)
        assert replies[1:3] == [
            Reply("+", b"Background saving started"),
            Reply("-", b"ERR Background save already in progress"),
        ]
        assert replies[-2] == Reply(":", 100)
        assert b"rdb_bgsave_in_progress:1" in cast("bytes", replies[-1].value)
        counted = 100
        while persistence(client)["rdb_bgsave_in_progress"]:
            counted = client.incr("counter")
        (snapshot,) = snapshots.iterdir()
        saved = contents(snapshot, tmp_path / "restored")
        assert len(saved) == 101
        assert 0 <= int(saved["counter"]) <= counted  # type: ignore[call-overload]


def test_a_snapshot_gets_on_beside_a_busy_process(location: str, tmp_path: Path) -> None:
    """Who writes it had the lowest priority: beside one other process, 50 MB took over 12 s, not 0.2 s."""
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "64MiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
    ):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(4000):
                pipeline.set(f"key:{number}", bytes(10_000))
            pipeline.execute()
        processor = {min(os.sched_getaffinity(0))}
        for task in os.listdir(f"/proc/{serving.process.pid}/task"):
            os.sched_setaffinity(int(task), processor)
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            try:
                os.sched_setaffinity(busy.pid, processor)
                assert client.bgsave()
                # In ten seconds, or it fails.
                wait_for_the_end(client)
            finally:
                busy.kill()
        assert len(os.listdir(snapshots)) == 1


def test_a_server_that_ends_gives_a_snapshot_up(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    with (
        thermae_serve(location, "--hot", "1GiB", "--snapshots", str(snapshots)) as serving,
        client_of(serving) as client,
    ):
        fill(client, 800)
        client.bgsave()
        # Part of it is there.
        wait_until(lambda: snapshots.exists() and any(snapshots.iterdir()))
        began = time.monotonic()
        assert serving.terminate() == 0
        took_seconds = time.monotonic() - began
        assert serving.process.stderr is not None
        lines = serving.process.stderr.read().splitlines()
    assert "save failed: it was given up, for the server is to end" in lines
    assert not list(snapshots.iterdir())
    assert took_seconds < 5


def test_what_a_killed_server_left_is_cleared_away(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    options = ("--hot", "256MiB", "--snapshots", str(snapshots))
    with thermae_serve(location, *options) as serving, client_of(serving) as client:
        fill(client, 100)
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


def test_how_a_save_ended_is_told(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    options = ("--snapshots", str(snapshots), "--metrics", "127.0.0.1:0")
    with (
        logging(tmp_path, location, *SMALL, *options) as (_, log),
        Connection(address_of(log)) as client,
    ):
        page = address_of(log, "metrics")

        def counted() -> list[float]:
            metrics = scraped(page)
            names = ("last_save_timestamp_seconds", "saves_total", "saves_failed_total")
            return [value(metrics, f"thermae_{name}") for name in names]

        assert counted() == [client.call("LASTSAVE").value, 0, 0]
        client.call("BGSAVE")
        made = log.wait_for("saved")
        (snapshot,) = snapshots.iterdir()
        assert made["path"] == str(snapshot)
        assert 0 <= made["took_ms"] < 30_000
        assert made["text"] == f"saved: {snapshot}, in {made['took_ms']} ms"
        assert counted() == [client.call("LASTSAVE").value, 1, 0]
        shutil.rmtree(snapshots)
        snapshots.write_text("no directory")
        client.call("BGSAVE")
        failed = log.wait_for("save-failed")
        assert str(snapshots) in failed["reason"]
        assert failed["text"] == f"save failed: {failed['reason']}"
        assert client.call("SAVE").mark == "-"
        assert log.wait_for("save-failed", 2)["reason"] == failed["reason"]
        assert counted() == [client.call("LASTSAVE").value, 1, 2]


def test_what_was_written_before_the_start_is_no_change(location: str) -> None:
    for changes in (3, 2):
        with thermae_serve(location, "--hot", "16MiB") as serving, client_of(serving) as client:
            assert persistence(client)["rdb_changes_since_last_save"] == 0
            for number in range(changes):
                client.set(f"key:{number}", "value")
            assert persistence(client)["rdb_changes_since_last_save"] == changes


def test_shutdown_saves_where_it_is_told_to(location: str, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    for words, count in [([], 0), (["NOSAVE"], 0), (["SAVE"], 1)]:
        with (
            thermae_serve(location, "--hot", "256MiB", "--snapshots", str(snapshots)) as serving,
            client_of(serving) as client,
            serving.connection() as connection,
        ):
            fill(client, 100)
            # One that is under way is given up.
            connection.send("BGSAVE")
            connection.send("SHUTDOWN", *words)
            assert connection.rest() == b"+Background saving started\r\n"
            assert serving.process.wait(30) == 0
        assert len(list(snapshots.glob("*"))) == count
    (snapshot,) = snapshots.iterdir()
    assert len(contents(snapshot, tmp_path / "restored")) == 100


def test_a_server_that_cannot_save_does_not_end(location: str, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    with (
        thermae_serve(location, "--hot", "16MiB", "--snapshots", str(taken)) as serving,
        serving.connection() as client,
    ):
        taken.write_text("no directory")
        reply = client.call("SHUTDOWN", "SAVE")
        assert reply == Reply("-", b"ERR Errors trying to SHUTDOWN. Check logs.")
        assert client.call("SET", "key", "value") == Reply("+", b"OK")
        client.send("SHUTDOWN", "SAVE", "FORCE")
        assert client.rest() == b""
        assert serving.process.wait(30) == 0
        assert serving.process.stderr is not None
        assert len(re.findall(f"save failed: .*{taken}", serving.process.stderr.read())) == 2
    with thermae_serve(location) as serving, serving.connection() as client:
        reply = client.call("SHUTDOWN", "SAVE")
        assert b"start the server with --snapshots" in cast("bytes", reply.value)
        assert client.call("GET", "key") == Reply("$", b"value")


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
        with client_of(serving) as client:
            fill(client, 100)
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
