"""What a demonstration's writer writes, so that anyone can verify it afterwards, exactly.

A writer's n-th write (n = 0, 1, 2...) goes to key n modulo `KEYS_PER_WRITER`, with content that follows
from the writer and n alone. So the state after c writes is known, and a store that claims to hold it can be
held against it key by key: a lost, torn, doubled or resurrected write shows.
"""

import random
from collections.abc import Callable

KEYS_PER_WRITER = 100
_BLOCK_BYTES = 4 * 2**20
_LARGE_EVERY = 17
_HEADER_BYTES = 16


def writer_key(writer: int, write: int) -> bytes:
    """The key that the writer's `write`-th write goes to."""
    return b"writer/%d/%d" % (writer, write % KEYS_PER_WRITER)


class WriterContents:
    """What one writer writes: a header and a slice of one random block, at times over a frame."""

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._block = random.Random(writer).randbytes(_BLOCK_BYTES)

    def content(self, write: int) -> bytes:
        """What the `write`-th write stores."""
        large = write % _LARGE_EVERY == _LARGE_EVERY - 1
        length = (write * 7_919) % (3 * 2**20 if large else 96 * 2**10)
        start = (write * 104_729) % (_BLOCK_BYTES - length)
        header = self._writer.to_bytes(8, "little") + write.to_bytes(8, "little")
        return header + self._block[start : start + length]

    def problems(self, get: Callable[[bytes], bytes | None], acknowledged: int, started: int) -> list[str]:
        """How what `get` returns differs from the state after c writes, `acknowledged` <= c <= `started`.

        Args:
            get: The value of a key, or None.
            acknowledged: Writes that returned to the writer: none of them may be missing.
            started: Writes that had begun: nothing beyond them can be there.
        """
        found = {}
        for write in range(KEYS_PER_WRITER):
            key = writer_key(self._writer, write)
            value = get(key)
            if value is not None:
                found[key] = value
        newest = max(
            (int.from_bytes(value[8:_HEADER_BYTES], "little") + 1 for value in found.values()), default=0
        )
        name = f"writer {self._writer}"
        if not acknowledged <= newest <= started:
            return [
                f"{name}: holds {newest:,} writes, of {acknowledged:,} acknowledged and {started:,} begun"
            ]
        expected = {
            writer_key(self._writer, write): write
            for write in range(max(0, newest - KEYS_PER_WRITER), newest)
        }
        problems = [f"{name}: {key.decode()} is missing" for key in expected.keys() - found.keys()]
        for key, value in found.items():
            if key not in expected or value != self.content(expected[key]):
                problems.append(f"{name}: {key.decode()} is not what write {expected.get(key)} stored")
        return problems
