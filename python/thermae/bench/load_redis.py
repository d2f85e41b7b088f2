"""Load for servers of the Redis protocol: redis-benchmark, and what it prints, as numbers."""

import dataclasses
import re
import shutil
import subprocess

CLIENTS = 50


@dataclasses.dataclass(frozen=True)
class Load:
    """What a run saw from its side."""

    operations_per_second: float
    median_seconds: float
    p99_seconds: float
    p999_seconds: float


def has_redis_benchmark() -> bool:
    """Whether the program is there."""
    return shutil.which("redis-benchmark") is not None


def key_name(number: int) -> bytes:
    """The key of a number, as redis-benchmark writes it.

    >>> key_name(7)
    b'key:000000000007'
    """
    return b"key:%012d" % number


def run_redis_benchmark(
    port: int, command: str, pipeline: int, request_count: int, key_count: int, value_bytes: int
) -> Load:
    """Runs one command (`get` or `set`) on random keys, each client having `pipeline` requests under way."""
    arguments = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", command, "-c", str(CLIENTS)]
    arguments += ["-P", str(pipeline), "-n", str(request_count), "-r", str(key_count), "-d", str(value_bytes)]
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if finished.returncode != 0 or "Error from server" in finished.stdout + finished.stderr:
        raise RuntimeError(f"{' '.join(arguments)}: {finished.stdout[-500:]}{finished.stderr[-500:]}")
    return parsed(finished.stdout)


def parsed(text: str) -> Load:
    """The figures of a report that redis-benchmark printed.

    >>> parsed('''
    ... 99.805% <= 0.311 milliseconds (cumulative count 9980)
    ... 99.902% <= 0.500 milliseconds (cumulative count 9990)
    ... 100.000% <= 0.903 milliseconds (cumulative count 10000)
    ...   throughput summary: 125000.00 requests per second
    ...   latency summary (msec):
    ...           avg       min       p50       p95       p99       max
    ...         0.191     0.064     0.125     0.255     0.250     0.903
    ... ''')
    Load(operations_per_second=125000.0, median_seconds=0.000125, p99_seconds=0.00025,
         p999_seconds=0.0005)
    """
    throughput = re.search(r"throughput summary: ([\d.]+) requests per second", text)
    summary = re.search(r"latency summary \(msec\):\s+avg\s+min\s+p50\s+p95\s+p99\s+max\s+([\d. ]+)", text)
    if throughput is None or summary is None:
        raise RuntimeError(f"redis-benchmark printed what is no report: {text[-500:]}")
    _, _, median, _, p99, _ = (float(number) for number in summary[1].split())
    # The summary has no such percentile, the distribution has: its first line at or beyond it.
    p999 = next(
        float(bound)
        for percent, bound in re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds", text)
        if float(percent) >= 99.9
    )
    return Load(float(throughput[1]), median / 1000, p99 / 1000, p999 / 1000)
