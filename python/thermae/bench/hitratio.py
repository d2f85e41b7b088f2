"""Hit ratio of cache mode beside exact simulators of LRU, SIEVE and S3-FIFO, at the same capacity in bytes.

Thermae runs for real: a `shm://` store with `when_full="evict"`, its hot tier full, index and headers
inside. The simulators have the same number of bytes and pay for each item its key, its value and the 40
bytes of overhead that Thermae is allowed; they have no metadata besides. Each miss is followed by a set, as
a cache is used.
"""

import os
from collections.abc import Callable

from thermae.bench.machine import this_machine
from thermae.bench.places import temporary_store
from thermae.bench.report import Bound, Figure, Peer, Report
from thermae.bench.simulators import LeastRecentlyUsed, Policy, Sieve, SmallMainGhostFifo, hit_ratio
from thermae.bench.workload import make_keys, make_values, zipf_keys

VALUE_BYTES = 500
OVERHEAD_BYTES = 40
ITEM_BYTES = 14 + VALUE_BYTES + OVERHEAD_BYTES
WARM_UP_FRACTION = 0.3
KEYS_PER_CAPACITY = 5

POLICIES: dict[str, type[LeastRecentlyUsed] | type[Sieve] | type[SmallMainGhostFifo]] = {
    "LRU": LeastRecentlyUsed,
    "SIEVE": Sieve,
    "S3-FIFO": SmallMainGhostFifo,
}


def run(capacity_mebibytes: int, request_count: int, announce: Callable[[str], None]) -> Report:
    """Measures and reports; `announce` is told what is under way."""
    capacity_bytes = capacity_mebibytes * 2**20
    report = Report(
        name="hitratio",
        title=f"Hit ratio: {capacity_mebibytes} MiB, {request_count:,} requests for {VALUE_BYTES} bytes",
        command=f"thermae bench hitratio --mebibytes {capacity_mebibytes} --requests {request_count}",
        machine=this_machine(),
        peers=[Peer(name, "exact simulator") for name in POLICIES],
    )
    key_count = KEYS_PER_CAPACITY * capacity_bytes // ITEM_BYTES
    for name, trace in traces(key_count, request_count).items():
        warm_up_requests = int(len(trace) * WARM_UP_FRACTION)
        announce(f"{name}: Thermae")
        ours = _thermae_hit_ratio(trace, capacity_bytes, warm_up_requests)
        simulated = {}
        for policy_name, policy_class in POLICIES.items():
            announce(f"{name}: {policy_name}")
            policy: Policy = policy_class(capacity_bytes)
            simulated[policy_name] = hit_ratio(policy, trace, ITEM_BYTES, warm_up_requests)
        best = max(simulated, key=lambda policy_name: simulated[policy_name])
        for policy_name, theirs in simulated.items():
            is_best = policy_name == best
            report.figures.append(
                Figure(
                    f"hit ratio, {name}",
                    100 * ours,
                    "%",
                    f"{policy_name}{' (the best)' if is_best else ''}",
                    100 * theirs,
                    100 * (ours - theirs),
                    "points",
                    must=Bound("at least", -1.0) if is_best else None,
                    aim=Bound("at least", 0.0) if is_best else None,
                )
            )
    report.notes += [
        f"{key_count:,} keys, {KEYS_PER_CAPACITY} times what fits; "
        f"the first {WARM_UP_FRACTION:.0%} of requests do not count",
        f"simulators: the same capacity, {ITEM_BYTES} bytes an item ({OVERHEAD_BYTES} beyond key and value)",
    ]
    return report


def traces(key_count: int, request_count: int) -> dict[str, list[bytes]]:
    """The requests, by name of the trace. A scan is a run of keys that are asked for once and never again."""
    keys = make_keys(key_count)
    scan_every, scan_length = 20_000, 5_000
    mixed: list[bytes] = []
    scanned = 0
    for position, key in enumerate(
        zipf_keys(keys, request_count * scan_every // (scan_every + scan_length), 0.99)
    ):
        if position % scan_every == 0:
            mixed += [b"scan:%09d" % number for number in range(scanned, scanned + scan_length)]
            scanned += scan_length
        mixed.append(key)
    return {
        "Zipf 0.99": zipf_keys(keys, request_count, 0.99),
        "Zipf 0.8": zipf_keys(keys, request_count, 0.8),
        "Zipf 0.99, a fifth scans": mixed,
    }


def _thermae_hit_ratio(trace: list[bytes], capacity_bytes: int, warm_up_requests: int) -> float:
    values = make_values(1000, VALUE_BYTES)
    hits = 0
    with temporary_store(
        f"shm://thermae-bench-{os.getpid()}", hot=capacity_bytes, when_full="evict", durability="none"
    ) as cache:
        for position, key in enumerate(trace):
            if cache.get(key) is not None:
                hits += position >= warm_up_requests
            else:
                cache.set(key, values[position % len(values)])
    return hits / (len(trace) - warm_up_requests)
