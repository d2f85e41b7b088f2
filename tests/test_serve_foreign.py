"""What Python does to keys, and the store by itself, told to clients of a server of the same store."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest
import redis

import thermae
from serving import Serving, thermae_serve

SECONDS_MAX = 10.0


@pytest.fixture
def location() -> Iterator[str]:
    location = f"shm://thermae-test-{os.getpid()}-foreign"
    yield location
    with contextlib.suppress(thermae.NotAStoreError):
        thermae.destroy(location)


def client_of(serving: Serving) -> redis.Redis:
    host, _, port = serving.redis.rpartition(":")
    return redis.Redis(host, int(port))


def told(subscription: redis.client.PubSub, count: int) -> list[tuple[bytes, bytes]]:
    """So many messages: channel and text."""
    messages: list[tuple[bytes, bytes]] = []
    deadline = time.monotonic() + SECONDS_MAX
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{messages} and no more"
        message = subscription.get_message(timeout=0.1)
        if message is not None and message["type"] == "pmessage":
            messages.append((message["channel"], message["data"]))
    return messages


def test_what_python_and_the_store_do_is_an_event_for_redis_clients(location: str) -> None:
    with (
        thermae_serve(location, "--hot", "16MiB", "--threads", "2") as serving,
        thermae.open(location) as store,
        client_of(serving) as client,
        client.pubsub() as subscription,
    ):
        store["before"] = "nobody is told"
        client.config_set("notify-keyspace-events", "KEA")
        subscription.psubscribe("__keyevent@0__:*")
        assert subscription.get_message(timeout=SECONDS_MAX) is not None
        store["key"] = "value"
        del store["key"]
        store.set("brief", "value", ttl=0.05)
        client.set("own", "value")
        messages = told(subscription, 5)
        # What commands of the server do is told by themselves, as soon as they are done.
        assert (b"__keyevent@0__:set", b"own") in messages
        messages.remove((b"__keyevent@0__:set", b"own"))
        assert messages == [
            (b"__keyevent@0__:set", b"key"),
            (b"__keyevent@0__:del", b"key"),
            (b"__keyevent@0__:set", b"brief"),
            (b"__keyevent@0__:expired", b"brief"),
        ]


def test_a_client_that_keeps_copies_is_told_what_python_changes(location: str) -> None:
    with (
        thermae_serve(location, "--hot", "16MiB") as serving,
        thermae.open(location) as store,
        serving.connection(3) as client,
    ):
        store["key"] = "first"
        client.call("CLIENT", "TRACKING", "ON")
        assert client.call("GET", "key").value == b"first"
        store["other"] = "nobody has a copy"
        store["key"] = "second"
        pushed = client.read()
        assert "invalidate" in repr(pushed)
        assert "key" in repr(pushed)
        assert client.call("GET", "key").value == b"second"
        # A transaction of Python's, and a key that expires.
        with store.transaction() as transaction:
            transaction["key"] = "third"
        assert "key" in repr(client.read())
        store.set("brief", "value", ttl=1.0)
        assert client.call("GET", "brief").value == b"value"
        assert "brief" in repr(client.read())
