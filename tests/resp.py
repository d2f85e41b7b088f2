"""A client of the Redis protocol for tests: raw sockets, and replies that keep their types.

Client libraries turn a null, an empty array and a missing map into the same None; a test that compares two
servers has to see which of them was on the wire.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

TIMEOUT_SECONDS = 30.0

Word = bytes | str | int


class Reply(NamedTuple):
    """One reply: its mark on the wire, and what follows; a null of RESP2 has no value."""

    mark: str
    value: bytes | int | list[Reply] | None

    def __str__(self) -> str:
        return readable(self)


class ClosedError(Exception):
    """The server closed the connection where a reply was to come."""


def readable(reply: Reply) -> str:
    """A reply as a transcript shows it, on one line: `$'abc'`, `:3`, `*[$'a', $null]`."""
    if isinstance(reply.value, list):
        return f"{reply.mark}[{', '.join(map(readable, reply.value))}]"
    if isinstance(reply.value, bytes):
        text = repr(reply.value)[1:]
        return reply.mark + (text if len(text) <= 200 else f"{text[:200]}... {len(reply.value)} bytes")
    return f"{reply.mark}{'null' if reply.value is None else reply.value}"


def readable_word(word: bytes) -> str:
    """A word of a command as a transcript shows it."""
    text = repr(word)[1:]
    plain = text[1:-1]
    return plain if word and plain.isprintable() and not set(plain) & set(" \\\"'") else text


def encoded(words: Iterable[Word]) -> bytes:
    """A command as an array of bulks."""
    parts = [as_bytes(word) for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def as_bytes(word: Word) -> bytes:
    """A word as it is sent."""
    return word if isinstance(word, bytes) else str(word).encode()


def connected(address: str, timeout_seconds: float = TIMEOUT_SECONDS) -> socket.socket:
    """A socket to `HOST:PORT`, `[HOST]:PORT` or `unix:PATH`."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_seconds)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Connection:
    """One connection. `HELLO` is sent where a protocol is named; the clients of RESP2 send none."""

    def __init__(
        self, address: str, protocol: int | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.socket = connected(address, timeout_seconds)
        self._received = self.socket.makefile("rb")
        if protocol is not None:
            hello = self.call("HELLO", protocol)
            assert hello.mark != "-", str(hello)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._received.close()
        self.socket.close()

    def send(self, *words: Word) -> None:
        self.socket.sendall(encoded(words))

    def call(self, *words: Word) -> Reply:
        """One command and its reply."""
        self.send(*words)
        return self.read()

    def pipelined(self, commands: Iterable[Iterable[Word]]) -> list[Reply]:
        """Many commands in one piece, then their replies."""
        encodings = [encoded(words) for words in commands]
        self.socket.sendall(b"".join(encodings))
        return [self.read() for _ in encodings]

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which has to come; a reset is an end as well."""
        parts: list[bytes] = []
        while True:
            try:
                part = self._received.read1()
            except ConnectionResetError:
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)

    def read(self) -> Reply:
        """The next reply."""
        line = self._received.readline()
        if not line.endswith(b"\r\n"):
            raise ClosedError(f"closed after {line!r}")
        mark, text = line[:1].decode("latin-1"), line[1:-2]
        if mark in "+-,#(_":
            # A carriage return within a line would end it for a client, and begin another reply.
            assert b"\r" not in text, line
            return Reply(mark, text)
        assert mark in ":$=*~>%", line
        number = int(text)
        assert text == b"%d" % number, line
        if mark == ":":
            return Reply(mark, number)
        if number < 0:
            assert (number, mark in "$*") == (-1, True), line
            return Reply(mark, None)
        if mark in "$=":
            data = self._received.read(number + 2)
            if len(data) < number + 2:
                raise ClosedError(f"closed within {number} bytes")
            assert data.endswith(b"\r\n"), data
            return Reply(mark, data[:-2])
        return Reply(mark, [self.read() for _ in range(2 * number if mark == "%" else number)])


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until a call says yes, and fails where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)
