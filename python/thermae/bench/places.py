"""Where a benchmark's stores live: in places that vanish with them, shared memory included."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import thermae
from thermae.options import OpenOptions


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory (in $TMPDIR, where that is set), removed with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="thermae-bench-") as directory:
        yield Path(directory)


@contextlib.contextmanager
def reserved(location: str | Path) -> Iterator[str]:
    """The location of a store that the block may create, and that is destroyed when it ends."""
    try:
        yield str(location)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(str(location))


@contextlib.contextmanager
def temporary_store(location: str | Path, **options: Unpack[OpenOptions]) -> Iterator[thermae.Store]:
    """A new store, closed and destroyed when the block ends."""
    with reserved(location) as reserved_location, thermae.open(reserved_location, **options) as store:
        yield store
