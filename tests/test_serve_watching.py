"""memcached's `watch` and `stats conns`: the lines of `thermae serve` are those of memcached 1.6.

What is compared is everything but when something happened, which number a line or a socket has, where
clients call from, and the number of an item's class.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resp import connected
from serving import memcached_beside_ours, thermae_serve

_SECONDS_MAX = 20.0
_SECONDS_SILENT = 0.3


class Client:
    """One memcached client."""

    def __init__(self, address: str) -> None:
        self.socket = connected(address, _SECONDS_MAX)
        self._received = b""

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

    def watch(self, flags: bytes = b"") -> bytes:
        """Becomes a watcher, or is told why not."""
        self.socket.sendall(b"watch %b\r\n" % flags)
        return self.line()

    def line(self) -> bytes:
        """The next line."""
        while b"\n" not in self._received:
            received = self.socket.recv(1 << 16)
            assert received, "the server has closed the connection"
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line + b"\n"

    def lines_until(self, last: bytes) -> list[bytes]:
        """Lines up to one that contains this."""
        lines = [self.line()]
        while last not in lines[-1]:
            lines.append(self.line())
        return lines

    def close(self, *, abruptly: bool = False) -> None:
        if abruptly:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def watching(address: str, flags: bytes = b"") -> Client:
    """A client that watches. memcached does not see at once that those of another test have gone."""
    deadline = time.monotonic() + _SECONDS_MAX
    while True:
        client = Client(address)
        answer = client.watch(flags)
        if answer == b"OK\r\n":
            return client
        client.close()
        assert answer.startswith(b"WATCHER_TOO_MANY ")
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    with memcached_beside_ours(tmp_path_factory.mktemp("memcached")) as addresses:
        yield Both(*addresses)


def comparable(line: bytes) -> bytes:
    """A line without what is free, but only if it has the form that it should have."""
    # memcached leaves the zeros out that microseconds begin with.
    line = re.sub(rb"^ts=\d+\.\d{1,6} gid=\d+ ", b"ts gid ", line)
    # It looks once more at what has expired, or was flushed; here it is gone.
    line = re.sub(rb"\bstatus=(expired|flushed) ", b"status=not_found ", line)
    line = re.sub(rb"\bcfd=\d+", b"cfd", line)
    line = re.sub(rb"\brport=[1-9]\d*", b"rport", line)
    return re.sub(rb"\bclsid=[1-9]\d*", b"clsid", line)


COMMANDS = [
    b"get a\r\n",
    b"set a 0 0 1\r\nx\r\n",
    b"set b 5 100 2\r\nxy\r\n",
    b"get a b c\r\n",
    b"gets a\r\n",
    b"gat 50 b\r\n",
    b"gats 50 c\r\n",
    b"touch a 100\r\n",
    b"touch c 100\r\n",
    b"add a 0 0 1\r\nx\r\n",
    b"add n 0 0 1\r\nx\r\n",
    b"replace c 0 0 1\r\nx\r\n",
    b"replace a 0 100 1\r\nx\r\n",
    b"append a 0 0 3\r\nxyz\r\n",
    b"append c 0 0 3\r\nxyz\r\n",
    b"prepend a 0 0 1\r\nx\r\n",
    b"cas a 0 0 1 99999\r\nx\r\n",
    b"cas c 0 0 1 1\r\nx\r\n",
    b"set n 0 0 2\r\n10\r\n",
    b"incr n 5\r\n",
    b"decr n 5\r\n",
    b"incr c 5\r\n",
    b"incr a 1\r\n",
    b"delete n\r\n",
    b"delete n\r\n",
    b"set a 0 0 1 noreply\r\nx\r\n",
    b"set a 0 0 1\r\nxyz\r\n",
    b"nonsense\r\n",
    b"get %b\r\n" % (b"k" * 251),
    b"mg a\r\n",
    b"mg a v t k\r\n",
    b"mg c v q\r\n",
    b"mg c v N30\r\n",
    b"mg a T30\r\n",
    b"ms a 2\r\nhi\r\n",
    b"ms a 2 T90 F5 q\r\nhi\r\n",
    b"ms a 2 ME\r\nhi\r\n",
    b"ms a 2 MA\r\nhi\r\n",
    b"ms a 2 MP\r\nhi\r\n",
    b"ms a 2 MR\r\nhi\r\n",
    b"ms a 2 C1\r\nhi\r\n",
    b"ms a 2 MR C1\r\nhi\r\n",
    b"ms a 2 MA C1\r\nhi\r\n",
    b"ms d 2 C1\r\nhi\r\n",
    b"ms a 2 MX\r\nhi\r\n",
    b"md a C1\r\n",
    b"md a q\r\n",
    b"md a\r\n",
    b"ma d\r\n",
    b"ma d N0 J13\r\n",
    b"ma d MD D2\r\n",
    b"me d\r\n",
    b"me a\r\n",
    b"ms Zm9vYg== 2 b\r\nhi\r\n",
    b"mg Zm9vYg== b v\r\n",
    b"mg AQr/ b v\r\n",
    b"get k%y\x01\xff\"=&~-_.!*'()/?:@[]{}|\\^`<>#$+,;\r\n",
    b"get %b\r\n" % (b"%" * 250),
]


@pytest.mark.parametrize("flags", [b"", b"fetchers", b"mutations", b"mutations fetchers rawcmds proxyreqs"])
def test_every_line_is_that_of_memcached(both: Both, flags: bytes) -> None:
    def seen(address: str) -> list[bytes]:
        client = Client(address)
        client.ask(b"flush_all\r\n")
        watcher = watching(address, flags)
        for command in COMMANDS:
            client.ask(command)
        client.ask(b"set last 0 0 1\r\nx\r\n")
        lines = watcher.lines_until(b"key=last")
        if b"fetchers" in flags and b"mutations" in flags:
            lines += watcher.lines_until(b"key=last")
        watcher.close()
        client.close()
        return [comparable(line) for line in lines]

    lines = both.compare(seen)
    assert all(line.startswith(b"ts gid type=item_") and line.endswith(b"\n") for line in lines)
    assert len(lines) > 20


def test_who_comes_and_goes_is_shown(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        watcher = watching(address, b"connevents")
        lines = []
        for end in ("close", "quit", "HTTP", "abrupt"):
            client = Client(address)
            client.ask(b"")
            lines += watcher.lines_until(b"conn_new")
            if end == "quit":
                client.ask(b"quit\r\n")
            elif end == "HTTP":
                with contextlib.suppress(ConnectionError):
                    client.ask(b"POST / HTTP/1.1\r\n")
            client.close(abruptly=end == "abrupt")
            lines += watcher.lines_until(b"conn_close")
        watcher.close()
        return [comparable(line) for line in lines]

    assert b"reason=error" in both.compare(seen)[-1]


def test_what_can_be_watched(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        answers = []
        known = [b"fetchers", b"mutations", b"evictions", b"connevents", b"sysevents", b"rawcmds"]
        known += [b"proxyreqs", b"proxyevents", b"proxyuser", b" ".join(known), b"fetchers " * 30]
        for flags in known:
            client = Client(address)
            answers.append(client.watch(flags))
            client.close()
        client = Client(address)
        wrong = (b"x", b"deletions", b"FETCHERS", b"fetchers x", b"x fetchers", b"fetchers noreply")
        answers += [client.ask(b"watch %b\r\n" % flags) for flags in wrong]
        client.close()
        return answers

    assert both.compare(seen).count(b"OK\r\n") == 11


def test_only_so_many_watch(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        deadline = time.monotonic() + _SECONDS_MAX
        while True:
            # Those of the tests before may not have left yet.
            clients = [Client(address) for _ in range(22)]
            answers = [client.watch() for client in clients]
            answers.append(clients[-1].ask(b""))
            for client in clients:
                client.close()
            if answers.count(b"OK\r\n") == 20 or time.monotonic() > deadline:
                return answers

    assert both.compare(seen)[-1] == b""


def test_a_watcher_is_not_listened_to(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        client = Client(address)
        client.ask(b"flush_all\r\n")
        watcher = watching(address)
        watcher.socket.sendall(b"set a 0 0 1\r\nx\r\nwatch mutations\r\nversion\r\nquit\r\n")
        time.sleep(_SECONDS_SILENT)
        answer = client.ask(b"get a\r\n")
        line = watcher.line()
        watcher.close()
        client.close()
        return [answer, comparable(line)]

    assert both.compare(seen)[0] == b"END\r\n"


def test_lines_are_numbered_in_the_order_in_which_they_are_shown(both: Both) -> None:
    watcher = watching(both.addresses[1], b"fetchers mutations")
    clients = [Client(both.addresses[1]) for _ in range(3)]
    for number in range(100):
        for client in clients:
            client.socket.sendall(b"get k%d\r\nset k%d 0 0 1\r\nx\r\n" % (number, number))
    lines = [watcher.line() for _ in range(900)]
    numbers = [int(re.findall(rb"^ts=\d{10}\.\d{6} gid=(\d+) ", line)[0]) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + 900))
    for client in (watcher, *clients):
        client.close()


def test_who_does_not_read_is_told_how_much_it_missed(both: Both) -> None:
    watcher, client = watching(both.addresses[1]), Client(both.addresses[1])
    rounds, gets = 40, 2000
    for _ in range(rounds):
        client.ask(b"get %b\r\n" % (b"%" * 250) * gets)
    watcher.socket.settimeout(_SECONDS_SILENT)
    shown = skipped = asked = 0
    while shown + skipped < rounds * gets + asked:
        try:
            line = watcher.line()
        except TimeoutError:
            # How many were left out is told before the next line that finds room.
            assert asked < 10
            client.ask(b"get last\r\n")
            asked += 1
            continue
        if line.startswith(b"skipped="):
            skipped += int(line.removeprefix(b"skipped="))
        else:
            shown += 1
    assert shown + skipped == rounds * gets + asked
    assert skipped > 0
    watcher.close()
    client.close()


def test_what_has_to_make_room_is_shown(location: str) -> None:
    options = ("--hot", "16MiB", "--when-full", "evict", "--memcached", "127.0.0.1:0")
    with thermae_serve(location, *options) as serving:
        watcher, client = watching(serving.memcached, b"evictions"), Client(serving.memcached)
        for number in range(60):
            answer = client.ask(b"set k%d 0 0 500000\r\n" % number + b"x" * 500_000 + b"\r\n")
            assert answer == b"STORED\r\n"
        line = watcher.line()
        assert re.fullmatch(rb"ts=\d+\.\d{6} gid=1 type=eviction key=k\d+ clsid=1\n", line)
        key = re.findall(rb"key=(k\d+)", line)[0]
        assert client.ask(b"get %b\r\n" % key) == b"END\r\n"
        watcher.close()
        client.close()


def test_connections_are_those_that_memcached_shows(both: Both) -> None:
    def seen(address: str) -> list[bytes]:
        watcher = watching(address)
        clients = idle, part, client = [Client(address) for _ in range(3)]
        own = {b"tcp:127.0.0.1:%d" % other.socket.getsockname()[1] for other in (watcher, *clients)}
        own.add(b"tcp:" + address.encode())
        idle.ask(b"")
        part.socket.sendall(b"set a 0 0 10\r\nxx")
        deadline = time.monotonic() + _SECONDS_MAX
        # The server may not have read yet what was sent.
        while (answer := client.ask(b"stats conns\r\n")).count(b"conn_nread\r\n") != 1:
            assert time.monotonic() < deadline, answer
            time.sleep(0.01)
        for other in (watcher, *clients):
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

    states = [b"conn_nread", b"conn_parse_cmd", b"conn_read", b"conn_watch"]
    facts = b"addr tcp:127.0.0.1:PORT, listen_addr ADDRESS, state %b, secs_since_last_cmd N"
    listening = b"addr ADDRESS, state conn_listening, secs_since_last_cmd N"
    assert both.compare(seen) == [listening, *(facts % state for state in states)]


def test_a_watcher_is_not_idle(location: str) -> None:
    options = ("--hot", "16MiB", "--timeout-seconds", "1", "--memcached", "127.0.0.1:0")
    with thermae_serve(location, *options) as serving:
        watcher, client = watching(serving.memcached, b"connevents"), Client(serving.memcached)
        assert b"conn_new" in watcher.line()
        assert client.socket.recv(1) == b""
        assert b" reason=idle_timeout " in watcher.line()
        client.close()
        client = Client(serving.memcached)
        assert b"conn_new" in watcher.line()
        client.close()
        watcher.close()


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
