"""Client-side caching: `thermae serve` tells clients what redis-server does, and no copy stays outdated.

The same is said to both servers. Replies are compared one by one, and what clients are told without having
asked as one sequence for each client: when it comes, between a client's replies, is free.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import redis
import redis.connection
from hypothesis import given, settings
from redis.cache import CacheConfig

import redis_commands as groups
import thermae
from redis_commands import Step, sequences
from resp import Connection, Reply, readable, readable_word, wait_until
from serving import Serving, redis_server, thermae_serve

SECONDS_MAX = 10.0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    location = f"shm://thermae-{tmp_path_factory.mktemp('tracking').name}-{time.monotonic_ns()}"
    try:
        with thermae_serve(location, "--hot", "64MiB", "--threads", "2") as running:
            yield running
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> Iterator[tuple[str, str]]:
    """Of Redis and of ours."""
    with redis_server(tmp_path_factory.mktemp("redis")) as theirs:
        yield theirs, serving.redis


class Told:
    """A client in RESP3 that keeps what it is told apart from its replies."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        number = connection.call("CLIENT", "ID").value
        assert isinstance(number, int)
        self.number = number
        self.pushes: list[Reply] = []
        self.is_gone = False

    def call(self, *words: bytes | str) -> Reply:
        self.connection.send(*words)
        while (reply := self.connection.read()).mark == ">":
            self.pushes.append(reply)
        return reply


def text_of(reply: Reply) -> bytes:
    assert isinstance(reply.value, bytes)
    return reply.value


class Side:
    """One of the servers, with its clients."""

    def __init__(self, clients: list[Told]) -> None:
        self.clients = clients

    def call(self, step: Step) -> Reply:
        words = [self._number_in(word) for word in step.words]
        reply = self.clients[step.client].call(*words)
        if step.words == (b"QUIT",):
            self._let_go(step.client)
        is_number = [word.upper() for word in step.words[1:2]] in ([b"GETREDIR"], [b"TRACKINGINFO"])
        if reply.mark == "-":
            # Ours are text: what was sent and is no UTF-8 is shown as what stands for it.
            return Reply("-", text_of(reply).decode(errors="replace").encode())
        return self.masked(reply) if is_number else reply

    def _let_go(self, place: int) -> None:
        """Waits until the server knows that a client has gone."""
        gone = self.clients[place]
        gone.is_gone = True
        watcher = next(client for client in self.clients if not client.is_gone)
        wait_until(lambda: b"id=%d " % gone.number not in text_of(watcher.call("CLIENT", "LIST")))

    def _number_in(self, word: bytes) -> bytes:
        places = {b"<%d>" % place: client.number for place, client in enumerate(self.clients)}
        return b"%d" % places[word] if word in places else word

    def masked(self, reply: Reply) -> Reply:
        """The reply, with clients by their places instead of their numbers."""
        if isinstance(reply.value, list):
            return Reply(reply.mark, [self.masked(part) for part in reply.value])
        for place, client in enumerate(self.clients):
            if reply == Reply(":", client.number):
                return Reply("client", place)
        return reply

    def told(self) -> list[list[str]]:
        """What each client was told so far."""
        for client in self.clients:
            assert client.is_gone or client.call("PING") == Reply("+", b"PONG")
        return [[readable(self.masked(push)) for push in client.pushes] for client in self.clients]


@contextlib.contextmanager
def sides(addresses: tuple[str, str], count: int) -> Iterator[tuple[Side, Side]]:
    """Clients of both servers, which hold nothing."""
    with contextlib.ExitStack() as stack:

        def side(address: str) -> Side:
            clients = [Told(stack.enter_context(Connection(address, 3))) for _ in range(count)]
            assert clients[0].call("FLUSHALL") == Reply("+", b"OK")
            return Side(clients)

        yield side(addresses[0]), side(addresses[1])


def compare(addresses: tuple[str, str], steps: Sequence[Step], count: int = 3) -> list[list[str]]:
    """Says the same to both; what their clients were told."""
    with sides(addresses, count) as (theirs, ours):
        lines = []
        for step in steps:
            replies = theirs.call(step), ours.call(step)
            lines.append(f"{step.client}: {' '.join(map(readable_word, step.words))}  {replies[1]}")
            is_clock = step.words[0].upper() == b"TTL"
            assert is_clock or replies[0] == replies[1], "\n".join([*lines, f"redis: {replies[0]}"])
        expected = theirs.told()
        deadline = time.monotonic() + SECONDS_MAX
        while (told := ours.told()) != expected and time.monotonic() < deadline:
            if any(len(mine) > len(other) for mine, other in zip(told, expected, strict=True)):
                break
        assert told == expected, "\n".join(lines)
        return told


@settings(max_examples=3 * settings().max_examples)
@given(steps=sequences(groups.TRACKING, clients=3))
def test_clients_are_told_what_redis_tells_them(addresses: tuple[str, str], steps: list[Step]) -> None:
    compare(addresses, steps)


SCENES = {
    "once": (
        "0 CLIENT TRACKING ON; 0 GET a; 1 SET a 1; 1 SET a 2; 0 GET a; 0 GET a; 1 DEL a",
        ["invalidate a", "invalidate a"],
    ),
    "other database": ("0 CLIENT TRACKING ON; 0 GET a; 1 SELECT 3; 1 SET a 1", ["invalidate a"]),
    "several keys": (
        "0 CLIENT TRACKING ON; 0 MGET a b c; 1 MSET c 1 a 1 b 1; 0 MGET a b c; 1 RENAME a b; 0 MGET a b c; "
        "1 COPY b a REPLACE; 1 DEL c b",
        [*(f"invalidate {key}" for key in "cababacb")],
    ),
    "own changes": (
        "0 CLIENT TRACKING ON; 0 GET a; 0 SET a 1; 0 CLIENT TRACKING ON NOLOOP; 0 GET a; "
        "0 SET a 1; 1 SET a 1; "
        "0 GET a; 1 SET a 1",
        ["invalidate a", "invalidate a"],
    ),
    "opt in": (
        "0 CLIENT TRACKING ON OPTIN; 0 GET a; 0 CLIENT CACHING YES; 0 CLIENT GETNAME; 0 GET b; 0 GET c; "
        "1 MSET a 1 b 1 c 1; 0 CLIENT CACHING YES; 0 PING; 0 GET a; 1 SET a 1; "
        "0 CLIENT CACHING YES; 0 GET; 0 GET a; 1 SET a 1; 0 CLIENT CACHING YES; 0 CLIENT CACHING; "
        "0 GET a; 1 SET a 1",
        ["invalidate b", "invalidate a"],
    ),
    "opt out": (
        "0 CLIENT TRACKING ON OPTOUT; 0 GET a; 0 CLIENT CACHING NO; 0 GET b; 0 GET c; 1 MSET a 1 b 1 c 1",
        ["invalidate a", "invalidate c"],
    ),
    "transaction that is chosen": (
        "0 CLIENT TRACKING ON OPTIN; 0 CLIENT CACHING YES; 0 MULTI; 0 GET a; 0 GET b; 0 EXEC; 0 GET c; "
        "1 MSET a 1 b 1 c 1; 0 CLIENT CACHING YES; 0 MULTI; 0 GET a; 0 DISCARD; 0 GET a; 1 SET a 1; "
        "0 MULTI; 0 GET a; 0 CLIENT CACHING YES; 0 GET b; 0 EXEC; 0 GET c; 1 MSET a 1 b 1 c 1",
        ["invalidate a", "invalidate b", "invalidate b"],
    ),
    "change in a transaction": (
        "0 CLIENT TRACKING ON; 0 MGET a b c; 1 MULTI; 1 SET a 1; 1 DEL b; 1 INCR c; 1 EXEC; 1 SET a 1",
        ["invalidate a", "invalidate c"],
    ),
    "turned on in a transaction": (
        "0 MULTI; 0 CLIENT TRACKING ON; 0 GET a; 0 SET a 1; 0 EXEC; 0 SET a 2",
        ["invalidate a"],
    ),
    "emptied": (
        "0 CLIENT TRACKING ON; 0 GET a; 1 FLUSHDB; 1 SET a 1; 0 GET a; 0 FLUSHALL; 1 SET a 1; "
        "1 FLUSHALL SYNC",
        ["invalidate _", "invalidate _", "invalidate _"],
    ),
    "broadcast": (
        "0 CLIENT TRACKING ON BCAST PREFIX a PREFIX b; 1 MSET a2 1 a1 1 b 1 c 1 a2 2; 1 DEL a1 b; "
        "0 SET a1 1; "
        "0 CLIENT TRACKING OFF; 1 SET a1 1",
        ["invalidate a1 a2", "invalidate b", "invalidate a1", "invalidate b", "invalidate a1"],
    ),
    "broadcast of everything": (
        "0 CLIENT TRACKING ON BCAST NOLOOP; 1 SET a 1; 0 SET b 1; 1 FLUSHALL; 1 MULTI; 1 SET a 1; "
        "1 SET b 1; 1 EXEC",
        ["invalidate a", "invalidate _", "invalidate a b"],
    ),
    "another client": (
        "1 CLIENT TRACKING ON REDIRECT <0>; 1 GET a; 1 CLIENT GETREDIR; 2 SET a 1; 2 FLUSHALL; "
        "1 CLIENT TRACKINGINFO",
        ["invalidate a", "invalidate _"],
    ),
    "another client that is gone": (
        "0 CLIENT TRACKING ON REDIRECT <1>; 0 GET a; 1 QUIT; 2 SET a 1; 0 CLIENT TRACKINGINFO; "
        "0 GET a; 2 FLUSHALL; "
        "0 CLIENT TRACKING ON; 0 CLIENT TRACKINGINFO",
        ["tracking-redir-broken 1", "tracking-redir-broken 1"],
    ),
    "silence": ("0 CLIENT TRACKING ON; 0 GET a; 0 RESET; 1 SET a 1", []),
}


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_are_played_as_with_redis(addresses: tuple[str, str], scene: str) -> None:
    text, expected = SCENES[scene]
    steps = []
    for line in text.split(";"):
        client, *words = shlex.split(line)
        steps.append(Step(int(client), tuple(word.encode() for word in words)))
    told = compare(addresses, steps)
    plain = [push.translate(str.maketrans("", "", ">*[]$',:")).replace("client", "") for push in told[0]]
    assert plain == expected
    assert told[1:] == [[]] * (len(told) - 1)


def test_clients_of_resp2_are_told_by_messages(addresses: tuple[str, str]) -> None:
    told = []
    for address in addresses:
        with Connection(address) as target, Connection(address) as reader, Connection(address) as writer:
            writer.call("FLUSHALL")
            number = target.call("CLIENT", "ID").value
            assert isinstance(number, int)
            target.call("SUBSCRIBE", "__redis__:invalidate")
            assert reader.call("CLIENT", "TRACKING", "ON", "REDIRECT", number) == Reply("+", b"OK")
            assert reader.call("MGET", "a", "b") == Reply("*", [Reply("$", None), Reply("$", None)])
            messages = []
            for words in (("SET", "a", "1"), ("MSET", "a", "2", "b", "2"), ("FLUSHALL",)):
                assert writer.call(*words) == Reply("+", b"OK")
                messages.append(target.read())
            assert reader.call("CLIENT", "TRACKING", "OFF") == Reply("+", b"OK")
            # Without another client there is no way to tell it.
            assert reader.call("CLIENT", "TRACKING", "ON") == Reply("+", b"OK")
            assert reader.call("GET", "a") == Reply("$", None)
            assert writer.call("SET", "a", "3") == Reply("+", b"OK")
            assert reader.call("GET", "a") == Reply("$", b"3")
            told.append(list(map(readable, messages)))
    assert told[0] == told[1]
    assert told[1][0] == "*[$'message', $'__redis__:invalidate', *[$'a']]"


def test_a_full_table_lets_clients_forget(addresses: tuple[str, str]) -> None:
    keys_max, keys = 20, 100
    for address in addresses:
        with Connection(address, 3) as connection, Connection(address) as writer:
            assert writer.call("CONFIG", "SET", "tracking-table-max-keys", keys_max) == Reply("+", b"OK")
            try:
                client = Told(connection)
                client.call("CLIENT", "TRACKING", "ON")
                for number in range(keys):
                    client.call("GET", f"limit:{number}")

                def have_gone(client: Told = client) -> bool:
                    client.call("PING")
                    return len(client.pushes) >= keys - keys_max

                wait_until(have_gone)
                assert (
                    len(client.pushes) == len({readable(push) for push in client.pushes}) == keys - keys_max
                )
                # Each of the others is told when it changes.
                for number in range(keys):
                    writer.call("SET", f"limit:{number}", "1")

                def have_all_gone(client: Told = client) -> bool:
                    client.call("PING")
                    return len(client.pushes) >= keys

                wait_until(have_all_gone)
                assert len({readable(push) for push in client.pushes}) == keys
            finally:
                writer.call("CONFIG", "SET", "tracking-table-max-keys", 1_000_000)


@pytest.fixture
def cached(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """redis-py with copies of its own. It takes no server before 7.4, although those tell the same."""
    monkeypatch.setattr(redis.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    host, port = serving.redis.rsplit(":", 1)
    client = redis.Redis(host=host, port=int(port), protocol=3, cache_config=CacheConfig())
    yield client
    client.close()


def test_redis_py_keeps_copies_and_drops_them(cached: redis.Redis, serving: Serving) -> None:
    cache = cached.get_cache()
    assert cache is not None
    with serving.connection() as writer:
        writer.call("FLUSHALL")
        writer.call("SET", "user:1", "first")
        assert cached.get("user:1") == b"first"
        assert cache.size == 1
        assert cached.get("user:1") == b"first"
        writer.call("SET", "user:1", "second")
        wait_until(lambda: cached.get("user:1") == b"second")
        assert cached.mget("user:1", "user:2") == [b"second", None]
        writer.call("FLUSHALL")
        wait_until(lambda: cached.get("user:1") is None)


def test_no_copy_of_redis_py_stays_outdated(cached: redis.Redis, serving: Serving) -> None:
    keys = [f"race:{number}" for number in range(10)]
    is_over = threading.Event()

    def write(first: int) -> None:
        with serving.connection() as writer:
            number = first
            while not is_over.is_set():
                number += 3
                writer.call("MSET", keys[number % 10], number, keys[number * 7 % 10], number)

    writers = [threading.Thread(target=write, args=(first,)) for first in range(3)]
    for thread in writers:
        thread.start()
    deadline = time.monotonic() + 2.0
    reads = 0
    while time.monotonic() < deadline:
        cached.get(keys[reads % 10])
        reads += 1
    is_over.set()
    for thread in writers:
        thread.join()
    with serving.connection() as judge:

        def are_alike() -> bool:
            return all(cached.get(key) == judge.call("GET", key).value for key in keys)

        wait_until(are_alike)
