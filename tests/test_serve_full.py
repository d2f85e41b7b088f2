"""A server whose store is full and drops nothing: it refuses at once, serves the others, can be emptied."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import thermae
from resp import Connection, Reply, connected
from serving import thermae_serve

OK = Reply("+", b"OK")
PONG = Reply("+", b"PONG")
ONE = Reply(":", 1)
TIERS = ("--hot", "32MiB", "--cold", "64MiB", "--when-full", "error", "--threads", "1")
# Values of which ten leave a part of a frame unused, and such as a gigabyte of small keys has.
VALUE_BYTES = [100, 1000, 100_000, 200_000, 2_000_000]


def filled(client: Connection, value: bytes) -> int:
    """Keys stored until one was refused."""
    count = 0
    batch = max(1, 1_000_000 // len(value))
    while True:
        replies = client.pipelined([["SET", f"key:{count + number}", value] for number in range(batch)])
        for reply in replies:
            if reply != OK:
                assert isinstance(reply.value, bytes), reply
                assert reply.mark == "-", reply
                assert reply.value.startswith(b"OOM "), reply
                return count
            count += 1


@pytest.mark.parametrize("value_bytes", VALUE_BYTES)
@pytest.mark.parametrize("durability", ["none", "everysec"])
def test_a_full_server_refuses_at_once_and_can_be_emptied(
    tmp_path: Path, value_bytes: int, durability: str
) -> None:
    value = b"x" * value_bytes
    with (
        thermae_serve(tmp_path / "store", *TIERS, "--durability", durability) as serving,
        serving.connection() as client,
        serving.connection() as other,
    ):
        count = filled(client, value)
        assert count * value_bytes > 25 << 20

        # The loop that serves both is not kept by what is refused: 500 of these took half a minute.
        began = time.monotonic()
        for _ in range(50):
            refused = client.pipelined([["SET", "key:more", value]] * 10)
            assert all(reply.mark == "-" for reply in refused)
            assert other.call("PING") == PONG
        assert time.monotonic() - began < 10
        assert other.call("GET", "key:0") == Reply("$", value)

        assert all(client.call("DEL", f"key:{number}") == ONE for number in range(count // 2))
        assert client.call("SET", "key:more", value) == OK
        assert client.call("FLUSHALL") == OK
        assert client.call("DBSIZE") == Reply(":", 0)
        assert filled(client, value) * 100 > 60 * count


def test_a_full_server_answers_memcached_clients_too(tmp_path: Path) -> None:
    location = tmp_path / "store"
    with thermae_serve(location, *TIERS, "--memcached", "127.0.0.1:0", "--redis", "127.0.0.1:0") as serving:
        with serving.connection() as redis_client:
            filled(redis_client, b"x" * 100_000)
        with connected(serving.memcached) as client:

            def answer(line: bytes) -> bytes:
                client.sendall(line)
                return client.recv(1000)

            began = time.monotonic()
            for _ in range(100):
                assert answer(b"set more 0 0 100000\r\n" + b"x" * 100_000 + b"\r\n").startswith(
                    b"SERVER_ERROR "
                )
            assert time.monotonic() - began < 10
            assert answer(b"delete key:0\r\n") == b"DELETED\r\n"
            assert answer(b"flush_all\r\n") == b"OK\r\n"
            assert answer(b"set more 0 0 3\r\nyes\r\n") == b"STORED\r\n"
        with thermae.open(location) as store:
            assert store.when_full == "error"
