"""``thermae bench``: the measurements of docs/benchmarks.md, one command each, and all of them at once."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from thermae.cli.output import results_console, step_progress

if TYPE_CHECKING:
    from thermae.bench.report import Report

    Work = Callable[[Callable[[str], None]], Report]

Command = TypeVar("Command", bound=Callable[..., Any])

_json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file as well.",
)


def _rounds_option(default: int) -> Callable[[Command], Command]:
    return click.option(
        "--rounds",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Rounds to take the median of.",
    )


def _keys_option(default: int) -> Callable[[Command], Command]:
    return click.option(
        "--keys",
        "key_count",
        type=click.IntRange(min=1000),
        default=default,
        show_default=True,
        help="Keys to load.",
    )


@click.group()
def bench() -> None:
    """Measure Thermae beside its peers, on this machine.

    Peers: py-lmdb and diskcache (pip install lmdb diskcache), Redis and memcached (the programs redis-server,
    redis-benchmark and memcached). One that is not installed is named in the report as not measured. Exit
    code 1 when a figure that is owed was measured and missed.

    \b
    Examples:
      thermae bench embedded
      thermae bench restart --keys 1000000 --json restart.json
      thermae bench all --markdown docs/benchmarks.md
    """


def _measured(steps: "dict[str, Work]") -> "list[Report]":
    reports = []
    with step_progress() as progress:
        task = progress.add_task("starting", total=len(steps))
        for name, work in steps.items():

            def announce(doing: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {doing}")

            reports.append(work(announce))
            progress.advance(task)
    return reports


def _finish(reports: "list[Report]", json_path: Path | None) -> None:
    for report in reports:
        report.print(results_console())
    if json_path is not None:
        _write_json(reports, json_path)
    missed = [f"{report.name}: {figure.measure}" for report in reports for figure in report.musts_missed()]
    if missed:
        raise click.ClickException(f"{len(missed)} owed figures were not met: {'; '.join(missed)}")


def _write_json(reports: "list[Report]", json_path: Path) -> None:
    import json

    documents = [report.document() for report in reports]
    text = json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, ensure_ascii=False)
    json_path.write_text(text + "\n", encoding="utf-8")


@bench.command()
@_keys_option(1_000_000)
@_rounds_option(5)
@_json_option
def embedded(key_count: int, rounds: int, json_path: Path | None) -> None:
    """Single look-ups, writes, batches and bytes per item, beside dict, py-lmdb and diskcache.

    \b
    Examples:
      thermae bench embedded
      thermae bench embedded --keys 100000 --rounds 3 --json embedded.json
    """
    from thermae.bench import embedded as benchmark

    _finish(_measured({"embedded": lambda announce: benchmark.run(key_count, rounds, announce)}), json_path)


@bench.command()
@_keys_option(1_000_000)
@click.option(
    "--durable-keys",
    "durable_key_count",
    type=click.IntRange(min=1000),
    default=10_000_000,
    show_default=True,
    help="Keys in the store that is written durably.",
)
@_rounds_option(3)
@click.option(
    "--seconds",
    "seconds_per_round",
    type=click.FloatRange(min=0.1),
    default=3.0,
    show_default=True,
    help="Seconds each competitor runs in a round.",
)
@_json_option
def scaling(
    key_count: int, durable_key_count: int, rounds: int, seconds_per_round: float, json_path: Path | None
) -> None:
    """Several processes reading; 64 threads writing with durability "always".

    \b
    Examples:
      thermae bench scaling
      thermae bench scaling --keys 100000 --durable-keys 100000 --seconds 1
    """
    from thermae.bench import scaling as benchmark

    def work(announce: Callable[[str], None]) -> "Report":
        return benchmark.run(key_count, durable_key_count, rounds, seconds_per_round, announce)

    _finish(_measured({"scaling": work}), json_path)


@bench.command()
@_keys_option(1_000_000)
@click.option(
    "--attach-keys",
    "attach_key_count",
    type=click.IntRange(min=1000),
    default=10_000_000,
    show_default=True,
    help="Keys in the store that is attached to.",
)
@_rounds_option(5)
@_json_option
def restart(key_count: int, attach_key_count: int, rounds: int, json_path: Path | None) -> None:
    """Attach after a close and after kill -9; recovery after a simulated reboot, beside Redis loading an RDB.

    \b
    Examples:
      thermae bench restart
      thermae bench restart --keys 100000 --attach-keys 100000 --rounds 3
    """
    from thermae.bench import restart as benchmark

    def work(announce: Callable[[str], None]) -> "Report":
        return benchmark.run(key_count, attach_key_count, rounds, announce)

    _finish(_measured({"restart": work}), json_path)


@bench.command()
@click.option(
    "--hot-mebibytes",
    type=click.IntRange(min=16),
    default=128,
    show_default=True,
    help="The hot tier, in MiB; data is four times that.",
)
@_rounds_option(5)
@_json_option
def tiers(hot_mebibytes: int, rounds: int, json_path: Path | None) -> None:
    """Reads of data larger than the hot tier, write amplification, and set beside a snapshot.

    \b
    Examples:
      thermae bench tiers
      thermae bench tiers --hot-mebibytes 32 --rounds 3
    """
    from thermae.bench import tiers as benchmark

    _finish(_measured({"tiers": lambda announce: benchmark.run(hot_mebibytes, rounds, announce)}), json_path)


@bench.command()
@click.option(
    "--mebibytes",
    "capacity_mebibytes",
    type=click.IntRange(min=8),
    default=64,
    show_default=True,
    help="The cache's size in MiB.",
)
@click.option(
    "--requests",
    "request_count",
    type=click.IntRange(min=10_000),
    default=2_000_000,
    show_default=True,
    help="Requests in each trace.",
)
@_json_option
def hitratio(capacity_mebibytes: int, request_count: int, json_path: Path | None) -> None:
    """Hit ratio of cache mode, beside exact simulators of LRU, SIEVE and S3-FIFO.

    \b
    Examples:
      thermae bench hitratio
      thermae bench hitratio --mebibytes 16 --requests 500000
    """
    from thermae.bench import hitratio as benchmark

    _finish(
        _measured({"hitratio": lambda announce: benchmark.run(capacity_mebibytes, request_count, announce)}),
        json_path,
    )


@bench.command()
@_keys_option(1_000_000)
@_rounds_option(5)
@_json_option
def serve(key_count: int, rounds: int, json_path: Path | None) -> None:
    """Serving: processor time an operation, throughput and latency, beside Redis and memcached.

    Servers have one processor, their load another one, and each has four short turns a round. Needs
    redis-server, redis-benchmark and memcached.

    \b
    Examples:
      thermae bench serve
      thermae bench serve --keys 100000 --rounds 3 --json serve.json
    """
    from thermae.bench import serving as benchmark

    _finish(_measured({"serve": lambda announce: benchmark.run(key_count, rounds, announce)}), json_path)


@bench.command("serve-limits")
@_keys_option(10_000_000)
@click.option(
    "--connections",
    "connection_count",
    type=click.IntRange(min=10),
    default=10_000,
    show_default=True,
    help="Idle connections; from 10000 on, crowds are whole, else a tenth.",
)
@_rounds_option(5)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds beside each crowd.",
)
@_json_option
def serve_limits(
    key_count: int, connection_count: int, rounds: int, seconds: float, json_path: Path | None
) -> None:
    """Serving: what crowds of bad clients cost others, idle connections' memory, restarts under load.

    \b
    Examples:
      thermae bench serve-limits
      thermae bench serve-limits --keys 100000 --connections 1000 --rounds 1 --seconds 1
    """
    from thermae.bench import serving_limits as benchmark

    def work(announce: Callable[[str], None]) -> "Report":
        return benchmark.run(key_count, connection_count, rounds, seconds, announce)

    _finish(_measured({"serve-limits": work}), json_path)


@bench.command("all")
@click.option(
    "--markdown",
    "markdown_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write docs/benchmarks.md (or another file) from the figures.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A hundredth of the data and single rounds: to see that everything runs, not to quote.",
)
@_json_option
def all_benchmarks(markdown_path: Path | None, quick: bool, json_path: Path | None) -> None:
    """Every benchmark, in one report.

    \b
    Examples:
      thermae bench all --markdown docs/benchmarks.md
      thermae bench all --quick
    """
    from thermae.bench import embedded, hitratio, report, restart, scaling, serving, serving_limits, tiers

    part, rounds = (100, 1) if quick else (1, 5)
    durable_rounds, seconds = (1, 0.5) if quick else (3, 3.0)
    hot_mebibytes, cache_mebibytes = (16, 16) if quick else (128, 64)

    def measure_scaling(announce: Callable[[str], None]) -> "Report":
        return scaling.run(1_000_000 // part, 10_000_000 // part, durable_rounds, seconds, announce)

    steps: dict[str, Work] = {
        "embedded": lambda announce: embedded.run(1_000_000 // part, rounds, announce),
        "scaling": measure_scaling,
        "restart": lambda announce: restart.run(1_000_000 // part, 10_000_000 // part, rounds, announce),
        "tiers": lambda announce: tiers.run(hot_mebibytes, rounds, announce),
        "hitratio": lambda announce: hitratio.run(cache_mebibytes, 2_000_000 // part, announce),
        "serve": lambda announce: serving.run(1_000_000 // part, rounds, announce),
        "serve-limits": lambda announce: serving_limits.run(
            10_000_000 // part, 10_000 // part, rounds, seconds, announce
        ),
    }
    reports = _measured(steps)
    if markdown_path is not None:
        command = "thermae bench all --quick" if quick else "make bench"
        markdown_path.write_text(report.markdown_document(reports, command), encoding="utf-8")
    _finish(reports, json_path)
