"""What strangers send to `thermae serve`, and what they do not take: it stays small, and serves others."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resp import Connection, Reply, connected, encoded, wait_until
from serving import Serving, thermae_serve

MEBIBYTE = 1 << 20
# What a crowd of a hundred may cost, whatever it does.
CROWD_BYTES_MAX = 64 * MEBIBYTE
SIOCGIFADDR = 0x8915
PASSWORD = "open sesame"
OK = Reply("+", b"OK")
DEBUG = ("--enable-debug-command", "local")
PONG = Reply("+", b"PONG")
NOT_AUTHENTICATED = Reply("-", b"NOAUTH Authentication required.")


@pytest.fixture
def serving(location: str) -> Iterator[Serving]:
    with thermae_serve(location, "--hot", "32MiB", "--enable-debug-command", "local") as running:
        yield running


@pytest.fixture
def guarded(location: str) -> Iterator[Serving]:
    """A server with a password, given as administrators should."""
    with thermae_serve(location, "--hot", "16MiB", environment={"THERMAE_PASSWORD": PASSWORD}) as running:
        yield running


def everything_answered(address: str, *sent: bytes) -> bytes:
    with Connection(address) as connection:
        with contextlib.suppress(ConnectionError):
            for part in sent:
                connection.socket.sendall(part)
        return connection.rest()


def assert_serves(serving: Serving, seconds_max: float = 2.0, password: str | None = None) -> None:
    """A client that behaves is answered, and soon."""
    with Connection(serving.redis, timeout_seconds=seconds_max) as connection:
        if password is not None:
            assert connection.call("AUTH", password) == OK
        assert connection.call("PING") == PONG
        assert connection.call("SET", "behaves", "yes") == OK
        assert connection.call("GET", "behaves") == Reply("$", b"yes")


@contextlib.contextmanager
def stopped(serving: Serving) -> Iterator[None]:
    """The server does nothing meanwhile: what it was about to do when the signal came is done, or waits."""

    def has_stopped() -> bool:
        threads = Path(f"/proc/{serving.process.pid}/task").iterdir()
        return all((thread / "stat").read_text().rpartition(") ")[2][0] == "T" for thread in threads)

    os.kill(serving.process.pid, signal.SIGSTOP)
    try:
        wait_until(has_stopped)
        yield
    finally:
        os.kill(serving.process.pid, signal.SIGCONT)


def input_bytes(client: Connection, serving: Serving) -> int:
    """What a server that was stopped has read of all clients by the time at which it answers this one."""
    client.send("INFO", "stats")
    os.kill(serving.process.pid, signal.SIGCONT)
    statistics = client.read().value
    assert isinstance(statistics, bytes)
    found = re.search(rb"total_net_input_bytes:(\d+)", statistics)
    assert found is not None
    return int(found[1])


# Who has not said who it is.


class TestStrangers:
    def test_come_after_those_who_have_said_who_they_are(self, guarded: Serving) -> None:
        """However much they have sent, and were it there first: the server has read next to none of it."""
        flood = encoded([b"x" * 16_000] * 10) * 20
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(guarded.connection())
            assert client.call("AUTH", PASSWORD) == OK
            strangers = [stack.enter_context(guarded.connection()) for _ in range(50)]
            assert all(stranger.call("PING") == NOT_AUTHENTICATED for stranger in strangers)
            with stopped(guarded):
                for stranger in strangers:
                    stranger.socket.setblocking(False)
                    sent = stranger.socket.send(flood)
                    assert sent >= MEBIBYTE // 4
                before = input_bytes(client, guarded)
        assert before < MEBIBYTE // 16

    def test_are_served_after_they_have_gone(self, location: str, tmp_path: Path) -> None:
        """Who logs in, stores and goes, all at once, has stored, though it went before it was its turn."""
        options = ("--hot", "16MiB", "--unix", str(tmp_path / "socket"))
        flood = encoded([b"x" * 16_000] * 10) * 20
        with contextlib.ExitStack() as stack:
            environment = {"THERMAE_PASSWORD": PASSWORD}
            serving = stack.enter_context(thermae_serve(location, *options, environment=environment))
            strangers = [stack.enter_context(serving.connection()) for _ in range(20)]
            with stopped(serving):
                for stranger in strangers:
                    stranger.socket.setblocking(False)
                    stranger.socket.send(flood)
                for number in range(10):
                    with contextlib.closing(connected(serving.redis)) as passing:
                        passing.sendall(encoded(["AUTH", PASSWORD]) + encoded(["SET", str(number), "x"]))
            client = stack.enter_context(serving.connection())
            assert client.call("AUTH", PASSWORD) == OK
            wait_until(lambda: client.call("DBSIZE") == Reply(":", 10))

    def test_are_all_answered_in_the_end(self, guarded: Serving) -> None:
        """Those who wait for their turn lose nothing, and who logs in among them is served from there on."""
        flood = encoded([b"x" * 16_000] * 10) * 5

        def act(_: int) -> bytes:
            return everything_answered(
                guarded.redis,
                flood,
                encoded(["AUTH", PASSWORD]) + encoded(["INCR", "known"]) + encoded(["QUIT"]),
            )

        with ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(act, range(80)))
        counts = set()
        for answer in answers:
            *refused, welcome, count, farewell, end = answer.split(b"\r\n")
            assert len(refused) == 5
            assert all(line.startswith(b"-ERR unknown command") for line in refused)
            assert (welcome, farewell, end) == (b"+OK", b"+OK", b"")
            counts.add(int(count.removeprefix(b":")))
        assert counts == set(range(1, 81))

    def test_may_do_nothing(self, guarded: Serving) -> None:
        with guarded.connection() as client:
            for command in (
                ["GET", "a"],
                ["SET", "a", "1"],
                ["PING"],
                ["MULTI"],
                ["SELECT", "1"],
                ["CONFIG", "GET", "*"],
            ):
                assert client.call(*command) == NOT_AUTHENTICATED
            assert client.call("AUTH", "wrong").mark == "-"
            assert client.call("GET", "a") == NOT_AUTHENTICATED
            assert client.call("AUTH", PASSWORD) == OK
            assert client.call("GET", "a") == Reply("$", None)

    def test_may_say_who_they_are_with_hello(self, guarded: Serving) -> None:
        with guarded.connection() as client:
            assert client.call("HELLO", "3").mark == "-"
            assert client.call("HELLO", "3", "AUTH", "default", "wrong").mark == "-"
            assert client.call("GET", "a") == NOT_AUTHENTICATED
            assert client.call("HELLO", "3", "AUTH", "default", PASSWORD).mark == "%"
            assert client.call("GET", "a") == Reply("_", b"")

    @pytest.mark.parametrize(
        ("sent", "problem"),
        [
            (b"*11\r\n", b"unauthenticated multibulk length"),
            (b"*1\r\n$16385\r\n", b"unauthenticated bulk length"),
            (b"*1048576\r\n", b"unauthenticated multibulk length"),
            (b"*1\r\n$536870912\r\n", b"unauthenticated bulk length"),
            # Lines as well, which Redis holds to 64 KiB alone.
            (b"x " * 11 + b"\r\n", b"unauthenticated multibulk length"),
            (b"x " * 15_000 + b"\r\n", b"unauthenticated multibulk length"),
            (b"AUTH " + b"x" * 16_385 + b"\r\n", b"unauthenticated bulk length"),
            (b"x" * 32_768, b"too big inline request"),
            (b"*" + b"1" * 32_768, b"too big mbulk count string"),
        ],
        ids=lambda value: value[:20].decode(),
    )
    def test_may_send_little(self, guarded: Serving, sent: bytes, problem: bytes) -> None:
        answer = everything_answered(guarded.redis, encoded(["AUTH", "wrong"]), sent)
        assert answer.endswith(b"-ERR Protocol error: " + problem + b"\r\n")
        # A line of 32 KiB is kept while it may still end.
        assert_no_growth_of(guarded, [sent] * 50, 2 * MEBIBYTE, PASSWORD)

    def test_may_send_more_once_known(self, guarded: Serving) -> None:
        with guarded.connection() as client:
            value = b"v" * MEBIBYTE
            commands: list[list[bytes | str]] = [["AUTH", PASSWORD], ["SET", "a", value], ["STRLEN", "a"]]
            assert client.pipelined(commands) == [OK, OK, Reply(":", MEBIBYTE)]

    def test_the_password_is_in_no_list_of_processes(self, guarded: Serving) -> None:
        assert PASSWORD.encode() not in Path(f"/proc/{guarded.process.pid}/cmdline").read_bytes()


# What makes no sense.


@pytest.mark.parametrize(
    "sent",
    [b"*x\r\n", b"*1\r\n:5\r\n", b"*1\r\n$x\r\n", b"*1\r\n$-5\r\n", b'GET "a\r\n', b"x" * 70_000],
    ids=repr,
)
def test_a_protocol_error_is_told_and_ends_the_connection(serving: Serving, sent: bytes) -> None:
    answer = everything_answered(serving.redis, encoded(["PING"]) + sent, encoded(["SET", "a", "1"]))
    assert re.fullmatch(rb"\+PONG\r\n-ERR Protocol error: [^\r\n]+\r\n", answer)
    with serving.connection() as client:
        assert client.call("GET", "a") == Reply("$", None)


@pytest.mark.parametrize(
    "first", [b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: example.org\r\n", b"post x\r\n"]
)
def test_a_browser_can_be_made_to_do_nothing(serving: Serving, first: bytes) -> None:
    """A page in a browser on the server's machine can send such a request to any port."""
    sent = first + b"\r\nSET a 1\r\n" + encoded(["SET", "a", "1"])
    assert b"+OK" not in everything_answered(serving.redis, sent)
    with serving.connection() as client:
        assert client.call("EXISTS", "a") == Reply(":", 0)


HOSTILE_WORDS = st.lists(
    st.sampled_from(
        [b"\r\n+OK\r\n", b"\n", b"\r", b"\r\n$5\r\nwrong\r\n", b"GET", b"SET", b"EX", b"x\r\ny", b"AUTH"]
    ),
    min_size=1,
    max_size=6,
)


def test_what_was_sent_never_begins_another_reply(serving: Serving) -> None:
    """An error that repeats a line break of its client's would be two replies to whoever reads them."""
    commands = [
        "NONE\r\n+OK\r\n",
        "GET",
        "SET",
        "CLIENT",
        "HELLO",
        "CONFIG",
        "COMMAND",
        "SELECT",
        "EXPIRE",
        "AUTH",
    ]

    @given(st.sampled_from(commands), HOSTILE_WORDS)
    def check(name: str, words: list[bytes]) -> None:
        with serving.connection() as client:
            client.send(name, *words)
            client.send("ECHO", "the next")
            # One reply to one command: a line break in it would be taken for its end, as clients take it.
            client.read()
            assert client.read() == Reply("$", b"the next")

    check()


# What takes memory.


def assert_no_growth_of(
    serving: Serving, sent: list[bytes], bytes_max: int, password: str | None = None
) -> None:
    """As many clients as there are things to send, none of which reads: the server stays small."""
    before = serving.private_bytes()
    with contextlib.ExitStack() as stack:
        for part in sent:
            connection = stack.enter_context(contextlib.closing(connected(serving.redis)))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                rest = part
                while rest:
                    rest = rest[connection.send(rest) :]
        largest = 0
        for _ in range(20):
            time.sleep(0.02)
            largest = max(largest, serving.private_bytes() - before)
        assert_serves(serving, seconds_max=30, password=password)
    assert largest < bytes_max, f"{largest / MEBIBYTE:.1f} MiB more"


def test_lengths_that_are_only_announced_take_no_memory(serving: Serving) -> None:
    assert_no_growth_of(serving, [b"*1\r\n$536870912\r\nx"] * 100, 4 * MEBIBYTE)
    assert_no_growth_of(serving, [b"*1048576\r\n$1\r\nx\r\n"] * 100, 4 * MEBIBYTE)


def test_clients_that_never_read_take_little(serving: Serving) -> None:
    """Each is owed 50 MB; what the server keeps for it is what it had answered when it stopped reading."""
    with serving.connection() as client:
        assert client.call("SET", "large", b"v" * 100_000) == OK
    requests = encoded(["GET", "large"]) * 500
    assert_no_growth_of(serving, [requests] * 100, CROWD_BYTES_MAX)


def growth_beside(serving: Serving, act: Callable[[socket.socket, int], None], count: int, steps: int) -> int:
    """By how much the server's own memory grows while so many clients act so often, and others are served."""
    before = largest = serving.private_bytes()
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(contextlib.closing(connected(serving.redis))) for _ in range(count)]
        for connection in crowd:
            connection.setblocking(False)
        for step in range(steps):
            for connection in crowd:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    act(connection, step)
            largest = max(largest, serving.private_bytes())
    return largest - before


def test_a_thousand_slow_senders_take_little(serving: Serving) -> None:
    sent = encoded(["SET", "slow", "x" * 10])

    def act(connection: socket.socket, step: int) -> None:
        connection.send(sent[step : step + 1])

    assert growth_beside(serving, act, 1000, len(sent)) < CROWD_BYTES_MAX // 4
    assert_serves(serving, seconds_max=30)
    with serving.connection() as client:
        assert client.call("GET", "slow") == Reply("$", b"x" * 10)


def test_a_flood_before_a_login_takes_little(guarded: Serving) -> None:
    flood = encoded([b"x" * 16_000] * 10) * 20

    def act(connection: socket.socket, _step: int) -> None:
        connection.send(flood)

    assert growth_beside(guarded, act, 200, 10) < CROWD_BYTES_MAX
    assert_serves(guarded, seconds_max=30, password=PASSWORD)


def test_arguments_that_are_too_long_take_little(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB", "--argument-max", "1MiB") as serving:
        sent = b"*2\r\n$4\r\nECHO\r\n$1048577\r\n" + b"x" * 1_000_000

        def act(connection: socket.socket, _step: int) -> None:
            connection.send(sent)

        assert growth_beside(serving, act, 200, 5) < CROWD_BYTES_MAX // 4
        assert_serves(serving, seconds_max=30)


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[int]:
    """So many open files for this process and those that it starts, or as many as the machine grants."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (count if limit == resource.RLIM_INFINITY else max(limit, count) for limit in before)
    try:
        # Only an administrator may go beyond the hard limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
        yield min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ten_thousand_idle_connections_take_less_than_100_mb(location: str) -> None:
    wanted, beside = 10_000, 1_200
    with descriptors(wanted + beside) as granted:
        count = granted - beside
        assert count >= 1_000, f"ulimit -Hn is {granted}: this needs {wanted + beside}, or 2,200 at the least"
        with (
            thermae_serve(location, "--hot", "16MiB", "--clients-max", str(count + 2)) as serving,
            contextlib.ExitStack() as stack,
        ):
            before = serving.private_bytes()
            crowd = [stack.enter_context(contextlib.closing(connected(serving.redis))) for _ in range(count)]
            for connection in crowd:
                connection.sendall(encoded(["SET", "key", b"v" * 1000]))
            for connection in crowd:
                assert connection.recv(100) == b"+OK\r\n"
            assert serving.private_bytes() - before < 100_000_000 * count // wanted
            assert_serves(serving, seconds_max=30)
    if count < wanted:
        pytest.skip(
            f"in order with {count} connections, and {wanted} were not tried: ulimit -Hn is {granted}"
        )


def test_clients_that_never_read_lose_nothing(serving: Serving) -> None:
    with serving.connection() as client:
        client.call("SET", "large", b"v" * 100_000)
        client.socket.sendall(encoded(["GET", "large"]) * 200)
        time.sleep(0.2)
        assert_serves(serving)
        for _ in range(200):
            assert client.read().value == b"v" * 100_000


def test_memory_comes_back_when_clients_leave(serving: Serving) -> None:
    with serving.connection() as client:
        client.call("SET", "large", b"v" * MEBIBYTE)
    before = serving.private_bytes()
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(serving.connection())
                client.socket.sendall(
                    encoded(["GET", "large"]) * 5 + encoded(["SET", "other", b"x" * MEBIBYTE])[:-5]
                )
            time.sleep(0.1)
    wait_until(lambda: serving.private_bytes() - before < 32 * MEBIBYTE)


# What takes time.


def test_slow_senders_are_served_and_hold_up_nobody(serving: Serving) -> None:
    """Fifty clients that send a byte at a time, each of them a command of its own."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(serving.connection()) for _ in range(50)]
        commands = [encoded(["SET", f"slow:{number}", b"\r\n%d" % number]) for number in range(len(clients))]
        for position in range(max(map(len, commands))):
            for client, command in zip(clients, commands, strict=True):
                client.socket.sendall(command[position : position + 1])
            if position % 10 == 0:
                assert_serves(serving)
        assert [client.read() for client in clients] == [OK] * len(clients)
        for number, client in enumerate(clients):
            assert client.call("GET", f"slow:{number}") == Reply("$", b"\r\n%d" % number)


@pytest.mark.parametrize("bytes_of_first", [65_535, 65_536, 65_537, 3 * 65_536])
def test_a_part_that_fills_a_read_is_kept(serving: Serving, bytes_of_first: int) -> None:
    """What had come was dropped where a read was full to the last byte, and the next one found nothing."""
    value = os.urandom(300_000)
    sent = encoded(["SET", "parts", value])
    with serving.connection() as client, serving.connection() as other:
        client.socket.sendall(sent[:bytes_of_first])
        # Once this is answered, all that came before has been read.
        assert [other.call("PING") for _ in range(3)] == [PONG] * 3
        client.socket.sendall(sent[bytes_of_first:])
        assert client.read() == OK
        assert client.call("GET", "parts") == Reply("$", value)


def test_an_argument_of_many_pieces_takes_time_in_proportion(serving: Serving) -> None:
    """8 MiB in pieces of 4 KiB: looking at all that came before for each piece would take minutes."""
    value = os.urandom(MEBIBYTE) * 8
    sent = encoded(["ECHO", value])
    with serving.connection() as client:
        answers: list[Reply] = []
        reader = threading.Thread(target=lambda: answers.append(client.read()))
        reader.start()
        started = time.monotonic()
        for position in range(0, len(sent), 4096):
            client.socket.sendall(sent[position : position + 4096])
        reader.join()
        assert answers[0].value == value
        assert time.monotonic() - started < 10
    many = [b"x"] * 300_000
    with serving.connection() as client:
        started = time.monotonic()
        assert client.call("DEL", *many) == Reply(":", 0)
        assert time.monotonic() - started < 10


def test_a_long_pipeline_lets_others_have_their_turn(serving: Serving) -> None:
    """Two million keys to look for, in commands that lie in the socket, are no single turn."""
    count, sent = 20_000, encoded(["EXISTS", *["absent"] * 100]) * 20_000
    with serving.connection() as client, serving.connection() as other:
        sender = threading.Thread(target=client.socket.sendall, args=(sent,))
        sender.start()
        turns_of_others = 0
        # The replies are so short that the server need not wait until they are taken. One says that it began.
        received = len(client.socket.recv(4))
        while received < count * len(b":0\r\n"):
            assert other.call("PING") == PONG
            turns_of_others += 1
            if select.select([client.socket], [], [], 0)[0]:
                received += len(client.socket.recv(1 << 20))
        sender.join()
    assert turns_of_others > 10


# How many may come, and from where.


def test_too_many_clients_are_told_so(location: str) -> None:
    with (
        thermae_serve(location, "--hot", "16MiB", "--clients-max", "3") as serving,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(serving.connection()) for _ in range(3)]
        assert [client.call("PING") for client in clients] == [PONG] * 3
        for _ in range(10):
            assert everything_answered(serving.redis) == b"-ERR max number of clients reached\r\n"
        assert [client.call("PING") for client in clients] == [PONG] * 3
        clients[0].close()

        def one_more_is_served() -> bool:
            with serving.connection() as client:
                client.send("PING")
                return client.read() == PONG

        wait_until(one_more_is_served)


def test_connections_beyond_the_limit_of_files_are_not_the_end(location: str) -> None:
    """Accepting once ended for good where the system had no descriptor left (CVE-2025-48367)."""
    with thermae_serve(location, "--hot", "16MiB") as serving:
        descriptors = len(list(Path(f"/proc/{serving.process.pid}/fd").iterdir()))
        resource.prlimit(serving.process.pid, resource.RLIMIT_NOFILE, (descriptors + 5, descriptors + 5))
        crowd = [connected(serving.redis) for _ in range(20)]
        time.sleep(0.3)
        for connection in crowd:
            connection.close()
        assert_serves(serving, seconds_max=5)


def test_a_socket_is_for_its_user_alone(location: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with thermae_serve(location, "--hot", "16MiB", "--unix", str(path)) as serving:
        assert serving.redis == f"unix:{path}"
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert_serves(serving)
        assert serving.terminate() == 0
        assert not path.exists()


def test_a_socket_replaces_nothing_but_an_abandoned_socket(location: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as abandoned:
        abandoned.bind(str(path))
    with thermae_serve(location, "--hot", "16MiB", "--unix", str(path)) as serving:
        with (
            pytest.raises(AssertionError, match="ended with 1"),
            thermae_serve(location, "--unix", str(path)),
        ):
            pass
        assert_serves(serving)
    path.write_text("precious")
    with pytest.raises(AssertionError, match="ended with 1"), thermae_serve(location, "--unix", str(path)):
        pass
    assert path.read_text() == "precious"


def own_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            # The kernel's answer for each interface, a `struct ifreq`; those without an address have none.
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, SIOCGIFADDR, name.encode()[:15].ljust(40, b"\0"))
                address = socket.inet_ntoa(answer[20:24])
                if not address.startswith("127."):
                    return address
    pytest.skip("this machine has no address but those of its loopback: nobody can come from elsewhere")


class TestProtectedMode:
    def answer_from_elsewhere(self, serving: Serving) -> Reply:
        port = serving.redis.rpartition(":")[2]
        with Connection(f"{own_address()}:{port}") as client:
            with contextlib.suppress(ConnectionError):
                client.send("PING")
            return client.read()

    def test_refuses_other_machines(self, location: str) -> None:
        with thermae_serve(location, "--hot", "16MiB", "--redis", "0.0.0.0:0") as serving:
            port = serving.redis.rpartition(":")[2]
            answer = everything_answered(f"{own_address()}:{port}")
            assert answer.startswith(b"-DENIED ")
            assert answer.count(b"\r\n") == 1
            with Connection(f"127.0.0.1:{port}") as client:
                assert client.call("PING") == PONG

    def test_may_be_turned_off(self, location: str) -> None:
        options = ("--hot", "16MiB", "--redis", "0.0.0.0:0", "--no-protected-mode")
        with thermae_serve(location, *options) as serving:
            assert self.answer_from_elsewhere(serving) == PONG

    def test_is_off_where_there_is_a_password(self, location: str) -> None:
        options = ("--hot", "16MiB", "--redis", "0.0.0.0:0", "--password", PASSWORD)
        with thermae_serve(location, *options) as serving:
            assert self.answer_from_elsewhere(serving) == NOT_AUTHENTICATED


# The end.


def test_replies_that_are_under_way_are_finished(location: str) -> None:
    count, value = 5_000, b"v" * 1_000
    with thermae_serve(location, "--hot", "16MiB") as serving, serving.connection() as client:
        client.call("SET", "a", value)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        client.socket.sendall(encoded(["GET", "a"]) * count)
        assert client.read() == Reply("$", value)
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        for _ in range(count - 1):
            assert client.read() == Reply("$", value)
        assert client.rest() == b""
        assert serving.process.wait(10) == 0


def test_whoever_takes_nothing_does_not_keep_it_from_ending(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving, serving.connection() as client:
        client.call("SET", "large", b"v" * 100_000)
        client.socket.sendall(encoded(["GET", "large"]) * 500)
        time.sleep(0.2)
        started = time.monotonic()
        assert serving.terminate() == 0
        assert time.monotonic() - started < 15


def test_idle_clients_do_not_delay_the_end(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(serving.connection()) for _ in range(100)]
        assert [client.call("PING") for client in clients] == [PONG] * 100
        started = time.monotonic()
        assert serving.terminate() == 0
        assert time.monotonic() - started < 3
        assert [client.rest() for client in clients] == [b""] * 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(location: str, number: signal.Signals) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        serving.process.send_signal(number)
        assert serving.process.wait(10) == 0


@pytest.mark.parametrize("threads", [2, 4])
def test_several_loops_serve_one_store(location: str, threads: int) -> None:
    with (
        thermae_serve(location, "--hot", "16MiB", "--threads", str(threads), *DEBUG) as serving,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(serving.connection()) for _ in range(8)]
        for number, client in enumerate(clients):
            assert client.call("SET", f"key:{number}", number) == OK
        for client in clients:
            commands = [["GET", f"key:{number}"] for number in range(8)]
            assert client.pipelined(commands) == [Reply("$", b"%d" % number) for number in range(8)]
        # While one client keeps its loop, those of the others are served.
        sleeper, *others = clients
        sleeper.send("DEBUG", "SLEEP", "1")
        for client in others:
            client.send("PING")
        served: set[socket.socket] = set()
        while sleeper.socket not in served:
            waiting = [client.socket for client in clients if client.socket not in served]
            served |= set(select.select(waiting, [], [], 30)[0])
        assert [client.read() for client in (sleeper, *others)] == [OK] + [PONG] * 7
    on_each = len(clients) // threads
    assert len(served) - 1 >= len(clients) - on_each


def test_an_address_in_use_is_an_error_that_names_it(location: str) -> None:
    with thermae_serve(location, "--hot", "16MiB") as serving:
        expected = f"ended with 1: .*cannot listen on {re.escape(serving.redis)} .--redis.: another"
        with (
            pytest.raises(AssertionError, match=expected),
            thermae_serve(location, "--redis", serving.redis),
        ):
            pass


def test_a_loop_that_panics_ends_the_server_as_a_whole(location: str) -> None:
    """Its clients were dealt to a loop that was gone, and the server went on as if nothing had happened."""
    with (
        thermae_serve(location, "--hot", "16MiB", "--threads", "2", *DEBUG) as serving,
        serving.connection() as owed,
        serving.connection() as panics,
    ):
        assert owed.call("SET", "large", b"v" * 1_000_000) == OK
        owed.socket.sendall(encoded(["GET", "large"]) * 16)
        assert owed.read().value == b"v" * 1_000_000
        panics.send("DEBUG", "PANIC")
        assert panics.rest() == b""
        assert owed.read().value == b"v" * 1_000_000
        owed.close()
        assert serving.process.wait(20) == 1
        assert serving.process.stderr is not None
        told = serving.process.stderr.read()
        assert re.search(r"thermae-loop-\d panicked: the client 127\.0\.0\.1:\d+ called DEBUG PANIC", told)


# Who keeps a loop for himself.


def test_a_client_that_sleeps_lets_others_have_their_turn(location: str) -> None:
    """Ten seconds of sleep in one packet were ten seconds for everybody."""
    with thermae_serve(location, "--hot", "16MiB", *DEBUG) as serving, serving.connection() as sleeper:
        sleeper.socket.sendall(encoded(["DEBUG", "SLEEP", "0.5"]) * 20)
        assert sleeper.read() == OK
        with serving.connection() as other:
            started = time.monotonic()
            assert other.call("PING") == PONG
            assert time.monotonic() - started < 5
        assert sleeper.read() == OK


def test_a_list_of_keys_that_are_missed_lets_others_have_their_turn(location: str) -> None:
    options = ("--hot", "16MiB", "--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0")
    with (
        thermae_serve(location, *options) as serving,
        contextlib.closing(connected(serving.memcached)) as client,
        serving.connection() as other,
    ):
        client.sendall(b"get" + b" x" * 1_000_000 + b"\r\n")
        client.settimeout(0)
        turns_of_others = 0
        while True:
            assert other.call("PING") == PONG
            turns_of_others += 1
            with contextlib.suppress(BlockingIOError):
                assert client.recv(100) == b"END\r\n"
                break
        assert turns_of_others > 3


class TestStrangersOfMemcached:
    def test_may_send_what_a_login_needs(self, location: str) -> None:
        options = ("--hot", "16MiB", "--memcached", "127.0.0.1:0", "--redis", "127.0.0.1:0")
        with thermae_serve(location, *options, environment={"THERMAE_PASSWORD": PASSWORD}) as serving:
            before = serving.private_bytes()
            with contextlib.ExitStack() as stack:
                for sent in (b"get " + b"k " * 4_000_000, b"set k 0 0 1048576\r\n" + b"x" * 1_000_000):
                    for _ in range(50):
                        client = stack.enter_context(contextlib.closing(connected(serving.memcached)))
                        with contextlib.suppress(ConnectionError):
                            client.sendall(sent)
                        with contextlib.suppress(ConnectionError):
                            assert client.recv(100).startswith(b"CLIENT_ERROR ")
                assert serving.private_bytes() - before < 4 * MEBIBYTE
            with contextlib.closing(connected(serving.memcached)) as client:
                login = f"default {PASSWORD}".encode()
                client.sendall(b"set k 0 0 %d\r\n%s\r\nget x\r\n" % (len(login), login))
                assert client.makefile("rb").read(13) == b"STORED\r\nEND\r\n"


def test_a_pause_holds_memcached_clients_too(location: str) -> None:
    options = ("--hot", "16MiB", "--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0")
    with (
        thermae_serve(location, *options) as serving,
        serving.connection() as client,
        contextlib.closing(connected(serving.memcached)) as held,
    ):
        assert client.call("CLIENT", "PAUSE", "60000", "WRITE") == OK
        held.settimeout(0.3)
        held.sendall(b"get k\r\nset k 0 0 1\r\nx\r\nget k\r\n")
        assert held.recv(100) == b"END\r\n"
        with pytest.raises(TimeoutError):
            held.recv(100)
        assert client.call("GET", "k") == Reply("$", None)
        assert client.call("CLIENT", "UNPAUSE") == OK
        held.settimeout(10)
        expected = b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n"
        assert held.makefile("rb").read(len(expected)) == expected
