"""memcached's `stats conns`: the lines of `thermae serve` are those of memcached 1.6.

What is compared is everything but which number a socket has, where clients call from, and for how long.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thermae
from resp import connected
from serving import memcached_server, thermae_serve

_SECONDS_MAX = 20.0


class Client:
    """One memcached client."""

    def __init__(self, address: str) -> None:
        self.socket = connected(address, _SECONDS_MAX)

    def ask(self, sent: bytes) -> bytes:
        """All that is answered to this."""
        self.socket.sendall(sent + b"mn\r\n")
        answer = b""
        while not answer.endswith(b"MN\r\n"):
            received = self.socket.recv(1 << 16)
            if not received:
                return answer + b"<closed>"
            answer += received
        return answer.removesuffix(b"MN\r\n")

    def close(self) -> None:
        self.socket.close()


class Both:
    """The addresses of memcached and of `thermae serve`."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.addresses = (theirs, ours)

    def compare(self, seen: Callable[[str], list[bytes]]) -> list[bytes]:
        """What is seen of both servers, which is the same."""
        theirs, ours = (seen(address) for address in self.addresses)
        assert ours == theirs
        return ours


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("memcached")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with (
            memcached_server(directory) as theirs,
            thermae_serve(location, "--hot", "64MiB", "--memcached", "127.0.0.1:0") as serving,
        ):
            yield Both(theirs, serving.memcached)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


def test_connections_are_those_that_memcached_shows(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        clients = idle, part, client = [Client(address) for _ in range(3)]
        own = {b"tcp:127.0.0.1:%d" % other.socket.getsockname()[1] for other in clients}
        own.add(b"tcp:" + address.encode())
        idle.ask(b"")
        part.socket.sendall(b"set a 0 0 10\r\nxx")
        deadline = time.monotonic() + _SECONDS_MAX
        # The server may not have read yet what was sent.
        while (answer := client.ask(b"stats conns\r\n")).count(b"conn_nread\r\n") != 1:
            assert time.monotonic() < deadline, answer
            time.sleep(0.01)
        for other in clients:
            other.close()
        assert answer.endswith(b"\r\nEND\r\n")
        # memcached does not see at once that clients of other tests have gone.
        lines = re.findall(rb"STAT (\d+):(\w+) ([^\r]*)\r\n", answer)
        found = {fd for fd, name, value in lines if name == b"addr" and value in own}
        shown: dict[bytes, list[bytes]] = {}
        for fd, name, value in lines:
            if fd in found:
                masked = b"ADDRESS" if value == b"tcp:" + address.encode() else value
                masked = re.sub(rb"(?<=:)\d+$", b"PORT", re.sub(rb"^\d+$", b"N", masked))
                shown.setdefault(fd, []).append(name + b" " + masked)
        # In which order sockets have which numbers is the system's.
        return sorted(b", ".join(facts) for facts in shown.values())

    states = [b"conn_nread", b"conn_parse_cmd", b"conn_read"]
    facts = b"addr tcp:127.0.0.1:PORT, listen_addr ADDRESS, state %b, secs_since_last_cmd N"
    listening = b"addr ADDRESS, state conn_listening, secs_since_last_cmd N"
    assert both.compare(seen) == [listening, *(facts % state for state in states)]


def test_clients_of_a_path_are_shown_by_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        thermae_serve(tmp_path / "data", "--hot", "16MiB", "--memcached-unix", str(path)),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(_SECONDS_MAX)
        client.connect(str(path))
        client.sendall(b"stats conns\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += client.recv(1 << 16)
    place = re.escape(b"unix:" + bytes(path))
    assert re.search(rb"STAT \d+:addr %b\r\nSTAT \d+:state conn_listening\r\n" % place, answer)
    assert re.search(rb"STAT \d+:listen_addr %b\r\nSTAT \d+:state conn_parse_cmd\r\n" % place, answer)
