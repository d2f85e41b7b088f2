"""The demonstration's processes: one process group, watched through mapped counters, killed with SIGKILL."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thermae.demo.worker import Progress, read_command, watch_command, write_command

_PATIENCE_SECONDS = 30.0
_KILL_ATTEMPTS_MAX = 20_000


class WorkerError(Exception):
    """A process did not do its part; the message says which and what it said."""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


class WorkerGroup:
    """Endless readers and writers in one process group. Leaving the block kills what is left of them."""

    def __init__(self, directory: Path, location: Path, manifest: Path) -> None:
        self._directory = directory
        self._location = location
        self._manifest = manifest
        self._progress_path = directory / "progress"
        self._progress_path.write_bytes(bytes(Progress.file_bytes()))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.progress: list[Progress] = []
        self.writer_of_worker: dict[int, int] = {}

    def __enter__(self) -> "WorkerGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    def _start(self, command: Callable[[int], list[str]]) -> int:
        worker = len(self._processes)
        leader = self._processes[0].pid if self._processes else 0
        with (self._directory / f"worker-{worker}.log").open("wb") as log:
            process = subprocess.Popen(
                command(worker),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                process_group=leader,
            )
        self._processes.append(process)
        self.progress.append(Progress(self._progress_path, worker))
        return worker

    def start_writer(self, writer: int) -> int:
        """Starts a writer; returns which worker it is."""
        worker = self._start(
            lambda worker: write_command(self._location, self._progress_path, worker, writer)
        )
        self.writer_of_worker[worker] = writer
        return worker

    def start_watcher(self) -> int:
        """Starts a process that reads and verifies; returns which worker it is."""
        return self._start(
            lambda worker: watch_command(self._location, self._manifest, self._progress_path, worker)
        )

    def wait_for_operations(self, workers: Sequence[int], counts: Sequence[int]) -> None:
        """Until each of the workers has finished that many operations."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while any(
            self.progress[worker].finished < count for worker, count in zip(workers, counts, strict=True)
        ):
            for worker in workers:
                self.require_running(worker)
            if time.monotonic() > deadline:
                finished = [self.progress[worker].finished for worker in workers]
                raise WorkerError(
                    f"the workers finished {finished} operations in {_PATIENCE_SECONDS:.0f} s, "
                    f"{counts} were expected"
                )
            time.sleep(0.005)

    def require_running(self, worker: int) -> None:
        """Raises WorkerError, with what it said last, when the worker has ended by itself."""
        if self._processes[worker].poll() is not None:
            log = (self._directory / f"worker-{worker}.log").read_text(errors="replace").strip()
            raise WorkerError(
                f"worker {worker} ended by itself: {log.splitlines()[-1] if log else 'it said nothing'}"
            )

    def kill_in_mid_write(self, worker: int) -> None:
        """Kills a writer that has begun a write and not finished it.

        The worker is stopped at a random moment and looked at; unless it is in a write, it goes on, and the
        next moment is tried.
        """
        progress = self.progress[worker]
        pid = self._processes[worker].pid
        for _ in range(_KILL_ATTEMPTS_MAX):
            os.kill(pid, signal.SIGSTOP)
            state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if state is None or state.si_code != os.CLD_STOPPED:
                self.require_running(worker)
                raise WorkerError(f"worker {worker} could not be stopped")
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
            if progress.started == progress.finished + 1:
                os.kill(pid, signal.SIGKILL)
                self._processes[worker].wait()
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.0003)
        raise WorkerError(f"worker {worker} was never found in mid-write in {_KILL_ATTEMPTS_MAX:,} attempts")

    def kill_all(self) -> None:
        """SIGKILL to the whole process group, at once."""
        running = [process for process in self._processes if process.poll() is None]
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[0].pid, signal.SIGKILL)
        for process in running:
            process.wait()


def read_at_once(
    store_kind: str, location: Path, manifest: Path, process_count: int
) -> tuple[float, list[str]]:
    """Reads everything in each of several processes that start together.

    Returns: The seconds from the first start to the last end, and the keys (in hexadecimal) whose values
    were wrong.
    """
    processes = [
        subprocess.Popen(
            read_command(store_kind, location, manifest, seed),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        for seed in range(process_count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise WorkerError(_last_words(process))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"start\n")
            process.stdin.flush()
        results: list[dict[str, Any]] = []
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise WorkerError(_last_words(process))
            results.append(json.loads(line))
            process.wait(timeout=_PATIENCE_SECONDS)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
    seconds = max(result["ended"] for result in results) - min(result["started"] for result in results)
    return seconds, sorted({key for result in results for key in result["wrong"]})


def _last_words(process: subprocess.Popen[bytes]) -> str:
    process.kill()
    _, said = process.communicate()
    lines = said.decode(errors="replace").strip().splitlines()
    return f"a reading process failed: {lines[-1] if lines else 'it said nothing'}"
