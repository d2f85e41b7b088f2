"""Servers for tests: `thermae serve` as its users start it, and private ones of Redis and memcached.

Each is a process of its own on a free port of the loopback, and gone when its block ends, whatever happened
in it. Ours has to end by SIGTERM with exit code 0, unless the block ended or killed it itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import thermae
from resp import ClosedError, Connection, connected

START_SECONDS_MAX = 60.0
END_SECONDS_MAX = 30.0

_PROGRAM = "from thermae.cli import main; main(prog_name='thermae')"
_ADDRESS_OPTIONS = {"--redis", "--memcached", "--metrics", "--unix", "--memcached-unix"}
_ADDRESS = re.compile(r"(redis|memcached|metrics)(?: clients)?: (\S+)\n")


class Serving:
    """A running `thermae serve`."""

    def __init__(self, process: subprocess.Popen[str], addresses: list[tuple[str, str]]) -> None:
        self.process = process
        self._addresses = addresses

    def addresses(self, protocol: str) -> list[str]:
        """Where it listens for clients of a protocol, in the order of its announcements."""
        return [address for name, address in self._addresses if name == protocol]

    @property
    def redis(self) -> str:
        """The first address for Redis clients."""
        return self.addresses("redis")[0]

    @property
    def memcached(self) -> str:
        """The first address for memcached clients."""
        return self.addresses("memcached")[0]

    @property
    def metrics(self) -> str:
        """The URL of its metrics."""
        return self.addresses("metrics")[0]

    def connection(self, protocol: int | None = None) -> Connection:
        """A new Redis client."""
        return Connection(self.redis, protocol)

    def private_bytes(self) -> int:
        """Its memory, without that of the store, which is shared and bounded by itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024

    def terminate(self) -> int:
        """Ends it as an administrator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_SECONDS_MAX)

    def kill(self) -> None:
        """Ends it as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait(END_SECONDS_MAX)


@contextlib.contextmanager
def thermae_serve(
    location: str | Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """`thermae serve LOCATION OPTIONS`; on a free port for Redis clients where no address is named."""
    if not (_ADDRESS_OPTIONS - {"--metrics"}) & set(options):
        options = ("--redis", "127.0.0.1:0", *options)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "serve", str(location), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        serving = Serving(process, _announced(process, options))
        yield serving
        if process.poll() is None:
            assert serving.terminate() == 0
    finally:
        _end(process)
        if process.stderr is not None:
            process.stderr.close()


def _announced(process: subprocess.Popen[str], options: tuple[str, ...]) -> list[tuple[str, str]]:
    """The addresses that it writes to standard error, one a line, before it serves."""
    expected = sum(option in _ADDRESS_OPTIONS for option in options)
    addresses: list[tuple[str, str]] = []
    lines: list[str] = []
    assert process.stderr is not None
    # Whatever hangs, it is ended after a while, and the reading below with it.
    timer = threading.Timer(START_SECONDS_MAX, process.kill)
    timer.start()
    try:
        while len(addresses) < expected:
            line = process.stderr.readline()
            if not line:
                raise AssertionError(f"thermae serve ended with {process.wait()}: {''.join(lines)}")
            lines.append(line)
            if (match := _ADDRESS.fullmatch(line)) is not None:
                addresses.append((match[1], match[2]))
    finally:
        timer.cancel()
    return addresses


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _private_server(arguments: list[str], address: str, directory: Path, greeting: bytes) -> Iterator[str]:
    """A server of somebody else's, once it answers a greeting; its address."""
    program = shutil.which(arguments[0])
    assert program is not None, f"{arguments[0]} is missing: .ci/run installs it"
    with (directory / f"{arguments[0]}.log").open("w") as log:
        process = subprocess.Popen([program, *arguments[1:]], stdout=log, stderr=log, text=True)
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _answers(address, greeting):
            assert process.poll() is None, f"{arguments[0]} ended at once: see {log.name}"
            assert time.monotonic() < deadline, f"{arguments[0]} does not answer: see {log.name}"
            time.sleep(0.01)
        yield address
    finally:
        _end(process)


def _answers(address: str, greeting: bytes) -> bool:
    with contextlib.suppress(OSError, ClosedError), contextlib.closing(connected(address)) as connection:
        connection.sendall(greeting)
        return bool(connection.recv(100))
    return False


@contextlib.contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[str]:
    """A redis-server without persistence; its address."""
    port = free_port()
    arguments = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", *options]
    with _private_server(arguments, f"127.0.0.1:{port}", directory, b"PING\r\n") as address:
        yield address


@contextlib.contextmanager
def memcached_server(directory: Path) -> Iterator[str]:
    """A memcached with one thread; its address."""
    port = free_port()
    arguments = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1", "-u", "root"]
    with _private_server(arguments, f"127.0.0.1:{port}", directory, b"version\r\n") as address:
        yield address


@contextlib.contextmanager
def memcached_beside_ours(directory: Path) -> Iterator[tuple[str, str]]:
    """A memcached, and `thermae serve` with a store of its own, to be compared; their addresses."""
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with (
            memcached_server(directory) as theirs,
            thermae_serve(location, "--hot", "64MiB", "--memcached", "127.0.0.1:0") as serving,
        ):
            yield theirs, serving.memcached
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)
