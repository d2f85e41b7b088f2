"""Publish and subscribe, notifications of what happens to keys, and MONITOR, as redis-server has them.

Two servers are told the same by several clients each, and all that each client receives is compared. What is
free is made comparable: the order of channels in a reply that lists them, that of patterns which all describe
a channel, a clock, a port. After each step every client is read until what was sent to it must be there.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pymemcache
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import redis_commands as groups
import thermae
from redis_commands import Step, Words, sequences
from resp import ClosedError, Connection, Reply, encoded, readable, readable_word, wait_until
from serving import redis_server, thermae_serve

_tokens = itertools.count(1)


class Both(NamedTuple):
    """The addresses of two servers that are told the same."""

    theirs: str
    ours: str


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def both(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("pubsub")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    options = ("--hot", "64MiB", "--threads", str(request.param))
    try:
        with redis_server(directory) as theirs, thermae_serve(location, *options) as serving:
            yield Both(theirs, serving.redis)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


class Client:
    """A client of one server, and all that it has received."""

    def __init__(self, address: str, protocol: int | None) -> None:
        self.connection = Connection(address, protocol)
        self.is_open = True

    def send(self, words: Words) -> None:
        if self.is_open:
            # The server may have closed the connection: reading says so.
            with contextlib.suppress(OSError):
                self.connection.send(*words)

    def received(self) -> list[Reply]:
        """What came since, up to the reply to a PING: twice, for a message may come beside the first."""
        replies: list[Reply] = []
        for _ in range(2):
            token = b"token %d" % next(_tokens)
            self.send((b"PING", token))
            while self.is_open:
                try:
                    reply = self.connection.read()
                except (ClosedError, ConnectionError):
                    self.is_open = False
                    replies.append(Reply("closed", None))
                else:
                    if reply.value == token or _is_pong(reply, token):
                        break
                    replies.append(reply)
        return replies

    def answered(self, words: Words) -> Reply:
        """The one reply to a command of a client to which nothing else is sent."""
        self.send(words)
        return self.connection.read()


def _is_pong(reply: Reply, token: bytes) -> bool:
    return isinstance(reply.value, list) and [part.value for part in reply.value] == [b"pong", token]


class Clients:
    """Some clients of both servers, which hold nothing when they come."""

    def __init__(self, stack: contextlib.ExitStack, both: Both, protocols: tuple[int | None, ...]) -> None:
        self.pairs = [tuple(Client(address, protocol) for address in both) for protocol in protocols]
        for client in itertools.chain.from_iterable(self.pairs):
            stack.enter_context(client.connection)
        self.tell(0, b"FLUSHALL")
        self.tell(0, b"CONFIG", b"SET", b"notify-keyspace-events", b"")

    def tell(self, client: int, *words: bytes) -> tuple[list[Reply], list[Reply]]:
        """Tells both servers the same; what the client receives from each."""
        for side in self.pairs[client]:
            side.send(words)
        theirs, ours = (side.received() for side in self.pairs[client])
        return theirs, ours

    def check(self, client: int, *words: bytes) -> list[Reply]:
        """The same, having found that all clients receive the same; what this one does."""
        own: list[Reply] = []
        self.tell_only(client, words)
        # The one that was told first: when it has its reply, what others get is on its way.
        for index in sorted(range(len(self.pairs)), key=lambda index: index != client):
            pair = self.pairs[index]
            theirs, ours = (comparable(words, side.received()) for side in pair)
            told = f"{client}: {' '.join(map(readable_word, words))}"
            assert list(map(readable, ours)) == list(map(readable, theirs)), f"client {index} after {told}"
            own = ours if index == client else own
        return own

    def tell_only(self, client: int, words: Words) -> None:
        for side in self.pairs[client]:
            side.send(words)


@contextlib.contextmanager
def clients(both: Both, *protocols: int | None) -> Iterator[Clients]:
    with contextlib.ExitStack() as stack:
        yield Clients(stack, both, protocols)


def comparable(words: Words, replies: list[Reply]) -> list[Reply]:
    """The replies to a command, and messages behind them, without what is free."""
    name = words[0].upper()
    # A client that publishes to itself gets that before its reply, or after it.
    pushed = [reply for reply in replies if is_pushed(reply)]
    replies = [reply for reply in replies if not is_pushed(reply)]
    if name == b"PUBSUB" and words[1:2] and words[1].upper() in (b"CHANNELS", b"SHARDCHANNELS"):
        replies = [sorted_parts(reply) for reply in replies]
    if name == b"HELLO":
        replies = [Reply(reply.mark, b"greeting") if reply.mark in "%*" else reply for reply in replies]
    if name.endswith(b"UNSUBSCRIBE") and len(words) == 1:
        # Channels in any order, counts as they go down.
        parts = [part.value for part in replies if isinstance(part.value, list)]
        names = sorted((readable(part[1]), part[1]) for part in parts)
        if len(parts) == len(replies):
            replies = [
                Reply(reply.mark, [part[0], name, part[2]])
                for reply, part, (_, name) in zip(replies, parts, names, strict=True)
            ]
    return replies + sorted(pushed, key=by_pattern)


def is_pushed(reply: Reply) -> bool:
    return kind_of(reply) in (b"message", b"pmessage", b"smessage")


def kind_of(reply: Reply) -> bytes | None:
    if isinstance(reply.value, list) and reply.value and isinstance(reply.value[0].value, bytes):
        return reply.value[0].value
    return None


def by_pattern(reply: Reply) -> bytes:
    """What is sorted where several patterns describe a channel; messages otherwise keep their order."""
    assert isinstance(reply.value, list)
    value = reply.value[1].value
    return value if kind_of(reply) == b"pmessage" and isinstance(value, bytes) else b""


def sorted_parts(reply: Reply) -> Reply:
    return Reply(reply.mark, sorted(reply.value)) if isinstance(reply.value, list) else reply


CHANNELS = (b"news", b"news", b"n", b"line\r\nbreak", b"")
PATTERNS = (b"*", b"n*", b"new[s]", b"?", b"\\n", b"")
groups.WORDS |= {
    "channel": st.sampled_from(CHANNELS).map(lambda word: (word,)),
    "channel_pattern": st.sampled_from(PATTERNS).map(lambda word: (word,)),
}

SUBSCRIPTIONS = """
SUBSCRIBE channel+
SUBSCRIBE channel+
SUBSCRIBE channel+
SUBSCRIBE channel+
SUBSCRIBE channel+
SUBSCRIBE channel+
UNSUBSCRIBE
UNSUBSCRIBE channel+
PSUBSCRIBE channel_pattern+
PSUBSCRIBE channel_pattern+
PSUBSCRIBE channel_pattern+
PUNSUBSCRIBE
PUNSUBSCRIBE channel_pattern+
SSUBSCRIBE channel+
SSUBSCRIBE channel+
SUNSUBSCRIBE
SUNSUBSCRIBE channel+
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
PUBLISH channel value
SPUBLISH channel value
SPUBLISH channel value
SPUBLISH channel value
SPUBLISH channel value
PUBSUB CHANNELS
PUBSUB CHANNELS channel_pattern
PUBSUB NUMSUB channel*
PUBSUB NUMPAT
PUBSUB SHARDCHANNELS channel_pattern
PUBSUB SHARDNUMSUB channel*
PUBSUB nonsense
PING
PING value
GET key
HELLO protocol
RESET
QUIT
CLIENT REPLY ON
"""


@pytest.mark.parametrize("protocols", [(None, None, None), (3, 3, 3), (None, 3, None)], ids=str)
def test_all_clients_receive_what_those_of_redis_do(both: Both, protocols: tuple[int | None, ...]) -> None:
    @settings(max_examples=60)
    @given(steps=sequences(SUBSCRIPTIONS, clients=3))
    def check(steps: list[Step]) -> None:
        with clients(both, *protocols) as those:
            for step in steps:
                those.check(step.client, *step.words)

    check()


def test_generated_sequences_reach_messages(both: Both) -> None:
    """A generator whose clients are never subscribed to what is published would prove nothing."""
    kinds: list[bytes | None] = []

    @settings(max_examples=30)
    @given(steps=sequences(SUBSCRIPTIONS, clients=3))
    def count(steps: list[Step]) -> None:
        with clients(both, None, 3, None) as those:
            for step in steps:
                those.tell_only(step.client, step.words)
                for pair in those.pairs:
                    kinds.extend(map(kind_of, pair[0].received()))
                    pair[1].received()

    count()
    assert {b"message", b"pmessage", b"smessage"} <= set(kinds)


NOTIFIED = ("KEg$n", "KEg$nm", "K$", "Eg", "Em", "KE", "g$", "KEn", "KEt", "KE$m")


@pytest.mark.parametrize("group", ["STRINGS", "BITMAPS", "KEYSPACE", "EXPIRY", "TRANSACTIONS"])
def test_keys_notify_of_what_those_of_redis_do(both: Both, group: str) -> None:
    # When a key that has expired is found out to have, each server decides by itself.
    @given(steps=sequences(getattr(groups, group), clients=2), notified=st.sampled_from(NOTIFIED))
    def check(steps: list[Step], notified: str) -> None:
        with clients(both, 3, None, None) as those:
            those.check(0, b"CONFIG", b"SET", b"notify-keyspace-events", notified.encode())
            those.check(0, b"PSUBSCRIBE", b"__key*@*__:*")
            for step in steps:
                if step.words[0].upper() in (b"RANDOMKEY", b"QUIT"):
                    continue
                for side in those.pairs[1 + step.client]:
                    side.answered(step.words)
                theirs, ours = (side.received() for side in those.pairs[0])
                told = " ".join(map(readable_word, step.words))
                assert list(map(readable, ours)) == list(map(readable, theirs)), told

    check()


LATE_NOTICES = (
    b"SET k v PXAT 1",
    b"SET k v",
    b"SET k w PXAT 1",
    b"SETNX k v",
    b"SET k v GET",
    b"SET n v XX GET",
    b"SET k v PXAT 1 GET",
    b"SET k v PXAT 1 GET",
)


def test_what_expires_at_once_was_there(both: Both) -> None:
    with clients(both, None, None) as those:
        those.check(0, b"CONFIG", b"SET", b"notify-keyspace-events", b"AEmn")
        those.check(0, b"PSUBSCRIBE", b"__key*@*__:*")
        for command in LATE_NOTICES:
            events: list[list[str]] = []
            for side in (0, 1):
                subscriber, client = those.pairs[0][side], those.pairs[1][side]
                client.answered(tuple(command.split()))
                received = list(map(readable, subscriber.received()))
                expects_end = b"PXAT 1" in command
                deadline = time.monotonic() + 10
                # redis-server finds that out a moment later.
                while expects_end and not any(":expired'" in event for event in received):
                    assert time.monotonic() < deadline, (command, received)
                    received += map(readable, subscriber.received())
                events.append(received)
            assert events[1] == events[0], command


def test_restored_keys_notify(both: Both) -> None:
    with clients(both, 3, None) as those:
        those.check(0, b"CONFIG", b"SET", b"notify-keyspace-events", b"KEg$mn")
        those.check(0, b"PSUBSCRIBE", b"__key*@*__:*")
        those.check(1, b"SET", b"a", b"value")
        [dumped] = those.check(1, b"DUMP", b"a")
        assert isinstance(dumped.value, bytes)
        for words in (
            [b"RESTORE", b"a", b"0", dumped.value],
            [b"RESTORE", b"a", b"0", dumped.value, b"REPLACE"],
            [b"RESTORE", b"b", b"0", dumped.value, b"REPLACE"],
            [b"RESTORE", b"c", b"100000", dumped.value],
            [b"RESTORE", b"d", b"1", dumped.value, b"ABSTTL"],
            [b"RESTORE", b"c", b"1", dumped.value, b"ABSTTL", b"REPLACE"],
            [b"SORT", b"nothing", b"STORE", b"a"],
            [b"SORT", b"nothing", b"STORE", b"a"],
            [b"PFADD", b"h", b"a"],
            [b"PFADD", b"h", b"a"],
            [b"PFCOUNT", b"h", b"nothing"],
            [b"PFCOUNT", b"nothing"],
            [b"PFMERGE", b"h", b"nothing", b"h"],
            [b"PFMERGE", b"i", b"h"],
            [b"OBJECT", b"ENCODING", b"nothing"],
            [b"MEMORY", b"USAGE", b"nothing"],
            [b"SORT_RO", b"nothing"],
            [b"LCS", b"nothing", b"a"],
            [b"SWAPDB", b"0", b"1"],
            [b"FLUSHDB"],
        ):
            those.check(1, *words)


def test_letters_are_answered_as_by_redis(both: Both) -> None:
    @settings(max_examples=100)
    @given(letters=st.text(alphabet="Ag$lshzxeKEtmdnq", max_size=14))
    def check(letters: str) -> None:
        those.check(0, b"CONFIG", b"SET", b"notify-keyspace-events", letters.encode())
        those.check(0, b"CONFIG", b"GET", b"notify-keyspace-events")

    with clients(both, None) as those:
        check()


def test_transactions_subscribe_and_publish(both: Both) -> None:
    with clients(both, None, None, 3) as those:
        those.check(2, b"PSUBSCRIBE", b"*")
        those.check(2, b"CONFIG", b"SET", b"notify-keyspace-events", b"E$g")

        def queued(*commands: bytes) -> None:
            """Tells client 0 a transaction in one piece."""
            sent = b"".join(encoded(command.split()) for command in (b"MULTI", *commands))
            for side in those.pairs[0]:
                side.connection.socket.sendall(sent)
            those.check(0, b"EXEC")

        queued(b"PUBLISH a 1", b"SET k v", b"PUBLISH a 2", b"DEL k", b"NONSENSE")
        queued(b"PUBLISH a 1", b"SET k v", b"PUBLISH a 2", b"INCR k", b"DEL k", b"MSET a 1 b 2")
        those.check(0, b"WATCH", b"k")
        those.check(1, b"SET", b"k", b"other")
        queued(b"PUBLISH a 1", b"SET k v", b"SUBSCRIBE b")
        queued(b"SUBSCRIBE a b", b"PING", b"GET k", b"UNSUBSCRIBE a", b"SSUBSCRIBE c", b"MONITOR")
        those.check(0, b"GET", b"k")
        those.check(0, b"MULTI")
        those.check(1, b"PUBLISH", b"b", b"1")
        those.check(0, b"RESET")
        those.check(0, b"GET", b"k")


def test_silence_is_about_replies(both: Both) -> None:
    with clients(both, 3, None) as those:
        for pair in those.pairs[:1]:
            for side in pair:
                for words in (
                    [b"CLIENT", b"REPLY", b"OFF"],
                    [b"SUBSCRIBE", b"a", b"b"],
                    [b"GET"],
                    [b"UNSUBSCRIBE", b"b"],
                    [b"CLIENT", b"REPLY", b"ON"],
                    [b"CLIENT", b"REPLY", b"SKIP"],
                    [b"PSUBSCRIBE", b"c"],
                ):
                    side.send(tuple(words))
        those.check(0, b"PING")
        those.check(1, b"PUBLISH", b"a", b"1")


_MONITORED = re.compile(rb"^\d+\.\d{6} \[(\d+) 127\.0\.0\.1:\d+\] ")


def shown(replies: list[Reply]) -> list[bytes]:
    """Lines of MONITOR, without clocks and ports and what was sent for synchronization."""
    lines = [reply.value for reply in replies if reply.mark == "+" and isinstance(reply.value, bytes)]
    assert all(_MONITORED.match(line) for line in lines), lines
    return [_MONITORED.sub(rb"\1 ", line) for line in lines if b'"PING" "token ' not in line]


def test_commands_are_shown_as_by_redis(both: Both) -> None:
    words = st.lists(st.binary(max_size=20), max_size=3).map(lambda more: (b"ECHO", *more))
    echoes = st.lists(st.builds(Step, st.just(0), words), min_size=1, max_size=5)
    steps = st.one_of(
        echoes,
        sequences(groups.CONNECTION),
        sequences(groups.TRANSACTIONS),
        sequences(SUBSCRIPTIONS),
        sequences(groups.STRINGS),
    )

    @given(steps=steps)
    def check(steps: list[Step]) -> None:
        with clients(both, None, None) as those:
            those.tell(0, b"MONITOR")
            for side in those.pairs[1]:
                for step in steps:
                    # Of commands with secrets that fail, Redis hides less.
                    if step.words[0].upper() not in (b"AUTH", b"HELLO"):
                        side.send(step.words)
                # Whatever state it is in then.
                side.send((b"RESET",))
                side.received()
            theirs, ours = (shown(side.received()) for side in those.pairs[0])
            assert ours == theirs

    check()


def test_a_monitor_may_do_what_one_of_redis_may(both: Both) -> None:
    def without_clocks(replies: list[Reply]) -> list[Reply]:
        lines = (reply.value for reply in replies)
        texts = [_MONITORED.sub(rb"\1 ", line) if isinstance(line, bytes) else line for line in lines]
        pairs = zip(replies, texts, strict=True)
        return [
            Reply(reply.mark, text)
            for reply, text in pairs
            if not isinstance(text, bytes) or b'"PING" "token ' not in text
        ]

    with clients(both, None, 3) as those:
        for words in (
            (b"MONITOR",),
            (b"MONITOR",),
            (b"GET", b"a"),
            (b"SET", b"a", b"1"),
            (b"PUBLISH", b"a", b"1"),
            (b"ECHO", b"a"),
            (b"WATCH", b"a"),
            (b"CONFIG", b"GET", b"hz"),
            (b"SUBSCRIBE", b"a"),
            (b"MONITOR",),
            (b"RESET",),
            (b"GET", b"a"),
        ):
            theirs, ours = map(without_clocks, those.tell(0, *words))
            assert ours == theirs, words
        those.check(1, b"ECHO", b"a")


# What has no counterpart in redis-server, or is too much for it.


def test_every_publisher_is_heard_in_order(location: str) -> None:
    """Many publishers and subscribers, dealt out to two loops."""
    messages, publishers = 300, 4
    with thermae_serve(location, "--hot", "16MiB", "--threads", "2") as serving:
        subscribers = [serving.connection(protocol) for protocol in (None, 3, None, 3)]
        for subscriber in subscribers:
            assert kind_of(subscriber.call("SUBSCRIBE", "all")) == b"subscribe"

        def publish(publisher: int) -> None:
            with serving.connection() as connection:
                commands = [("PUBLISH", "all", f"{publisher} {number}") for number in range(messages)]
                counts = connection.pipelined(commands)
                assert counts == [Reply(":", len(subscribers))] * messages

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(publishers)]
        for thread in threads:
            thread.start()
        for subscriber in subscribers:
            heard: dict[int, list[int]] = {number: [] for number in range(publishers)}
            for _ in range(publishers * messages):
                message = subscriber.read()
                assert isinstance(message.value, list)
                assert isinstance(message.value[2].value, bytes)
                publisher, number = map(int, message.value[2].value.split())
                heard[publisher].append(number)
            assert all(numbers == list(range(messages)) for numbers in heard.values())
            subscriber.close()
        for thread in threads:
            thread.join()


def test_who_does_not_read_is_closed_and_holds_up_nobody(location: str) -> None:
    message = b"x" * (1 << 20)
    with thermae_serve(location, "--hot", "16MiB", "--threads", "2") as serving:
        lazy, eager, publisher = (serving.connection() for _ in range(3))
        lazy.call("SUBSCRIBE", "all")
        eager.call("SUBSCRIBE", "all")
        counts: list[int | bytes | list[Reply] | None] = []
        while not counts or counts[-1] == 2:
            counts.append(publisher.call("PUBLISH", "all", message).value)
            received = eager.read()
            assert isinstance(received.value, list)
            assert received.value[2].value == message
            assert len(counts) < 200
        assert counts[-1] == 1
        wait_until(
            lambda: publisher.call("PUBSUB", "NUMSUB", "all").value == [Reply("$", b"all"), Reply(":", 1)]
        )
        # What the system had taken for it, it gets; and then the end.
        assert len(lazy.rest()) < 64 << 20
        for connection in (lazy, eager, publisher):
            connection.close()


def test_clients_that_listen_are_not_idle(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        subscriber, monitor, idle, client = (serving.connection() for _ in range(4))
        subscriber.call("SUBSCRIBE", "a")
        monitor.call("MONITOR")
        client.call("CONFIG", "SET", "timeout", "1")
        wait_until(lambda: b"connected_clients:3" in info_of(client))
        assert idle.rest() == b""
        assert client.call("PUBLISH", "a", "1") == Reply(":", 1)
        assert kind_of(subscriber.read()) == b"message"
        assert b'"PUBLISH"' in until(monitor, b"PUBLISH")
        for connection in (subscriber, monitor, idle, client):
            connection.close()


def info_of(client: Connection) -> bytes:
    value = client.call("INFO", "clients").value
    assert isinstance(value, bytes)
    return value


def until(monitor: Connection, word: bytes) -> bytes:
    while True:
        line = monitor.read().value
        assert isinstance(line, bytes)
        if word in line:
            return line


def test_memcached_writes_notify(location: str) -> None:
    addresses = ("--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0")
    with thermae_serve(location, "--hot", "16MiB", *addresses) as serving:
        host, port = serving.memcached.rsplit(":", 1)
        memcached = pymemcache.Client((host, int(port)), default_noreply=False)
        with serving.connection() as subscriber:
            subscriber.call("CONFIG", "SET", "notify-keyspace-events", "AE")
            subscriber.call("PSUBSCRIBE", "__keyevent@*__:*")
            memcached.set("a", "1")
            memcached.incr("a", 1)
            memcached.append("a", "1")
            memcached.set("b", "1", expire=100)
            memcached.add("b", "2")
            memcached.touch("b", 200)
            memcached.touch("b", 0)
            memcached.touch("b", 0)
            memcached.delete("b")
            memcached.delete("b")
            memcached.raw_command(b"ms c 1 T100\r\n1")
            memcached.raw_command(b"md c")
            events = []
            for _ in range(11):
                message = subscriber.read().value
                assert isinstance(message, list)
                channel, key = message[2].value, message[3].value
                assert isinstance(channel, bytes)
                assert isinstance(key, bytes)
                events.append(f"{channel.partition(b':')[2].decode()} {key.decode()}")
        memcached.close()
    assert events == [
        *("set a", "set a", "set a", "set b", "expire b", "expire b", "persist b", "del b"),
        *("set c", "expire c", "del c"),
    ]
