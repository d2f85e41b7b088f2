"""Fixtures shared by the Python tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import thermae

_numbers = itertools.count(1)

# A shell starts what it runs in the background with SIGINT ignored, and Python then installs no handler of
# its own: the tests of Ctrl-C, and the processes that tests start, need what a user at a terminal has.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whether a change passes must not depend on luck: each run makes up the same. `--hypothesis-profile=search`
# draws anew, and more. No deadlines, for the machine may be busy.
settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    max_examples=30,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=1000)
settings.load_profile("same")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's; the memory of the stores there goes with the test. It would stay warm, gigabytes in all."""
    yield tmp_path
    for memory in thermae.shared_memory():
        location = memory["location"]
        if isinstance(location, str) and Path(location).is_relative_to(tmp_path):
            shutil.rmtree(Path("/dev/shm") / str(memory["name"]))


@pytest.fixture
def location() -> Iterator[str]:
    """The location of a store in shared memory that nobody else uses; removed afterwards."""
    name = f"shm://thermae-test-{os.getpid()}-{next(_numbers)}"
    yield name
    with contextlib.suppress(thermae.NotAStoreError):
        thermae.destroy(name)


@pytest.fixture
def store(location: str) -> Iterator[thermae.Store]:
    """An empty store in shared memory."""
    with thermae.open(location, hot="16MiB") as opened:
        yield opened


@pytest.fixture
def directory_store(tmp_path: Path) -> Iterator[thermae.Store]:
    """An empty store in a directory, with a small cold tier."""
    with thermae.open(tmp_path / "data", hot="16MiB", cold="32MiB") as opened:
        yield opened
    thermae.destroy(tmp_path / "data")


@pytest.fixture
def new_store() -> Iterator[Callable[[], thermae.Store]]:
    """Makes empty stores in shared memory, as many as a test asks for."""
    with contextlib.ExitStack() as stack:

        def make() -> thermae.Store:
            name = f"shm://thermae-test-{os.getpid()}-{next(_numbers)}"
            opened = thermae.open(name, hot="16MiB")
            stack.callback(thermae.destroy, name)
            stack.callback(opened.close)
            return opened

        yield make
