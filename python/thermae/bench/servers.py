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
from collections.abc import Iterator
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
        text = Path(f"/proc/{self.process_id}/stat").read_text(encoding="ascii")
        # The program's name may hold anything, in parentheses; after it come the state and the numbers.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    location: str, hot_bytes: int, directory: Path
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """`thermae serve` on a new store: as Redis clients find it, and as memcached clients do.

    Snapshots go to the directory.
    """
    arguments = [sys.executable, "-c", _PROGRAM, "serve", location, "--hot", str(hot_bytes)]
    arguments += [
        "--snapshots",
        str(directory / "snapshots"),
        "--durability",
        "none",
        "--redis",
        "127.0.0.1:0",
        "--memcached",
        "127.0.0.1:0",
    ]
    with reserved(location):
        server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        try:
            ports = dict(_announced(server) for _ in range(2))
            yield ServerProcess(server.pid, ports["redis"]), ServerProcess(server.pid, ports["memcached"])
        finally:
            _end(server)


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
