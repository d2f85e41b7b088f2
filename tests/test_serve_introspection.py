"""COMMAND says of each command what redis-server says of it: arguments, versions, keys, flags, categories.

Compared field by field, as facts: in which words a command is summed up is everyone's own. What differs and
is meant to is listed with its reason, and a reason that nothing needs any more fails as well.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thermae
from resp import Connection, Reply, readable
from serving import redis_server, thermae_serve

# What the fields of COMMAND DOCS and INFO are made of: maps, sets and lists of texts and numbers.
Fact = str | int | None | list["Fact"] | dict[str, "Fact"]

CATEGORIES = [
    *("keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog"),
    *("geo", "stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection"),
    *("transaction", "scripting"),
]

# By command and field of COMMAND DOCS.
MEANT_IN_DOCS = {
    ("command|getkeys", "arguments"): "Redis 7.0 says nothing of what it takes",
    ("command|getkeysandflags", "arguments"): "Redis 7.0 says nothing of what it takes",
    ("debug", "arguments"): "Redis 7.0 says nothing of what it takes, which is more than here",
}


class Pair(NamedTuple):
    """Clients of both servers, in RESP3."""

    theirs: Connection
    ours: Connection
    our_address: str

    def names(self) -> list[str]:
        """All commands and subcommands that we have, of which each has to be theirs, too."""
        theirs, ours = (listed(client, "FILTERBY", "PATTERN", "*") for client in (self.theirs, self.ours))
        assert len(ours) > 150
        assert ours <= theirs
        return sorted(ours)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("introspection")
    location = f"shm://thermae-{directory.name}-{time.monotonic_ns()}"
    try:
        with (
            redis_server(directory) as address,
            thermae_serve(location, "--hot", "16MiB") as serving,
            Connection(address, 3) as theirs,
            serving.connection(3) as ours,
        ):
            yield Pair(theirs, ours, serving.redis)
    finally:
        with contextlib.suppress(thermae.NotAStoreError):
            thermae.destroy(location)


def listed(client: Connection, *words: str) -> set[str]:
    reply = client.call("COMMAND", "LIST", *words)
    assert isinstance(reply.value, list), readable(reply)
    return {str(fact(name)) for name in reply.value}


def fact(reply: Reply) -> Fact:
    """A reply of RESP3 as what it says; the order of a set says nothing."""
    if isinstance(reply.value, bytes):
        return reply.value.decode()
    if not isinstance(reply.value, list):
        return reply.value
    parts = [fact(part) for part in reply.value]
    if reply.mark == "%":
        return {str(name): value for name, value in zip(parts[::2], parts[1::2], strict=True)}
    return sorted(parts, key=repr) if reply.mark == "~" else parts


def documented(client: Connection, *names: str) -> dict[str, dict[str, Fact]]:
    """What COMMAND DOCS says of commands and of all their subcommands, by full name."""
    reply = fact(client.call("COMMAND", "DOCS", *names))
    found: dict[str, dict[str, Fact]] = {}
    rest = [reply]
    while rest:
        commands = rest.pop()
        assert isinstance(commands, dict)
        for name, fields in commands.items():
            assert isinstance(fields, dict)
            rest.append(fields.pop("subcommands", {}))
            found[name] = fields
    return found


def comparable(fields: dict[str, Fact]) -> dict[str, Fact]:
    """The fields without what is said in words."""
    facts = {name: value for name, value in fields.items() if name not in ("summary", "complexity")}
    history = facts.get("history", [])
    assert isinstance(history, list)
    if history:
        facts["history"] = [*sorted(version_of(change) for change in history)]
    if isinstance(replaced_by := facts.get("replaced_by"), str):
        # The command, in backticks, and perhaps how it is to be called.
        facts["replaced_by"] = replaced_by.split("`")[1]
    return facts


def version_of(change: Fact) -> str:
    assert isinstance(change, list)
    version, text = change
    assert isinstance(version, str)
    assert text
    return version


def test_docs_say_of_each_command_what_redis_says(pair: Pair) -> None:
    theirs, ours = documented(pair.theirs), documented(pair.ours)
    assert set(ours) == set(pair.names())
    differing = {}
    for name, fields in ours.items():
        assert fields["summary"]
        assert fields["complexity"]
        their_facts, our_facts = comparable(theirs[name]), comparable(fields)
        for field in their_facts.keys() | our_facts.keys():
            if their_facts.get(field) != our_facts.get(field):
                differing[name, field] = (their_facts.get(field), our_facts.get(field))
    unexpected = {place: both for place, both in differing.items() if place not in MEANT_IN_DOCS}
    assert not unexpected
    assert differing.keys() == MEANT_IN_DOCS.keys()


def test_docs_of_some_commands_are_those_of_all(pair: Pair) -> None:
    everything = documented(pair.ours)
    for name in pair.names():
        assert documented(pair.ours, name.upper())[name] == everything[name]
    asked = ("COMMAND", "DOCS", "config|get", "nonsense", "config|nonsense", "GET", "get|x")
    for client in (pair.theirs, pair.ours):
        reply = fact(client.call(*asked))
        assert isinstance(reply, dict)
        assert list(reply) == ["config|get", "get"]


def test_docs_are_the_same_in_both_protocols(pair: Pair) -> None:
    with Connection(pair.our_address) as client:
        for name in pair.names():
            asked = ("COMMAND", "DOCS", name)
            assert client.call(*asked) == flattened(pair.ours.call(*asked))


def flattened(reply: Reply) -> Reply:
    """A reply of RESP3 as RESP2 has it: maps and sets are arrays."""
    if not isinstance(reply.value, list):
        return reply
    return Reply("*", [flattened(part) for part in reply.value])


def without_notes(value: Fact) -> Fact:
    """Notes are words of everyone's own; whether there are any is a fact."""
    if isinstance(value, list):
        return [without_notes(part) for part in value]
    if isinstance(value, dict):
        return {name: bool(part) if name == "notes" else without_notes(part) for name, part in value.items()}
    return value


def described(client: Connection, name: str) -> Fact:
    """The elements of COMMAND INFO but the last one, the subcommands, who are asked about by themselves."""
    reply = client.call("COMMAND", "INFO", name)
    assert isinstance(reply.value, list)
    [command] = reply.value
    assert isinstance(command.value, list)
    *elements, _ = command.value
    # In their order, although they are called a set: arguments refer to key specifications by index.
    *elements, specifications = elements
    assert isinstance(specifications.value, list)
    return [
        *(fact(element) for element in elements),
        [without_notes(fact(part)) for part in specifications.value],
    ]


def test_info_says_of_each_command_what_redis_says(pair: Pair) -> None:
    for name in pair.names():
        assert described(pair.ours, name) == described(pair.theirs, name)


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories_have_the_same_commands(pair: Pair, category: str) -> None:
    asked = ("FILTERBY", "ACLCAT", category)
    assert listed(pair.ours, *asked) == listed(pair.theirs, *asked) & set(pair.names())


def test_the_list_of_all_has_the_same_commands(pair: Pair) -> None:
    """Subcommands were missing in it, where nothing was filtered."""
    assert listed(pair.ours) == listed(pair.theirs) & set(pair.names())
    assert "acl|cat" in listed(pair.ours)


@pytest.mark.parametrize("pattern", ["*", "GE[TX]*", "config", "CONFIG|*", "*|h?lp", "", "nonsense"])
def test_patterns_find_the_same_commands(pair: Pair, pattern: str) -> None:
    asked = ("FILTERBY", "PATTERN", pattern)
    assert listed(pair.ours, *asked) == listed(pair.theirs, *asked) & set(pair.names())


@pytest.mark.parametrize(
    "words",
    [
        "LIST FILTERBY MODULE nonsense",
        "LIST FILTERBY ACLCAT @read",
        "LIST FILTERBY ACLCAT nonsense",
        "LIST FILTERBY NONSENSE x",
        "LIST FILTERBY ACLCAT read x",
        "LIST FILTERBY",
        "LIST x",
        "COUNT x",
        "GETKEYS",
        "GETKEYS get",
        "GETKEYSANDFLAGS get",
        "INFO nonsense config|nonsense get|x config| |",
        "DOCS nonsense config|nonsense get|x config| |",
        "HELP x",
        "NONSENSE",
    ],
)
def test_what_makes_no_sense_is_refused_alike(pair: Pair, words: str) -> None:
    asked = ("COMMAND", *words.split())
    assert pair.ours.call(*asked) == pair.theirs.call(*asked)


# Words that commands look for, and others.
WORDS = [
    *("a", "b", "0", "1", "2", "-1", "u8", "#1", "GET", "get", "SET", "INCRBY", "OVERFLOW", "FAIL"),
    *("STORE", "BY", "LIMIT", "ASC", "NX", "EX", "AND", "TYPE", "REPLACE", "DB"),
]


def is_meant_to_differ(words: list[str]) -> bool:
    """Whether Redis names other keys than those that the command uses.

    It finds none of PFMERGE with its destination alone, which it creates all the same; and it takes the word
    that SORT stores under for an option, where it is called like one. Rights are checked by these keys: here
    a user who may not write there is refused.
    """
    name, *arguments = words
    if name == "sort":
        after_store = [word for before, word in itertools.pairwise(arguments) if before == "STORE"]
        return "STORE" in after_store or any(word in ("GET", "get", "BY", "LIMIT") for word in after_store)
    return name == "pfmerge" and len(arguments) == 1


@given(data=st.data())
def test_the_same_keys_are_found(pair: Pair, data: st.DataObject) -> None:
    lists = st.lists(st.sampled_from(WORDS), max_size=8)
    commands = []
    for name in pair.names():
        words = [*name.split("|"), *data.draw(lists, label=name)]
        if not is_meant_to_differ(words):
            commands += [("COMMAND", how, *words) for how in ("GETKEYS", "GETKEYSANDFLAGS")]
    theirs, ours = (client.pipelined(commands) for client in (pair.theirs, pair.ours))
    for command, their_reply, our_reply in zip(commands, theirs, ours, strict=True):
        assert fact(our_reply) == fact(their_reply), command
