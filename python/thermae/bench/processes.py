"""Work in other processes, spawned so that nothing is inherited; a pipe each brings the result."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")
_CONTEXT = multiprocessing.get_context("spawn")


def barrier(participant_count: int) -> Any:
    """A barrier that spawned processes can meet at."""
    return _CONTEXT.Barrier(participant_count)


def _deliver(connection: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(work(*arguments))
    connection.recv()  # until the parent lets it end, or kills it with whatever it still has open
    connection.close()


class BackgroundWork:
    """A call that runs in a process of its own; it has to be importable, its arguments picklable."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_deliver, args=(theirs, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def _received(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a benchmark's process ended with code {self._process.exitcode}") from None

    def result(self) -> Any:
        """What the call returned, its process having ended; RuntimeError when the process died instead."""
        result = self._received()
        self._connection.send(None)
        self._process.join()
        return result

    def result_then_kill(self) -> Any:
        """What the call returned, its process then ended by SIGKILL with all that it still holds open."""
        result = self._received()
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()
        return result


def in_new_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `work(*arguments)`, called in a process of its own."""
    result: Result = BackgroundWork(work, *arguments).result()
    return result


def all_at_once(work: Callable[..., Result], argument_lists: Sequence[tuple[Any, ...]]) -> list[Result]:
    """The results of one process for each list of arguments, all running at the same time."""
    running = [BackgroundWork(work, *arguments) for arguments in argument_lists]
    return [background.result() for background in running]
