"""How much memory a server uses: of the hot tier, and of its own for what clients send and do not take."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

import thermae
from resp import ClosedError, Connection, Reply, wait_until
from serving import Serving, thermae_serve

MIB = 1 << 20
OK = Reply("+", b"OK")


def fill(client: redis.Redis) -> None:
    """Some 45 MiB."""
    for start in range(0, 45_000, 1000):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 1000):
                pipeline.set(f"key:{number}", bytes(1000))
            pipeline.execute()


def test_maxmemory_is_set_while_the_server_runs(tmp_path: Path) -> None:
    location = str(tmp_path / "store")
    with (
        thermae_serve(location, "--hot", "64MiB", "--cold", "64MiB") as server,
        redis.Redis.from_url(f"redis://{server.redis}") as client,
        thermae.open(location) as store,
    ):
        fill(client)
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * MIB)}
        assert store.stats()["hot_used_bytes"] > 40 * MIB

        client.config_set("maxmemory", "20mb")
        assert client.config_get("maxmemory") == {"maxmemory": str(20 * MIB)}
        assert client.info("memory")["maxmemory"] == 20 * MIB
        assert client.info("memory")["used_memory"] <= 20 * MIB
        assert store.stats()["hot_used_bytes"] <= store.stats()["hot_limit_bytes"] == 20 * MIB
        assert store["key:0"] == bytes(1000), "what was too much for memory is in the cold tier"
        assert client.dbsize() == 45_000

        with pytest.raises(redis.ResponseError, match="can be limited to 16MiB and up to its size, 64MiB"):
            client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory", "0")
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * MIB)}


def test_maxmemory_is_not_set_to_less_than_must_stay(location: str) -> None:
    arguments = ("--hot", "64MiB", "--when-full", "error")
    with (
        thermae_serve(location, *arguments) as server,
        redis.Redis.from_url(f"redis://{server.redis}") as client,
    ):
        fill(client)
        with pytest.raises(redis.ResponseError, match="when_full"):
            client.config_set("maxmemory", "20mb")
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * MIB)}
        client.execute_command("CONFIG", "SET", "maxmemory", "20mb", "maxmemory-policy", "allkeys-lru")
        assert client.dbsize() < 20_000


def private_growth(server: Serving) -> Callable[[], int]:
    """How many more bytes of its own the server has than now."""
    before = server.private_bytes()
    return lambda: server.private_bytes() - before


def test_arguments_that_come_in_part_have_a_limit_together(tmp_path: Path) -> None:
    with thermae_serve(tmp_path / "store", "--hot", "64MiB", "--cold", "64MiB") as server:
        with server.connection() as admin:
            assert admin.call("CONFIG", "SET", "maxmemory-clients", "32mb") == OK
        growth = private_growth(server)
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(server.connection()) for _ in range(4)]
            for other in others:
                other.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (100 * MIB))
            # In turns: each of them is, for a while, the one that holds most.
            for _ in range(40):
                for other in others:
                    with contextlib.suppress(OSError):
                        other.socket.sendall(bytes(MIB))
            with server.connection() as admin:
                assert admin.call("PING") == Reply("+", b"PONG")
                assert evicted_clients(admin) >= 3
            assert growth() < 32 * MIB + 64 * MIB
        assert growth() < 64 * MIB, "what the clients held is free again"


def test_a_large_reply_is_not_kept_twice_and_not_for_ever(tmp_path: Path) -> None:
    with thermae_serve(tmp_path / "store", "--hot", "64MiB", "--cold", "64MiB") as server:
        with server.connection() as admin:
            assert admin.call("SET", "k", bytes(8 * MIB)) == OK
            assert admin.call("CONFIG", "SET", "maxmemory-clients", "0") == OK
        growth = private_growth(server)
        with server.connection() as reader:
            reader.send("MGET", *["k"] * 20)
            wait_until(lambda: growth() > 150 * MIB)
            time.sleep(0.2)
            assert growth() < (160 + 40) * MIB
        wait_until(lambda: growth() < 40 * MIB)


def is_cut_off(client: Connection) -> bool:
    """Whether the server closes the connection before the reply is whole."""
    try:
        client.read()
    except (ClosedError, ConnectionResetError):
        return True
    return False


def test_a_client_that_holds_too_much_is_closed_and_named(tmp_path: Path) -> None:
    with thermae_serve(tmp_path / "store", "--hot", "64MiB", "--cold", "64MiB") as server:
        with server.connection() as admin:
            assert admin.call("SET", "k", bytes(8 * MIB)) == OK
            assert admin.call("CONFIG", "SET", "maxmemory-clients", "16mb") == OK
        with server.connection() as reader, server.connection() as spared:
            assert spared.call("CLIENT", "NO-EVICT", "on") == OK
            reader.send("MGET", *["k"] * 10)
            assert is_cut_off(reader)
            assert spared.call("PING") == Reply("+", b"PONG")


def evicted_clients(client: Connection) -> int:
    found = re.search(r"evicted_clients:(\d+)", str(client.call("INFO", "stats").value))
    assert found is not None
    return int(found[1])


def test_what_waits_for_exec_counts_as_held(tmp_path: Path) -> None:
    """Each queue had a limit, and all together none: six clients took 290 MiB, 8 MiB being allowed."""
    options = ("--hot", "64MiB", "--cold", "64MiB", "--clients-memory-max", "8MiB")
    with thermae_serve(tmp_path / "store", *options) as server, server.connection() as admin:
        growth = private_growth(server)
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                client = stack.enter_context(server.connection())
                assert client.call("MULTI") == OK
                with contextlib.suppress(ClosedError, OSError):
                    for _ in range(50):
                        assert client.call("SET", "k", bytes(MIB - 100)) == Reply("+", b"QUEUED")
            assert evicted_clients(admin) == 6
            assert growth() < 32 * MIB


def test_a_queue_within_the_limit_stays_and_is_shown(tmp_path: Path) -> None:
    options = ("--hot", "64MiB", "--cold", "64MiB", "--clients-memory-max", "8MiB")
    with (
        thermae_serve(tmp_path / "store", *options) as server,
        redis.Redis.from_url(f"redis://{server.redis}") as admin,
        server.connection() as client,
    ):
        assert client.call("CLIENT", "SETNAME", "queuing") == OK
        assert client.call("WATCH", "k" * 1000) == OK
        assert client.call("MULTI") == OK
        for _ in range(4):
            assert client.call("SET", "k", bytes(MIB)) == Reply("+", b"QUEUED")
        [seen] = [seen for seen in admin.client_list() if seen["name"] == "queuing"]
        queued_bytes = 4 * MIB + 1000
        assert queued_bytes < int(seen["multi-mem"]) < queued_bytes + 4096
        assert int(seen["multi-mem"]) < int(seen["tot-mem"]) < queued_bytes + 8192
        assert queued_bytes < admin.memory_stats()["clients.normal"] < queued_bytes + 3 * MIB
        replies = client.call("EXEC")
        assert replies == Reply("*", [OK] * 4)
        wait_until(lambda: admin.memory_stats()["clients.normal"] < 3 * MIB)


def test_the_limit_of_all_clients_is_set_in_bytes_or_as_a_share_of_memory(tmp_path: Path) -> None:
    with (
        thermae_serve(tmp_path / "store", "--hot", "64MiB", "--cold", "64MiB") as server,
        redis.Redis.from_url(f"redis://{server.redis}") as client,
    ):
        # Half of the hot tier is the largest value, which a client has to be able to send.
        assert client.config_get("maxmemory-clients") == {"maxmemory-clients": str(96 * MIB)}
        client.config_set("maxmemory-clients", "50%")
        assert client.config_get("maxmemory-clients") == {"maxmemory-clients": str(32 * MIB)}
        with pytest.raises(redis.ResponseError, match="between 0 and 100"):
            client.config_set("maxmemory-clients", "101%")
