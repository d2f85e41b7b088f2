"""Clients that others wrote, as their users use them, against a running `thermae serve`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from typing import cast

import pylibmc
import pytest
import valkey
import valkey.asyncio

from serving import Serving, thermae_serve

SECONDS_MAX = 120


@pytest.fixture
def serving(location: str) -> Iterator[Serving]:
    options = ("--hot", "32MiB", "--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0")
    with thermae_serve(location, *options) as running:
        yield running


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


# memcached.


def test_memccapable_finds_no_fault(serving: Serving) -> None:
    """libmemcached's check of a server, of all that its ASCII protocol has."""
    assert shutil.which("memccapable") is not None, "memccapable is missing: .ci/run installs it"
    host, port = host_and_port(serving.memcached)
    command = ["memccapable", "-h", host, "-p", str(port), "-a", "-t", "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [line.rsplit(maxsplit=1)[-1] for line in done.stdout.splitlines() if line.startswith("ascii ")]
    assert len(results) >= 20
    assert set(results) == {"[pass]"}


def memcached_clients(serving: Serving) -> Iterator[pylibmc.Client]:
    yield pylibmc.Client([serving.memcached])
    yield pylibmc.Client([serving.memcached], behaviors={"tcp_nodelay": True, "no_block": True, "cas": True})


def test_pylibmc_stores_and_finds(serving: Serving) -> None:
    for client in memcached_clients(serving):
        client.flush_all()
        assert client.get("absent") is None
        assert client.set("text", "text")
        assert client.set("number", 5)
        assert client.set("bytes", b"\0\r\nEND\r\n")
        assert client.get_multi(["text", "number", "bytes", "absent"]) == {
            "text": "text",
            "number": 5,
            "bytes": b"\0\r\nEND\r\n",
        }
        assert client.incr("number", 10) == 15
        assert client.decr("number", 20) == 0
        assert not client.add("text", "other")
        assert client.replace("text", "new")
        assert client.append("text", "er")
        assert client.prepend("text", "the ")
        assert client.get("text") == "the newer"
        assert client.touch("text", 100)
        assert client.delete("text")
        assert not client.delete("text")
        large = {f"key:{number}": "v" * 10_000 for number in range(500)}
        assert client.set_multi(large) == []
        assert client.get_multi(list(large)) == large
        assert client.delete_multi(list(large))
        assert client.get_multi(list(large)) == {}


def test_pylibmc_decides_by_version(serving: Serving) -> None:
    one, other = (pylibmc.Client([serving.memcached], behaviors={"cas": True}) for _ in range(2))
    one.set("key", "first")
    value, version = one.gets("key")
    assert value == "first"
    other.set("key", "second")
    assert not one.cas("key", "third", version)
    value, version = one.gets("key")
    assert (value, one.cas("key", "third", version)) == ("second", True)
    assert other.get("key") == "third"


# Redis.


@pytest.mark.parametrize("protocol", [2, 3])
def test_valkey_stores_and_finds(serving: Serving, protocol: int) -> None:
    host, port = host_and_port(serving.redis)
    with valkey.Valkey(host=host, port=port, protocol=protocol, decode_responses=True) as client:
        assert client.ping()
        assert client.set("text", "text", ex=100, nx=True)
        assert client.set("text", "other", nx=True) is None
        assert 0 < client.ttl("text") <= 100
        assert client.mset({f"key:{number}": number for number in range(1000)})
        assert client.incrby("key:1", 5) == 6
        assert client.mget("key:1", "absent", "key:2") == ["6", None, "2"]
        assert len(set(client.scan_iter("key:*", count=100))) == 1000
        with client.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.get(f"key:{number}")
            assert pipeline.execute()[-1] == "999"
        assert client.delete(*(f"key:{number}" for number in range(1000))) == 1000
        assert client.dbsize() == 1
        assert client.info("server")["redis_version"]
        client.flushdb()


def test_valkey_decides_by_what_it_watched(serving: Serving) -> None:
    host, port = host_and_port(serving.redis)
    with valkey.Valkey(host=host, port=port) as one, valkey.Valkey(host=host, port=port) as other:
        one.set("key", 1)
        attempts = 0

        def double(pipeline: valkey.client.Pipeline) -> None:
            nonlocal attempts
            attempts += 1
            # Its type says that it may have to be awaited.
            value = int(cast(bytes, pipeline.get("key")))
            if attempts == 1:
                other.set("key", 10)
            pipeline.multi()
            pipeline.set("key", 2 * value)

        one.transaction(double, "key")
        assert (attempts, one.get("key")) == (2, b"20")


def test_valkey_serves_asyncio(serving: Serving) -> None:
    host, port = host_and_port(serving.redis)

    async def use() -> list[bytes]:
        async with valkey.asyncio.Valkey(host=host, port=port) as client:
            await asyncio.gather(*(client.set(f"key:{number}", number) for number in range(100)))
            return list(await asyncio.gather(*(client.get(f"key:{number}") for number in range(100))))

    assert asyncio.run(use()) == [b"%d" % number for number in range(100)]
