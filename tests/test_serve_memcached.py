"""`thermae serve` answers what memcached answers: made-up sequences of commands, compared reply by reply.

What is compared is everything but what docs/protocols.md says is different, or what a clock decides: the
numbers of CAS, the seconds since an item was last asked for, how large it is in memory.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from memcached_commands import Command, sequences
from resp import connected
from serving import memcached_beside_ours

# What a server answers to `mn`: so that all replies before it are there.
_END = b"MN\r\n"
# A server that waits for more than was sent has answered by then.
_SECONDS_SILENT = 2.0
_WRONG_FLAGS = (
    rb"invalid flag|invalid or duplicate flag|duplicate flag|opaque token too long|bad token in [^\r]*"
    rb"|incorrect length for M token|invalid mode for m[as] M token|error decoding key"
    rb"|bad command line format"
)


class Client:
    """One connection, which is asked for one thing after the other."""

    def __init__(self, address: str) -> None:
        self.socket = connected(address, _SECONDS_SILENT)

    def ask(self, sent: bytes) -> bytes:
        """All that is answered to this; up to where nothing more comes, where `mn` is not answered."""
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            self.socket.sendall(sent + b"mn\r\n")
            while not (answer == _END or answer.endswith(b"\n" + _END)):
                received = self.socket.recv(1 << 16)
                if not received:
                    return answer + b"<closed>"
                answer += received
            return answer.removesuffix(_END)
        return answer + b"<silent>"

    def cas_of(self, command: Command) -> int:
        """The number of the item that a command names, which looking at it does not change; 0 for none."""
        marked = any(b"<" in word for word in command.words)
        if not marked or len(command.words) < 2:
            return 0
        key = command.words[1] + (b" b" if b"b" in command.words[2:] else b"")
        found = re.search(rb" cas=(\d+)", self.ask(b"me %b\r\n" % key))
        return int(found[1]) if found else 0


class Both:
    """Two servers that are told the same."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.addresses = (theirs, ours)

    @contextlib.contextmanager
    def clients(self) -> Iterator[tuple[Client, Client]]:
        """New clients of servers that hold nothing."""
        clients = Client(self.addresses[0]), Client(self.addresses[1])
        try:
            for client in clients:
                assert client.ask(b"flush_all\r\n") == b"OK\r\n"
            yield clients
        finally:
            for client in clients:
                client.socket.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with memcached_beside_ours(tmp_path_factory.mktemp("memcached")) as addresses:
        yield Both(*addresses)


def rounded(found: re.Match[bytes]) -> bytes:
    """A time that is left, in thousands of seconds: no two that were asked for are that close."""
    return b"%b%d000" % (found[1], round(int(found[2]) / 1000))


def comparable(answer: bytes) -> bytes:
    """An answer without what is free."""
    answer = re.sub(rb"(?m)^VERSION .*", b"VERSION", answer)
    # A number that got shorter has blanks behind it.
    answer = re.sub(rb"(?m)^(VALUE \S+ \d+) \d+((?: \d+)?\r\n\d+) *(?=\r\n)", rb"\1 #\2", answer)
    answer = re.sub(rb"(?m)^VA \d+((?: [^\r\n]*)?\r\n\d+) *(?=\r\n)", rb"VA #\1", answer)
    answer = re.sub(rb"(?m)^(VALUE \S+ \d+ \S+) \d+(?=\r\n)", rb"\1 CAS", answer)
    answer = re.sub(rb"(?m)^(ME .* exp=)(-?\d{2,})", rounded, answer)
    answer = re.sub(rb"(?m)^(ME .*?) la=\d+ cas=\d+ (fetch=\w+) cls=\d+ size=\d+", rb"\1 \2", answer)
    # Where several flags are wrong, which one is told.
    answer = re.sub(rb"(?m)^CLIENT_ERROR (?:%b)(?=\r\n)" % _WRONG_FLAGS, b"CLIENT_ERROR flags", answer)
    lines = answer.split(b"\r\n")
    for number, line in enumerate(lines):
        if re.match(rb"(VA|HD|NS|EX|NF)( |$)", line):
            in_thousands = re.sub(rb"( t)(\d+)(?= |$)", rounded, line)
            if b" W" in line:
                # An item that was just made by N has its expiry in Thermae, and -1 in memcached.
                in_thousands = re.sub(rb" t\S+", b" t", in_thousands)
            lines[number] = re.sub(rb" ([cl])\d+(?= |$)", rb" \1", in_thousands)
    return b"\r\n".join(lines)


def transcript(asked: list[tuple[Command, bytes, bytes]]) -> str:
    lines = ["memcached and thermae serve answer differently:"]
    for command, theirs, ours in asked:
        lines.append(f"  {command!r}")
        if comparable(theirs) == comparable(ours):
            lines.append(f"       {ours!r}")
        else:
            lines += [f"       memcached {theirs!r}", f"       thermae   {ours!r}"]
    return "\n".join(lines)


# Keys may have 250 bytes.
TOO_LONG = {b"k" * 251, b"x" * 251}


def is_get(command: Command) -> bool:
    return command.words[0] in (b"get", b"gets", b"gat", b"gats")


MORE = settings(max_examples=8 * settings().max_examples)


def test_every_reply_is_that_of_memcached(both: Both) -> None:
    @MORE
    @given(commands=sequences())
    def check(commands: list[Command]) -> None:
        asked: list[tuple[Command, bytes, bytes]] = []
        with both.clients() as clients:
            for command in commands:
                theirs, ours = (client.ask(command.encoded(client.cas_of(command))) for client in clients)
                asked.append((command, theirs, ours))
                if comparable(theirs) != comparable(ours):
                    raise AssertionError(transcript(asked))
                if theirs.endswith(b">"):
                    break

    check()


def test_a_pipeline_is_answered_like_single_commands(both: Both) -> None:
    @given(commands=sequences())
    def check(commands: list[Command]) -> None:
        # memcached drops all replies that wait when a get names a key that is too long.
        kept = [command for command in commands if not (is_get(command) and TOO_LONG & set(command.words))]
        # No item has such a number, on either server.
        sent = b"".join(command.encoded(1 << 40) for command in kept)
        with both.clients() as clients:
            theirs, ours = (comparable(client.ask(sent)) for client in clients)
        assert ours == theirs, sent

    check()


def test_the_sequences_reach_what_there_is(both: Both) -> None:
    """A generator that only ever made errors, or never found an item, would prove nothing."""
    answers: list[bytes] = []

    @MORE
    @given(commands=sequences())
    def count(commands: list[Command]) -> None:
        with both.clients() as (theirs, _):
            answers.extend(theirs.ask(command.encoded(theirs.cas_of(command))) for command in commands)

    count()
    first = [answer.split(b"\r\n")[0].split(b" ")[0] for answer in answers if answer]
    assert {b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND", b"VALUE", b"END", b"DELETED"} <= set(first)
    assert {b"TOUCHED", b"VA", b"HD", b"EN", b"NS", b"NF", b"ME", b"OK"} <= set(first)
    errors = sum(word in (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR") for word in first)
    assert 0.02 < errors / len(first) < 0.5
