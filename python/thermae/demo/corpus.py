"""The demonstration's input: every file under a directory, in memory, each with its checksum."""

import dataclasses
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from thermae.bench.machine import memory_available_bytes

# dict, the stores' hot tiers and the reading processes hold further copies of some of it.
_MEMORY_SHARE = 6
_INSTALLED_NAMES = frozenset({"site-packages", "dist-packages"})


class InputError(Exception):
    """The input can't be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Files by key (their path below the directory) and the BLAKE2b checksum of each."""

    directory: Path
    files: dict[bytes, bytes]
    checksums: dict[bytes, bytes]
    unreadable_count: int

    @property
    def total_bytes(self) -> int:
        """The sizes of all files."""
        return sum(map(len, self.files.values()))

    @property
    def largest_bytes(self) -> int:
        """The size of the largest file."""
        return max(map(len, self.files.values()))

    def mismatched(self, key: bytes, value: bytes | None) -> str | None:
        """What is wrong with `value` as this file's content; None when every byte is right."""
        name = os.fsdecode(key)
        if value is None:
            return f"{name} is missing"
        if checksum(value) != self.checksums[key]:
            return f"{name} came back as {len(value):,} other bytes ({len(self.files[key]):,} were stored)"
        return None

    def write_manifest(self, path: Path) -> None:
        """Keys and checksums, for the processes that verify."""
        lines = [[key.hex(), self.checksums[key].hex()] for key in self.files]
        path.write_text(json.dumps(lines), encoding="ascii")


def read_manifest(path: Path) -> dict[bytes, bytes]:
    """Checksums by key, as `Corpus.write_manifest` wrote them."""
    lines = json.loads(path.read_text(encoding="ascii"))
    return {bytes.fromhex(key): bytes.fromhex(checksum_hex) for key, checksum_hex in lines}


def checksum(content: bytes) -> bytes:
    """BLAKE2b, 32 bytes: as sure as SHA-256 and twice as fast."""
    return hashlib.blake2b(content, digest_size=32).digest()


def standard_library() -> Path:
    """Where the running Python's standard library is."""
    return Path(sysconfig.get_path("stdlib"))


def gather(directory: Path) -> Corpus:
    """Reads every regular file under `directory`; links are not followed.

    Raises:
        InputError: No directory, no file in it, or more than the memory is good for.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory; give one with --input")
    bytes_max = memory_available_bytes() // _MEMORY_SHARE
    files: dict[bytes, bytes] = {}
    total_bytes = 0
    unreadable_count = 0
    for path in _regular_files(directory):
        try:
            content = path.read_bytes()
        except OSError:
            unreadable_count += 1
            continue
        total_bytes += len(content)
        if total_bytes > bytes_max:
            raise InputError(
                f"the files under {directory} are more than {bytes_max:,} bytes, "
                f"1/{_MEMORY_SHARE} of the free memory; give a smaller directory with --input"
            )
        files[os.fsencode(path.relative_to(directory))] = content
    if total_bytes == 0:
        raise InputError(
            f"{directory} holds no readable file with anything in it; give another directory with --input"
        )
    return Corpus(
        directory, files, {key: checksum(content) for key, content in files.items()}, unreadable_count
    )


def _regular_files(directory: Path) -> Iterator[Path]:
    """Sorted, so that two runs do the same. What is installed beside a standard library is not part of it."""
    installed = _INSTALLED_NAMES if directory == standard_library() else frozenset()
    for parent, subdirectories, names in os.walk(directory):
        subdirectories[:] = sorted(name for name in subdirectories if name not in installed)
        for name in sorted(names):
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                yield path
