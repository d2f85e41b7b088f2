"""Loading a store with many items before something is measured on it."""

from collections.abc import Callable

import thermae
from thermae.bench.workload import batches, make_keys, make_values

FILL_BATCH_ITEMS = 10_000


def fill(store: thermae.Store, key_count: int, value_bytes: int, announce: Callable[[str], None]) -> None:
    """Loads keys 0 to `key_count` in batches.

    Values repeat, so that making them does not take longer than storing them.
    """
    announce(f"loading {key_count:,} keys")
    values = make_values(min(key_count, FILL_BATCH_ITEMS), value_bytes)
    for batch in batches(make_keys(key_count), FILL_BATCH_ITEMS):
        store.set_many(dict(zip(batch, values, strict=False)))


def hot_bytes_for(key_count: int, value_bytes: int) -> int:
    """A hot tier in which that many items stay, index and room for new segments included."""
    return max(64 * 2**20, int(key_count * (14 + value_bytes + 48) * 1.5))
