"""What a benchmark ran on, read from the kernel: a figure without its machine says nothing."""

import dataclasses
import os
import platform
from pathlib import Path

import thermae


@dataclasses.dataclass(frozen=True)
class Machine:
    """The machine, as far as it decides what a benchmark measures."""

    processor: str
    processor_count: int
    memory_bytes: int
    kernel: str
    python: str
    thermae: str

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each property, for a list."""
        return [
            ("processor", f"{self.processor}, {self.processor_count} usable"),
            ("memory", f"{self.memory_bytes / 2**30:.1f} GiB"),
            ("kernel", self.kernel),
            ("Python", self.python),
            ("Thermae", self.thermae),
        ]

    def __str__(self) -> str:
        return " · ".join(f"{name} {value}" for name, value in self.lines())


def this_machine() -> Machine:
    """The machine that this process runs on."""
    return Machine(
        processor=_processor_name(),
        processor_count=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        thermae=thermae.__version__,
    )


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.machine()


def memory_available_bytes() -> int:
    """What can be used without swapping, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
