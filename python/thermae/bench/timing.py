"""How things are timed: competitors take turns, in rounds, with the garbage collector out of the way.

Two programs measured one after the other are measured on two machines: clocks, caches and neighbours drift
in between. So each round runs every competitor once, the order turns from round to round, and the median of
the rounds is reported. The first round is a warm-up and does not count.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Measured = TypeVar("Measured")


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Collects now and not again until the block ends."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved_rounds(
    competitors: Mapping[str, Callable[[], Measured]], rounds: int
) -> dict[str, list[Measured]]:
    """What each competitor's call returns in each of `rounds` rounds, after one that does not count.

    >>> interleaved_rounds({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=2)
    {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
    """
    results: dict[str, list[Measured]] = {name: [] for name in competitors}
    order = list(competitors)
    for round_number in range(rounds + 1):
        for name in order:
            with collector_off():
                measured = competitors[name]()
            if round_number > 0:
                results[name].append(measured)
        order.append(order.pop(0))
    return results


def interleaved_medians(competitors: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Each competitor's median over `rounds` rounds of what its call returns, after one that does not count.

    >>> interleaved_medians({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=3)
    {'a': 1.0, 'b': 2.0}
    """
    measured = interleaved_rounds(competitors, rounds)
    return {name: statistics.median(results) for name, results in measured.items()}


def quantile(samples: list[float], fraction: float) -> float:
    """The sample below which `fraction` of all samples lie.

    >>> quantile([3.0, 1.0, 2.0, 4.0], 0.5)
    3.0
    """
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)]
