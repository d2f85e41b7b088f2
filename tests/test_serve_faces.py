"""One store, three faces: what Python, a Redis client or a memcached client writes, the others read."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pymemcache
import pytest
import redis

import thermae
from serving import thermae_serve


@dataclass
class Faces:
    """A store that is open in this process and served to others."""

    python: thermae.Store
    redis_address: str
    memcached_address: str

    def redis_client(self, database: int = 0) -> redis.Redis:
        host, port = self.redis_address.rsplit(":", 1)
        return redis.Redis(host=host, port=int(port), db=database)

    def memcached_client(self) -> pymemcache.Client:
        host, port = self.memcached_address.rsplit(":", 1)
        return pymemcache.Client((host, int(port)), default_noreply=False)


@pytest.fixture
def faces(location: str) -> Iterator[Faces]:
    addresses = ("--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0")
    with (
        thermae_serve(location, "--hot", "16MiB", *addresses) as serving,
        thermae.open(location, create=False) as store,
    ):
        yield Faces(store, serving.redis, serving.memcached)


@pytest.fixture
def over_redis(faces: Faces) -> Iterator[redis.Redis]:
    client = faces.redis_client()
    yield client
    client.close()


@pytest.fixture
def over_memcached(faces: Faces) -> Iterator[pymemcache.Client]:
    client = faces.memcached_client()
    yield client
    client.close()


# Every value as Python has it, and the bytes that other faces have.
WRITTEN_BY_PYTHON = [
    ("text", b"text"),
    ("Grüße", "Grüße".encode()),
    ("", b""),
    (b"bytes \x00\xff\r\n", b"bytes \x00\xff\r\n"),
    (41, b"41"),
    (-(2**63), b"-9223372036854775808"),
    (b"v" * 1_000_000, b"v" * 1_000_000),
]


@pytest.mark.parametrize(
    ("value", "data"), WRITTEN_BY_PYTHON, ids=lambda value: f"{type(value).__name__} {str(value)[:12]!r}"
)
def test_python_writes_and_all_read(
    faces: Faces,
    over_redis: redis.Redis,
    over_memcached: pymemcache.Client,
    value: str | bytes | int,
    data: bytes,
) -> None:
    faces.python["key"] = value
    assert over_redis.get("key") == data
    assert over_redis.strlen("key") == len(data)
    assert over_memcached.get("key") == data
    assert over_memcached.get_many(["key", "none"]) == {"key": data}
    assert faces.python["key"] == value


@pytest.mark.parametrize("data", [b"", b"007", b"41", b"x\r\n\x00\xff", b"v" * 1_000_000], ids=len)
def test_clients_write_and_all_read(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client, data: bytes
) -> None:
    over_redis.set("by redis", data)
    over_memcached.set("by_memcached", data)
    for key in ("by redis", "by_memcached"):
        assert faces.python[key] == data
        assert over_redis.get(key) == data
    assert over_memcached.get("by_memcached") == data


def test_a_key_is_the_same_in_all_faces(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python["schlüssel"] = "1"
    assert over_redis.get("schlüssel".encode()) == b"1"
    assert "schlüssel".encode() in over_redis.keys()  # noqa: SIM118 - a command, no mapping
    over_redis.set(b"\xff\xfe", b"2")
    assert faces.python[b"\xff\xfe"] == b"2"
    # What would look like a key of database 1 is stored as one of database 0.
    over_redis.set(b"\xff\x01raw", b"2")
    assert over_redis.get(b"\xff\x01raw") == b"2"
    assert b"\xff\x01raw" not in faces.python
    assert faces.python[b"\xff\x00\xff\x01raw"] == b"2"
    over_memcached.set("plain", b"3")
    assert faces.python["plain"] == b"3"


def test_an_integer_of_pythons_is_counted_by_clients(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python["count"] = 41
    assert over_redis.incr("count") == 42
    assert faces.python["count"] == 42
    assert over_memcached.incr("count", 8) == 50
    assert faces.python["count"] == 50
    assert faces.python.incr("count", -1) == 49
    assert over_redis.decrby("count", 9) == 40
    assert over_memcached.decr("count", 41) == 0
    assert faces.python["count"] == 0


def test_a_number_that_is_text_is_counted_by_all(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    over_redis.set("count", "10")
    assert over_memcached.incr("count", 1) == 11
    assert over_redis.incr("count") == 12
    faces.python["text"] = "10"
    assert over_redis.incr("text") == 11
    assert over_memcached.incr("text", 1) == 12


def test_what_is_no_number_is_counted_by_nobody(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python["text"] = "ten"
    with pytest.raises(redis.ResponseError, match="not an integer"):
        over_redis.incr("text")
    with pytest.raises(pymemcache.MemcacheClientError, match="non-numeric"):
        over_memcached.incr("text", 1)
    assert faces.python["text"] == "ten"


def test_counters_counted_from_everywhere_at_once_add_up(faces: Faces) -> None:
    faces.python["count"] = 0
    each, problems = 1_000, []

    def running(work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                for _ in range(each):
                    work()
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    redis_clients = [faces.redis_client() for _ in range(2)]
    memcached_clients = [faces.memcached_client() for _ in range(2)]
    threads = [running(lambda: faces.python.incr("count")) for _ in range(2)]
    threads += [running(functools.partial(client.incr, "count")) for client in redis_clients]
    threads += [running(functools.partial(client.incr, "count", 1)) for client in memcached_clients]
    for thread in threads:
        thread.join()
    for client in (*redis_clients, *memcached_clients):
        client.close()
    assert problems == []
    assert faces.python["count"] == each * len(threads)


def test_a_deletion_is_seen_everywhere(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    deletions: list[Callable[[], object]] = [
        lambda: faces.python.delete("key"),
        lambda: over_redis.delete("key"),
        lambda: over_memcached.delete("key"),
    ]
    for delete in deletions:
        faces.python["key"] = "value"
        delete()
        assert "key" not in faces.python
        assert over_redis.get("key") is None
        assert over_memcached.get("key") is None


def test_an_expiry_is_seen_everywhere(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python.set("by_python", b"v", ttl=1)
    over_redis.set("by_redis", b"v", ex=1)
    over_memcached.set("by_memcached", b"v", expire=1)
    for key in ("by_python", "by_redis", "by_memcached"):
        assert 0 < over_redis.pttl(key) <= 1000
        ttl = faces.python.ttl(key)
        assert ttl is not None
        assert 0 < ttl <= 1
    time.sleep(1.2)
    for key in ("by_python", "by_redis", "by_memcached"):
        assert key not in faces.python
        assert over_redis.get(key) is None
        assert over_memcached.get(key) is None


def test_expiries_are_changed_from_everywhere(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python["key"] = "value"
    assert over_redis.ttl("key") == -1
    assert over_memcached.touch("key", 100)
    assert over_redis.ttl("key") in (99, 100)
    assert over_redis.persist("key")
    assert faces.python.ttl("key") is None
    assert faces.python.touch("key", 50)
    assert over_redis.ttl("key") in (49, 50)
    # A new value that says nothing of an expiry has none.
    over_memcached.set("key", b"other")
    assert over_redis.ttl("key") == -1


def test_a_version_read_by_one_face_is_void_after_another_wrote(
    faces: Faces, over_redis: redis.Redis, over_memcached: pymemcache.Client
) -> None:
    faces.python["key"] = "1"
    _, unique = over_memcached.gets("key")
    over_redis.set("key", "2")
    assert over_memcached.cas("key", b"3", unique) is False
    with over_redis.pipeline() as pipeline:
        pipeline.watch("key")  # type: ignore[no-untyped-call]
        faces.python["key"] = "4"
        pipeline.multi()
        pipeline.set("key", "5")
        with pytest.raises(redis.WatchError):
            pipeline.execute()
    assert faces.python["key"] == "4"


def test_a_transaction_of_one_face_is_seen_whole_by_the_others(faces: Faces) -> None:
    """Two keys that are always equal: whoever reads both at once never sees them differ."""
    writer, reader = faces.redis_client(), faces.redis_client()
    stop = threading.Event()
    faces.python.set_many({"left": b"0", "right": b"0"})

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with writer.pipeline(transaction=True) as pipeline:
                pipeline.set("left", number)
                pipeline.set("right", number)
                pipeline.execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            left, right = reader.mget("left", "right")
            assert left == right
            # One that read what changed meanwhile is told so, and decides nothing.
            with contextlib.suppress(thermae.TransactionConflictError):
                with faces.python.transaction() as transaction:
                    both = transaction["left"], transaction["right"]
                assert both[0] == both[1]
            seen.add(left)
    finally:
        stop.set()
        thread.join()
        writer.close()
        reader.close()
    assert len(seen) > 3


def test_selected_databases_are_separate(faces: Faces, over_redis: redis.Redis) -> None:
    other = faces.redis_client(database=3)
    other.set("key", "in 3")
    assert over_redis.get("key") is None
    assert "key" not in faces.python
    over_redis.set("key", "in 0")
    assert faces.python["key"] == b"in 0"
    assert other.get("key") == b"in 3"
    assert (other.dbsize(), over_redis.dbsize()) == (1, 1)
    other.flushdb()
    assert (other.dbsize(), over_redis.dbsize()) == (0, 1)
    other.close()


def test_what_python_has_encoded_is_not_mistaken_for_text(faces: Faces, over_redis: redis.Redis) -> None:
    """A list is MessagePack to other faces; appending to it makes plain bytes of it, never a broken list."""
    faces.python["list"] = [1, 2]
    assert over_redis.get("list") == b"\x92\x01\x02"
    over_redis.append("list", b"\x03")
    assert faces.python["list"] == b"\x92\x01\x02\x03"


def test_a_server_ends_and_the_store_stays(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        with serving.connection() as client:
            client.call("SET", "key", "value")
        assert serving.terminate() == 0
    with thermae.open(location, create=False) as store:
        assert store["key"] == b"value"
