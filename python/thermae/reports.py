"""What a store reports about itself, as types: the dicts that `stats`, `check` and `snapshot` return.

The engine writes each report as JSON, from a struct that has these fields; a test compares the two, and the
tables of docs/python.md with both. Plain dicts, and no classes, so that a report goes into JSON, a log or a
metrics system as it is.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class Stats(TypedDict):
    """What a store holds and has done; see `Store.stats`.

    Counts are of all participants, since the store's memory was set up: a clean close keeps them, a restart
    of the machine begins anew.
    """

    keys: int
    """Keys; expired ones count until they are removed, at most two seconds later."""
    hits: int
    """Reads that found their key."""
    misses: int
    """Reads that did not."""
    sets: int
    """Values stored."""
    deletes: int
    """Keys deleted."""
    evicted: int
    """Records dropped to make room."""
    expired: int
    """Records removed because they expired."""
    promoted: int
    """Records of the lower tiers copied to the hot one."""
    demoted_segments: int
    """Segments whose place in the hot tier was given up."""
    warm_reads: int
    """Reads that were served from the warm tier."""
    cold_reads: int
    """Reads that went to the cold tier."""
    retries: int
    """Reads that started over because something moved under them."""
    inherited_locks: int
    """The engine's own locks taken over from processes that died."""
    compacted_bytes: int
    """Bytes that compaction copied."""
    hot_bytes: int
    """Size of the hot tier."""
    hot_limit_bytes: int
    """How many of them may be used: all, unless a server's `maxmemory` was set to less."""
    hot_used_bytes: int
    """Bytes of it in frames that hold something."""
    warm_bytes: int
    """Size of the warm tier; 0 for none."""
    warm_used_bytes: int
    """Bytes of it in frames that hold something."""
    cold_bytes: int
    """Size of the cold tier; 0 for none."""
    cold_used_bytes: int
    """Bytes of it in frames that hold something."""
    live_bytes: int
    """Bytes of the records that are alive, with their headers."""
    index_bytes: int
    """Bytes of the index's tables."""
    index_frame_bytes: int
    """Bytes of the frames that hold those tables."""
    control_bytes: int
    """Bytes of the shared structures, which the hot tier includes."""
    log_bytes: int
    """Bytes appended to segments of the log that are closed."""
    warm_written_bytes: int
    """Bytes written to the warm tier."""
    cold_written_bytes: int
    """Bytes written to the cold tier."""
    sequence: int
    """The last sequence number given out."""
    watermark: int
    """Up to this sequence number, everything is durable."""
    flushes: int
    """Flushes completed."""
    checkpoint_sequence: int
    """Sequence number of the last index checkpoint."""
    participants: int
    """Handles that are open, in all processes together."""
    participants_max: int
    """As many as may be open."""
    writes_stopped: bool
    """Whether a flush failed, so that writes are refused until the store is opened again."""
    warm_is_synchronous: bool | None
    """Whether the warm tier is persistent memory, durable without a system call; None where there is none."""
    item_bytes_mean: int | None
    """What a key costs on average: value, header, its part of the index; None where there are no keys."""
    pinned_segments: int
    """Segments that views and snapshots keep from being reused."""
    memory_directory: str
    """Where the hot tier is: in `/dev/shm`, or in the store's directory if there was no room for it."""


class Problem(TypedDict):
    """One thing that a check found not to be as it should."""

    kind: str
    """Which invariant it breaks, in a word or two."""
    place: str
    """Where."""
    description: str
    """What."""
    repaired: bool
    """Whether it was put right, so that nothing was lost by it."""


class CheckReport(TypedDict):
    """What a check found; see `Store.check`."""

    ok: bool
    """Whether nothing is wrong."""
    problems: list[Problem]
    """What is wrong."""
    segments: int
    """Segments looked at."""
    records: int
    """Intact records with a key in them."""
    keys: int
    """Keys whose values are intact."""
    bytes: int
    """Bytes of the segments looked at."""
    missing_sequences: str
    """Sequence numbers that no record holds although one should, such as "3-39,41,43-85"."""
    quarantined: list[str]
    """Segments with damaged records; all else in them is served."""
    live_bytes_drift: int
    """By how many bytes the counts of live bytes are off: only a hint, which a crash leaves a little off."""


class SnapshotReport(TypedDict):
    """What was copied; see `Store.snapshot`."""

    directory: str
    """Where the snapshot is."""
    sequence: int
    """It shows the store as of this sequence number."""
    segments: int
    """Segments copied."""
    bytes: int
    """Bytes of them."""
    milliseconds: int
    """How long it took."""
    damaged: list[str]
    """Segments of which a part could not be verified; copied as they are, and `check` tells more."""


class RestoreReport(TypedDict):
    """What was restored; see `thermae.restore`."""

    location: str
    """The new store."""
    sequence: int
    """It begins as of this sequence number of the original."""
    keys: int
    """Keys in it, expired ones included."""
    segments: int
    """Segments copied."""
    bytes: int
    """Bytes of them."""
    milliseconds: int
    """How long it took."""
    damaged: list[str]
    """Segments of the snapshot of which a part could not be verified; `check` of the new store tells more."""


class SharedMemory(TypedDict):
    """The memory of one store in /dev/shm; see `thermae.shared_memory`."""

    name: str
    """Its directory's name in /dev/shm."""
    location: str | None
    """The store that it belongs to, where that is known."""
    bytes: int
    """How much it takes."""
    state: Literal["in_use", "kept", "orphaned", "unknown"]
    """What became of that store."""
    reason: str
    """Why it is said to be so."""
