"""What reaches a client unasked, and what it did meanwhile: neither is lost, and nobody is closed for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resp import ClosedError, Connection, Reply
from serving import Serving, thermae_serve

OK = Reply("+", b"OK")
PUBLISHERS = 2


@contextlib.contextmanager
def publishing(server: Serving) -> Iterator[None]:
    """Others publish as fast as they can, until the block ends."""
    stop = threading.Event()

    def publish() -> None:
        with server.connection() as publisher:
            while not stop.is_set():
                publisher.call("PUBLISH", "news", "x" * 100)

    publishers = [threading.Thread(target=publish) for _ in range(PUBLISHERS)]
    for publisher in publishers:
        publisher.start()
    try:
        yield
    finally:
        stop.set()
        for publisher in publishers:
            publisher.join()


def reply_of(client: Connection) -> Reply:
    """The next reply, whatever is pushed before it."""
    while (reply := client.read()).mark == ">":
        pass
    return reply


def test_a_subscriber_that_waits_for_the_disk_is_not_closed(tmp_path: Path) -> None:
    """A message had it served, and the event of its own command, in the same batch, was taken for its end."""
    location = tmp_path / "store"
    with (
        thermae_serve(location, "--hot", "16MiB", "--cold", "64MiB", "--durability", "always") as server,
        server.connection(protocol=3) as client,
    ):
        client.send("SUBSCRIBE", "news")
        client.read()
        with publishing(server):
            for number in range(1000):
                client.send("SET", f"key:{number}", "value")
                assert reply_of(client) == OK


def test_a_subscriber_that_waits_for_the_end_of_a_pause_is_not_closed(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection(protocol=3) as client,
        server.connection() as admin,
    ):
        client.send("SUBSCRIBE", "news")
        client.read()
        with publishing(server):
            for number in range(10):
                assert admin.call("CLIENT", "PAUSE", "50", "WRITE") == OK
                client.send("SET", f"key:{number}", "value")
                assert reply_of(client) == OK


def test_publishing_waits_for_the_end_of_a_pause_of_those_that_write(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection() as admin,
    ):
        held = [("PUBLISH", "news", "x"), ("SPUBLISH", "news", "x"), ("PFCOUNT", "nothing")]
        clients = [server.connection() for _ in held]
        began = time.monotonic()
        assert admin.call("CLIENT", "PAUSE", "2000", "WRITE") == OK
        assert admin.call("GET", "key").value is None
        assert time.monotonic() - began < 2
        for client, words in zip(clients, held, strict=True):
            client.send(*words)
        for client in clients:
            assert client.read() == Reply(":", 0)
            assert time.monotonic() - began > 1.9
            client.close()


def test_what_a_transaction_publishes_after_it_subscribed_comes_to_it(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection(protocol=3) as client,
    ):
        for words in (("MULTI",), ("SUBSCRIBE", "news"), ("PUBLISH", "news", "hello")):
            client.call(*words)
        client.send("EXEC")
        text = b""
        while b"hello" not in text:
            text += client.socket.recv(4096)
        assert b":1\r\n" in text, "one client was there to receive it"


def test_a_watched_key_that_came_and_went_has_changed(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection() as client,
        server.connection() as other,
    ):
        cases: list[tuple[str, list[tuple[str, ...]], bool]] = [
            ("stored and deleted", [("SET", "stored and deleted", "1"), ("DEL", "stored and deleted")], True),
            ("expired", [("SET", "expired", "1", "PX", "1")], True),
            ("read", [("GET", "read")], False),
            ("deleted", [("DEL", "deleted")], False),
        ]
        for key, commands, is_changed in cases:
            assert client.call("WATCH", key) == OK
            for words in commands:
                other.call(*words)
            while other.call("EXISTS", key) != Reply(":", 0):
                time.sleep(0.001)
            client.call("MULTI")
            client.call("INCR", "counter")
            reply = client.call("EXEC")
            assert (reply.value is None) == is_changed, key


@pytest.mark.parametrize("rule", ["resetchannels", "-@all", "off"])
def test_a_subscriber_loses_its_connection_with_its_right_to_a_channel(tmp_path: Path, rule: str) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection() as admin,
        server.connection() as subscriber,
    ):
        assert admin.call("ACL", "SETUSER", "reader", "on", ">secret", "+@all", "&news") == OK
        assert subscriber.call("AUTH", "reader", "secret") == OK
        subscriber.call("SUBSCRIBE", "news")
        assert admin.call("ACL", "SETUSER", "reader", "&other") == OK
        assert admin.call("PUBLISH", "news", "kept") == Reply(":", 1)
        subscriber.read()
        assert admin.call("ACL", "SETUSER", "reader", rule) == OK
        if rule == "resetchannels":
            with pytest.raises((ClosedError, ConnectionResetError)):
                subscriber.read()
        else:
            # As in Redis: the right to the channel is what counts.
            assert admin.call("PUBLISH", "news", "kept") == Reply(":", 1)


def test_clients_are_asked_whether_they_are_still_there(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server,
        server.connection() as client,
    ):
        assert client.call("CONFIG", "GET", "tcp-keepalive").value == [
            Reply("$", b"tcp-keepalive"),
            Reply("$", b"300"),
        ]
        port = int(server.redis.rpartition(":")[2])
        peer = client.socket.getsockname()[1]
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ends = (f":{port:04X}", f":{peer:04X}")
        (line,) = [line for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])]
        timer, _, _ = line[5].partition(":")
        assert timer == "02", "a keepalive timer runs"


def test_a_stop_does_not_wait_for_a_client_that_goes_on_sending(tmp_path: Path) -> None:
    with thermae_serve(tmp_path / "store", "--hot", "16MiB", "--cold", "64MiB") as server:
        client = server.connection()
        is_over = threading.Event()

        def send() -> None:
            commands = b"*1\r\n$4\r\nPING\r\n" * 1000
            while not is_over.is_set():
                try:
                    client.socket.sendall(commands)
                except OSError:
                    return

        def receive() -> None:
            while not is_over.is_set():
                try:
                    if not client.socket.recv(1 << 16):
                        return
                except OSError:
                    return

        threads = [threading.Thread(target=send), threading.Thread(target=receive)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert server.terminate() == 0
        took_seconds = time.monotonic() - began
        is_over.set()
        client.close()
        for thread in threads:
            thread.join()
        assert took_seconds < 3.0, "it waited for who goes on sending"
