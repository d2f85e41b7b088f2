"""Made-up commands of the Redis protocol, a generator for each group of them.

A group is a list of templates, one a line: `SET key value set_option*`. A lower-case word is one of `WORDS`
and stands for any of its choices; `*` after it means none to three of them, `+` one to three. Everything is
drawn from a few keys and values, so that commands meet, and one command in eight is damaged: an argument too
many, too few, or nonsense.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from resp import readable_word

Words = tuple[bytes, ...]


class Step(NamedTuple):
    """A command of one of the clients, and how long both servers are left alone after it."""

    client: int
    words: Words
    pause_seconds: float = 0.0

    def __repr__(self) -> str:
        pause = f", then {1000 * self.pause_seconds:.0f} ms" if self.pause_seconds else ""
        return f"<{self.client}: {' '.join(map(readable_word, self.words))}{pause}>"


# A key of bytes that are no text, one of those that look like another database's, and none at all.
KEYS = (b"a", b"b", b"c", b"line\r\nbreak", b"\xff\x01z", b"")
VALUES = (
    *(
        b"1",
        b"abc",
        b"",
        b"10",
        b"-7",
        b"007",
        b"3.5",
        b"hello world",
        b"1e3",
        b" 1",
        b"x\r\n+OK\r\n",
        b"\x00\xff",
    ),
    *(
        b"9223372036854775807",
        b"-9223372036854775808",
        b"ohmytext",
        b"mynewtext",
        b"\x0f\xf0\xaa" * 5,
        b"v" * 100,
    ),
)
NONSENSE = (b"nonsense", b"", b"-1", b"EX", b"\r\n", b"9" * 30, b"\xff")
INTEGERS = (
    *(b"1", b"0", b"-1", b"5", b"10", b"-3", b"1000000", b"9223372036854775807", b"-9223372036854775808"),
    *(b"9223372036854775808", b"1.5", b"x", b"", b" 1", b"1 ", b"+1", b"01", b"-0"),
)
FLOATS = (
    *(
        b"1",
        b"0",
        b"-1",
        b"0.5",
        b"-2.25",
        b"3.0e2",
        b"1e17",
        b"5.0e-3",
        b"10.1",
        b"0.1",
        b"1e400",
        b"inf",
        b"-inf",
    ),
    *(b"nan", b"x", b"", b" 1", b"1 ", b"0x10", b"1e", b"."),
)
# Far from now, in seconds and in milliseconds, so that it does not matter how long a busy machine takes to
# ask the second server; or wrong.
PERIODS = (
    b"1000000",
    b"2000000",
    b"70000000",
    b"0",
    b"-1",
    b"x",
    b"1.5",
    b"",
    b"9223372036854775807",
    b"9223372036854775",
)
MOMENTS = (
    b"4102444800",
    b"4102444800000",
    b"1",
    b"0",
    b"-5",
    b"x",
    b"9223372036854775807",
    b"99999999999999999",
)


# What DUMP of Redis 7.0 says of strings; what it says of none, of a later version, and damaged ones.
PAYLOADS = (
    b"\x00\xc0\x01\n\x00&x\xe7\xb6\xd1\x01\x11\xfc",
    b"\x00\x03abc\n\x00\xd9\xac0=Ar\xa2\xe2",
    b"\x00\x00\n\x00]\x9b\\@\x0f\x7f\xa2\xda",
    b"\x00\xc2p\x11\x01\x00\n\x00\x01\xa4\x08\xfe\x950\x95\xa5",
    b'\x00\x139223372036854775807\n\x00:e~\x94\x81\xe8_"',
    # Compressed: a hundred times "v".
    b"\x00\xc3\t@d\x01vv\xe0W\x00\x01vv\n\x00\x91\xc0\x996\x97\xa8\xf1\x02",
    b"\x00\x03abd\n\x00\xd9\xac0=Ar\xa2\xe2",
    b"\x00\x03abc\x63\x00\xd9\xac0=Ar\xa2\xe2",
    b"\x00\x03ab",
    b"",
)


def _options(*texts: str) -> SearchStrategy[Words]:
    """Any of these, each some literal words and some of `WORDS`."""
    return st.deferred(lambda: st.one_of([_filled(text) for text in texts]))


def _any(words: tuple[bytes, ...]) -> SearchStrategy[Words]:
    return st.sampled_from(words).map(lambda word: (word,))


WORDS: dict[str, SearchStrategy[Words]] = {
    "key": _any(KEYS),
    "value": _any(VALUES),
    "integer": _any(INTEGERS),
    "float": _any(FLOATS),
    "period": _any(PERIODS),
    "moment": _any(MOMENTS),
    "index": _any(
        (b"0", b"1", b"-1", b"2", b"-2", b"3", b"7", b"100", b"-100", b"x", b"9223372036854775807")
    ),
    "offset": _any((b"0", b"1", b"5", b"20", b"-1", b"x", b"536870912", b"9223372036854775807")),
    "bit_offset": _any(
        (b"0", b"1", b"7", b"8", b"9", b"100", b"-1", b"x", b"4294967296", b"9223372036854775807")
    ),
    "bit": _any((b"1", b"0", b"2", b"-1", b"x")),
    "field_type": _any(
        (b"u8", b"i8", b"u1", b"i1", b"u63", b"i64", b"i5", b"u3", b"u64", b"i65", b"u0", b"x8", b"u", b"U8")
    ),
    "field_offset": _any((b"0", b"3", b"#1", b"#0", b"#3", b"17", b"-1", b"#x", b"#-1", b"4294967296")),
    "field_value": _any((b"0", b"1", b"255", b"-128", b"127", b"1000", b"-1", b"9223372036854775807", b"x")),
    "database": _any((b"0", b"1", b"15", b"16", b"-1", b"x")),
    "pattern": _any(
        (
            b"*",
            b"a",
            b"?",
            b"[ab]",
            b"[^a]",
            b"[a-b]",
            b"*\n*",
            b"\\a",
            b"[",
            b"",
            b"a*",
            b"**",
            b"[b-a]",
            b"\xff*",
        )
    ),
    "set_option": _options(
        *(
            "NX",
            "XX",
            "GET",
            "KEEPTTL",
            "EX period",
            "PX period",
            "EXAT moment",
            "PXAT moment",
            "NX",
            "XX",
            "GET",
        ),
    ),
    "getex_option": _options("PERSIST", "EX period", "PX period", "EXAT moment", "PXAT moment"),
    "expire_option": _options("NX", "XX", "GT", "LT"),
    "copy_option": _options("REPLACE", "DB database"),
    "restore_option": _options("REPLACE", "ABSTTL", "IDLETIME integer", "FREQ integer"),
    "payload": _any(PAYLOADS),
    "restore_period": _any((b"0", b"0", b"1000000", b"4102444800000", b"-1", b"x")),
    "element": _any((b"a", b"b", b"", b"1", b"2", b"x" * 1000, b"\xff")),
    "sort_option": _options("ALPHA", "ASC", "DESC", "LIMIT index index", "GET #", "GET sort_pattern"),
    "sort_pattern": _any((b"a*", b"*", b"nosort", b"w_*->f", b"#", b"")),
    "encoding_value": _any((*VALUES, b"x" * 44, b"x" * 45, b"10000", b"-1", b"99999999999999999999")),
    "setting": _any(
        (
            *(b"slowlog-max-len", b"slowlog-log-slower-than", b"acllog-max-len", b"tracking-table-max-keys"),
            *(b"latency-tracking", b"notify-keyspace-events", b"latency-tracking-info-percentiles"),
            b"latency-monitor-threshold",
        )
    ),
    "setting_value": _any(
        (
            *(
                b"0",
                b"1",
                b"128",
                b"1000",
                b"-1",
                b"-2",
                b"yes",
                b"no",
                b"YES",
                b"50 99",
                b"100",
                b"KEA",
                b"Kx",
            ),
            *(b"", b"x", b"1.5", b"99999999999999999999"),
        )
    ),
    "setting_pattern": _any(
        (
            *(
                b"slowlog-*",
                b"SLOWLOG-MAX-LEN",
                b"acllog-*",
                b"latency-*",
                b"notify-*",
                b"tracking-*",
            ),
            *(b"maxclients", b"timeout", b"databases", b"appendonly", b"proto-max-bulk-len", b"save"),
            *(b"requirepass", b"nonsense", b"", b"[", b"slowlog-max-le?", b"protected-mode"),
        )
    ),
    "scan_option": _options("MATCH pattern", "COUNT integer", "TYPE type"),
    "type": _any((b"string", b"hash", b"STRING", b"nonsense")),
    "lcs_option": _options("LEN", "IDX", "WITHMATCHLEN", "MINMATCHLEN integer"),
    "unit": _any((b"BIT", b"BYTE", b"bit", b"x")),
    "bit_operation": _any((b"AND", b"OR", b"XOR", b"NOT", b"not", b"x")),
    "field_operation": _options(
        "GET field_type field_offset",
        "SET field_type field_offset field_value",
        "INCRBY field_type field_offset field_value",
        "OVERFLOW overflow",
    ),
    "overflow": _any((b"WRAP", b"SAT", b"FAIL", b"x")),
    "client_name": _any((b"worker", b"", b"two words", b"x\n")),
    "protocol": _any((b"2", b"3", b"4", b"x", b"-1")),
    # Clients by their place among those of a sequence; who sends it puts the number in that the server gave.
    "redirect": _any((b"<0>", b"<1>", b"<2>", b"0", b"x")),
    "prefix": _any((b"a", b"b", b"ab", b"c", b"")),
    "tracking_option": _options("NOLOOP", "NOLOOP", "REDIRECT redirect", "OPTIN", "OPTOUT", "BCAST"),
    "broadcast_option": _options("PREFIX prefix", "PREFIX prefix", "NOLOOP", "REDIRECT redirect", "OPTIN"),
    "yes": _any((b"YES", b"NO", b"x")),
    "hello_option": _options("SETNAME client_name", "AUTH default x", "nonsense"),
}

# A key that is gone a moment later, on both servers alike.
_MOMENT_SECONDS = 0.02
_GONE_SOON = ("SET key value PX 1", "PEXPIRE key 1", "PSETEX key 1 value", "GETEX key PX 1")

STRINGS = """
GET key
GET key
SET key value
SET key value set_option*
SET key value set_option*
SETNX key value
SETEX key period value
PSETEX key period value
GETSET key value
GETDEL key
GETEX key
GETEX key getex_option*
MGET key+
MSET key value key value key value
MSET key value
MSETNX key value key value
MSETNX key value
APPEND key value
STRLEN key
INCR key
DECR key
INCRBY key integer
DECRBY key integer
INCRBYFLOAT key float
GETRANGE key index index
SUBSTR key index index
SETRANGE key offset value
LCS key key lcs_option*
DEL key+
TTL key
"""

BITMAPS = """
SET key value
SET key value
GET key
SETBIT key bit_offset bit
GETBIT key bit_offset
BITCOUNT key
BITCOUNT key index index
BITCOUNT key index index unit
BITPOS key bit
BITPOS key bit index
BITPOS key bit index index
BITPOS key bit index index unit
BITOP bit_operation key key+
BITFIELD key field_operation*
BITFIELD key field_operation+
BITFIELD_RO key field_operation*
DEL key
"""

KEYSPACE = """
SET key value
SET key value
SET key value EX period
GET key
DEL key+
UNLINK key+
EXISTS key+
TOUCH key+
TYPE key
RENAME key key
RENAMENX key key
COPY key key copy_option*
MOVE key database
SELECT database
KEYS pattern
SCAN 0 scan_option*
SCAN integer
RANDOMKEY
DBSIZE
EXPIRE key period
PERSIST key
TTL key
FLUSHDB
FLUSHALL
"""

# Without DBSIZE: Redis counts what has expired until it comes across it.
EXPIRY = """
SET key value
SET key value EX period
GET key
EXISTS key+
DEL key
RENAME key key
RENAMENX key key
COPY key key copy_option*
MOVE key database
KEYS pattern
SCAN 0 scan_option*
RANDOMKEY
INCR key
APPEND key value
SETRANGE key offset value
SETNX key value
GETSET key value
EXPIRE key period
EXPIRE key period expire_option*
PEXPIRE key period expire_option*
EXPIREAT key moment expire_option*
PEXPIREAT key moment expire_option*
TTL key
PTTL key
EXPIRETIME key
PEXPIRETIME key
PERSIST key
"""

TRANSACTIONS = """
MULTI
MULTI
EXEC
EXEC
EXEC
DISCARD
WATCH key
WATCH key+
UNWATCH
SET key value
SET key value
GET key
GET key
DEL key
INCR key
APPEND key value
MSETNX key value key value
EXPIRE key 0
GETSET key value
PING
SELECT database
NONSENSE key
GET
"""

CONNECTION = """
PING
PING value
ECHO value
SELECT database
HELLO
HELLO protocol
HELLO protocol hello_option*
AUTH value
AUTH default value
RESET
CLIENT GETNAME
CLIENT SETNAME client_name
CLIENT nonsense
CLIENT
COMMAND nonsense
NONSENSE value*
SET key value
GET key
MULTI
EXEC
"""


HYPERLOGLOG = """
PFADD key element*
PFADD key element+
PFADD key element+
PFCOUNT key
PFCOUNT key+
PFMERGE key key*
PFMERGE key key+
GET key
STRLEN key
SET key value
DEL key
COPY key key REPLACE
GETRANGE key 0 20
TYPE key
"""

# There are no lists yet: what is sorted is none, or no list.
SORTING = """
SORT key sort_option*
SORT key sort_option*
SORT key BY sort_pattern sort_option*
SORT key sort_option* STORE key
SORT key STORE key
SORT_RO key sort_option*
SORT_RO key STORE key
SET key value
GET key
DEL key
EXISTS key
"""

SERIALIZED = """
SET key value
SET key value
SET key value EX period
DUMP key
DUMP key
RESTORE key 0 payload
RESTORE key 0 payload
RESTORE key restore_period payload
RESTORE key restore_period payload restore_option*
RESTORE key restore_period payload restore_option+
GET key
TTL key
DEL key
COPY key key
COPY key key copy_option*
SELECT database
"""

# Values that are written whole: Redis remembers how the others came to be, Thermae goes by what they are.
OBJECTS = """
SET key encoding_value
SET key encoding_value
SET key encoding_value
MSET key encoding_value key encoding_value
SETNX key encoding_value
DEL key
GETSET key encoding_value
INCR key
RENAME key key
OBJECT ENCODING key
OBJECT ENCODING key
OBJECT ENCODING key
OBJECT REFCOUNT key
OBJECT FREQ key
OBJECT nonsense key
OBJECT
"""

SETTINGS = """
CONFIG GET setting_pattern
CONFIG GET setting_pattern
CONFIG GET setting_pattern+
CONFIG GET setting
CONFIG SET setting setting_value
CONFIG SET setting setting_value
CONFIG SET setting setting_value setting setting_value
CONFIG SET nonsense setting_value
CONFIG SET setting
CONFIG RESETSTAT
CONFIG nonsense
CONFIG
"""


# Without transactions and without what empties databases: those tell less, or at another time.
TRACKING = """
CLIENT TRACKING ON
CLIENT TRACKING ON tracking_option*
CLIENT TRACKING ON tracking_option*
CLIENT TRACKING ON BCAST broadcast_option*
CLIENT TRACKING ON BCAST broadcast_option*
CLIENT TRACKING OFF
CLIENT CACHING yes
CLIENT CACHING yes
CLIENT GETREDIR
CLIENT TRACKINGINFO
CLIENT ID value
GET key
GET key
GET key
MGET key+
EXISTS key+
STRLEN key
GETRANGE key index index
TTL key
TYPE key
BITCOUNT key
SORT_RO key
LCS key key
SET key value
SET key value
SET key value set_option*
MSET key value key value
MSETNX key value key value
DEL key+
APPEND key value
SETRANGE key offset value
INCR key
INCRBYFLOAT key float
SETBIT key bit_offset bit
BITOP bit_operation key key+
PFADD key value
GETDEL key
GETEX key
GETEX key PERSIST
EXPIRE key period
PERSIST key
RENAME key key
RENAMENX key key
COPY key key copy_option*
MOVE key database
SELECT database
"""


def _literal(word: str) -> SearchStrategy[Words]:
    return st.sampled_from((word, word, word, word.lower())).map(lambda text: (text.encode(),))


def _filled(template: str) -> SearchStrategy[Words]:
    """The words of a template, all choices made."""
    parts = []
    for word in template.split():
        name = word.rstrip("*+")
        choice = WORDS[name] if name in WORDS else _literal(word)
        if word != name:
            choice = st.lists(choice, min_size=int(word[-1] == "+"), max_size=3).map(_joined)
        parts.append(choice)
    return st.tuples(*parts).map(_joined)


def _joined(parts: tuple[Words, ...] | list[Words]) -> Words:
    return tuple(word for words in parts for word in words)


@st.composite
def _damaged(draw: st.DrawFn, commands: SearchStrategy[Words]) -> Words:
    words = list(draw(commands))
    kind = draw(st.integers(0, 23))
    if kind < 21:
        return tuple(words)
    place = draw(st.integers(1, len(words)))
    if kind == 21:
        words.insert(place, draw(st.sampled_from(NONSENSE)))
    elif place < len(words):
        if kind == 22:
            words[place] = draw(st.sampled_from(NONSENSE))
        else:
            del words[place]
    return tuple(words)


def sequences(templates: str, clients: int = 1, expires: bool = False) -> SearchStrategy[list[Step]]:
    """Sequences of a group's commands, by one client or more, keys expiring among them if wanted."""
    client = st.integers(0, clients - 1)
    lines = [_filled(line) for line in templates.strip().splitlines()]
    steps = st.builds(Step, client, _damaged(st.one_of(lines)), st.just(0.0))
    if expires:
        gone_soon = st.one_of([_filled(line) for line in _GONE_SOON])
        pauses = st.builds(Step, client, gone_soon, st.just(_MOMENT_SECONDS))
        # Waiting takes time: about one step in sixteen does.
        steps = st.one_of([steps] * 15 + [pauses])
    # Of several lists, for one by itself is seldom long.
    parts = st.lists(st.lists(steps, min_size=1, max_size=12), min_size=1, max_size=5)
    return parts.map(lambda lists: [step for part in lists for step in part])
