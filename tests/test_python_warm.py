"""The warm tier as a Python user meets it: its options, what survives, and its figures."""

import subprocess
import sys
from pathlib import Path

import pytest

import thermae

WRITER = """
import sys, thermae
store = thermae.open(sys.argv[1], hot="16MiB", warm="32MiB", warm_directory=sys.argv[2], index="warm",
                     cold="64MiB", durability="always")
store.set_many({f"key:{number}": bytes([number % 251]) * 3000 for number in range(10_000)})
print("written", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_all_tiers_to_the_next_process(tmp_path: Path) -> None:
    location, memory = tmp_path / "store", tmp_path / "persistent"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(location), str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    with thermae.open(location) as store:
        assert store.warm_bytes == 32 << 20
        for number in range(10_000):
            assert store[f"key:{number}"] == bytes([number % 251]) * 3000
        stats = store.stats()
        assert stats["warm_used_bytes"] > 16 << 20
        assert stats["warm_reads"] > 0
    (file,) = memory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    thermae.destroy(location)
    assert not list(memory.iterdir())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"warm": "1MiB"}, thermae.InvalidOptionError, "at least 16 frames"),
        ({"warm": "12 parsecs"}, thermae.InvalidOptionError, "not understood"),
        ({"warm": "1GiB", "warm_directory": 3}, thermae.WrongTypeError, "must be a path"),
        ({"warm_directory": "/tmp"}, thermae.InvalidOptionError, "no warm tier"),
        ({"index": "warm"}, thermae.InvalidOptionError, "does not have"),
        ({"index": "tepid", "warm": "1GiB"}, thermae.InvalidOptionError, '"hot" or "warm"'),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, options: dict[str, object], kind: type[thermae.ThermaeError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        thermae.open(tmp_path / "store", hot="16MiB", cold="64MiB", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_shared_memory_alone_has_no_warm_tier() -> None:
    with pytest.raises(thermae.InvalidOptionError, match="warm"):
        thermae.open("shm://test-warm-refused", hot="16MiB", warm="32MiB")
