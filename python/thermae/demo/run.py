"""Runs the demonstration's steps in a temporary directory, and leaves nothing behind unless asked to."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import thermae
from thermae.bench.machine import this_machine
from thermae.bench.peers import describe_peer
from thermae.bench.units import readable_quantity
from thermae.demo import steps
from thermae.demo.corpus import Corpus, gather, standard_library
from thermae.demo.group import WorkerError
from thermae.demo.report import DemoReport, Step

STEPS: tuple[tuple[str, Callable[[steps.Story], list[Step]]], ...] = (
    ("loading and reading, beside dict, py-lmdb and diskcache", steps.load_and_read),
    ("reading from several processes", steps.read_from_processes),
    ("killing a writer, then everyone", steps.kill_one_writer_then_all),
    ("reopening and verifying", steps.reopen_and_verify),
    ("demoting to the cold tier", steps.demote),
    ("evicting from a cache", steps.evict),
    ("snapshot while writing, and restore", steps.snapshot_while_writing),
)


def run(input_directory: Path | None, keep_in: Path | None, announce: Callable[[str], None]) -> DemoReport:
    """Runs everything; a step that fails is reported as failed and ends the run.

    Args:
        input_directory: What to load; None for the running Python's standard library.
        keep_in: A directory that does not exist yet, to keep the stores in; None to remove everything
            afterwards.
        announce: Is told what is under way.

    Raises:
        thermae.demo.corpus.InputError: The input can't be used.
    """
    started = time.perf_counter()
    announce("reading the input and its checksums")
    corpus = gather(standard_library() if input_directory is None else input_directory)
    report = DemoReport(
        source=_source_text(corpus),
        machine=this_machine(),
        peers=[describe_peer(name) for name in ("dict", "py-lmdb", "diskcache")],
    )
    if keep_in is None:
        directory = Path(tempfile.mkdtemp(prefix="thermae-demo-"))
    else:
        keep_in.mkdir(mode=0o700, parents=True)
        directory = keep_in
    story = steps.Story(corpus, directory, report.peers)
    try:
        for name, step in STEPS:
            announce(name)
            step_started = time.perf_counter()
            try:
                report.steps += step(story)
            except (thermae.ThermaeError, WorkerError, OSError) as error:
                seconds = time.perf_counter() - step_started
                report.steps.append(Step(name, seconds, "could not be completed", problems=[str(error)]))
                break
    finally:
        announce("cleaning up")
        _clean_up(story, everything=keep_in is None)
    report.seconds = time.perf_counter() - started
    return report


def _source_text(corpus: Corpus) -> str:
    size = readable_quantity(corpus.total_bytes, "B")
    text = f"{len(corpus.files):,} files, {size}, from {corpus.directory}"
    return text + (
        f" ({corpus.unreadable_count:,} unreadable files left out)" if corpus.unreadable_count else ""
    )


def _clean_up(story: steps.Story, *, everything: bool) -> None:
    """Shared memory is not kept even where files are: a cache in it would outlive every reason to have it."""
    for location in story.stores() if everything else [story.cache_location]:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)
    if everything:
        shutil.rmtree(story.directory)
