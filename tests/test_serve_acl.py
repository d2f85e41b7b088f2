"""Users of `thermae serve` are those of redis-server: made-up rules, how they are described, what they allow.

Then what a pair of servers cannot show: files of users, clients whose user is changed or deleted while they
are there, and memcached.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import thermae
from resp import ClosedError, Connection, Reply, connected
from serving import END_SECONDS_MAX, Serving, redis_server, thermae_serve

OK = Reply("+", b"OK")
WAIT_SECONDS_MAX = 10.0

# Of all kinds: with keys of one and of several accesses, with subcommands, without keys, allowed before
# authentication, and some that only Redis has, which rules may name all the same.
COMMANDS = [
    "get",
    "set",
    "del",
    "mget",
    "rename",
    "copy",
    "bitop",
    "exists",
    "ping",
    "select",
    "config",
    "config|get",
    "config|set",
    "client",
    "client|list",
    "acl|whoami",
    "auth",
    "multi",
]
FOREIGN = [
    "lpush",
    "hset|x",
    "zadd",
    "xgroup",
    "xgroup|create",
    "subscribe",
    "eval",
    "function|load",
    "client|tracking",
]
UNKNOWN = [
    "nosuch",
    "config|nosuch",
    "config|get|x",
    "config|",
    "|",
    "get|",
]
CATEGORIES = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
    "all",
    "nosuch",
]
PASSWORD_DIGEST = hashlib.sha256(b"pw").hexdigest()

signs = st.sampled_from("+-")
patterns = st.text("ab*?[]", max_size=4)
selector_rules = st.one_of(
    st.builds("{}{}".format, signs, st.sampled_from(COMMANDS + FOREIGN)),
    st.builds("{}{}".format, signs, st.sampled_from(UNKNOWN)),
    st.builds("{}@{}".format, signs, st.sampled_from(CATEGORIES)),
    st.builds(
        "+{}|{}".format, st.sampled_from(["get", "select", "config"]), st.sampled_from(["0", "a", "Get", ""])
    ),
    st.builds("~{}".format, patterns),
    # With both letters and a lone star, Redis writes what it does not read back.
    st.builds(
        "%{}~{}".format, st.sampled_from(["R", "w", "RW", "wr"]), patterns.filter(lambda text: text != "*")
    ),
    st.builds("&{}".format, patterns),
    st.sampled_from(
        [
            "allkeys",
            "resetkeys",
            "allchannels",
            "resetchannels",
            "allcommands",
            "nocommands",
            "~*",
            "&*",
            "%RR~a",
            "%X~a",
        ]
    ),
)
rules = st.one_of(
    selector_rules,
    selector_rules,
    st.sampled_from(
        [
            "on",
            "off",
            "nopass",
            "resetpass",
            "reset",
            "clearselectors",
            "sanitize-payload",
            "skip-sanitize-payload",
            "bogus",
        ]
    ),
    st.sampled_from(
        [
            "",
            ">pw",
            "<pw",
            ">",
            f"#{PASSWORD_DIGEST}",
            f"!{PASSWORD_DIGEST}",
            "#ab",
            "!ab",
            "(",
            ")",
            "(~a",
            "+get)",
        ]
    ),
    st.lists(selector_rules, max_size=4).map(lambda parts: f"({' '.join(parts)})"),
)
calls = st.one_of(
    st.tuples(st.sampled_from(["get", "del", "exists", "set", "mget"]), *[st.text("ab", max_size=2)] * 2),
    st.tuples(st.sampled_from(["get", "touch", "unlink", "GET", "ttl"]), st.text("ab", max_size=2)),
    st.tuples(st.sampled_from(["rename", "copy"]), st.text("ab", max_size=2), st.text("ab", max_size=2)),
    st.tuples(st.just("set"), st.text("ab", max_size=2), st.just("1"), st.just("get")),
    st.tuples(
        st.sampled_from(["bitop"]), st.just("and"), st.text("ab", max_size=2), st.text("ab", max_size=2)
    ),
    st.sampled_from(
        [
            ("ping",),
            ("config", "get", "maxclients"),
            ("config",),
            ("config", "nosuch"),
            ("client", "getname"),
            ("select", "0"),
            ("select", "1"),
            ("acl", "whoami"),
            ("nosuch", "a"),
            ("multi",),
            ("sort", "a", "by", "b*"),
            ("sort", "a", "get", "#"),
            ("object", "encoding", "a"),
        ]
    ),
)


class Both:
    """Two servers that are told the same."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.addresses = (theirs, ours)

    @contextlib.contextmanager
    def clients(self) -> Iterator[tuple[Connection, Connection]]:
        with Connection(self.addresses[0]) as theirs, Connection(self.addresses[1]) as ours:
            yield theirs, ours


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("acl")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with redis_server(directory) as theirs, thermae_serve(location, "--hot", "16MiB") as serving:
            yield Both(theirs, serving.redis)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


def sorted_rules(text: bytes) -> list[bytes]:
    """Rules without their order: that of single commands is random in Redis."""
    return sorted(text.replace(b"(", b" ( ").replace(b")", b" ) ").split(b" "))


def comparable(reply: Reply) -> object:
    if isinstance(reply.value, list):
        return (reply.mark, [comparable(part) for part in reply.value])
    if isinstance(reply.value, bytes) and b"@all" in reply.value and reply.mark == "$":
        return (reply.mark, sorted_rules(reply.value))
    return reply


def same(clients: tuple[Connection, Connection], *words: str) -> Reply:
    """What both answer, which has to be the same."""
    theirs, ours = (client.call(*words) for client in clients)
    assert comparable(theirs) == comparable(ours), f"{words}\nredis-server: {theirs}\nthermae:      {ours}"
    return ours


@given(changes=st.lists(st.lists(rules, max_size=6), max_size=4))
@example(
    changes=[
        ["on", "+@read", "-@string", "+@write", "-@list"],
        ["+@all", "-@dangerous", "-@slow", "+config|get"],
    ]
)
@example(changes=[["+@admin", "-@connection", "+client", "-client|list"], ["(", "+get", ")", "(~a", "%R~b)"]])
def test_rules_are_described_as_by_redis(both: Both, changes: list[list[str]]) -> None:
    with both.clients() as clients:
        same(clients, "ACL", "DELUSER", "u")
        for change in changes:
            same(clients, "ACL", "SETUSER", "u", *change)
            same(clients, "ACL", "LIST")
            same(clients, "ACL", "GETUSER", "u")
        # What was written is read back.
        text = clients[1].call("ACL", "LIST").value
        assert isinstance(text, list)
        written = [line.value for line in text if isinstance(line.value, bytes)]
        for line in written:
            _, name, *words = line.split(b" ")
            assert clients[1].call("ACL", "SETUSER", b"copy-of-" + name, "reset", *words) == OK
            copied = clients[1].call("ACL", "GETUSER", b"copy-of-" + name)
            original = clients[1].call("ACL", "GETUSER", name)
            assert isinstance(copied.value, list)
            assert isinstance(original.value, list)
            # But for the flag that a reset leaves.
            assert copied.value[2:] == original.value[2:]
            assert clients[1].call("ACL", "DELUSER", b"copy-of-" + name) == Reply(":", 1)


@given(
    change=st.lists(st.one_of(rules.filter(lambda rule: rule != "off"), st.just("~*")), max_size=6),
    made=st.lists(calls, min_size=1, max_size=8),
)
@example(
    change=["+@all", "%R~a*", "(%W~b* +set +rename)"],
    made=[("rename", "a", "b"), ("set", "b", "1", "get"), ("set", "b", "1")],
)
@example(
    change=["+@all", "~a"], made=[("sort", "a", "by", "b*"), ("sort", "a", "get", "#"), ("exists", "a", "b")]
)
def test_what_is_allowed_is_what_redis_allows(
    both: Both, change: list[str], made: list[tuple[str, ...]]
) -> None:
    with both.clients() as admins:
        same(admins, "FLUSHALL")
        same(admins, "ACL", "DELUSER", "u")
        same(admins, "ACL", "LOG", "RESET")
        if same(admins, "ACL", "SETUSER", "u", *change, "on", "nopass") != OK:
            return
        for words in made:
            same(admins, "ACL", "DRYRUN", "u", *words)
        with both.clients() as users:
            same(users, "AUTH", "u", "any")
            for words in made:
                if words[0] != "multi":
                    same(users, *words)
            # The same in a transaction, where some of it is allowed when it is queued and not when it is run.
            same(users, "MULTI")
            for words in made:
                same(users, *words)
            same(admins, "ACL", "SETUSER", "u", "-get", "-@keyspace", "resetkeys", "%R~a*")
            same(users, "EXEC")
        logs = [admin.call("ACL", "LOG", 100).value for admin in admins]
        theirs, ours = ([without_client(entry) for entry in log] for log in logs if isinstance(log, list))
        assert theirs == ours


def without_client(entry: Reply) -> list[object]:
    """An entry of the log, without its age and what else the server knows of the client."""
    assert isinstance(entry.value, list)
    names = [part.value for part in entry.value[::2]]
    values = [part.value for part in entry.value[1::2]]
    client = values[names.index(b"client-info")]
    assert isinstance(client, bytes)
    told = [word for word in client.split(b" ") if word.startswith((b"user=", b"cmd=", b"db=", b"name="))]
    return [names, values[:5], told]


@pytest.fixture
def serving(location: str) -> Iterator[Serving]:
    options = ("--hot", "16MiB", "--redis", "127.0.0.1:0", "--memcached", "127.0.0.1:0", "--threads", "3")
    with thermae_serve(location, *options) as serving:
        yield serving


def is_closed(client: Connection) -> bool:
    try:
        client.call("PING")
    except (ClosedError, ConnectionError):
        return True
    return False


class TestClientsThatAreThere:
    def test_of_a_deleted_user_are_closed(self, serving: Serving) -> None:
        with contextlib.ExitStack() as stack:
            admin, *clients = (stack.enter_context(serving.connection()) for _ in range(7))
            assert admin.call("ACL", "SETUSER", "a", "on", "nopass", "+@all", "~*") == OK
            for client in clients[:5]:
                assert client.call("AUTH", "a", "x") == OK
            users = admin.call("CLIENT", "LIST").value
            assert isinstance(users, bytes)
            assert users.count(b" user=a ") == 5
            assert users.count(b" user=default ") == 2
            assert admin.call("ACL", "DELUSER", "a") == Reply(":", 1)
            # Whatever they try comes too late, or is refused.
            for client in clients[:5]:
                with contextlib.suppress(ClosedError, ConnectionError):
                    assert client.call("SET", "k", "v").mark == "-"
                assert client.rest() == b""
            assert clients[5].call("GET", "k") == Reply("$", None)

    def test_that_deletes_its_own_user_gets_the_reply(self, serving: Serving) -> None:
        with serving.connection() as admin, serving.connection() as client:
            assert admin.call("ACL", "SETUSER", "a", "on", "nopass", "+@all", "~*") == OK
            assert client.call("AUTH", "a", "x") == OK
            assert client.call("ACL", "DELUSER", "a") == Reply(":", 1)
            assert client.rest() == b""

    def test_have_the_new_rights_with_their_next_command(self, serving: Serving) -> None:
        """Those of `default` too, which nothing had to be looked up for before; on all loops, each time."""
        with contextlib.ExitStack() as stack:
            admin, *clients = (stack.enter_context(serving.connection()) for _ in range(10))
            assert admin.call("ACL", "SETUSER", "admin", "on", "nopass", "+@all", "~*", "&*") == OK
            assert admin.call("AUTH", "admin", "x") == OK
            for client in clients[:3]:
                assert client.call("AUTH", "admin", "x") == OK
            for _ in range(50):
                assert admin.call("ACL", "SETUSER", "default", "-get") == OK
                replies = [client.call("GET", "k").mark for client in clients]
                assert replies == ["$"] * 3 + ["-"] * 6
                assert admin.call("ACL", "SETUSER", "default", "+@all") == OK
                assert [client.call("GET", "k").mark for client in clients] == ["$"] * 9

    def test_keep_what_they_are_when_the_password_changes(self, serving: Serving) -> None:
        with serving.connection() as admin, serving.connection() as client:
            assert client.call("PING") == Reply("+", b"PONG")
            assert admin.call("CONFIG", "SET", "requirepass", "secret") == OK
            assert client.call("PING") == Reply("+", b"PONG")
            with serving.connection() as stranger:
                assert stranger.call("PING").mark == "-"
                assert stranger.call("AUTH", "secret") == OK
                assert stranger.call("ACL", "WHOAMI") == Reply("$", b"default")

    def test_can_be_killed_by_their_user(self, serving: Serving) -> None:
        with serving.connection() as admin, serving.connection() as client:
            assert admin.call("ACL", "SETUSER", "a", "on", "nopass", "+@all", "~*") == OK
            assert client.call("AUTH", "a", "x") == OK
            assert admin.call("CLIENT", "KILL", "USER", "b").mark == "-"
            assert admin.call("CLIENT", "KILL", "USER", "a") == Reply(":", 1)
            assert is_closed(client)
            assert admin.call("PING") == Reply("+", b"PONG")


def asked(client: socket.socket, request: bytes, end: bytes) -> bytes:
    client.sendall(request)
    answer = b""
    while not answer.endswith(end):
        part = client.recv(1000)
        assert part, answer
        answer += part
    return answer


def test_a_memcached_client_comes_in_as_who_may_do_everything(serving: Serving) -> None:
    with serving.connection() as admin:
        assert admin.call("ACL", "SETUSER", "all", "on", ">pw", "+@all", "~*", "&*") == OK
        assert admin.call("ACL", "SETUSER", "some", "on", ">pw", "+@all", "~*", "&*", "-get") == OK
        assert admin.call("ACL", "SETUSER", "default", "off", "resetpass") == OK
    with connected(serving.memcached) as client:
        assert asked(client, b"get k\r\n", b"\r\n") == b"CLIENT_ERROR unauthenticated\r\n"
        assert (
            asked(client, b"set x 0 0 7\r\nsome pw\r\n", b"\r\n")
            == b"CLIENT_ERROR authentication failure\r\n"
        )
        assert asked(client, b"set x 0 0 6\r\nall pw\r\n", b"\r\n") == b"STORED\r\n"
        assert asked(client, b"get k\r\n", b"END\r\n") == b"END\r\n"


class TestFiles:
    def test_are_loaded_at_the_start_and_saved(self, location: str, tmp_path: Path) -> None:
        file = tmp_path / "users.acl"
        file.write_text(
            "user default off\nuser admin on >pw ~* &* +@all\nuser app on >app ~app:* -@all +@read\n"
        )
        with thermae_serve(location, "--hot", "16MiB", "--acl-file", str(file)) as serving:
            with serving.connection() as client:
                assert client.call("PING").mark == "-"
                assert client.call("AUTH", "admin", "wrong").mark == "-"
                assert client.call("AUTH", "admin", "pw") == OK
                assert client.call("CONFIG", "GET", "aclfile").value == [
                    Reply("$", b"aclfile"),
                    Reply("$", str(file).encode()),
                ]
                assert client.call("ACL", "SETUSER", "more", "on", "+get") == OK
                assert client.call("ACL", "SAVE") == OK
            assert os.stat(file).st_mode & 0o777 == 0o600
            assert [line.split()[1] for line in file.read_text().splitlines()] == [
                "admin",
                "app",
                "default",
                "more",
            ]
        with thermae_serve(location, "--acl-file", str(file)) as serving, serving.connection() as client:
            assert client.call("AUTH", "app", "app") == OK
            assert client.call("GET", "app:1") == Reply("$", None)
            assert client.call("GET", "x").mark == "-"

    def test_are_what_redis_saves(self, location: str, tmp_path: Path) -> None:
        """And the other way round: each reads what the other has written."""
        made = [
            "on",
            ">pw",
            "+@all",
            "-@dangerous",
            "-lpush",
            "%R~a*",
            "~b*",
            "&c*",
            "(+@list ~l* -lpop)",
            "skip-sanitize-payload",
        ]
        with redis_server(tmp_path) as address, Connection(address) as theirs:
            assert theirs.call("ACL", "SETUSER", "u", *made) == OK
            listed = theirs.call("ACL", "LIST").value
            assert isinstance(listed, list)
            file = tmp_path / "users.acl"
            file.write_bytes(b"".join(line.value + b"\n" for line in listed if isinstance(line.value, bytes)))
            options = ("--hot", "16MiB", "--acl-file", str(file))
            with thermae_serve(location, *options) as serving, serving.connection() as ours:
                assert comparable(ours.call("ACL", "LIST")) == comparable(Reply("*", listed))
                assert ours.call("ACL", "SAVE") == OK
            for line in file.read_bytes().splitlines():
                _, name, *words = line.split(b" ")
                assert theirs.call("ACL", "SETUSER", name, "reset", *words) == OK
            again = theirs.call("ACL", "GETUSER", "u")
            assert isinstance(again.value, list)
            assert theirs.call("ACL", "SETUSER", "v", *made) == OK
            wanted = theirs.call("ACL", "GETUSER", "v")
            assert comparable(again) == comparable(wanted)

    def test_that_make_no_sense_are_not_served(self, location: str, tmp_path: Path) -> None:
        file = tmp_path / "users.acl"
        file.write_text("user default on nopass ~* &* +@all\nuser app on +nosuch\n")
        program = "from thermae.cli import main; main(prog_name='thermae')"
        arguments = ["serve", location, "--hot", "16MiB", "--redis", "127.0.0.1:0", "--acl-file", str(file)]
        command = [sys.executable, "-c", program, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=END_SECONDS_MAX, check=False)
        assert ended.returncode == 2
        reason = (
            "users.acl:2: Error in applying operation '+nosuch': Unknown command or category name in ACL."
        )
        assert reason in " ".join(ended.stderr.split()), ended.stderr
        # A password that would be passed over.
        file.write_text("user default on nopass ~* &* +@all\n")
        with_password = [*command, "--password", "secret"]
        ended = subprocess.run(
            with_password, capture_output=True, text=True, timeout=END_SECONDS_MAX, check=False
        )
        assert ended.returncode == 2
        assert "lets the user default in without a password" in " ".join(ended.stderr.split()), ended.stderr
        file.unlink()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=END_SECONDS_MAX, check=False)
        assert ended.returncode == 2
        assert "No such file" in ended.stderr

    def test_replace_all_users_or_none(self, location: str, tmp_path: Path) -> None:
        file = tmp_path / "users.acl"
        file.write_text("user a on nopass ~* +@all\nuser b on nopass ~* +@all\n")
        with (
            thermae_serve(
                location, "--hot", "16MiB", "--acl-file", str(file), "--password", "secret"
            ) as serving,
            serving.connection() as admin,
            serving.connection() as first,
            serving.connection() as second,
        ):
            assert admin.call("PING").mark == "-"
            assert admin.call("AUTH", "secret") == OK
            assert first.call("AUTH", "a", "x") == OK
            assert second.call("AUTH", "b", "x") == OK
            file.write_text("user a on nopass ~* +@all\nuser a on\n")
            assert admin.call("ACL", "LOAD").mark == "-"
            assert second.call("GET", "k") == Reply("$", None)
            file.write_text("user a on nopass ~* +@all -get\n")
            assert admin.call("ACL", "LOAD") == OK
            assert first.call("GET", "k").mark == "-"
            assert first.call("SET", "k", "v") == OK
            assert is_closed(second)
            # The file says nothing of `default`: it is as it was.
            with serving.connection() as stranger:
                assert stranger.call("PING").mark == "-"
