"""`thermae serve` answers what redis-server answers: made-up sequences of commands, compared reply by reply.

Exact, types and error texts included, except where an order or a clock is free: see `comparable`. A sequence
that tells the two apart is shown as a transcript.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import redis_commands as groups
import thermae
from redis_commands import Step, Words, sequences
from resp import ClosedError, Connection, Reply, encoded, readable_word
from serving import redis_server, thermae_serve

PROTOCOLS = (None, 3)

GROUPS: dict[str, SearchStrategy[list[Step]]] = {
    "strings": sequences(groups.STRINGS, expires=True),
    "bitmaps": sequences(groups.BITMAPS),
    "keyspace": sequences(groups.KEYSPACE),
    "expiry": sequences(groups.EXPIRY, expires=True),
    "transactions": sequences(groups.TRANSACTIONS, clients=2),
    "connection": sequences(groups.CONNECTION),
}

# Smaller groups, of which fewer sequences find what there is.
SMALL_GROUPS: dict[str, SearchStrategy[list[Step]]] = {
    "hyperloglog": sequences(groups.HYPERLOGLOG),
    "sorting": sequences(groups.SORTING),
    "serialized": sequences(groups.SERIALIZED),
    "objects": sequences(groups.OBJECTS),
    "settings": sequences(groups.SETTINGS),
}

# How far apart the two servers may be when they look at their clocks: as long as a busy machine takes to ask
# the second one. The periods of `redis_commands` differ by far more, so that none is taken for another.
_SECONDS_APART = 10
_MILLISECONDS_APART = 10_000
_CLOCKS = {
    b"TTL": _SECONDS_APART,
    b"EXPIRETIME": _SECONDS_APART,
    b"PTTL": _MILLISECONDS_APART,
    b"PEXPIRETIME": _MILLISECONDS_APART,
}


class Both:
    """Two servers that are told the same."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.addresses = (theirs, ours)

    @contextlib.contextmanager
    def clients(self, protocol: int | None, count: int) -> Iterator[list[tuple[Connection, Connection]]]:
        """New clients of two servers that hold nothing, each of theirs with one of ours."""
        with contextlib.ExitStack() as stack:

            def opened(address: str) -> Connection:
                return stack.enter_context(Connection(address, protocol))

            pairs = [(opened(self.addresses[0]), opened(self.addresses[1])) for _ in range(count)]
            for connection in pairs[0]:
                assert connection.call("FLUSHALL") == Reply("+", b"OK")
            yield pairs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("differential")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with redis_server(directory) as theirs, thermae_serve(location, "--hot", "64MiB") as serving:
            yield Both(theirs, serving.redis)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


def name_of(words: Words) -> bytes:
    return words[0].upper()


def answered(connection: Connection, words: Words) -> Reply:
    """The reply, or what came instead of it; all of a scan that begins at 0."""
    try:
        reply = connection.call(*words)
        if name_of(words) != b"SCAN" or words[1:2] != (b"0",) or reply.mark == "-":
            return reply
        keys: list[Reply] = []
        while True:
            assert isinstance(reply.value, list)
            cursor, page = reply.value
            assert isinstance(cursor.value, bytes)
            assert isinstance(page.value, list)
            keys += page.value
            if cursor.value == b"0":
                # A scan may show a key twice.
                return Reply("*", [cursor, Reply(page.mark, sorted(set(keys)))])
            reply = connection.call(words[0], cursor.value, *words[2:])
    except (ClosedError, ConnectionError):
        return Reply("closed", None)
    except TimeoutError:
        return Reply("silent", None)


def is_text(word: bytes) -> bool:
    return word.decode(errors="replace").encode() == word


def comparable(words: Words, reply: Reply) -> Reply:
    """The reply, without what is free: the order of keys, which of them is random, a client's number."""
    name = name_of(words)
    if reply.mark == "-" and name == b"CONFIG" and any(not is_text(word) for word in words):
        return Reply("-", b"what is no text is refused before it is judged")
    if reply.mark == "-" and isinstance(reply.value, bytes):
        # Ours are text: what was sent and is no UTF-8 is shown as what stands for it.
        return Reply(reply.mark, reply.value.decode(errors="replace").encode())
    if not isinstance(reply.value, (list, bytes, int)):
        return reply
    if name == b"KEYS" and isinstance(reply.value, list):
        return Reply(reply.mark, sorted(reply.value))
    if name == b"RANDOMKEY":
        return Reply(reply.mark, b"any")
    if name == b"SCAN" and words[1:2] != (b"0",):
        return Reply(reply.mark, b"any page")
    if name == b"DUMP" and isinstance(reply.value, bytes) and reply.value.startswith(b"\x00\xc3"):
        # LZF leaves it to who compresses which repetitions are found.
        return Reply(reply.mark, b"compressed")
    if name == b"CONFIG" and words[1:2] and words[1].upper() == b"GET" and isinstance(reply.value, list):
        pairs = zip(reply.value[::2], reply.value[1::2], strict=True)
        return Reply(reply.mark, [part for pair in sorted(pairs) for part in pair])
    if name == b"COMMAND" and len(words) == 1:
        return Reply(reply.mark, b"all commands")
    return without_identity(reply)


def without_identity(reply: Reply) -> Reply:
    """The reply to HELLO, also where it is one of those to EXEC, without what a server says of itself."""
    if not isinstance(reply.value, list):
        return reply
    parts = reply.value
    if parts and parts[0].value == b"server":
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [
            part for pair in pairs if pair[0].value not in (b"id", b"version", b"modules") for part in pair
        ]
    return Reply(reply.mark, [without_identity(part) for part in parts])


def are_alike(words: Words, theirs: Reply, ours: Reply) -> bool:
    apart = _CLOCKS.get(name_of(words), 0)
    if apart and isinstance(theirs.value, int) and isinstance(ours.value, int) and theirs.value > 0:
        return ours.value > 0 and abs(theirs.value - ours.value) <= apart
    return comparable(words, theirs) == comparable(words, ours)


def transcript(steps: list[Step], replies: list[tuple[Reply, Reply]]) -> str:
    """What was said, up to the first difference."""
    lines = ["redis-server and thermae serve answer differently:"]
    for step, (theirs, ours) in zip(steps, replies, strict=False):
        is_same = are_alike(step.words, theirs, ours)
        command = " ".join(map(readable_word, step.words))
        lines.append(f"{' ' if is_same else '>'} {step.client}: {command}")
        if is_same:
            lines.append(f"       {ours}")
        else:
            lines += [f"       redis    {theirs}", f"       thermae  {ours}"]
            break
    return "\n".join(lines)


def compare(both: Both, protocol: int | None, steps: list[Step], pipelined: bool) -> None:
    client_count = 1 + max(step.client for step in steps)
    replies: list[tuple[Reply, Reply]] = []
    with both.clients(protocol, client_count) as pairs:
        if pipelined:
            replies = list(zip(*(in_one_piece(connection, steps) for connection in pairs[0]), strict=True))
        else:
            for step in steps:
                theirs, ours = pairs[step.client]
                replies.append((answered(theirs, step.words), answered(ours, step.words)))
                time.sleep(step.pause_seconds)
                if not are_alike(step.words, *replies[-1]):
                    break
    if not all(are_alike(step.words, *pair) for step, pair in zip(steps, replies, strict=False)):
        raise AssertionError(transcript(steps, replies))


def in_one_piece(connection: Connection, steps: list[Step]) -> list[Reply]:
    """The replies to commands that a server finds in one read."""
    connection.socket.sendall(b"".join(encoded(step.words) for step in steps))
    replies: list[Reply] = []
    try:
        while len(replies) < len(steps):
            replies.append(connection.read())
    except (ClosedError, ConnectionError):
        replies += [Reply("closed", None)] * (len(steps) - len(replies))
    except TimeoutError:
        replies += [Reply("silent", None)] * (len(steps) - len(replies))
    return replies


MORE = settings(max_examples=2 * settings().max_examples)
FEWER = settings(max_examples=settings().max_examples // 2)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("group", GROUPS)
def test_every_reply_is_that_of_redis(both: Both, group: str, protocol: int | None) -> None:
    @MORE
    @given(steps=GROUPS[group])
    def check(steps: list[Step]) -> None:
        compare(both, protocol, steps, pipelined=False)

    check()


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("group", SMALL_GROUPS)
def test_every_reply_of_a_small_group_is_that_of_redis(both: Both, group: str, protocol: int | None) -> None:
    @FEWER
    @given(steps=SMALL_GROUPS[group])
    def check(steps: list[Step]) -> None:
        compare(both, protocol, steps, pipelined=False)

    check()


@pytest.mark.parametrize("group", ["strings", "bitmaps", "connection"])
def test_a_pipeline_is_answered_like_single_commands(both: Both, group: str) -> None:
    @given(steps=GROUPS[group])
    def check(steps: list[Step]) -> None:
        # Nothing waits in a pipeline, so that whether a key is gone at its end is chance.
        compare(both, None, [step for step in steps if not step.pause_seconds] or steps[:1], pipelined=True)

    check()


# What is no command: compared as bytes, up to the end of the connection.


def everything_answered(address: str, sent: bytes, piece_bytes: int = 1 << 20) -> bytes:
    """All bytes that a server answers to these, the client then having said that it sends no more."""
    with Connection(address) as connection:
        # It may close the connection before everything is sent.
        with contextlib.suppress(OSError):
            for start in range(0, len(sent), piece_bytes):
                connection.socket.sendall(sent[start : start + piece_bytes])
            connection.socket.shutdown(socket.SHUT_WR)
        return connection.rest()


QUIT = encoded(["QUIT"])
STREAMS = {
    "quit in the middle": encoded(["PING"]) + QUIT + encoded(["PING"]),
    "quit before nonsense": QUIT + b"*x\r\n",
    "quit with arguments": encoded(["QUIT", "now"]),
    "inline commands": b"PING\r\nping\nECHO \"a\\x41\\n\\\"b\" \r\n\r\n\n  \r\nECHO 'it''s'\r\n" + QUIT,
    "inline quotes": b"ECHO 'a b'\r\nECHO \"\"\r\nECHO a'b\r\n" + QUIT,
    "unbalanced quotes": b'PING\r\nECHO "a\r\nPING\r\n',
    "inline, too many arguments": b"GET a b c d\r\n" + QUIT,
    "mixed forms": b"PING\r\n" + encoded(["PING"]) + b"ECHO x\r\n" + QUIT,
    "empty arrays": b"*0\r\n*-1\r\n*-5\r\n" + encoded(["PING"]) + QUIT,
    "no bulk": b"*1\r\n:1\r\nPING\r\n",
    "no length": b"*1\r\n$\r\nPING\r\n",
    "a negative length": b"*1\r\n$-1\r\n",
    "too long a bulk": b"*1\r\n$536870913\r\n",
    "too many arguments": b"*2147483648\r\n",
    "a count that is none": b"*x\r\n",
    "an empty count": b"*\r\n",
    "a count beyond 64 bits": b"*99999999999999999999\r\n",
    "a count too long": b"*" + b"1" * 70_000,
    "a line too long": b"x" * 70_000,
    "a bulk longer than announced": b"*1\r\n$4\r\nPINGPONG\r\n" + encoded(["PING"]),
    "an empty name": encoded([""]) + QUIT,
    "a name with a line break": encoded(["NO\r\n+OK", "a\r\n+OK"]) + QUIT,
    "a long name": encoded(["n" * 1000, "a" * 1000, "b" * 1000]) + QUIT,
    "many arguments": encoded(["NONSENSE", *map(str, range(100))]) + QUIT,
    "a name with zeros": encoded(["NO\0NAME", "a\0b"]) + QUIT,
    "replies off": encoded(["CLIENT", "REPLY", "OFF"])
    + encoded(["PING"])
    + encoded(["CLIENT", "REPLY", "ON"])
    + QUIT,
    "one reply skipped": encoded(["CLIENT", "REPLY", "SKIP"])
    + encoded(["PING"])
    + encoded(["ECHO", "a"])
    + QUIT,
    "replies as ever": encoded(["CLIENT", "REPLY", "ON"]) + encoded(["CLIENT", "REPLY", "x"]) + QUIT,
    "reset": encoded(["MULTI"]) + encoded(["RESET"]) + encoded(["EXEC"]) + QUIT,
    "a browser": b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a 1\r\n",
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("piece_bytes", [1 << 20, 7])
def test_a_stream_is_answered_to_its_end_as_by_redis(both: Both, name: str, piece_bytes: int) -> None:
    theirs, ours = (everything_answered(address, STREAMS[name], piece_bytes) for address in both.addresses)
    assert ours == theirs


# No zero byte: redis-server looks for the end of an inline command no further than that, and waits for ever.
PIECES = (
    *(b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\n", b"*", b"$", b"\r\n", b"\n", b"\r", b" "),
    *(
        b"PING",
        b"ECHO",
        b"1",
        b"0",
        b"-1",
        b"2",
        b"4",
        b'"',
        b"'",
        b"\\x4",
        b"*2\r\n",
        b"$4\r\n",
        b"+",
    ),
)


def test_nonsense_is_answered_as_by_redis(both: Both) -> None:
    @MORE
    @given(pieces=st.lists(st.sampled_from(PIECES), max_size=20))
    def check(pieces: list[bytes]) -> None:
        # Whole lines: redis-server looks at what a line begins with only once it has its end.
        sent = b"".join(pieces) + b"\r\n\r\n"
        theirs, ours = (everything_answered(address, sent) for address in both.addresses)
        assert ours == theirs

    check()


@pytest.mark.parametrize("group", GROUPS | SMALL_GROUPS)
def test_a_group_reaches_success_and_failure(both: Both, group: str) -> None:
    """A generator that only ever made errors would prove nothing."""
    marks: list[str] = []

    @settings(max_examples=20)
    @given(steps=(GROUPS | SMALL_GROUPS)[group])
    def count(steps: list[Step]) -> None:
        with both.clients(None, 2) as pairs:
            marks.extend(answered(pairs[step.client][0], step.words).mark for step in steps)

    count()
    assert 0.02 < marks.count("-") / len(marks) < 0.6


def test_each_restores_what_the_other_dumped(both: Both) -> None:
    values = [b"", b"1", b"70000", b"abc" * 10, b"v" * 100, b"0123456789" * 5000, os.urandom(1000)]
    with both.clients(None, 1) as [pair]:
        for dumping, restoring in (pair, pair[::-1]):
            for value in values:
                assert dumping.call("SET", "dumped", value) == Reply("+", b"OK")
                payload = dumping.call("DUMP", "dumped").value
                assert isinstance(payload, bytes)
                assert restoring.call("RESTORE", "restored", 0, payload, "REPLACE") == Reply("+", b"OK")
                assert restoring.call("GET", "restored") == Reply("$", value)


def test_every_client_has_a_number_of_its_own(both: Both) -> None:
    for protocol in PROTOCOLS:
        with both.clients(protocol, 3) as pairs:
            for side in range(2):
                numbers = [pair[side].call("CLIENT", "ID") for pair in pairs]
                assert {number.mark for number in numbers} == {":"}
                assert numbers == sorted(set(numbers))


def test_a_difference_is_shown_as_a_transcript() -> None:
    steps = [Step(0, (b"SET", b"a", b"1")), Step(1, (b"GET", b"a b"))]
    replies = [(Reply("+", b"OK"), Reply("+", b"OK")), (Reply("$", b"1"), Reply("$", None))]
    assert transcript(steps, replies).splitlines()[1:] == [
        "  0: SET a 1",
        "       +'OK'",
        "> 1: GET 'a b'",
        "       redis    $'1'",
        "       thermae  $null",
    ]
