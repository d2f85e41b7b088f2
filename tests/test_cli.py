"""The command line as a shell and a script see it: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import thermae
from commands import commands_of
from thermae.cli import main
from thermae.cli.structures import flattened, readable
from thermae.cli.values import json_form, plain_bytes


@pytest.fixture
def location(tmp_path: Path) -> Iterator[str]:
    place = str(tmp_path / "data")
    yield place
    thermae.destroy(place)


@pytest.fixture
def stored(location: str) -> str:
    with thermae.open(location, hot="16MiB", cold="64MiB") as store:
        store["user:1"] = "Ada"
        store["user:2"] = {"name": "Grace", "born": 1906}
        store["count"] = 41
        store["raw"] = b"\x00\xff"
        store[b"odd\xff"] = "oddly named"
    return location


def thermae_command(*arguments: str | bytes, stdin: bytes | None = None) -> Result:
    texts = [os.fsdecode(argument) for argument in arguments]
    return CliRunner().invoke(main, texts, input=stdin)


def in_a_shell(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, as scripts run it."""
    program = "from thermae.cli import main; main(prog_name='thermae')"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False)


def walk(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in commands_of(command).items():
            yield from walk(child, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in walk(main)], ids=" ".join)
def test_every_command_explains_itself_with_examples(path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = thermae_command(*path, flag)
        assert result.exit_code == 0
        assert "Examples:" in result.stdout
        assert f"thermae {' '.join(path)}" in result.stdout


def test_all_promised_commands_exist() -> None:
    paths = {" ".join(path) for path, _ in walk(main)}
    promised = ["demo", "get", "set", "delete", "keys", "stats", "check", "snapshot", "restore"]
    benchmarks = ["embedded", "restart", "tiers", "hitratio", "scaling", "serve", "serve-limits", "all"]
    assert paths >= {*promised, *(f"bench {name}" for name in benchmarks)}


def test_version() -> None:
    assert thermae.__version__ in thermae_command("--version").stdout


class TestGet:
    def test_text_is_a_line(self, stored: str) -> None:
        assert thermae_command("get", stored, "user:1").stdout == "Ada\n"

    def test_bytes_are_exact(self, stored: str) -> None:
        assert thermae_command("get", stored, "raw").stdout_bytes == b"\x00\xff"

    def test_structures_are_json(self, stored: str) -> None:
        assert json.loads(thermae_command("get", stored, "user:2").stdout) == {"name": "Grace", "born": 1906}

    def test_json_has_key_value_and_ttl(self, stored: str) -> None:
        document = json.loads(thermae_command("get", stored, "count", "--json").stdout)
        assert document == {"key": "count", "value": 41, "ttl": None}
        document = json.loads(thermae_command("get", stored, "raw", "--json").stdout)
        assert base64.b64decode(document["value"]["base64"]) == b"\x00\xff"

    def test_a_key_that_is_not_utf_8(self, stored: str) -> None:
        assert in_a_shell("get", stored, b"odd\xff").stdout == b"oddly named\n"

    def test_into_a_file(self, stored: str, tmp_path: Path) -> None:
        result = thermae_command("get", stored, "raw", "--output", str(tmp_path / "out"))
        assert (result.exit_code, result.stdout) == (0, "")
        assert (tmp_path / "out").read_bytes() == b"\x00\xff"

    def test_a_missing_key_is_1_and_one_line(self, stored: str) -> None:
        result = thermae_command("get", stored, "user:9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: no such key in {stored}: 'user:9'\n"

    def test_contradicting_options_are_2(self, stored: str) -> None:
        assert thermae_command("get", stored, "raw", "--json", "--output", "x").exit_code == 2


class TestSet:
    @pytest.mark.parametrize(
        ("arguments", "value"),
        [
            (["007"], "007"),
            (["007", "--type", "int"], 7),
            (["1e3", "--type", "float"], 1000.0),
            (["True", "--type", "bool"], True),
            (["", "--type", "null"], None),
            (['{"a": [1, null]}', "--type", "json"], {"a": [1, None]}),
            (["raw", "--type", "bytes"], b"raw"),
            (["", "--type", "text"], ""),
        ],
    )
    def test_types_are_named_never_guessed(self, location: str, arguments: list[str], value: object) -> None:
        result = thermae_command("set", location, "key", "--hot", "16MiB", "--cold", "64MiB", *arguments)
        assert (result.exit_code, result.output) == (0, "")
        with thermae.open(location, create=False) as store:
            stored_value = store["key"]
        assert stored_value == value
        assert type(stored_value) is type(value)

    @pytest.mark.parametrize("value_type", ["int", "float", "bool", "null", "json"])
    def test_a_value_of_another_type_is_2(self, stored: str, value_type: str) -> None:
        result = thermae_command("set", stored, "key", "{nonsense", "--type", value_type)
        assert result.exit_code == 2
        assert f"'{{nonsense' is no {value_type}" in result.stderr

    def test_from_a_file_and_from_standard_input(self, stored: str, tmp_path: Path) -> None:
        (tmp_path / "in").write_bytes(b"\xfe\x00file")
        assert thermae_command("set", stored, "one", "--file", str(tmp_path / "in")).exit_code == 0
        assert thermae_command("set", stored, "two", "--file", "-", stdin=b"\xfe\x00pipe").exit_code == 0
        with thermae.open(stored, create=False) as store:
            assert (store["one"], store["two"]) == (b"\xfe\x00file", b"\xfe\x00pipe")

    def test_a_file_that_is_missing_is_1(self, stored: str) -> None:
        result = thermae_command("set", stored, "one", "--file", "/nowhere/at/all")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "/nowhere/at/all" in result.stderr

    def test_not_utf_8_is_no_text(self, stored: str) -> None:
        result = thermae_command("set", stored, "one", "--file", "-", "--type", "text", stdin=b"\xff")
        assert result.exit_code == 2
        assert "--type bytes" in result.stderr

    def test_value_and_file_exclude_each_other(self, stored: str) -> None:
        assert thermae_command("set", stored, "one").exit_code == 2
        assert thermae_command("set", stored, "one", "value", "--file", "-", stdin=b"").exit_code == 2

    def test_if_absent_is_1_when_there_is_one(self, stored: str) -> None:
        assert thermae_command("set", stored, "new", "first", "--if-absent").exit_code == 0
        result = thermae_command("set", stored, "new", "second", "--if-absent")
        assert result.exit_code == 1
        assert "already has the key 'new'" in result.stderr
        assert thermae_command("get", stored, "new").stdout == "first\n"

    def test_ttl(self, stored: str) -> None:
        assert thermae_command("set", stored, "short", "lived", "--ttl", "1000").exit_code == 0
        ttl = json.loads(thermae_command("get", stored, "short", "--json").stdout)["ttl"]
        assert 900 < ttl <= 1000
        assert thermae_command("set", stored, "short", "lived", "--ttl", "0").exit_code == 2

    def test_a_size_that_is_none_is_1_and_one_line(self, tmp_path: Path) -> None:
        result = thermae_command("set", str(tmp_path / "new"), "key", "value", "--hot", "12 parsecs")
        assert result.exit_code == 1
        assert "12 parsecs" in result.stderr
        assert result.stderr.count("\n") == 1


class TestDelete:
    def test_deletes_several(self, stored: str) -> None:
        assert thermae_command("delete", stored, "user:1", "user:2").exit_code == 0
        assert thermae_command("keys", stored, "--prefix", "user:", "--count").stdout == "0\n"

    def test_a_missing_one_is_1_and_the_others_go(self, stored: str) -> None:
        result = thermae_command("delete", stored, "user:1", "user:9", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {"deleted": 1, "missing": 1}
        assert thermae_command("get", stored, "user:1").exit_code == 1

    def test_the_same_key_twice_is_one_key(self, stored: str) -> None:
        assert thermae_command("delete", stored, "user:1", "user:1").exit_code == 0


class TestKeys:
    def test_one_a_line(self, stored: str) -> None:
        lines = in_a_shell("keys", stored).stdout.splitlines()
        assert sorted(lines) == [b"count", b"odd\xff", b"raw", b"user:1", b"user:2"]

    def test_prefix_limit_count_and_null(self, stored: str) -> None:
        assert sorted(thermae_command("keys", stored, "--prefix", "user:").stdout.split()) == [
            "user:1",
            "user:2",
        ]
        assert len(thermae_command("keys", stored, "--limit", "3").stdout_bytes.splitlines()) == 3
        assert thermae_command("keys", stored, "--count").stdout == "5\n"
        assert json.loads(thermae_command("keys", stored, "--count", "--json").stdout) == {"count": 5}
        separated = thermae_command("keys", stored, "--prefix", "user:", "--null").stdout
        assert sorted(separated.split("\0")) == ["", "user:1", "user:2"]

    def test_json_is_an_array(self, stored: str) -> None:
        keys = json.loads(thermae_command("keys", stored, "--json").stdout)
        encoded = {"base64": base64.b64encode(b"odd\xff").decode()}
        assert sorted(keys, key=str) == sorted(["count", "raw", "user:1", "user:2", encoded], key=str)
        assert json.loads(thermae_command("keys", stored, "--prefix", "none", "--json").stdout) == []


class TestStats:
    def test_table_and_json(self, stored: str) -> None:
        table = thermae_command("stats", stored)
        document = json.loads(thermae_command("stats", stored, "--json").stdout)
        assert table.exit_code == 0
        assert stored in table.stdout
        assert document
        for name in flattened(document):
            assert name in table.stdout

    def test_watch_prints_again_and_again(self, stored: str) -> None:
        options = ["--watch", "--every", "0.05", "--samples", "3"]
        lines = thermae_command("stats", stored, "--json", *options).stdout.splitlines()
        assert len([json.loads(line) for line in lines]) == 3
        tables = thermae_command("stats", stored, *options)
        assert tables.exit_code == 0
        assert tables.stdout.count("Thermae store") == 3
        assert "per second" in tables.stdout


class TestMaintenance:
    def test_check_of_a_sound_store_is_0(self, stored: str) -> None:
        assert thermae_command("check", stored).exit_code == 0
        result = thermae_command("check", stored, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)

    def test_check_of_a_damaged_store_is_1(self) -> None:
        name = f"thermae-test-cli-{os.getpid()}"
        place = f"shm://{name}"
        value = b"a value that is easily found in memory" * 30
        try:
            with thermae.open(place, hot="16MiB") as store:
                store["victim"] = value
                store["other"] = "Ada"
            hot = Path(f"/dev/shm/thermae-shm-{os.getuid()}-{name}/hot")
            content = hot.read_bytes()
            with hot.open("r+b") as file:
                file.seek(content.index(value))
                file.write(b"A")

            result = thermae_command("check", place)
            assert result.exit_code == 1, result.output
            document = json.loads(thermae_command("check", place, "--json").stdout)
            assert document["ok"] is False
            assert document["problems"][0]["description"] in result.stdout
            assert thermae_command("get", place, "other").stdout == "Ada\n"
            unread = thermae_command("get", place, "victim")
            assert (unread.exit_code, unread.stdout) == (1, "")
        finally:
            thermae.destroy(place)

    def test_a_look_at_a_snapshot_leaves_it_one(self, stored: str, tmp_path: Path) -> None:
        snapshot, restored = str(tmp_path / "snapshot"), str(tmp_path / "restored")
        assert thermae_command("snapshot", stored, snapshot).exit_code == 0
        for words in (
            ("check", snapshot),
            ("check", "--repair", snapshot),
            ("stats", snapshot),
            ("keys", snapshot),
        ):
            result = thermae_command(*words)
            assert result.exit_code == 1
            assert "is a snapshot" in result.stderr
            assert "restore it (thermae restore)\n" in result.stderr
        assert thermae_command("restore", snapshot, restored).exit_code == 0
        thermae.destroy(restored)

    def test_snapshot_and_restore(self, stored: str, tmp_path: Path) -> None:
        snapshot, restored = str(tmp_path / "snapshot"), str(tmp_path / "restored")
        assert json.loads(thermae_command("snapshot", stored, snapshot, "--json").stdout)
        assert thermae_command("set", stored, "user:1", "changed later").exit_code == 0
        assert thermae_command("restore", snapshot, restored).exit_code == 0
        try:
            assert thermae_command("get", restored, "user:1").stdout == "Ada\n"
        finally:
            thermae.destroy(restored)

    def test_restore_with_other_sizes(self, stored: str, tmp_path: Path) -> None:
        snapshot, restored = str(tmp_path / "snapshot"), str(tmp_path / "restored")
        assert thermae_command("snapshot", stored, snapshot).exit_code == 0
        sizes = ["--hot", "32MiB", "--warm", "16MiB", "--cold", "48MiB"]
        settings = ["--durability", "always", "--when-full", "error"]
        result = thermae_command("restore", snapshot, restored, *sizes, *settings)
        assert result.exit_code == 0, result.output
        try:
            with thermae.open(restored, create=False) as store:
                assert (store.hot_bytes, store.warm_bytes, store.cold_bytes) == (32 << 20, 16 << 20, 48 << 20)
                assert (store.durability, store.when_full) == ("always", "error")
                assert store["user:1"] == "Ada"
        finally:
            thermae.destroy(restored)

    def test_destroy_asks_first(self, stored: str) -> None:
        asked = thermae_command("destroy", stored, stdin=b"n\n")
        assert asked.exit_code == 1
        assert "all its data?" in asked.stderr
        assert thermae_command("get", stored, "user:1").stdout == "Ada\n"
        with thermae.open(stored, create=False):
            refused = thermae_command("destroy", stored, "--yes")
        assert refused.exit_code == 1
        assert refused.stderr.count("\n") == 1
        assert thermae_command("get", stored, "user:1").stdout == "Ada\n"

    def test_destroy_leaves_nothing(self, tmp_path: Path) -> None:
        location = str(tmp_path / "unwanted")
        assert thermae_command("set", location, "key", "value").exit_code == 0
        assert thermae_command("destroy", location, "--yes").exit_code == 0
        assert not os.path.exists(location)
        assert all(memory["location"] != location for memory in thermae.shared_memory())
        assert thermae_command("destroy", location, "--yes").exit_code == 1

    def test_restore_takes_no_shared_memory(
        self, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshot = str(tmp_path / "snapshot")
        assert thermae_command("snapshot", stored, snapshot).exit_code == 0
        monkeypatch.chdir(tmp_path)
        before = sorted(os.listdir(tmp_path))
        result = thermae_command("restore", snapshot, "shm://name")
        assert result.exit_code == 1
        assert "can't be restored to shm://name" in result.stderr
        assert sorted(os.listdir(tmp_path)) == before

    def test_restore_from_nothing_is_1(self, tmp_path: Path) -> None:
        result = thermae_command("restore", str(tmp_path / "none"), str(tmp_path / "new"))
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "there is no snapshot at" in result.stderr

    def test_restore_of_several_snapshots_says_which_there_are(self, tmp_path: Path) -> None:
        with thermae.open(tmp_path / "data", hot="16MiB", cold="16MiB") as store:
            (tmp_path / "all").mkdir()
            store.snapshot(tmp_path / "all" / "snapshot-1")
            store.snapshot(tmp_path / "all" / "snapshot-2")
        result = thermae_command("restore", str(tmp_path / "all"), str(tmp_path / "new"))
        assert result.exit_code == 1
        told = " ".join(result.stderr.split())
        assert "holds 2: name one of them, the last of which is" in told
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "STORE", "key"],
        ["delete", "STORE", "key"],
        ["keys", "STORE"],
        ["stats", "STORE"],
        ["check", "STORE"],
        ["destroy", "STORE", "--yes"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_mistyped_store_is_an_error_and_is_not_created(arguments: list[str], tmp_path: Path) -> None:
    place = str(tmp_path / "mistyped")
    result = in_a_shell(*(place if argument == "STORE" else argument for argument in arguments))
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"mistyped" in result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert not os.path.exists(place)


def test_wrong_usage_is_2() -> None:
    for arguments in (["nonsense"], ["get"], ["bench", "nonsense"], ["stats", "--nonsense"]):
        assert thermae_command(*arguments).exit_code == 2


def test_a_reader_that_stops_early_is_no_error(stored: str) -> None:
    with thermae.open(stored, create=False) as store:
        store.set_many({f"many/{number}": b"" for number in range(20_000)})
    program = "from thermae.cli import main; main(prog_name='thermae')"
    with subprocess.Popen(
        [sys.executable, "-c", program, "keys", stored], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    result = thermae_command("completion", shell)
    assert result.exit_code == 0
    assert "_THERMAE_COMPLETE" in result.stdout


def test_completion_completes() -> None:
    environment = {
        **os.environ,
        "_THERMAE_COMPLETE": "bash_complete",
        "COMP_WORDS": "thermae sna",
        "COMP_CWORD": "1",
    }
    program = "from thermae.cli import main; main(prog_name='thermae')"
    completed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert completed.stdout == b"plain,snapshot\n"


def test_hitratio_bench_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    result = thermae_command(
        "bench", "hitratio", "--mebibytes", "16", "--requests", "60000", "--json", str(figures)
    )
    # Whether so short a run meets its bounds says nothing; that it says so, does.
    assert result.exit_code in (0, 1)
    document = json.loads(figures.read_text())
    assert document["name"] == "hitratio"
    assert {figure["reference"].split(" (")[0] for figure in document["figures"]} == {
        "LRU",
        "SIEVE",
        "S3-FIFO",
    }
    assert all(0 <= figure["value"] <= 100 for figure in document["figures"])
    assert "exact simulator" in result.stdout
    missed = [figure for figure in document["figures"] if figure["must"] and not figure["must"]["met"]]
    assert result.exit_code == (1 if missed else 0)


def test_json_forms() -> None:
    assert json_form({"a": (1, b"\x00"), 2: float("nan")}) == {
        "a": [1, {"base64": "AA=="}],
        "2": {"float": "nan"},
    }
    numpy = pytest.importorskip("numpy")
    assert json_form(numpy.arange(3, dtype="int16")) == {"array": [0, 1, 2], "dtype": "int16"}
    assert plain_bytes(b"\x00\n") == b"\x00\n"
    assert plain_bytes(1.5) == b"1.5\n"


def test_readable_figures_follow_their_names() -> None:
    assert readable("hot_used_bytes", 1536) == "1.5 KiB"
    assert readable("records", 1234567) == "1,234,567"
    assert readable("clean", True) == "yes"
    assert readable("missing", None) == "-"
    assert readable("ranges", ["3-39", "41"]) == "3-39, 41"
    assert flattened({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_every_option_is_in_the_table_of_commands() -> None:
    text = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `thermae (\w+).*$", text, re.MULTILINE)}
    assert rows.keys() == commands_of(main).keys()
    missing = {
        f"{name} {option}"
        for name, command in commands_of(main).items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts[:1]
        # That there is --json is said once, of all.
        if option != "--json" and f"`{option}`" not in rows[name]
    }
    assert missing == set()
