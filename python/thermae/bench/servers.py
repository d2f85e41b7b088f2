"""Servers that are measured side by side: each a process of its own, on one processor, with nothing on disk.

What they are compared by is processor time an operation: on one machine the load needs processors as well,
and a figure of operations a second would say how fast the load is.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from thermae.bench.places import reserved
from thermae.bench.report import Peer

_START_SECONDS_MAX = 60.0
_PROGRAM = "from thermae.cli import main; main(prog_name='thermae')"


@dataclasses.dataclass(frozen=True)
class ServerProcess:
    """A running server, and where its clients find it."""

    process_id: int
    port: int

    def processor_seconds(self) -> float:
        """What it has used so far, all of its threads, in user and system mode."""
        # The clock's number is what clock_getcpuclockid(3) gives for a process; /proc/PID/stat counts in
        # steps of 10 ms.
        return time.clock_gettime((~self.process_id << 3) | 2)


@contextlib.contextmanager
def pinned_to(processor: int) -> Iterator[None]:
    """Runs the block, and the processes that it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def thermae_server(
    location: str,
    hot_bytes: int | None,
    *options: str,
    redis: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
    is_kept: bool = False,
    waits: bool = True,
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """`thermae serve`: as Redis clients find it, and as memcached clients do.

    Args:
        location: A new store's, unless it `is_kept`.
        hot_bytes: The new store's size.
        options: More of the command line.
        redis: Where it listens for Redis clients.
        environment: More of its environment.
        is_kept: The store is there before and after.
        waits: The block starts when the server listens, else at once, with a Redis port alone.
    """
    arguments = [sys.executable, "-c", _PROGRAM, "serve", location, "--redis", redis, *options]
    arguments += ["--memcached", "127.0.0.1:0", "--durability", "none"]
    if hot_bytes is not None:
        arguments += ["--hot", str(hot_bytes)]
    with contextlib.nullcontext() if is_kept else reserved(location):
        server = subprocess.Popen(
            arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        try:
            ports = dict(_announced(server) for _ in range(2)) if waits else {"redis": _port_of(redis)}
            of_redis = ServerProcess(server.pid, ports["redis"])
            yield of_redis, ServerProcess(server.pid, ports.get("memcached", 0))
        finally:
            _end(server)


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _announced(server: subprocess.Popen[str]) -> tuple[str, int]:
    assert server.stderr is not None
    line = server.stderr.readline()
    match = re.fullmatch(r"(\w+) clients: .*:(\d+)\n", line)
    if match is None:
        raise RuntimeError(f"thermae serve did not start: {line}{server.stderr.read()}")
    return match[1], int(match[2])


@contextlib.contextmanager
def redis_process(directory: Path) -> Iterator[ServerProcess]:
    """A redis-server without persistence."""
    port = _free_port()
    arguments = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    with _process(arguments, port) as server:
        yield server


@contextlib.contextmanager
def memcached_process(memory_bytes: int) -> Iterator[ServerProcess]:
    """A memcached with one thread for its clients."""
    port = _free_port()
    arguments = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1", "-u", "root"]
    arguments += ["-m", str(memory_bytes >> 20)]
    with _process(arguments, port) as server:
        yield server


@contextlib.contextmanager
def _process(arguments: list[str], port: int) -> Iterator[ServerProcess]:
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments[0]} did not start")
            time.sleep(0.01)
        yield ServerProcess(server.pid, port)
    finally:
        _end(server)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stderr is not None:
        server.stderr.close()


def describe_memcached() -> Peer:
    """The version of memcached, or that there is none."""
    executable = shutil.which("memcached")
    if executable is None:
        return Peer("memcached", None, "install memcached, such as with apt install memcached")
    text = subprocess.run([executable, "-V"], capture_output=True, text=True, check=True).stdout
    return Peer("memcached", text.split()[-1])
