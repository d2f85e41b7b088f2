"""The options of `thermae.open`: written down once, for type checkers and for the check of names.

Their values are judged by the engine, so that every face answers alike; here only unknown names are refused,
with the nearest known one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from thermae.errors import InvalidOptionError

Durability = Literal["none", "everysec", "always"]
WhenFull = Literal["evict", "error"]
IndexPlacement = Literal["hot", "warm"]
Placement = Literal["auto", "shared_memory", "directory"]


@runtime_checkable
class Codec(Protocol):
    """How values that have no encoding of their own become bytes. Implement it to bring your own.

    `encoding` is the number that marks such values in the store, from 10 to 255: choose one and keep it.

    Example:
        >>> import json
        >>> class JsonCodec:
        ...     encoding = 10
        ...     def encode(self, value: object) -> bytes:
        ...         return json.dumps(value).encode()
        ...     def decode(self, data: bytes) -> object:
        ...         return json.loads(data)
        >>> isinstance(JsonCodec(), Codec)
        True
    """

    @property
    def encoding(self) -> int:
        """The number that marks values of this codec."""

    def encode(self, value: Any, /) -> bytes:
        """The value's bytes."""

    def decode(self, data: bytes, /) -> Any:
        """The value of these bytes."""


CodecName = Literal["msgpack", "pickle"]
AnyCodec = CodecName | Codec


class OpenOptions(TypedDict, total=False):
    """What may be given to `thermae.open` besides the location.

    None or absent: as the store has it, or the default.
    """

    hot: int | str | None
    """Size of the hot tier, in bytes or as "512MiB"; fixed at creation. Default 256MiB."""
    warm: int | str | None
    """Size of the warm tier, on persistent memory; fixed at creation. Default none."""
    warm_directory: str | os.PathLike[str] | None
    """A directory on persistent memory for it; looked at only at creation. Default the store's own."""
    index: IndexPlacement | None
    """Which mapped tier holds the index, "hot" or "warm"; fixed at creation. Default "hot"."""
    cold: int | str | None
    """Size of the cold tier; 0 for none. Default four times the hot tier, at least 1GiB."""
    frame: int | str | None
    """Size of a frame, "1MiB" or "8MiB"; fixed at creation. Default by the size of the hot tier."""
    durability: Durability | None
    """What has survived when a write returns; may be changed at any time. Default "everysec"."""
    when_full: WhenFull | None
    """Whether a full store evicts or refuses; may be changed at any time. Default "evict"."""
    read_only: bool
    """Map the data read-only and refuse writes."""
    create: bool
    """Create the store where there is none, or make one of a snapshot; the default."""
    verify_reads: bool
    """Verify the checksum of values read from the hot tier, as those of others always are; the default."""
    salvage: bool
    """Recover from the log alone where both index checkpoints are lost: deleted keys may come back."""
    placement: Placement
    """Where a directory's hot tier is: "auto" takes the directory where shared memory is too small."""
    participants_max: int
    """How many handles, in all processes together, may be open at once; fixed at creation. Default 128."""
    background: bool
    """Take part in background work (flushing, expiry, compaction); the default."""


# Each is a handle's own, or has to agree with the store: opening it with them changes nothing for others.
_REOPENED_WITH = ("hot", "warm", "cold", "frame", "placement", "read_only", "verify_reads", "background")


def reopening_options(options: Mapping[str, object]) -> dict[str, object]:
    """Of what a store was opened with, what a copy of its handle is opened with.

    What all handles share (durability, `when_full`) may have been changed since, and stays as it is now. What
    is for one opening alone (`salvage`, the warm tier's place) does not travel.

    Example:
        >>> reopening_options({"hot": "512MiB", "durability": "none", "background": False})
        {'hot': '512MiB', 'background': False, 'create': False}
    """
    return {name: options[name] for name in _REOPENED_WITH if name in options} | {"create": False}


def checked_names(options: Mapping[str, object]) -> dict[str, object]:
    """The options as they are, if every name is known.

    Raises:
        InvalidOptionError: A name is unknown.

    Example:
        >>> checked_names({"hot": "512MiB"})
        {'hot': '512MiB'}
        >>> checked_names({"hott": "512MiB"})
        Traceback (most recent call last):
        ...
        thermae.errors.InvalidOptionError: the option 'hott' is unknown: did you mean 'hot'?
    """
    known = list(OpenOptions.__annotations__)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"use any of {', '.join(known)}"
            raise InvalidOptionError(f"the option {name!r} is unknown: {remedy}")
    return dict(options)
