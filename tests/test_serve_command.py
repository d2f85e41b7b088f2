"""What `thermae serve` is told, on the command line, in the environment, in a file; and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import thermae
from resp import Reply
from serving import free_port, thermae_serve
from test_serve_operations import address_of, logging, make_certificate
from thermae.cli import main
from thermae.cli.refusals import worded

# Nothing can listen there: what is not refused for another reason is refused for this one, and never serves.
NOWHERE = "/nonexistent/thermae/socket"


def refused(*words: str, environment: Mapping[str, str] | None = None) -> Result:
    """`thermae serve WORDS`, which has to end by itself."""
    # As wide as it takes, for messages are looked for in one piece.
    words = ("serve", *words, "--unix", NOWHERE)
    result = CliRunner().invoke(main, words, env={"COLUMNS": "1000", **(environment or {})})
    assert NOWHERE not in result.stderr, "it was not refused"
    return result


def refused_file(directory: Path, text: str) -> Result:
    path = directory / "thermae.toml"
    path.write_text(text)
    # The socket of a file would be overridden by that of the command line.
    words = ("serve", "shm://never", "--memcached-unix", NOWHERE, "--config", str(path))
    result = CliRunner().invoke(main, words)
    assert NOWHERE not in result.stderr, "it was not refused"
    return result


def assert_told(result: Result, code: int, *texts: str) -> None:
    assert result.exit_code == code, result.output
    for text in texts:
        assert text in result.stderr


# The store.


def test_no_store_is_a_mistake_that_says_how_to_name_one() -> None:
    told = ("thermae serve data/", "THERMAE_STORE", 'store = "data/"')
    assert_told(refused(), 2, "there is no store to serve", *told)


def test_the_store_may_be_named_in_the_environment(location: str, tmp_path: Path) -> None:
    environment = {"THERMAE_STORE": location}
    with logging(tmp_path, "--hot", "16MiB", "--redis", "127.0.0.1:0", environment=environment) as (_, log):
        assert log.events("store")[0]["location"] == location


def test_the_store_may_be_named_in_a_file(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text(f'store = "{location}"\nhot = "16MiB"\nredis = "127.0.0.1:0"\n')
    with logging(tmp_path, "--config", str(config)) as (process, log):
        assert log.events("store")[0]["location"] == location
        # Another one takes a restart.
        config.write_text('store = "shm://other"\nhot = "16MiB"\nredis = "127.0.0.1:0"\n')
        process.send_signal(signal.SIGHUP)
        assert log.wait_for("reloaded")["not_changed"] == ["store"]


def test_the_command_line_has_the_last_word_on_the_store(location: str, tmp_path: Path) -> None:
    environment = {"THERMAE_STORE": "shm://another"}
    with thermae_serve(location, "--hot", "16MiB", environment=environment), thermae.open(location):
        pass


def test_the_help_says_what_a_new_store_has(tmp_path: Path) -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    hot, cold = ("".join(text.split(f"--{tier} SIZE")[1].split("]")[0].split()) for tier in ("hot", "cold"))
    with thermae.open(tmp_path / "data") as store:
        report = store.stats()
    thermae.destroy(tmp_path / "data")
    assert (report["hot_bytes"], report["cold_bytes"]) == (256 << 20, 1 << 30)
    assert hot.endswith("ofanewone256MiB")
    assert "ofanewonefourtimesthehotone,atleast1GiB" in cold


# Addresses.


@pytest.mark.parametrize("address", ["6379", ":6379", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "a b:1"])
@pytest.mark.parametrize(
    ("option", "port"), [("--redis", 6379), ("--memcached", 11211), ("--tls", 6380), ("--metrics", 9121)]
)
def test_what_is_no_address_is_refused_with_one_that_is(option: str, port: int, address: str) -> None:
    example = f"'{address}' is no HOST:PORT, such as 127.0.0.1:{port} or 0.0.0.0:{port}"
    assert_told(refused("shm://never", option, address), 2, f"'{option}': {example}")


def test_several_addresses_in_a_variable_have_commas_or_blanks_between(location: str) -> None:
    environment = {"THERMAE_MEMCACHED": "127.0.0.1:0,127.0.0.1:0 127.0.0.1:0, 127.0.0.1:0"}
    # The harness waits for as many announcements as the command line has addresses.
    words = ("--redis", "127.0.0.1:0") * 5
    with thermae_serve(location, "--hot", "16MiB", *words, environment=environment) as serving:
        assert serving.terminate() == 0
        assert serving.process.stderr is not None
        assert serving.process.stderr.read().count("memcached clients: 127.0.0.1:") == 4


def test_the_same_address_twice_is_a_mistake() -> None:
    words = ("shm://never", "--redis", "127.0.0.1:7001", "--metrics", "127.0.0.1:7001")
    assert_told(refused(*words), 2, "--redis and --metrics name the same address, 127.0.0.1:7001")
    words = ("shm://never", "--redis", "127.0.0.1:7001", "--redis", "127.0.0.1:7001")
    assert_told(refused(*words), 2, "--redis names 127.0.0.1:7001 twice")


@pytest.mark.parametrize("option", ["--redis", "--memcached", "--metrics"])
def test_an_address_in_use_is_told_with_its_option_and_what_to_do(location: str, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        remedy = f"another server is there: end it, or give {option} another port"
        assert_told(refused(location, option, address), 1, f"cannot listen on {address} ({option}): {remedy}")


@pytest.mark.parametrize("option", ["--unix", "--memcached-unix"])
def test_what_lies_where_a_socket_is_to_be_is_told(location: str, tmp_path: Path, option: str) -> None:
    def told(path: Path) -> str:
        result = CliRunner().invoke(main, ("serve", location, option, str(path)))
        assert result.exit_code == 1
        start = f"Error: cannot listen on {path} ({option}): "
        assert result.stderr.startswith(start)
        return result.stderr.removeprefix(start).rstrip("\n")

    other = f"or give {option} another path"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "live"))
        live.listen()
        assert told(tmp_path / "live") == f"another server listens there: end it, {other}"
    (tmp_path / "file").write_text("precious")
    assert told(tmp_path / "file") == (
        f"a file that is no socket lies there: remove it if nobody needs it, {other}"
    )
    assert told(tmp_path) == f"a directory lies there: remove it if nobody needs it, {other}"
    absent = tmp_path / "absent"
    assert told(absent / "socket") == f"there is no directory {absent}: make it, {other}"
    assert "at most 107 bytes" in told(tmp_path / ("x" * 120))


# The environment and the file.


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("THREADS", "x", "THERMAE_THREADS: a whole number from 1 to 1024 is wanted, and not 'x'"),
        ("CLIENTS_MAX", "0", "THERMAE_CLIENTS_MAX: a whole number from 1 to 4294967295 is wanted"),
        ("PROTECTED_MODE", "maybe", 'THERMAE_PROTECTED_MODE: true or false is wanted, and not "maybe"'),
        ("HOT", "huge", "THERMAE_HOT: a size from 16MiB to 4TiB"),
        ("LOG_FORMAT", "xml", 'THERMAE_LOG_FORMAT: one of text, json is wanted, and not "xml"'),
        ("REDIS", "6379", "THERMAE_REDIS: '6379' is no HOST:PORT"),
        ("REDIS_PARAMETER", "=3", "THERMAE_REDIS_PARAMETER: '=3' is no NAME=VALUE"),
        ("NO_PROTECTED_MODE", "1", "say THERMAE_PROTECTED_MODE=false"),
        ("THREDS", "2", "THERMAE_THREDS is read by nobody: did you mean THERMAE_THREADS?"),
        ("CLIENT_MAX", "2", "THERMAE_CLIENT_MAX is read by nobody: did you mean THERMAE_CLIENTS_MAX?"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(variable: str, value: str, told: str) -> None:
    assert_told(refused("shm://never", environment={f"THERMAE_{variable}": value}), 2, told)


def test_variables_of_others_are_left_alone(location: str) -> None:
    # Such as Kubernetes gives each container, where a service is named thermae.
    address = "tcp://10.0.0.1:6379"
    names = ("THERMAE_PORT", "THERMAE_PORT_6379_TCP", "THERMAE_SERVICE_HOST", "THERMAE_SERVICE_PORT")
    environment = dict.fromkeys(names, address)
    with (
        thermae_serve(location, "--hot", "16MiB", environment=environment) as serving,
        serving.connection() as client,
    ):
        assert client.call("PING").value == b"PONG"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hot = 123", "hot in {file}: a size from 16MiB to 4TiB"),
        ("hot = true", "hot in {file}: a size from 16MiB to 4TiB"),
        ("redis = 6379", 'redis in {file}: a list of texts, such as ["127.0.0.1:6379"], is wanted'),
        ('redis = "6379"', "redis in {file}: '6379' is no HOST:PORT"),
        ('unix = ["a.sock"]', 'unix in {file}: a text in quotes is wanted, and not ["a.sock"]'),
        ("password = 7", "password in {file}: a text in quotes is wanted, and not 7"),
        ("store = 7", "store in {file}: a text in quotes is wanted, and not 7"),
        ("clients_max = 7", "{file}: clients_max is no option of thermae serve: did you mean clients-max?"),
        ("thread = 7", "did you mean threads?"),
        ("nonsense = 7", "nonsense is no option of thermae serve: see thermae serve --help"),
        ('config = "other.toml"', "config is no option"),
        (
            "no-protected-mode = true",
            "{file}: no-protected-mode is no option of thermae serve: say protected",
        ),
        ("protected-mode = 1", "protected-mode in {file}: true or false is wanted, and not 1"),
        ("threads = 0", "threads in {file}: a whole number from 1 to 1024 is wanted, and not 0"),
        ("threads = true", "threads in {file}: a whole number from 1 to 1024 is wanted, and not true"),
        ("threads = 1.5", "threads in {file}: a whole number from 1 to 1024 is wanted, and not 1.5"),
        ("enable-debug-command = false", 'in {file}: one of "no", "local", "yes" is wanted, and not false'),
        ('argument-max = "1KiB"', "argument-max in {file}: a size from 1MiB to 1GiB"),
        ("[redis]\naddress = 1", "redis in {file}: a list of texts"),
        ("redis-parameter = 7", 'in {file}: a list of texts, such as ["slowlog-max-len=1000"], is wanted'),
        ('redis-parameter = "timeout"', "redis-parameter in {file}: 'timeout' is no NAME=VALUE"),
        ("threads =", "{file}: Invalid value"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_key(tmp_path: Path, text: str, told: str) -> None:
    expected = told.replace("{file}", str(tmp_path / "thermae.toml"))
    assert_told(refused_file(tmp_path, text), 2, expected)


def test_a_file_may_say_sizes_in_bytes_and_one_address_as_text(location: str, tmp_path: Path) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text('hot = 16777216\nredis = "127.0.0.1:0"\nprotected-mode = false\nthreads = "2"\n')
    with logging(tmp_path, location, "--config", str(config)) as (_, log):
        assert log.events("store")[0]["hot_bytes"] == 16 << 20
        assert address_of(log).startswith("127.0.0.1:")


# What can't be served.


@pytest.mark.parametrize("option", ["--tls-certificate", "--tls-key", "--tls-authority"])
def test_a_certificate_without_an_address_for_tls_is_a_mistake(option: str) -> None:
    assert_told(refused("shm://never", option, "file.pem"), 2, option, "give one with --tls")


def test_the_key_of_another_certificate_is_refused_by_name(location: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_certificate(tmp_path / name, name)
    certificate, key = tmp_path / "one" / "server.pem", tmp_path / "two" / "server.key"
    words = ("--tls", "127.0.0.1:0", "--tls-certificate", str(certificate), "--tls-key", str(key))
    assert_told(refused(location, *words), 2, f"{key} is not the key of {certificate}")


def test_a_file_of_users_that_makes_no_sense_is_refused_by_its_line(location: str, tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_text("user default on nopass ~* +@all\n\nuser app on +nonsense\n")
    words = ("serve", location, "--hot", "16MiB", "--redis", "127.0.0.1:0", "--acl-file", str(path))
    result = CliRunner().invoke(main, words)
    assert_told(result, 2, "Unknown command", f"Correct line 3 of {path}, and start again")
    assert "previously active" not in result.stderr


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/thermae"])
def test_a_place_that_can_hold_no_snapshots_is_refused(location: str, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no directory")
    result = refused(location, "--snapshots", str(tmp_path / place))
    assert_told(result, 1, "--snapshots: ", "name another place")
    # A server that cannot serve makes no store.
    with pytest.raises(thermae.NotAStoreError):
        thermae.open(location, create=False)


def test_what_the_engine_refuses_is_told_in_the_words_of_the_command_line() -> None:
    words = ("serve", "shm://thermae-test-too-large", "--hot", "4TiB", "--redis", "127.0.0.1:0")
    result = CliRunner().invoke(main, words)
    assert_told(result, 1, "has no room for", "name a directory as STORE")
    assert "placement" not in result.stderr
    assert worded("m has no cold tier: create the store with cold=") == (
        "m has no cold tier: create the store with --cold"
    )
    assert worded("restore it with cold=1GiB or more") == "restore it with --cold 1GiB or more"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--redis", "6379"), 2, "no HOST:PORT"),
        (("--no-such-option",), 2, "No such option"),
        (("--acl-file", "/nonexistent/users"), 2, "/nonexistent/users"),
        (("--redis-parameter", "foo=1"), 2, "foo"),
        (("--redis-parameter", "slowlog-max-len=many"), 2, "slowlog-max-len"),
        (("--tls", "127.0.0.1:0"), 2, "--tls-certificate"),
        (("--hot", "4TiB"), 1, "has no room for"),
    ],
)
def test_a_failure_at_the_start_is_an_object_where_the_log_is_of_objects(
    location: str, words: tuple[str, ...], code: int, told: str
) -> None:
    arguments = ["serve", location, "--hot", "16MiB", *words, "--log-format", "json"]
    if "--redis" not in words:
        arguments += ["--redis", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-c", "from thermae.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    *before, failure = [json.loads(line) for line in done.stderr.splitlines()]
    assert failure["event"] == "failed"
    assert told in failure["reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", failure["time"])
    assert {event["event"] for event in before} <= {"few-descriptors"}


def test_the_form_of_the_log_is_known_from_the_file_as_well(tmp_path: Path) -> None:
    result = refused_file(tmp_path, 'log-format = "json"\nnonsense = 1\n')
    assert result.exit_code == 2
    assert "nonsense" in json.loads(result.stderr)["reason"]


def test_a_server_that_was_told_all_this_serves(location: str, tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    with (
        thermae_serve(
            location, "--hot", "16MiB", "--snapshots", str(tmp_path / "snapshots" / "new")
        ) as serving,
        serving.connection() as client,
    ):
        assert client.call("PING") == Reply("+", b"PONG")
        assert client.call("SAVE") == Reply("+", b"OK")
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["new"]
