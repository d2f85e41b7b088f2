"""The eviction simulators, against traces small enough to be worked out by hand.

Each trace is written as the keys requested, one letter each; the expectation as one mark per request, `+`
for a hit and `-` for a miss. Items are one byte unless said.
"""

from __future__ import annotations

import random

import pytest

from thermae.bench.hitratio import traces
from thermae.bench.simulators import LeastRecentlyUsed, Policy, Sieve, SmallMainGhostFifo, hit_ratio
from thermae.bench.workload import make_keys, zipf_keys

POLICIES = [LeastRecentlyUsed, Sieve, SmallMainGhostFifo]


def marks(policy: Policy, trace: str, item_bytes: int = 1) -> str:
    return "".join("+" if policy.request(key.encode(), item_bytes) else "-" for key in trace)


def test_least_recently_used_evicts_the_oldest_use() -> None:
    # a b c fill it; a is used again; d evicts b, so b misses and evicts c; a and d are still there.
    assert marks(LeastRecentlyUsed(3), "abcadbadc") == "---+--++-"


def test_sieve_keeps_what_was_visited_and_its_hand_goes_on() -> None:
    # a b c fill it; a is marked. d: the hand clears a and evicts b, and stands at c. e: evicts c, unmarked.
    # Then a is still there although it is the oldest, and b and c are gone.
    assert marks(Sieve(3), "abcade" + "a") == "---+--+"
    sieve = Sieve(3)
    marks(sieve, "abcade")
    # Queue a d e, the hand at d: b evicts d; the hand is at e: c evicts e; a, never reached, stays.
    assert marks(sieve, "bc" + "a" + "de") == "--+--"


def test_sieve_hand_wraps_around_when_all_were_visited() -> None:
    # All three marked; d clears all marks and, back at the oldest, evicts a; b c d stay.
    assert marks(Sieve(3), "abcabc" + "d" + "bcd") == "---+++-+++"


def test_s3_fifo_lets_one_hit_wonders_go_and_remembers_them() -> None:
    # Ten bytes: one for the small queue, nine for the main one. Twelve keys once each: an overflow evicts the
    # oldest.
    policy = SmallMainGhostFifo(10)
    assert marks(policy, "abcdefghijkl") == "-" * 12
    # a was evicted first and is remembered: it misses once more and is then in the main queue.
    assert marks(policy, "a") == "-"
    # A scan of new keys passes through the small queue; a stays.
    assert marks(policy, "mnopqrstuvwxyz") == "-" * 14
    assert marks(policy, "a") == "+"


def test_s3_fifo_moves_what_was_used_twice_to_the_main_queue() -> None:
    policy = SmallMainGhostFifo(10)
    # a is used twice and b once after admission: when room is needed, a moves on and b goes.
    assert marks(policy, "abaab") == "--+++"
    assert marks(policy, "cdefghij") == "-" * 8  # fills it: a b c..j are ten
    assert marks(policy, "k") == "-"  # a moves to the main queue, b is evicted
    assert marks(policy, "ab") == "+-"


@pytest.mark.parametrize("policy_class", POLICIES)
def test_capacity_counts_bytes(policy_class: type[LeastRecentlyUsed]) -> None:
    assert marks(policy_class(9), "abab", item_bytes=5) == "----"
    assert marks(policy_class(10), "abab", item_bytes=5) == "--++"


@pytest.mark.parametrize("policy_class", POLICIES)
def test_what_is_larger_than_the_cache_is_not_admitted(policy_class: type[LeastRecentlyUsed]) -> None:
    policy = policy_class(4)
    assert marks(policy, "a") == "-"
    assert not policy.request(b"large", 5)
    assert not policy.request(b"large", 5)
    assert marks(policy, "a") == "+"


class ListSieve:
    """SIEVE in the plainest way: a list, oldest first, scanned by index."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[tuple[bytes, bool]] = []
        self.hand = 0

    def request(self, key: bytes, item_bytes: int) -> bool:
        for position, (stored, _) in enumerate(self.queue):
            if stored == key:
                self.queue[position] = (key, True)
                return True
        if len(self.queue) == self.capacity:
            while self.queue[self.hand][1]:
                self.queue[self.hand] = (self.queue[self.hand][0], False)
                self.hand = (self.hand + 1) % len(self.queue)
            del self.queue[self.hand]
            if self.hand == len(self.queue):  # it evicted the newest: the next lap starts at the oldest
                self.hand = 0
        self.queue.append((key, False))
        return False


class ListLeastRecentlyUsed:
    """LRU in the plainest way: a list, oldest use first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[bytes] = []

    def request(self, key: bytes, item_bytes: int) -> bool:
        hit = key in self.queue
        if hit:
            self.queue.remove(key)
        elif len(self.queue) == self.capacity:
            del self.queue[0]
        self.queue.append(key)
        return hit


@pytest.mark.parametrize(("fast", "plain"), [(Sieve, ListSieve), (LeastRecentlyUsed, ListLeastRecentlyUsed)])
def test_agrees_with_the_plainest_implementation(
    fast: type[LeastRecentlyUsed], plain: type[ListLeastRecentlyUsed]
) -> None:
    trace = zipf_keys(make_keys(200), 5_000, 0.8)
    fast_policy, plain_policy = fast(30), plain(30)
    assert [fast_policy.request(key, 1) for key in trace] == [plain_policy.request(key, 1) for key in trace]


@pytest.mark.parametrize("policy_class", POLICIES)
def test_never_holds_more_than_its_capacity(policy_class: type[LeastRecentlyUsed]) -> None:
    source = random.Random(1)
    policy = policy_class(1_000)
    sizes: dict[bytes, int] = {}
    for key in zipf_keys(make_keys(300), 5_000, 0.7):
        policy.request(key, sizes.setdefault(key, source.randint(1, 60)))
    # Whatever it says that it holds now (each request below is for a key it may hold) fits its capacity.
    held = [key for key in sizes if _is_held(policy, key)]
    assert 0 < sum(sizes[key] for key in held) <= 1_000


def _is_held(policy: object, key: bytes) -> bool:
    for name in ("_item_bytes", "_nodes", "_frequency"):
        stored = getattr(policy, name, None)
        if stored is not None:
            return key in stored
    raise AssertionError(f"{type(policy).__name__} has none of the known structures")


def test_hit_ratio_leaves_out_the_warm_up() -> None:
    trace = [b"a", b"b", b"a", b"b"]
    assert hit_ratio(LeastRecentlyUsed(2), trace, 1, warm_up_requests=0) == 0.5
    assert hit_ratio(LeastRecentlyUsed(2), trace, 1, warm_up_requests=2) == 1.0


def test_zipf_draws_follow_the_law() -> None:
    keys = make_keys(100)
    drawn = zipf_keys(keys, 200_000, 1.0)
    counts = sorted((drawn.count(key) for key in keys), reverse=True)
    harmonic = sum(1 / rank for rank in range(1, 101))
    for rank in (1, 2, 10):
        assert counts[rank - 1] == pytest.approx(200_000 / (rank * harmonic), rel=0.05)


def test_scan_trace_has_a_fifth_of_keys_that_never_return() -> None:
    trace = traces(1_000, 100_000)["Zipf 0.99, a fifth scans"]
    scanned = [key for key in trace if key.startswith(b"scan:")]
    assert len(scanned) == len(set(scanned))
    assert len(scanned) / len(trace) == pytest.approx(0.2, abs=0.01)
