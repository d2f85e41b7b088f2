"""What a server tells whoever runs it: one line on standard error for each thing that happens.

As text, for people and for systemd's journal, which adds the time itself; or as JSON, one object a line, for
programs. What could not be written is not tried again: a reader that is gone must not end the server. The
standard library's `logging` was rejected: all it would add here is a registry of loggers that nobody uses.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
from typing import Literal

Format = Literal["text", "json"]
Field = str | int | list[str]


class Journal:
    """Writes events in one format."""

    def __init__(self, form: Format) -> None:
        self._form = form

    def note(self, event: str, text: str, *, at_ms: int | None = None, **fields: Field) -> None:
        """Writes an event.

        Args:
            event: Its kind, for programs.
            text: What it says to people, in one line.
            at_ms: When it happened, in milliseconds since 1970; now where it is not said.
            fields: What is known of it, for programs.
        """
        line = text if self._form == "text" else _as_json(event, text, at_ms, fields)
        with contextlib.suppress(OSError):
            # A line break that a stranger sent would begin a line of its own.
            sys.stderr.write(" ".join(line.splitlines()) + "\n")
            sys.stderr.flush()


def _as_json(event: str, text: str, at_ms: int | None, fields: dict[str, Field]) -> str:
    zone = datetime.UTC
    moment = (
        datetime.datetime.now(zone) if at_ms is None else datetime.datetime.fromtimestamp(at_ms / 1000, zone)
    )
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # Where the log is text, a server starts sooner without it.
    import msgspec

    # Fields come last, so that none hides what every line has.
    return msgspec.json.encode({**fields, "time": time, "event": event, "text": text}).decode()
