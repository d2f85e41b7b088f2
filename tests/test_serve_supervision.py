"""What `thermae serve` does beside its loops, with a server that is made up.

So failures, and moments that no test meets by itself, come when they are wanted.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import thermae
from thermae.cli import main


class MadeUpServer:
    """Ends at once."""

    def __init__(self) -> None:
        self._events = [("save-failed", 1_700_000_000_000, 0, [("reason", "the disk is full")])]

    def addresses(self) -> list[tuple[str, str]]:
        return []

    def store_config(self) -> str:
        sizes = {"hot_bytes": 16 << 20, "warm_bytes": 0, "cold_bytes": 0}
        places = {"location": "shm://made-up", "memory_directory": "/dev/shm/made-up"}
        return json.dumps({**sizes, **places, "durability": "none", "when_full": "evict"})

    def wait(self, _seconds: float) -> bool:
        return True

    def take_events(self) -> list[tuple[str, int, int, list[tuple[str, str]]]]:
        events, self._events = self._events, []
        return events

    def failure(self) -> str | None:
        return None

    def close(self) -> None:
        pass


def serve(monkeypatch: pytest.MonkeyPatch, server: MadeUpServer, *options: str) -> Result:
    monkeypatch.setattr("thermae.cli.serving.Server", lambda *_: server)
    return CliRunner().invoke(main, ["serve", "shm://made-up", *options])


class FailingServer(MadeUpServer):
    def failure(self) -> str:
        return "thermae-loop-0 panicked"

    def close(self) -> None:
        raise thermae.WritesStoppedError("a flush failed")


def test_what_happened_last_is_told_where_closing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    result = serve(monkeypatch, FailingServer())
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert told[1:3] == [
        "save failed: the disk is full",
        "the server ended by itself: thermae-loop-0 panicked",
    ]
    assert "a flush failed" in told[3]


class Rewritten(MadeUpServer):
    """Is reloaded before it ends, and its clients call CONFIG REWRITE so many times meanwhile."""

    def __init__(self, config: Path, times: int) -> None:
        super().__init__()
        self._config = config
        self._times = times
        self.taken: list[int] = []

    def wait(self, _seconds: float) -> bool:
        if not self.taken:
            os.kill(os.getpid(), signal.SIGHUP)
        return bool(self.taken)

    def reload(self, config: str) -> list[str]:
        self.taken.append(json.loads(config)["clients_max"])
        if len(self.taken) <= self._times:
            # As CONFIG REWRITE does it: another file takes the place.
            beside = self._config.with_suffix(".new")
            beside.write_text(f"clients-max = {self.taken[-1] + 1}\n")
            beside.replace(self._config)
        return []


@pytest.mark.parametrize(("times", "taken"), [(0, [100]), (1, [100, 101]), (1000, [100, 101, 102, 103, 104])])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int, taken: list[int]
) -> None:
    config = tmp_path / "thermae.toml"
    config.write_text("clients-max = 100\n")
    server = Rewritten(config, times)
    result = serve(monkeypatch, server, "--config", str(config), "--log-format", "json")
    assert result.exit_code == 0
    assert server.taken == taken
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert events.count("reloaded") == len(taken)
    assert events.count("reload-outdated") == (times >= len(taken))
