"""Made-up text and meta commands of memcached, as `redis_commands` makes up those of Redis.

A template is a line: `set key flags exptime = noreply?`. A lower-case word that is one of `WORDS` stands for
any of its choices, `?` after it means that it may be left out, `*` that there are none to five of them; `=`
is the length of a value, which follows the line. `<cas>` in a word is the number that the item has on the
server that the command is for, `<less>` one that is smaller and `<more>` one that is larger.

Counters have keys of their own: memcached leaves blanks behind a number that got shorter, Thermae none.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Words = tuple[bytes, ...]


class Command(NamedTuple):
    """A line, and the value behind it where it has one."""

    words: Words
    value: bytes | None = None

    def encoded(self, cas: int) -> bytes:
        """As it is sent, of an item with this number."""
        numbers = {b"<cas>": cas, b"<less>": max(cas - 1, 0), b"<more>": cas + 1_000_000}
        line = b" ".join(b"%d" % len(self.value or b"") if word == b"=" else word for word in self.words)
        for mark, number in numbers.items():
            line = line.replace(mark, b"%d" % number)
        value = b"" if self.value is None else self.value + b"\r\n"
        return line + b"\r\n" + value

    def __repr__(self) -> str:
        return f"<{b' '.join(self.words)!r}{'' if self.value is None else f', {self.value!r}'}>"


_VALUES = (b"", b"a", b"abc", b"5", b"x\r\nEND", b"\x00\xff", b"v" * 100, b"w" * 1000)
_NONSENSE = (b"nonsense", b"-1", b"9" * 25, b"x" * 251, b"\xff", b"0")
_TTLS = (b"0", b"0", b"1000000", b"2000000", b"2000000000", b"20", b"-1", b"2592001", b"x")
_META = (b"O123", b"Oabc", b"k", b"q")
_READ = (
    *_META,
    b"v",
    b"v",
    b"s",
    b"f",
    b"c",
    b"t",
    b"h",
    b"l",
    b"N1000000",
    b"R30",
    b"T1000000",
    b"T0",
    b"x",
)
_STORED = (
    *(
        *_META,
        b"c",
        b"F5",
        b"F4294967295",
        b"Fx",
        b"T1000000",
        b"T0",
        b"T-1",
        b"C<cas>",
        b"C<less>",
        b"C<more>",
    ),
    *(b"I", b"MS", b"ME", b"MA", b"MP", b"MR", b"Mset", b"MX", b"b"),
)
# Without t: an item that N has just made has its expiry in Thermae, and -1 in memcached.
_COUNTED = (
    *_META,
    b"v",
    b"c",
    b"N0",
    b"N1000000",
    b"J7",
    b"D3",
    b"Dx",
    b"MI",
    b"MD",
    b"M+",
    b"M-",
    b"MX",
)

WORDS: dict[str, tuple[bytes, ...]] = {
    "key": (b"a", b"a", b"a", b"b", b"\xffz", b"k" * 250, b"k" * 251),
    "counter": (b"n", b"m"),
    "flags": (b"0", b"5", b"4294967295", b"-1", b"x"),
    "exptime": _TTLS,
    "unique": (b"<cas>", b"<cas>", b"<less>", b"<more>", b"x"),
    "delta": (b"1", b"5", b"100", b"18446744073709551615", b"-1", b"x"),
    "noreply": (b"noreply",),
    "zero": (b"0", b"1"),
    "read": _READ,
    # A key that N makes is none of these to memcached.
    "read64": tuple(word for word in _READ if word != b"k" and not word.startswith(b"N")),
    "stored": _STORED,
    "counted": _COUNTED,
    "deleted": (*_META, b"C<cas>", b"C<more>", b"I", b"T1000000", b"I"),
    # Keys of their own: memcached shows one as it was stored, however it is asked for.
    "base64": (b"YWE=", b"YmI=", b"//8=", b"YWE", b"!"),
}

COMMANDS = """
set key flags exptime = noreply?
set key 0 0 =
set key 5 0 =
set a 0 0 =
add key flags exptime = noreply?
replace key flags exptime = noreply?
append key flags exptime = noreply?
prepend key 0 0 = noreply?
cas key flags exptime = unique noreply?
cas a 0 0 = <cas>
cas a 0 0 = <more>
get key
get key key key
get
gets key key
gat exptime key
me a
gats exptime key key
touch key exptime noreply?
touch a 0
delete key noreply?
delete a
delete key zero
incr key delta
set counter 0 0 number
set counter 5 1000000 number
add counter 0 0 number
incr counter delta noreply?
decr counter delta noreply?
get counter counter
mg key read*
mg key v read*
mg key read*
mg base64 b v read64*
mg counter v
ms key = stored*
ms a = ME k
ms a = MR c
ms key = c stored*
ms base64 = b stored*
md key deleted*
md key deleted*
md base64 b deleted*
ma counter counted*
ma counter v counted*
ma counter MD v counted*
ma key N0 v
me key
me a
me nothing
verbosity zero
flush_all noreply?
flush_all 0
nonsense key
mg
ms
version
"""

_NUMBERS = (b"0", b"10", b"99", b"18446744073709551615", b"18446744073709551616", b"007", b"x", b"-1")


@st.composite
def _filled(draw: st.DrawFn, template: str) -> Command:
    words: list[bytes] = []
    value = None
    for word in template.split():
        name = word.rstrip("?*")
        least, most = {"?": (0, 1), "*": (0, 5)}.get(word[len(name) :], (1, 1))
        if name in ("=", "number"):
            value = draw(st.sampled_from(_NUMBERS if name == "number" else _VALUES))
            words.append(b"=")
            continue
        choices = WORDS.get(name, (name.encode(),))
        words += draw(st.lists(st.sampled_from(choices), min_size=least, max_size=most))
    kind = draw(st.integers(0, 23))
    # A length is left alone, and where it is: what follows a wrong one is taken for a value, to the end.
    length = words.index(b"=") if b"=" in words else len(words)
    places = [place for place, word in enumerate(words) if place and place != length]
    if kind == 21 and length < len(words):
        places = [place for place in places if place > length]
    if kind >= 21 and places:
        place = draw(st.sampled_from(places))
        nonsense = [draw(st.sampled_from(_NONSENSE))] if kind < 23 else []
        words[place : place + (kind != 21)] = nonsense
    return Command(tuple(words), value)


def sequences() -> SearchStrategy[list[Command]]:
    """Sequences of all these commands."""
    command = st.one_of([_filled(line) for line in COMMANDS.strip().splitlines()])
    # Of several lists, for one by itself is seldom long.
    parts = st.lists(st.lists(command, min_size=1, max_size=12), min_size=1, max_size=4)
    return parts.map(lambda lists: [command for part in lists for command in part])
