"""LATENCY of `thermae serve`, beside that of redis-server."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

import thermae
from resp import Connection, Reply
from serving import redis_server, thermae_serve

OK = Reply("+", b"OK")
DEBUG = ("--enable-debug-command", "local")
THRESHOLD = "latency-monitor-threshold"


def shape(reply: Reply) -> object:
    """A reply whose numbers, and those within its text, may be any."""
    if isinstance(reply.value, list):
        return reply.mark, [shape(part) for part in reply.value]
    if reply.mark == ":":
        return reply.mark
    assert isinstance(reply.value, bytes), reply
    return reply.mark, re.sub(rb"[0-9]+", b"0", reply.value)


def numbers(reply: Reply) -> list[int]:
    """The integers of a reply, from left to right."""
    if isinstance(reply.value, list):
        return [number for part in reply.value for number in numbers(part)]
    return [reply.value] if isinstance(reply.value, int) else []


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of a redis-server and of ours."""
    directory = tmp_path_factory.mktemp("latency")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with (
            redis_server(directory, *DEBUG) as theirs,
            thermae_serve(location, "--hot", "16MiB", *DEBUG) as serving,
        ):
            yield theirs, serving.redis
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


@pytest.fixture(params=[2, 3])
def both(servers: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    """A client of each, with nothing seen yet."""
    with Connection(servers[0], request.param) as theirs, Connection(servers[1], request.param) as ours:
        for client in (theirs, ours):
            client.call("CONFIG", "SET", THRESHOLD, "0")
            client.call("LATENCY", "RESET")
        yield theirs, ours


@pytest.mark.parametrize(
    "words",
    [
        "LATENCY LATEST",
        "LATENCY HISTORY command",
        "LATENCY HISTORY",
        "LATENCY GRAPH command",
        "LATENCY GRAPH",
        "LATENCY RESET",
        "LATENCY RESET command x",
        "LATENCY DOCTOR x",
        "CONFIG GET latency-monitor-threshold",
        "CONFIG SET latency-monitor-threshold -1",
        "CONFIG SET latency-monitor-threshold 1.5",
        "CONFIG SET latency-monitor-threshold x",
    ],
)
def test_without_spikes_replies_are_those_of_redis(both: tuple[Connection, Connection], words: str) -> None:
    theirs, ours = (client.call(*words.split()) for client in both)
    assert theirs == ours


def test_spikes_are_told_as_in_redis(both: tuple[Connection, Connection]) -> None:
    replies: list[list[object]] = []
    for client in both:
        assert client.call("CONFIG", "SET", THRESHOLD, "20") == OK
        assert client.call("DEBUG", "SLEEP", "0.03") == OK
        latest, history = client.call("LATENCY", "LATEST"), client.call("LATENCY", "HISTORY", "command")
        at_seconds, height, highest = numbers(latest)
        assert abs(at_seconds - time.time()) < 60
        assert 30 <= height == highest < 10_000
        assert numbers(history) == [at_seconds, height]
        graph = client.call("LATENCY", "GRAPH", "command")
        missing = client.call("LATENCY", "GRAPH", "COMMAND")
        client.call("MULTI")
        client.call("DEBUG", "SLEEP", "0")
        assert client.call("EXEC").mark == "*"
        assert numbers(client.call("LATENCY", "RESET", "command", "x", "command")) == [1]
        replies.append([*map(shape, (latest, history, graph, missing)), client.call("LATENCY", "LATEST")])
    assert replies[0] == replies[1]


def test_what_is_faster_and_what_is_not_watched_is_not_told(both: tuple[Connection, Connection]) -> None:
    for client in both:
        assert client.call("DEBUG", "SLEEP", "0.03") == OK
        assert client.call("CONFIG", "SET", THRESHOLD, "5000") == OK
        assert client.call("DEBUG", "SLEEP", "0.03") == OK
        assert client.call("LATENCY", "LATEST") == Reply("*", [])


def test_the_doctor_says_what_was_seen(servers: tuple[str, str]) -> None:
    with Connection(servers[1]) as client:
        client.call("CONFIG", "SET", THRESHOLD, "20")
        client.call("DEBUG", "SLEEP", "0.03")
        text = client.call("LATENCY", "DOCTOR").value
        assert isinstance(text, bytes)
        assert re.search(rb"1\. command: \d+ spikes? of \d+ ms on average", text)
        assert b"SLOWLOG GET" in text
