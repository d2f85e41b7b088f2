"""What administrators do with redis-cli, against a running `thermae serve`: the program, as they call it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from resp import encoded
from serving import Serving, thermae_serve

SECONDS_MAX = 60


@pytest.fixture
def serving(location: str) -> Iterator[Serving]:
    assert shutil.which("redis-cli") is not None, "redis-cli is missing: .ci/run installs it"
    with thermae_serve(location, "--hot", "32MiB") as running:
        yield running


def command_of(serving: Serving, words: tuple[str, ...]) -> list[str]:
    host, _, port = serving.redis.rpartition(":")
    return ["redis-cli", "-h", host, "-p", port, *words]


def said(serving: Serving, *words: str, sent: bytes = b"") -> str:
    """What `redis-cli WORDS` prints; it has to end well."""
    done = subprocess.run(
        command_of(serving, words), input=sent, capture_output=True, timeout=SECONDS_MAX, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stdout + done.stderr
    return done.stdout.decode()


def wait_for_print(serving: Serving, *words: str, pattern: bytes) -> None:
    """Waits until it prints this to its terminal, where it goes on until it is ended."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command_of(serving, words), stdout=its)
    os.close(its)
    printed = b""
    try:
        while re.search(pattern, printed) is None:
            assert select.select([ours], [], [], SECONDS_MAX)[0], printed
            printed += os.read(ours, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def filled(serving: Serving, count: int) -> None:
    """`--pipe`, which is how a lot of data is loaded."""
    commands = [encoded(["SET", f"key:{number}", "v" * (number % 100)]) for number in range(count)]
    assert f"errors: 0, replies: {count}" in said(serving, "--pipe", sent=b"".join(commands))


@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_commands_of_a_line(serving: Serving, protocol: str) -> None:
    assert said(serving, protocol, "set", "greeting", "two words") == "OK\n"
    assert said(serving, protocol, "get", "greeting") == "two words\n"
    assert said(serving, protocol, "get", "absent") == "\n"
    assert said(serving, protocol, "incrby", "count", "5") == "5\n"
    assert said(serving, protocol, "-n", "3", "dbsize") == "0\n"
    assert said(serving, protocol, "-x", "set", "input", sent=b"\x00\r\n\xff") == "OK\n"
    assert said(serving, protocol, "--no-raw", "get", "input") == '"\\x00\\r\\n\\xff"\n'
    assert "redis_version:" in said(serving, protocol, "info", "server")
    assert "maxclients" in said(serving, protocol, "config", "get", "maxclients")


def test_commands_of_a_script(serving: Serving) -> None:
    script = b'multi\nset a 1\nincr a\nexec\nget a\nselect 2\nget a\nset "two words" x\n'
    assert said(serving, sent=script).split() == [
        *("OK", "QUEUED", "QUEUED", "OK", "2", "2", "OK", "OK"),
    ]


def test_a_lot_is_loaded_and_found_again(serving: Serving) -> None:
    filled(serving, 3000)
    assert said(serving, "dbsize") == "3000\n"
    assert set(said(serving, "--scan").split()) == {f"key:{number}" for number in range(3000)}
    found = said(serving, "--scan", "--pattern", "key:12*").split()
    assert set(found) == {f"key:{number}" for number in range(3000) if str(number).startswith("12")}


def test_a_pipe_counts_errors(serving: Serving) -> None:
    sent = encoded(["SET", "a", "1"]) + encoded(["NONSENSE"]) + encoded(["GET", "a"])
    command = command_of(serving, ("--pipe",))
    done = subprocess.run(command, input=sent, capture_output=True, timeout=SECONDS_MAX, check=False)
    assert b"errors: 1, replies: 3" in done.stdout
    assert done.returncode == 1


def test_large_keys_are_found(serving: Serving) -> None:
    filled(serving, 300)
    said(serving, "set", "largest", "v" * 10_000)
    by_length = said(serving, "--bigkeys")
    assert "Sampled 301 keys" in by_length
    assert re.search(r'Biggest string found ["\']"?largest"?["\'] has 10000 bytes', by_length)
    by_memory = said(serving, "--memkeys")
    assert "Sampled 301 keys" in by_memory
    assert re.search(r'Biggest string found ["\']"?largest"?["\'] has 1\d{4} bytes', by_memory)


def test_commands_are_repeated(serving: Serving) -> None:
    assert said(serving, "-r", "5", "-i", "0.01", "incr", "count").split() == ["1", "2", "3", "4", "5"]


def test_what_goes_on_is_shown(serving: Serving) -> None:
    filled(serving, 10)
    wait_for_print(serving, "--stat", "-i", "0.1", pattern=rb"\n10 +\d[^\n]*\n10 +\d")


def test_latency_is_measured(serving: Serving) -> None:
    # Into a pipe it prints one line: least, most and mean, in milliseconds, and how often it asked.
    least, most, mean, count = said(serving, "--latency", "-i", "1").split()
    assert float(least) <= float(mean) <= float(most)
    assert int(count) > 10
