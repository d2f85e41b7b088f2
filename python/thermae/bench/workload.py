"""Keys, values and skew that the benchmarks share, all drawn from a fixed seed."""

import random
from collections.abc import Iterable, Iterator

import numpy
import numpy.typing

SEED = 20_240_607


def make_keys(count: int) -> list[bytes]:
    """`count` distinct keys of 14 bytes.

    >>> make_keys(2)
    [b'key:0000000000', b'key:0000000001']
    """
    return [b"key:%010d" % number for number in range(count)]


def make_values(count: int, value_bytes: int, seed: int = SEED) -> list[bytes]:
    """`count` values of `value_bytes` random bytes, each an object of its own."""
    source = random.Random(seed)
    return [source.randbytes(value_bytes) for _ in range(count)]


def shuffled(keys: Iterable[bytes], seed: int = SEED) -> list[bytes]:
    """The keys in random order."""
    order = list(keys)
    random.Random(seed).shuffle(order)
    return order


def sampled(keys: list[bytes], count: int, seed: int) -> list[bytes]:
    """`count` of the keys, each at most once, in random order."""
    return random.Random(seed).sample(keys, count)


def fresh_copies(keys: Iterable[bytes]) -> list[bytes]:
    """Equal keys that are other objects: one looks up the key that one was sent, not the object stored once.

    A `bytes` object remembers its hash and `dict` compares identity first, so looking up the stored objects
    themselves would measure what no program does.
    """
    return [bytes(memoryview(key)) for key in keys]


def batches(items: list[bytes], batch_length: int) -> Iterator[list[bytes]]:
    """The items in lists of `batch_length`, the last one shorter.

    >>> list(batches([b"a", b"b", b"c"], 2))
    [[b'a', b'b'], [b'c']]
    """
    for start in range(0, len(items), batch_length):
        yield items[start : start + batch_length]


def zipf_ranks(
    key_count: int, sample_count: int, exponent: float = 0.99, seed: int = SEED
) -> "numpy.typing.NDArray[numpy.int64]":
    """`sample_count` ranks below `key_count`; rank r is drawn in proportion to 1 / (r + 1) ** exponent.

    Exact inversion of the cumulative distribution (no approximation by a continuous law).
    """
    weights = 1.0 / numpy.arange(1, key_count + 1, dtype=numpy.float64) ** exponent
    cumulative = numpy.cumsum(weights)
    points = numpy.random.default_rng(seed).random(sample_count) * cumulative[-1]
    ranks = numpy.searchsorted(cumulative, points, side="right")
    # Rounding may put the last point past the last weight.
    clipped: numpy.typing.NDArray[numpy.int64] = numpy.minimum(ranks, key_count - 1).astype(numpy.int64)
    return clipped


def zipf_keys(
    keys: list[bytes], sample_count: int, exponent: float = 0.99, draw_seed: int = SEED
) -> list[bytes]:
    """`sample_count` of `keys`, Zipf-distributed.

    Which keys are popular is random but the same for every `draw_seed`: popularity has nothing to do with the
    order of loading, and further draws continue the same workload.
    """
    popular_first = shuffled(keys, SEED + 1)
    return [popular_first[rank] for rank in zipf_ranks(len(keys), sample_count, exponent, draw_seed)]
