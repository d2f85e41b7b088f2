"""CONFIG REWRITE of `thermae serve`: what clients have changed, in the file of ``--config``."""

from __future__ import annotations

import os
import signal
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from resp import Connection, Reply
from test_serve_operations import SMALL, address_of, logging, setting
from thermae.cli import main

OK = Reply("+", b"OK")
# In the order of their names: what CONFIG SET is told, and what CONFIG GET says of it.
CHANGES = {
    "latency-monitor-threshold": "20",
    "latency-tracking-info-percentiles": "50 99.5",
    "maxclients": "7",
    "maxmemory": "16777216",
    "maxmemory-policy": "noeviction",
    "notify-keyspace-events": "AKE",
    "proto-max-bulk-len": "2097152",
    "protected-mode": "no",
    "slowlog-max-len": "3",
    "timeout": "99",
}
BEFORE = """\
# Ours.
clients-max = 100 # few

protected-mode = true
redis-parameter = ["acllog-max-len=5", "slowlog-max-len=9"]
# The end.
"""


def test_what_clients_have_changed_lasts(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text(BEFORE)
    config.chmod(0o640)
    arguments = (location, *SMALL, "--config", str(config))
    with logging(tmp_path, *arguments) as (process, log), Connection(address_of(log)) as client:
        assert setting(client, "slowlog-max-len") == b"9"
        assert client.call("CONFIG", "REWRITE") == OK
        assert config.read_text() == BEFORE
        assert client.call("CONFIG", "SET", *(word for pair in CHANGES.items() for word in pair)) == OK
        assert client.call("CONFIG", "SET", "requirepass", "secret") == OK
        assert client.call("CONFIG", "REWRITE") == OK
        written = config.read_text()
        # What it has written it reads again.
        process.send_signal(signal.SIGHUP)
        assert log.wait_for("reloaded")["not_changed"] == []
        assert {name: setting(client, name).decode() for name in CHANGES} == CHANGES
        event = log.wait_for("config-rewritten", 2)
        assert (event["path"], "requirepass" in event["not_written"]) == (str(config), True)
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "thermae.toml"]
    assert written.startswith("# Ours.\nclients-max = 7 # few\n\nprotected-mode = false\nredis-parameter = [")
    assert "secret" not in written
    values = tomllib.loads(written)
    assert values["timeout-seconds"] == 99
    assert values["when-full"] == "error"
    assert values["redis-parameter"][:2] == ["acllog-max-len=5", "slowlog-max-len=3"]
    with logging(tmp_path, *arguments) as (_, log), Connection(address_of(log)) as client:
        # The hot tier is as large as that, which is all of it.
        assert {name: setting(client, name).decode() for name in CHANGES} == CHANGES
        assert setting(client, "acllog-max-len") == b"5"


def test_a_file_that_cannot_be_edited_is_left_alone(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text("clients-max = 100\n")
    arguments = (location, *SMALL, "--config", str(config))
    with logging(tmp_path, *arguments) as (_, log), Connection(address_of(log)) as client:
        assert client.call("CONFIG", "SET", "timeout", "99") == OK
        for text, reason in [("password = 'secret' x\n", b"is no TOML"), ("[redis]\n", b"has a table")]:
            config.write_text(text)
            reply = client.call("CONFIG", "REWRITE")
            assert isinstance(reply.value, bytes)
            assert reply.value.startswith(b"ERR Rewriting config file: " + os.fsencode(config))
            assert reason in reply.value
            assert b"secret" not in reply.value
            assert config.read_text() == text
        config.unlink()
        assert client.call("CONFIG", "REWRITE").mark == "-"
        assert not config.exists()


def test_a_change_of_the_file_goes_before_what_clients_had_changed(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text("clients-max = 100\n")
    arguments = (location, *SMALL, "--config", str(config))
    with logging(tmp_path, *arguments) as (process, log), Connection(address_of(log)) as client:
        assert client.call("CONFIG", "SET", "maxclients", "7", "slowlog-max-len", "3") == OK
        text = 'clients-max = 8\nredis-parameter = "slowlog-max-len=4"\n'
        config.write_text(text)
        process.send_signal(signal.SIGHUP)
        log.wait_for("reloaded")
        assert (setting(client, "maxclients"), setting(client, "slowlog-max-len")) == (b"8", b"4")
        assert client.call("CONFIG", "REWRITE") == OK
        assert config.read_text() == text
        config.write_text('clients-max = 9\nredis-parameter = ["slowlog-max-len=x"]\n')
        process.send_signal(signal.SIGHUP)
        assert "slowlog-max-len" in log.wait_for("reload-failed")["reason"]
        assert (setting(client, "maxclients"), setting(client, "slowlog-max-len")) == (b"8", b"4")


def test_without_a_file_there_is_nothing_to_write(location: str, tmp_path: Path) -> None:
    environment = {"THERMAE_REDIS_PARAMETER": "slowlog-max-len=4, latency-monitor-threshold=5"}
    with (
        logging(tmp_path, location, *SMALL, environment=environment) as (_, log),
        Connection(address_of(log)) as client,
    ):
        reply = client.call("CONFIG", "REWRITE")
        assert reply == Reply("-", b"ERR The server is running without a config file")
        assert setting(client, "slowlog-max-len") == b"4"
        assert setting(client, "latency-monitor-threshold") == b"5"


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("slowlog-max-len", "'slowlog-max-len' is no NAME=VALUE, such as slowlog-max-len=1000"),
        ("timeout=3", "redis-parameter timeout: there is an option for it, timeout-seconds"),
        ("nonsense=3", "Unknown option or number of arguments for CONFIG SET - 'nonsense'"),
        ("databases=3", "can't set immutable config"),
    ],
)
def test_what_is_no_parameter_is_refused(location: str, parameter: str, told: str) -> None:
    words = ("serve", location, *SMALL, "--redis-parameter", parameter)
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_a_mistake_makes_no_store(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("nonsense\n")
    open_to_all = tmp_path / "open"
    open_to_all.write_text("user default on nopass ~* &* +@all\n")
    for words in (
        ("--redis-parameter", "nonsense=3"),
        ("--acl-file", str(users)),
        ("--acl-file", str(open_to_all), "--password", "secret"),
    ):
        result = CliRunner().invoke(main, ("serve", str(tmp_path / "store"), *SMALL, *words))
        assert result.exit_code == 2, result.stderr
        assert not (tmp_path / "store").exists()
