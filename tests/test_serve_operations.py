"""`thermae serve` as those see it who run it: its log, its service manager, a new configuration."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resp import Connection, Reply, connected, encoded, wait_until
from serving import Serving, thermae_serve

REPOSITORY = Path(__file__).resolve().parent.parent
OK = Reply("+", b"OK")
PONG = Reply("+", b"PONG")
SMALL = ("--hot", "16MiB", "--redis", "127.0.0.1:0")


class Log:
    """What a server writes, in a file, so that it never waits for a reader."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        """Those that are whole."""
        text = self._path.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def events(self, kind: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.lines()]
        return [event for event in found if event["event"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The last of so many events of a kind."""
        wait_until(lambda: len(self.events(kind)) >= count)
        return self.events(kind)[-1]


@contextlib.contextmanager
def logging(
    directory: Path, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Log]]:
    """A server with its log in a file, which is JSON."""
    path = directory / "log"
    command = [sys.executable, "-c", "from thermae.cli import main; main()", "serve", *arguments]
    command += ["--log-format", "json"]
    with path.open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **(environment or {})})
    try:
        log_file = Log(path)
        log_file.wait_for("store")
        yield process, log_file
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def address_of(log: Log, protocol: str = "redis", index: int = 0) -> str:
    found = [event["address"] for event in log.events("listening") if event["protocol"] == protocol]
    return str(found[index])


# The log.


def test_events_are_lines_of_json(location: str, tmp_path: Path) -> None:
    with logging(tmp_path, location, *SMALL, "--clients-max", "1") as (process, log):
        store = log.events("store")[0]
        assert (store["location"], store["hot_bytes"]) == (location, 16 << 20)
        address = address_of(log)
        with Connection(address) as client:
            assert client.call("PING") == PONG
            for _ in range(30):
                with Connection(address) as refused:
                    assert refused.rest() == b"-ERR max number of clients reached\r\n"
            # Of the first ones each is told, of all others their number.
            log.wait_for("connection-refused")
            refusal = log.events("connection-refused")[0]
            assert refusal["reason"] == "max number of clients reached"
            assert refusal["address"].startswith("127.0.0.1:")

            def all_are_told() -> bool:
                events = log.events("connection-refused")
                told = sum(event.get("left_out", 0) + ("address" in event) for event in events)
                return bool(told == 30)

            wait_until(all_are_told)
            client.socket.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.rest() == b""
        suspicious = log.wait_for("connection-suspicious")
        assert suspicious["reason"] == "it sent a request of HTTP, as a browser can be made to"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert log.events("ended")[0]["reason"] == "SIGTERM"
        for line in log.lines():
            event = json.loads(line)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
            assert event["text"]


def test_events_are_lines_of_text_unless_told_otherwise(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        with serving.connection() as client:
            client.socket.sendall(encoded(["SHUTDOWN"]))
            assert client.rest() == b""
        assert serving.process.wait(30) == 0
        assert serving.process.stderr is not None
        lines = serving.process.stderr.read().splitlines()
        assert re.fullmatch(rf"store: {location}, hot 16\.0 MiB.*, durability \w+, memory in /.*", lines[0])
        assert lines[-1] == "ended: a client called SHUTDOWN"


def test_a_log_that_nobody_takes_does_not_end_the_server(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        assert serving.process.stderr is not None
        serving.process.stderr.close()
        with serving.connection() as client:
            client.socket.sendall(b"POST / HTTP/1.1\r\n\r\n")
            assert client.rest() == b""
        time.sleep(0.5)
        with serving.connection() as client:
            assert client.call("PING") == PONG
        assert serving.terminate() == 0


# Options.


def test_limits_are_options(location: str) -> None:
    options = ("--argument-max", "1MiB", "--timeout-seconds", "1", "--memcached-value-max", "2KiB")
    with thermae_serve(location, *SMALL, *options, "--memcached", "127.0.0.1:0") as serving:
        with serving.connection() as client:
            assert setting(client, "proto-max-bulk-len") == b"1048576"
            client.socket.sendall(b"*1\r\n$1048577\r\n")
            assert client.rest() == b"-ERR Protocol error: invalid bulk length\r\n"
        with contextlib.closing(connected(serving.memcached)) as client_of_memcached:
            client_of_memcached.sendall(b"set k 0 0 2049\r\n" + b"x" * 2049 + b"\r\n")
            assert client_of_memcached.recv(100) == b"SERVER_ERROR object too large for cache\r\n"
            # The timeout.
            assert client_of_memcached.recv(100) == b""


@pytest.mark.parametrize(
    ("option", "value"),
    [("--argument-max", "1"), ("--memcached-value-max", "2GiB"), ("--argument-max", "many")],
)
def test_limits_have_limits(location: str, option: str, value: str) -> None:
    with pytest.raises(AssertionError, match="ended with 2"), thermae_serve(location, option, value):
        pass


def test_memcached_has_a_socket_as_well(location: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with thermae_serve(location, "--hot", "16MiB", "--memcached-unix", str(path)) as serving:
        assert serving.memcached == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with contextlib.closing(connected(serving.memcached)) as client:
            client.sendall(b"set k 0 0 1\r\nx\r\n")
            assert client.recv(100) == b"STORED\r\n"
        assert serving.terminate() == 0
        assert not path.exists()


# Reading the configuration again.


def setting(client: Connection, name: str) -> bytes:
    """What CONFIG GET says."""
    pair = client.call("CONFIG", "GET", name).value
    assert isinstance(pair, list)
    assert isinstance(pair[1].value, bytes)
    return pair[1].value


def ping_is_refused(address: str) -> bool:
    with Connection(address) as client:
        return client.call("PING").mark == "-"


def test_a_reload_changes_what_can_change(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text("clients-max = 100\n")
    arguments = (location, *SMALL, "--config", str(config))
    with logging(tmp_path, *arguments) as (process, log), Connection(address_of(log)) as client:
        # From now on it is there.
        assert client.call("PING") == PONG
        config.write_text('clients-max = 7\ntimeout-seconds = 99\nargument-max = "3MiB"\npassword = "p"\n')
        process.send_signal(signal.SIGHUP)
        assert log.wait_for("reloaded")["not_changed"] == []
        names = ("maxclients", "timeout", "proto-max-bulk-len", "requirepass")
        found = [setting(client, name) for name in names]
        # Who is there goes on; who comes has to say the password.
        assert found == [b"7", b"99", b"3145728", b"p"]
        assert ping_is_refused(address_of(log))

        config.write_text('threads = 3\nmemcached = ["127.0.0.1:0"]\ncold = "2GiB"\npassword = "q"\n')
        process.send_signal(signal.SIGHUP)
        assert log.wait_for("reloaded", 2)["not_changed"] == ["threads", "memcached", "cold"]
        assert setting(client, "requirepass") == b"q"
        assert setting(client, "maxclients") == b"10000"


@pytest.mark.parametrize(
    "text",
    ['password = "new"\nclients-max = 0\n', 'password = "new"\nnonsense = 1\n', "password = \n", None],
    ids=["value", "name", "form", "absent"],
)
def test_a_file_with_a_mistake_changes_nothing(location: str, tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text("clients-max = 100\n")
    arguments = (location, *SMALL, "--config", str(config))
    with logging(tmp_path, *arguments) as (process, log), Connection(address_of(log)) as client:
        config.unlink() if text is None else config.write_text(text)
        process.send_signal(signal.SIGHUP)
        assert log.wait_for("reload-failed")["reason"]
        assert setting(client, "maxclients") == b"100"
        assert not ping_is_refused(address_of(log))
        config.write_text("clients-max = 101\n")
        process.send_signal(signal.SIGHUP)
        log.wait_for("reloaded")
        assert setting(client, "maxclients") == b"101"


def make_certificate(directory: Path, name: str) -> None:
    """A certificate that signs itself, `server.pem`, and its key."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", str(directory / "server.key"), "-out", str(directory / "server.pem")]
    subprocess.run([*command, "-subj", f"/CN={name}", *files], check=True, capture_output=True)


def talking_tls(address: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=20))


def certificate_of(client: ssl.SSLSocket) -> bytes:
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def test_a_reload_renews_certificates_for_those_who_come(location: str, tmp_path: Path) -> None:
    assert shutil.which("openssl") is not None, "openssl is missing: .ci/run installs it"
    make_certificate(tmp_path, "first")
    tls = ["--tls", "127.0.0.1:0", "--tls-certificate", str(tmp_path / "server.pem")]
    tls += ["--tls-key", str(tmp_path / "server.key")]
    with logging(tmp_path, location, "--hot", "16MiB", *tls) as (process, log):
        address = address_of(log)
        with talking_tls(address) as before:
            first = certificate_of(before)
            (tmp_path / "server.key").write_text("no key")
            process.send_signal(signal.SIGHUP)
            assert "server.key" in log.wait_for("reload-failed")["reason"]
            with talking_tls(address) as client:
                assert certificate_of(client) == first
            make_certificate(tmp_path, "second")
            process.send_signal(signal.SIGHUP)
            log.wait_for("reloaded")
            with talking_tls(address) as after:
                assert certificate_of(after) != first
                for client in (before, after):
                    client.sendall(encoded(["PING"]))
                    assert client.recv(100) == b"+PONG\r\n"


def test_a_handshake_that_fails_is_in_the_log(location: str, tmp_path: Path) -> None:
    """The client only saw that the connection was closed."""
    make_certificate(tmp_path, "server")
    tls = ["--tls", "127.0.0.1:0", "--tls-certificate", str(tmp_path / "server.pem")]
    tls += ["--tls-key", str(tmp_path / "server.key"), "--tls-authority", str(tmp_path / "server.pem")]
    with logging(tmp_path, location, "--hot", "16MiB", *tls) as (_, log):
        address = address_of(log)
        with connected(address) as plain:
            plain.sendall(encoded(["PING"]) * 10)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(100):
                    pass
        first = log.wait_for("tls-failed")
        assert first["address"].startswith("127.0.0.1:")
        with contextlib.suppress(OSError), talking_tls(address) as nobody:
            nobody.sendall(encoded(["PING"]))
            nobody.recv(100)
        assert "certificate" in log.wait_for("tls-failed", 2)["reason"]


def test_a_command_may_come_in_parts_of_tls_records(location: str, tmp_path: Path) -> None:
    """What had come of a command was dropped where the next bytes were no whole record."""
    make_certificate(tmp_path, "server")
    tls = ["--tls", "127.0.0.1:0", "--tls-certificate", str(tmp_path / "server.pem")]
    tls += ["--tls-key", str(tmp_path / "server.key"), "--redis", "127.0.0.1:0"]
    with logging(tmp_path, location, "--hot", "16MiB", *tls) as (_, log):
        plain, secure = address_of(log), address_of(log, index=1)
        assert [event["tls"] for event in log.events("listening")] == [False, True]
        host, _, port = secure.rpartition(":")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(incoming, outgoing)
        with (
            contextlib.closing(socket.create_connection((host, int(port)), timeout=20)) as client,
            Connection(plain) as other,
        ):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    session.do_handshake()
                    break
                client.sendall(outgoing.read())
                incoming.write(client.recv(1 << 16))
            value = os.urandom(40_000)
            session.write(encoded(["SET", "parts", value]))
            sent = outgoing.read()
            for position in range(0, len(sent), 10_000):
                client.sendall(sent[position : position + 10_000])
                # Once this is answered, what came before has been read.
                assert [other.call("PING") for _ in range(3)] == [PONG] * 3
            answer = b""
            while answer != b"+OK\r\n":
                incoming.write(client.recv(1 << 16))
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += session.read(100)
            assert other.call("GET", "parts") == Reply("$", value)


# The service manager.


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_the_service_manager_is_told(location: str, tmp_path: Path, is_abstract: bool) -> None:
    name = f"@thermae-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(20)
        with logging(tmp_path, location, *SMALL, environment={"NOTIFY_SOCKET": name}) as (process, log):
            assert manager.recv(1000) == b"READY=1"
            with Connection(address_of(log)) as client:
                assert client.call("PING") == PONG
            process.send_signal(signal.SIGHUP)
            reloading = manager.recv(1000).split(b"\n")
            assert reloading[0] == b"RELOADING=1"
            assert re.fullmatch(rb"MONOTONIC_USEC=\d+", reloading[1])
            assert manager.recv(1000) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"
            assert process.wait(30) == 0


def test_a_service_manager_that_is_gone_does_not_matter(location: str, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with thermae_serve(location, "--hot", "16MiB", environment=environment) as serving:
        assert_pongs(serving)


def assert_pongs(serving: Serving) -> None:
    with serving.connection() as client:
        assert client.call("PING") == PONG


def test_the_unit_is_in_order(tmp_path: Path) -> None:
    """As far as systemd can tell without running it; the program is where an administrator installs it."""
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "systemd-analyze is missing: .ci/run installs it"
    text = (REPOSITORY / "packaging" / "thermae.service").read_text()
    start = re.search(r"^ExecStart=/opt/thermae/bin/thermae (.*)$", text, re.MULTILINE)
    assert start is not None
    unit = tmp_path / "thermae.service"
    unit.write_text(text.replace("/opt/thermae/bin/thermae", sys.executable))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    # It reads the machine's other units as well, and may have something to say of them.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "thermae" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    # The options are those of the command.
    config = tmp_path / "thermae.toml"
    config.write_text("threads = 2\n")
    words = start[1].replace("/var/lib/thermae/store", str(tmp_path / "store"))
    words = words.replace("/etc/thermae/thermae.toml", str(config))
    location, *options = words.removeprefix("serve ").split()
    with thermae_serve(location, *options, "--redis", "127.0.0.1:0", "--hot", "16MiB") as serving:
        assert_pongs(serving)
