"""A private Redis server for comparison: its own directory, a free loopback port, gone afterwards.

It is spoken to in RESP over a plain socket (a dozen lines), so that no client library has to be installed
to measure it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from thermae.bench.report import Peer

_PIPELINE_COMMANDS = 100
_PAIRS_PER_COMMAND = 100
_START_SECONDS_MAX = 600.0


def describe_redis() -> Peer:
    """Redis and its version, or that there is none."""
    executable = shutil.which("redis-server")
    if executable is None:
        return Peer("Redis", None, "install redis-server, such as with apt install redis-server")
    words = subprocess.run(
        [executable, "--version"], capture_output=True, text=True, check=True
    ).stdout.split()
    return Peer(
        "Redis", next((word.removeprefix("v=") for word in words if word.startswith("v=")), "unknown")
    )


class RedisError(Exception):
    """What the private server answered, or that it did not start."""


class RedisConnection:
    """Sends commands and reads replies. One thread at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS_MAX)
        self._replies = self._socket.makefile("rb")

    def command(self, *words: bytes) -> bytes:
        """One command; its reply's text (bulk or line)."""
        self._socket.sendall(encoded(words))
        return self._reply()

    def fill(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Stores the items with MSET, pipelined."""
        words: list[bytes] = [b"MSET"]
        pending: list[bytes] = []
        for key, value in items:
            words += (key, value)
            if len(words) > 2 * _PAIRS_PER_COMMAND:
                pending.append(encoded(words))
                words = [b"MSET"]
                if len(pending) == _PIPELINE_COMMANDS:
                    self._exchange(pending)
                    pending = []
        if len(words) > 1:
            pending.append(encoded(words))
        self._exchange(pending)

    def _exchange(self, commands: list[bytes]) -> None:
        self._socket.sendall(b"".join(commands))
        for _ in commands:
            self._reply()

    def _reply(self) -> bytes:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise RedisError("the private Redis server closed the connection")
        kind, text = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(text.decode())
        if kind == b"$" and int(text) >= 0:
            return self._replies.read(int(text) + 2)[:-2]
        return text

    def used_memory_bytes(self) -> int:
        """What Redis says that its data and structures use."""
        return int(self._information(b"memory", b"used_memory"))

    def processor_seconds(self) -> float:
        """What the server's process has used so far, all of its threads, in user and system mode."""
        return sum(float(self._information(b"cpu", name)) for name in (b"used_cpu_user", b"used_cpu_sys"))

    def _information(self, section: bytes, name: bytes) -> bytes:
        for line in self.command(b"INFO", section).splitlines():
            found, _, value = line.partition(b":")
            if found == name:
                return value
        raise RedisError(f"INFO {section.decode()} names no {name.decode()}")

    def close(self) -> None:
        """Closes the connection."""
        self._replies.close()
        self._socket.close()


def encoded(words: Iterable[bytes]) -> bytes:
    """A command as it is sent."""
    words = tuple(words)
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[RedisConnection]:
    """A server with its files in `directory`: its data loaded when the block starts, stopped when it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    arguments = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    arguments += [
        "--save",
        "",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
        "--logfile",
        str(directory / "log"),
    ]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
    server = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        connection = _connected(server, port, directory)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connected(server: subprocess.Popen[bytes], port: int, directory: Path) -> RedisConnection:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RedisError(f"the private Redis server ended at once; {directory / 'log'} says why")
        with contextlib.suppress(ConnectionError, RedisError):
            connection = RedisConnection(port)
            try:
                connection.command(b"PING")
                return connection
            except (ConnectionError, RedisError):  # refused, or "LOADING ... in memory"
                connection.close()
        time.sleep(0.001)
    raise RedisError(f"the private Redis server was not ready within {_START_SECONDS_MAX:.0f} s")
