"""`kill -9` of a server under load: clients come back, and nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import thermae
from resp import wait_until
from serving import free_port, thermae_serve
from thermae import _thermae

CLIENTS = 8
# A write that is sent again after it failed would be counted as sent once.
NO_RETRIES = Retry(NoBackoff(), 0)
OPTIONS = ("--hot", "16MiB", "--cold", "64MiB", "--durability", "always")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    with contextlib.suppress(thermae.NotAStoreError):
        thermae.destroy(tmp_path / "data")


class Writer(threading.Thread):
    """Writes 1, 2, 3, ... to a key of its own; knows what was acknowledged, and what was sent."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__()
        self.key = key
        self.acknowledged = 0
        self.sent = 0
        self._port = port
        self._stopping = threading.Event()

    def run(self) -> None:
        with client_of(self._port) as client:
            while not self._stopping.is_set():
                self.sent += 1
                try:
                    client.set(self.key, self.sent)
                except redis.ConnectionError:
                    time.sleep(0.01)
                else:
                    self.acknowledged = self.sent

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@contextlib.contextmanager
def writing(port: int) -> Iterator[list[Writer]]:
    """Writers that write until the block ends."""
    writers = [Writer(port, f"key:{number}") for number in range(CLIENTS)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


@pytest.fixture
def port() -> int:
    """Kept by all servers of a test: clients come back to where they were."""
    return free_port()


def client_of(port: int) -> redis.Redis:
    return redis.Redis(port=port, retry=NO_RETRIES, socket_timeout=30)


@pytest.mark.parametrize("memory_is_lost", [False, True], ids=["killed", "killed, and the machine with it"])
def test_nothing_acknowledged_is_lost(place: Path, port: int, memory_is_lost: bool) -> None:
    address = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        with thermae_serve(place, "--redis", address, *OPTIONS) as serving:
            writers = stack.enter_context(writing(port))
            wait_until(lambda: all(writer.acknowledged for writer in writers), 20)
            time.sleep(0.5)
            serving.kill()
        at_death = {writer.key: writer.acknowledged for writer in writers}
        if memory_is_lost:
            _thermae.forget_shared_memory(str(place))
        stack.enter_context(thermae_serve(place, "--redis", address, *OPTIONS))
        reader = stack.enter_context(client_of(port))
        for key, acknowledged in at_death.items():
            # What was written since the restart is larger still.
            assert number_at(reader, key) >= acknowledged
        for writer in writers:
            acknowledged = writer.acknowledged
            wait_until(lambda: writer.acknowledged > acknowledged, 20)  # noqa: B023 - called at once
        for writer in writers:
            writer.stop()
            assert writer.acknowledged <= number_at(reader, writer.key) <= writer.sent
    with thermae.open(place, create=False) as store:
        assert store.check()["ok"]


def number_at(client: redis.Redis, key: str) -> int:
    value = client.get(key)
    assert isinstance(value, bytes)
    return int(value)


def test_a_server_that_died_is_replaced_at_its_socket(place: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with redis.Redis(unix_socket_path=path, retry=NO_RETRIES) as client:
        with thermae_serve(place, "--unix", path, *OPTIONS) as serving:
            client.set("key", "value")
            serving.kill()
            with pytest.raises(redis.ConnectionError):
                client.get("key")
        with thermae_serve(place, "--unix", path, *OPTIONS):
            assert client.get("key") == b"value"


def test_python_goes_on_while_the_server_is_dead(place: Path, port: int) -> None:
    address = f"127.0.0.1:{port}"
    with thermae_serve(place, "--redis", address, *OPTIONS) as serving, thermae.open(place) as store:
        with writing(port) as writers:
            wait_until(lambda: all(writer.acknowledged for writer in writers), 20)
            serving.kill()
        store["key"] = "by Python"
        for writer in writers:
            # Whatever the dead server held of this key's partition is repaired by who comes next.
            assert int(store[writer.key]) >= writer.acknowledged > 0
            store[writer.key] = b"0"
        with thermae_serve(place, "--redis", address, *OPTIONS), client_of(port) as client:
            assert client.get("key") == b"by Python"
            assert client.get("key:0") == b"0"
