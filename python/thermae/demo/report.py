"""The demonstration's outcome: what each step did, how long it took, whether every byte was right."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thermae.bench.machine import Machine
from thermae.bench.report import Peer
from thermae.bench.units import readable_quantity

NOT_COMPARED = "-"


@dataclasses.dataclass
class Step:
    """One row; `peer_seconds` has the peers that did the same, `problems` is empty when all was right."""

    done: str
    seconds: float
    result: str
    verified: str = ""
    peer_seconds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    peer_remarks: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def peer_cell(self, peer: Peer) -> str:
        """What the peer took for the same, or why it has no figure."""
        if peer.version is None and peer.name in self.peer_seconds:
            return "not installed"
        seconds = self.peer_seconds.get(peer.name)
        if seconds is None:
            return self.peer_remarks.get(peer.name, NOT_COMPARED)
        return f"{readable_quantity(seconds, 's')} ({readable_quantity(seconds / self.seconds, 'x')})"


@dataclasses.dataclass
class DemoReport:
    """All steps of one run."""

    source: str
    machine: Machine
    peers: list[Peer]
    steps: list[Step] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every step was done and everything verified."""
        return not any(step.problems for step in self.steps)

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def print(self, console: Console) -> None:
        """The table, then what it ran on, then what went wrong."""
        console.print(Text(f"Thermae demo: {self.source}", style="bold"))
        table = Table()
        table.add_column("what was done")
        table.add_column("time", justify="right")
        table.add_column("result")
        for peer in self.peers:
            table.add_column(f"{peer.name} {peer.version or ''}".strip(), justify="right")
        table.add_column("verified")
        for step in self.steps:
            verdict = (
                Text("FAILED", style="bold red")
                if step.problems
                else Text(step.verified or "-", style="green")
            )
            peers = (step.peer_cell(peer) for peer in self.peers)
            table.add_row(step.done, readable_quantity(step.seconds, "s"), step.result, *peers, verdict)
        console.print(table)
        console.print(
            Text(
                "A peer's time is followed by how many times Thermae's it is. While it reads, Thermae itself "
                f"verifies a checksum of each value, which no peer does. On: {self.machine}"
            )
        )
        for peer in self.peers:
            if peer.version is None:
                console.print(Text(str(peer)))
        for step in self.steps:
            for problem in step.problems[:10]:
                console.print(Text(f"FAILED: {step.done}: {problem}", style="red"))
            if len(step.problems) > 10:
                console.print(Text(f"FAILED: {step.done}: and {len(step.problems) - 10:,} more", style="red"))
        outcome = "Everything verified" if self.ok else "NOT everything verified"
        console.print(Text(f"{outcome}, in {readable_quantity(self.seconds, 's')}."))
