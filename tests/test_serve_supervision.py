"""What `thermae serve` does beside its loops, with a server that is made up.

So failures, and moments that no test meets by itself, come when they are wanted.
"""

from __future__ import annotations

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

    def store_sizes(self) -> tuple[int, int, int, str]:
        return 16 << 20, 0, 0, "none"

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
