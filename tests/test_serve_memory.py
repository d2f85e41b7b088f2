"""`maxmemory`, while a server runs: how much of the hot tier is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

import thermae
from serving import thermae_serve

MIB = 1 << 20


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


def test_maxmemory_is_not_set_to_less_than_must_stay() -> None:
    arguments = ("--hot", "64MiB", "--when-full", "error")
    with (
        thermae_serve("shm://test-serve-maxmemory", *arguments) as server,
        redis.Redis.from_url(f"redis://{server.redis}") as client,
    ):
        fill(client)
        with pytest.raises(redis.ResponseError, match="when_full"):
            client.config_set("maxmemory", "20mb")
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * MIB)}
        client.execute_command("CONFIG", "SET", "maxmemory", "20mb", "maxmemory-policy", "allkeys-lru")
        assert client.dbsize() < 20_000
    thermae.destroy("shm://test-serve-maxmemory")
