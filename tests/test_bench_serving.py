"""`thermae bench serve` and `serve-limits`: every server is started, loaded and asked, and was measured."""

from __future__ import annotations

import os

from thermae.bench import serving, serving_limits


def test_all_is_measured_beside_redis_and_memcached() -> None:
    before = os.sched_getaffinity(0)
    report = serving.run(2_000, 1, lambda _: None)
    assert os.sched_getaffinity(0) == before
    assert all(peer.version is not None for peer in report.peers)
    measures = [figure.measure for figure in report.figures]
    assert len(measures) == len(set(measures))
    assert sum("throughput" in measure for measure in measures) == 6 + 6 + 3
    assert [figure.reference for figure in report.figures].count("memcached") == 3 * 5
    assert [figure.reference for figure in report.figures].count("1 thread") == 6 * 2
    assert sum("whole turns" in measure for measure in measures) == 3
    for figure in report.figures:
        assert figure.value is not None
        assert figure.reference_value is not None
        if "processor time" not in figure.measure:
            # So few requests may take no tick of the kernel's clock, but never no time.
            assert figure.value > 0
            assert figure.reference_value > 0
    owed = [figure for figure in report.figures if figure.must is not None]
    assert len(owed) == 6 + 2 + 3
    assert sum("in new memory" in measure for measure in measures) == 4


def test_limits_are_measured() -> None:
    report = serving_limits.run(2_000, 100, 1, 0.2, lambda _: None)
    measures = [figure.measure for figure in report.figures]
    assert len(measures) == len(set(measures)) == 4 * 2 + 1 + 2
    # How long something takes is nothing to hold a busy machine to, in a run as short as this.
    assert [figure for figure in report.musts_missed() if "memory" in figure.measure] == []
    assert sum(figure.must is not None for figure in report.figures) == 4 * 2 + 1 + 1
    for figure in report.figures:
        assert figure.value is not None
        if "memory" not in figure.measure:
            # A few connections may fit into what the server had already.
            assert figure.value > 0
