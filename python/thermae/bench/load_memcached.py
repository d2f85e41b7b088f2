"""Load for servers of memcached's protocol: gets of random keys, from many clients, over plain sockets.

All values have one length, so that a reply is known to be complete by its length alone, and is looked into
only once for each client. Python is slower than the servers it asks: what this load measures best is their
processor time. Its throughput and latencies are of both together: good for comparing two servers, no more.
"""

import random
import socket
import time
from collections.abc import Iterable

from thermae.bench.load_redis import Load
from thermae.bench.timing import quantile

CLIENTS = 50
_BATCHES = 2_000
_FILL_ITEMS = 1_000


def fill(port: int, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Stores the items."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        pending: list[bytes] = []
        for key, value in items:
            pending.append(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value))
            if len(pending) == _FILL_ITEMS:
                _store(connection, pending)
                pending = []
        _store(connection, pending)


def _store(connection: socket.socket, commands: list[bytes]) -> None:
    connection.sendall(b"".join(commands))
    expected = b"STORED\r\n" * len(commands)
    answer = _received(connection, len(expected))
    if answer != expected:
        raise RuntimeError(f"a memcached server did not store: {answer[:100]!r}")


def _received(connection: socket.socket, byte_count: int) -> bytes:
    return connection.recv(byte_count, socket.MSG_WAITALL) if byte_count else b""


class Gets:
    """Gets of random keys: `keys_per_get` in one command, `pipeline` commands in one piece."""

    def __init__(self, keys: list[bytes], value_bytes: int, keys_per_get: int, pipeline: int) -> None:
        source = random.Random(len(keys))
        self.gets_per_batch = keys_per_get * pipeline

        def one_batch() -> bytes:
            commands = [b" ".join(source.choices(keys, k=keys_per_get)) for _ in range(pipeline)]
            return b"".join(b"get %b\r\n" % command for command in commands)

        self._batches = [one_batch() for _ in range(_BATCHES)]
        one_value = len(b"VALUE %b 0 %d\r\n\r\n" % (keys[0], value_bytes)) + value_bytes
        self._reply_bytes = (one_value * keys_per_get + len(b"END\r\n")) * pipeline

    def run(self, port: int, get_count: int) -> tuple[int, Load]:
        """At least so many gets, by all clients in turn; how many there were, and what they saw.

        A latency is that of all that a client sent at once, until its reply was taken.
        """
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
        try:
            for client in clients:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._check(client)
            done, position, buffer = 0, 0, bytearray(self._reply_bytes)
            sent_at = [0.0] * CLIENTS
            took: list[float] = []
            started = time.perf_counter()
            while done < get_count:
                for number, client in enumerate(clients):
                    sent_at[number] = time.perf_counter()
                    client.sendall(self._batches[position % _BATCHES])
                    position += 1
                for number, client in enumerate(clients):
                    if client.recv_into(buffer, self._reply_bytes, socket.MSG_WAITALL) < self._reply_bytes:
                        raise RuntimeError("a memcached server closed the connection")
                    took.append(time.perf_counter() - sent_at[number])
                done += CLIENTS * self.gets_per_batch
            rate = done / (time.perf_counter() - started)
            return done, Load(rate, *(quantile(took, fraction) for fraction in (0.5, 0.99, 0.999)))
        finally:
            for client in clients:
                client.close()

    def _check(self, client: socket.socket) -> None:
        client.sendall(self._batches[0])
        answer = _received(client, self._reply_bytes)
        if answer.count(b"VALUE ") < self.gets_per_batch or not answer.endswith(b"\r\nEND\r\n"):
            raise RuntimeError(f"a memcached server does not have what was stored: {answer[:200]!r}")
