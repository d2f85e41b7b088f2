"""The demonstration, on a small input: it runs to its end, finds damage where there is some, cleans up."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import thermae
from thermae.cli import main
from thermae.demo.corpus import InputError, checksum, gather, read_manifest, standard_library
from thermae.demo.written import KEYS_PER_WRITER, WriterContents, writer_key


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "nested").mkdir(parents=True)
    (directory / "empty").write_bytes(b"")
    (directory / "nested" / "text.txt").write_text("text\n" * 1000)
    (directory / "large").write_bytes(os.urandom(3 * 2**20))
    for number in range(200):
        (directory / f"file-{number}").write_bytes(os.urandom(number * 37))
    os.symlink("/etc/hostname", directory / "link")
    (directory / os.fsdecode(b"not-utf-8-\xff")).write_bytes(b"named oddly")
    return directory


def test_gather_takes_every_regular_file(source: Path) -> None:
    corpus = gather(source)
    assert len(corpus.files) == 204
    assert corpus.files[b"nested/text.txt"] == b"text\n" * 1000
    assert corpus.files[b"empty"] == b""
    assert b"not-utf-8-\xff" in corpus.files
    assert b"link" not in corpus.files
    assert corpus.mismatched(b"large", corpus.files[b"large"]) is None
    assert "missing" in str(corpus.mismatched(b"large", None))
    assert "other bytes" in str(corpus.mismatched(b"large", corpus.files[b"large"][:-1] + b"!"))


def test_gather_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        gather(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no readable file"):
        gather(tmp_path)


def test_manifest_brings_back_keys_and_checksums(source: Path, tmp_path: Path) -> None:
    corpus = gather(source)
    corpus.write_manifest(tmp_path / "manifest")
    assert read_manifest(tmp_path / "manifest") == {key: checksum(data) for key, data in corpus.files.items()}


def test_standard_library_is_python_itself() -> None:
    assert (standard_library() / "json" / "decoder.py").is_file()


class TestWriterContents:
    """What a killed writer left is held against what it was known to have done."""

    @staticmethod
    def state_after(writer: int, count: int) -> dict[bytes, bytes]:
        contents = WriterContents(writer)
        return {writer_key(writer, write): contents.content(write) for write in range(count)}

    @pytest.mark.parametrize("count", [0, 1, KEYS_PER_WRITER - 1, KEYS_PER_WRITER, 3 * KEYS_PER_WRITER + 7])
    def test_every_exact_state_is_right(self, count: int) -> None:
        state = self.state_after(7, count)
        assert WriterContents(7).problems(state.get, count, count) == []
        assert WriterContents(7).problems(state.get, max(0, count - 1), count + 1) == []

    def test_a_lost_acknowledged_write_shows(self) -> None:
        state = self.state_after(7, 50)
        assert WriterContents(7).problems(state.get, 51, 51) != []

    def test_a_missing_older_write_shows(self) -> None:
        state = self.state_after(7, 50)
        del state[writer_key(7, 20)]
        assert WriterContents(7).problems(state.get, 50, 50) == ["writer 7: writer/7/20 is missing"]

    def test_an_old_value_that_returned_shows(self) -> None:
        state = self.state_after(7, 2 * KEYS_PER_WRITER)
        state[writer_key(7, 5)] = WriterContents(7).content(5)
        problems = WriterContents(7).problems(state.get, 2 * KEYS_PER_WRITER, 2 * KEYS_PER_WRITER)
        assert problems == [f"writer 7: writer/7/5 is not what write {KEYS_PER_WRITER + 5} stored"]

    def test_a_torn_value_shows(self) -> None:
        state = self.state_after(7, 50)
        key = writer_key(7, 49)
        state[key] = state[key][:-1]
        assert WriterContents(7).problems(state.get, 49, 50) != []

    def test_a_write_from_the_future_shows(self) -> None:
        state = self.state_after(7, 52)
        assert WriterContents(7).problems(state.get, 50, 51) != []


def test_demo_runs_and_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(workplace))

    result = CliRunner().invoke(main, ["demo", "--input", str(source), "--json"])

    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert outcome["ok"]
    done = [step["done"] for step in outcome["steps"]]
    assert len(done) == 11
    for what in (
        "load",
        "4 processes",
        "kill -9 one writer",
        "whole group",
        "reopen",
        "demote",
        "evict",
        "snapshot",
    ):
        assert any(what in step for step in done), what
    assert {peer["name"] for peer in outcome["peers"]} == {"dict", "py-lmdb", "diskcache"}
    assert os.listdir(workplace) == []
    assert [name for name in os.listdir("/dev/shm") if f"thermae-demo-{os.getpid()}" in name] == []


def test_demo_keeps_its_stores_when_asked(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = CliRunner().invoke(main, ["demo", "--input", str(source), "--keep", str(kept)])
    assert result.exit_code == 0, result.output
    try:
        with thermae.open(kept / "data", create=False) as store:
            assert store["nested/text.txt"] == b"text\n" * 1000
        assert CliRunner().invoke(main, ["demo", "--keep", str(kept)]).exit_code == 2
    finally:
        for name in ("data", "small", "restored"):
            thermae.destroy(kept / name)


def test_demo_fails_when_a_byte_is_wrong(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thermae.demo import steps
    from thermae.demo.report import Step

    reopen_and_verify = steps.reopen_and_verify

    def damage_then_verify(story: steps.Story) -> list[Step]:
        with thermae.open(story.location, create=False) as store:
            store["nested/text.txt"] = b"text\n" * 999 + b"Text\n"
        return reopen_and_verify(story)

    damaged = [(name, damage_then_verify if step is reopen_and_verify else step) for name, step in _steps()]
    monkeypatch.setattr("thermae.demo.run.STEPS", tuple(damaged[:4]))
    result = CliRunner().invoke(main, ["demo", "--input", str(source), "--json"])
    assert result.exit_code == 1
    outcome = json.loads(result.stdout)
    problems = [problem for step in outcome["steps"] for problem in step["problems"]]
    assert problems == ["nested/text.txt came back as 5,000 other bytes (5,000 were stored)"]


def _steps() -> list[tuple[str, object]]:
    from thermae.demo.run import STEPS

    return list(STEPS)


def test_demo_without_input_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--input", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "no directory" in result.stderr
