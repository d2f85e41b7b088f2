"""What a benchmark reports: figures beside a reference, the bounds they have to meet, and where it all ran.

A figure says what was measured, Thermae's value, the reference's value in the same run, and a score (by
default how many times better Thermae is) that a `must` and an `aim` are held against. Nothing is judged
that was not measured: a peer that is not installed leaves its reference empty and says so.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from thermae.bench.machine import Machine
from thermae.bench.units import readable_quantity


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a score has to reach: `Bound("at least", 3.0)` or `Bound("at most", 10.0)`."""

    direction: Literal["at least", "at most"]
    limit: float

    def met(self, score: float) -> bool:
        """Whether `score` keeps to this bound."""
        return score >= self.limit if self.direction == "at least" else score <= self.limit


@dataclasses.dataclass(frozen=True)
class Peer:
    """Something that was measured beside Thermae; `version` is None where it is not installed."""

    name: str
    version: str | None
    remedy: str = ""

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name}: not installed, so not measured ({self.remedy})"
        return f"{self.name} {self.version}"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of a report; `unit` is that of `value` and `reference_value`, `score_unit` the score's."""

    measure: str
    value: float | None
    unit: str
    reference: str = ""
    reference_value: float | None = None
    score: float | None = None
    score_unit: str = "x"
    must: Bound | None = None
    aim: Bound | None = None

    def verdict(self, bound: Bound | None) -> str:
        """The bound and whether it is met, such as `at least 3x: met`; empty without a bound."""
        if bound is None:
            return ""
        limit = f"{bound.direction} {readable_quantity(bound.limit, self.score_unit)}"
        if self.score is None:
            return f"{limit}: not measured"
        return f"{limit}: {'met' if bound.met(self.score) else 'NOT MET'}"

    def cells(self) -> list[str]:
        """The figure as a table's row: see `HEADINGS`."""

        def quantity(number: float | None, unit: str) -> str:
            return "-" if number is None else readable_quantity(number, unit)

        reference_value = "-" if not self.reference else quantity(self.reference_value, self.unit)
        return [
            self.measure,
            quantity(self.value, self.unit),
            self.reference or "-",
            reference_value,
            quantity(self.score, self.score_unit),
            self.verdict(self.must),
            self.verdict(self.aim),
        ]


HEADINGS = ("measure", "Thermae", "reference", "its value", "score", "must", "aim")


@dataclasses.dataclass
class Report:
    """All that one benchmark found, and all that is needed to run it again."""

    name: str
    title: str
    command: str
    machine: Machine
    peers: Sequence[Peer]
    figures: list[Figure] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def musts_missed(self) -> list[Figure]:
        """The figures whose score was measured and does not keep to what is owed."""
        return [
            figure
            for figure in self.figures
            if figure.must is not None and figure.score is not None and not figure.must.met(figure.score)
        ]

    def document(self) -> dict[str, Any]:
        """The report as plain values for JSON, each bound with whether it is met."""
        document = dataclasses.asdict(self)
        for figure, plain in zip(self.figures, document["figures"], strict=True):
            for name, bound in (("must", figure.must), ("aim", figure.aim)):
                if bound is not None:
                    plain[name]["met"] = None if figure.score is None else bound.met(figure.score)
        return document

    def write_json(self, path: Path) -> None:
        """Writes `document()` to a file."""
        path.write_text(json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _remarks(self) -> list[str]:
        return [f"beside: {peer}" for peer in self.peers] + self.notes

    def print(self, console: Console) -> None:
        """Prints the table, then the machine, the peers and the notes."""
        table = Table()
        for position, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if position in (1, 3, 4) else "left")
        for figure in self.figures:
            table.add_row(*(Text(cell, style="red" if "NOT MET" in cell else "") for cell in figure.cells()))
        remarks = [Text(f"- {line}") for line in [f"on: {self.machine}", *self._remarks()]]
        console.print(Group(Text(self.title, style="bold"), table, *remarks))

    def markdown(self) -> str:
        """The report as a section of docs/benchmarks.md."""
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        lines.append("| " + " | ".join(HEADINGS) + " |")
        lines.append(
            "|" + "|".join("---:" if position in (1, 3, 4) else "---" for position in range(7)) + "|"
        )
        for figure in self.figures:
            cells = (cell.replace("|", "\\|").replace("NOT MET", "**not met**") for cell in figure.cells())
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        lines.extend(f"- {line}" for line in self._remarks())
        return "\n".join(lines) + "\n"


def markdown_document(reports: Sequence[Report], command: str) -> str:
    """All of docs/benchmarks.md: the machine, then one section a report."""
    machine = reports[0].machine
    head = [
        "# Benchmarks",
        "",
        f"Generated by `{command}`; do not edit. Each section names the command that reproduces it alone.",
        "",
        "Thermae and its peers ran side by side, in one run of each benchmark, on this machine:",
        "",
        *(f"- {name}: {value}" for name, value in machine.lines()),
        "",
        "*Score* is how many times better Thermae is than the reference, unless it carries another unit.",
        "*must* is what the project owes, *aim* what it wants. A peer that is not installed has no value.",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(report.markdown() for report in reports)
