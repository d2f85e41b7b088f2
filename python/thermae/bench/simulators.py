"""Exact simulators of three eviction policies over a byte capacity: LRU, SIEVE and S3-FIFO.

Each has one method, `request(key, item_bytes)`, which says whether the key was there and, when not, admits
it. They are references for hit ratios, written for clarity: one structure per policy as its authors
describe it, no approximation.

- LRU: least recently used.
- SIEVE: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.
- S3-FIFO: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, with its parameters: a
  small queue of a tenth of the capacity, two bits of frequency, a ghost queue that remembers as much as the
  main queue holds.

An item larger than a policy's whole capacity is a miss and is not admitted. Rejected: a library of
simulators; a reference has to be read in one sitting, and checked by hand on tiny traces
(tests/test_bench_simulators.py).
"""

from collections import OrderedDict
from typing import Protocol


class Policy(Protocol):
    """A cache of fixed capacity, seen only through which requests hit."""

    def request(self, key: bytes, item_bytes: int) -> bool:
        """Whether `key` was cached; afterwards it is, unless it is larger than the cache."""


class LeastRecentlyUsed:
    """Evicts what was used the longest time ago."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._item_bytes: OrderedDict[bytes, int] = OrderedDict()  # oldest use first

    def request(self, key: bytes, item_bytes: int) -> bool:
        """See `Policy.request`."""
        if key in self._item_bytes:
            self._item_bytes.move_to_end(key)
            return True
        if item_bytes > self._capacity_bytes:
            return False
        while self._used_bytes + item_bytes > self._capacity_bytes:
            _, evicted_bytes = self._item_bytes.popitem(last=False)
            self._used_bytes -= evicted_bytes
        self._item_bytes[key] = item_bytes
        self._used_bytes += item_bytes
        return False


class _Node:
    __slots__ = ("item_bytes", "key", "newer", "older", "visited")

    def __init__(self, key: bytes, item_bytes: int) -> None:
        self.key = key
        self.item_bytes = item_bytes
        self.visited = False
        self.newer: _Node | None = None
        self.older: _Node | None = None


class Sieve:
    """A queue in order of insertion and a hand that walks it from the oldest to the newest.

    A hit marks its item. To evict, the hand clears marks until it meets an item without one, and evicts
    that; it stays where it is, so that survivors are passed once a lap and new items are judged early.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._nodes: dict[bytes, _Node] = {}
        self._newest: _Node | None = None
        self._oldest: _Node | None = None
        self._hand: _Node | None = None

    def request(self, key: bytes, item_bytes: int) -> bool:
        """See `Policy.request`."""
        node = self._nodes.get(key)
        if node is not None:
            node.visited = True
            return True
        if item_bytes > self._capacity_bytes:
            return False
        while self._used_bytes + item_bytes > self._capacity_bytes:
            self._evict_one()
        self._insert_newest(_Node(key, item_bytes))
        return False

    def _insert_newest(self, node: _Node) -> None:
        node.older = self._newest
        if self._newest is not None:
            self._newest.newer = node
        self._newest = node
        if self._oldest is None:
            self._oldest = node
        self._nodes[node.key] = node
        self._used_bytes += node.item_bytes

    def _evict_one(self) -> None:
        node = self._hand or self._oldest
        assert node is not None, "nothing to evict although the cache is full"
        while node.visited:
            node.visited = False
            following = node.newer or self._oldest
            assert following is not None
            node = following
        self._hand = node.newer
        self._unlink(node)

    def _unlink(self, node: _Node) -> None:
        if node.newer is not None:
            node.newer.older = node.older
        else:
            self._newest = node.older
        if node.older is not None:
            node.older.newer = node.newer
        else:
            self._oldest = node.newer
        del self._nodes[node.key]
        self._used_bytes -= node.item_bytes


class _Fifo:
    """Items in order of insertion, oldest first, and their bytes in total."""

    def __init__(self) -> None:
        self.items: OrderedDict[bytes, int] = OrderedDict()
        self.used_bytes = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self.items

    def push(self, key: bytes, item_bytes: int) -> None:
        self.items[key] = item_bytes
        self.used_bytes += item_bytes

    def pop_oldest(self) -> tuple[bytes, int]:
        key, item_bytes = self.items.popitem(last=False)
        self.used_bytes -= item_bytes
        return key, item_bytes

    def remove(self, key: bytes) -> None:
        self.used_bytes -= self.items.pop(key)


class SmallMainGhostFifo:
    """S3-FIFO: a small queue to survive, a main queue with second chances, a ghost queue of keys.

    An item used more than once while in the small queue moves to the main queue; others leave only their
    key in the ghost queue, and a key found there is admitted to the main queue directly. The main queue
    gives an item as many further rounds as it was used, up to three.
    """

    _FREQUENCY_MAX = 3
    _SMALL_FRACTION = 0.1

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._small_capacity_bytes = int(capacity_bytes * self._SMALL_FRACTION)
        self._main_capacity_bytes = capacity_bytes - self._small_capacity_bytes
        self._small = _Fifo()
        self._main = _Fifo()
        self._ghost = _Fifo()  # item_bytes are those the item had
        self._frequency: dict[bytes, int] = {}

    def request(self, key: bytes, item_bytes: int) -> bool:
        """See `Policy.request`."""
        if key in self._frequency:
            self._frequency[key] = min(self._frequency[key] + 1, self._FREQUENCY_MAX)
            return True
        if item_bytes > self._capacity_bytes:
            return False
        # Looked up first: making room may push this very key out of the ghost queue.
        remembered = key in self._ghost
        if remembered:
            self._ghost.remove(key)
        while self._small.used_bytes + self._main.used_bytes + item_bytes > self._capacity_bytes:
            self._evict_one()
        (self._main if remembered else self._small).push(key, item_bytes)
        self._frequency[key] = 0
        return False

    def _evict_one(self) -> None:
        if self._small.items and (
            self._small.used_bytes >= self._small_capacity_bytes or not self._main.items
        ):
            self._evict_from_small()
        else:
            self._evict_from_main()

    def _evict_from_small(self) -> None:
        while self._small.items:
            key, item_bytes = self._small.pop_oldest()
            if self._frequency[key] > 1:
                self._frequency[key] = 0
                self._main.push(key, item_bytes)
                if self._main.used_bytes > self._main_capacity_bytes:
                    self._evict_from_main()
                    return
            else:
                del self._frequency[key]
                self._remember(key, item_bytes)
                return

    def _evict_from_main(self) -> None:
        while self._main.items:
            key, item_bytes = self._main.pop_oldest()
            if self._frequency[key] > 0:
                self._frequency[key] -= 1
                self._main.push(key, item_bytes)
            else:
                del self._frequency[key]
                return

    def _remember(self, key: bytes, item_bytes: int) -> None:
        self._ghost.push(key, item_bytes)
        while self._ghost.used_bytes > self._main_capacity_bytes:
            self._ghost.pop_oldest()


def hit_ratio(policy: Policy, trace: list[bytes], item_bytes: int, warm_up_requests: int) -> float:
    """The share of hits among the requests of `trace` after the first `warm_up_requests`."""
    hits = 0
    for position, key in enumerate(trace):
        if policy.request(key, item_bytes) and position >= warm_up_requests:
            hits += 1
    return hits / (len(trace) - warm_up_requests)
