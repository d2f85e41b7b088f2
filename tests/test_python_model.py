"""The store against a model, a dict with time. Hypothesis makes up what is done, in which order.

Time is real: short lives are over within a twentieth of a second, and one rule lets them pass. A key may
end in the very moment of a call on it, whose answer is not judged then: what the store has is read again
instead. That takes a call within a few milliseconds of the end, or a machine that stands still during one.

Each run does the same. To look for what nobody thought of:
`make test PYTEST_ARGS="tests/test_python_model.py --hypothesis-profile=search"`.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import thermae
from thermae import _thermae

Key = str | bytes

SHORT_SECONDS = 0.04
LONG_SECONDS = 1000.0
# What the store's clock, which counts milliseconds, may be off from this one; a recovery sets it anew.
CLOCK_SLACK_SECONDS = 0.005
COUNTER_MAX = 2**63 - 1
# Values of more than 256 KiB have segments of their own.
LARGE_BYTES = 700_000

_MISSING = object()

NAMES = [b"", b"a", "ä".encode(), b"user:1", b"user:2", b"\xff\x00"]


def _spellings(name: bytes) -> list[Key]:
    try:
        return [name, name.decode()]
    except UnicodeDecodeError:
        return [name]


keys = st.sampled_from([key for name in NAMES for key in _spellings(name)])
numbers = st.integers(-(2**63), 2**63 - 1)
plain = (
    st.none()
    | st.booleans()
    | numbers
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.one_of(
    plain,
    # What counters count, and what they do not.
    st.integers(-3, 3),
    st.sampled_from(["7", b"-7", "+7", " 7", "7.0", 2**63 - 1, -(2**63), 2**63, 10**40]),
    st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    # A value of 64 KiB is copied without the GIL.
    st.sampled_from([65_536, LARGE_BYTES]).map(bytes) | st.just(50_000).map("ä".__mul__),
)
lifetimes = st.sampled_from([None, LONG_SECONDS, SHORT_SECONDS])


def named(key: Key) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


def shown(name: bytes) -> Key:
    """A key as iterating gives it."""
    return _spellings(name)[-1]


def exactly(value: object) -> tuple[str, object]:
    """For comparing: 1, 1.0 and True are three values, also inside of lists."""
    return (type(value).__name__ if isinstance(value, (bytes, str)) else repr(value)), value


def as_counter(value: object) -> int | None:
    """A value as a counter counts it: by its stored text, as Redis does."""
    if isinstance(value, bool):
        text = b"1" if value else b"0"
    elif isinstance(value, int):
        text = str(value).encode()
    elif isinstance(value, str):
        text = value.encode()
    elif isinstance(value, bytes):
        text = value
    else:
        return None
    if not re.fullmatch(rb"[+-]?[0-9]+", text):
        return None
    number = int(text)
    return number if -COUNTER_MAX - 1 <= number <= COUNTER_MAX else None


@dataclass
class Item:
    """What the model knows of one key."""

    value: object
    version: int | None
    """None: it was set without looking at what version that made."""
    ends_from: float | None
    """It is there until then, by `time.monotonic`; None is for ever."""
    ends_until: float | None
    """From then on it is gone; in between nobody knows."""


@dataclass
class Moment:
    """When a call was made, and what it returned."""

    result: Any
    begin: float
    end: float


class ModelledStore(RuleBasedStateMachine):
    """Batches, transactions, new handles, time, and reading in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="thermae-model-"))
        self.location = str(self.directory / "data")
        # Nothing of it waits for the disk, unless it is told to.
        self.store = thermae.open(
            self.location, hot="16MiB", cold="16MiB", durability="none", when_full="error"
        )
        self.model: dict[bytes, Item] = {}

    def teardown(self) -> None:
        self.store.close()
        thermae.destroy(self.location)
        shutil.rmtree(self.directory)

    # The model's time.

    def is_there(self, name: bytes, begin: float, end: float) -> bool | None:
        """Whether the key was there from `begin` to `end`; None where nobody knows."""
        item = self.model.get(name)
        if item is None:
            return False
        if item.ends_from is None or item.ends_until is None or end < item.ends_from:
            return True
        return False if begin >= item.ends_until else None

    def call(self, names: Iterable[bytes], operation: Callable[[], Any]) -> Moment | None:
        """Makes a call on the store. What has ended before it is gone from the model.

        Returns:
            None where a key may have ended in the middle of it: the model then has what the store has.
        """
        names = list(names)
        begin = time.monotonic()
        result = operation()
        end = time.monotonic()
        known = {name: self.is_there(name, begin, end) for name in names}
        if None in known.values():
            self.read_again(names)
            return None
        for name in names:
            if not known[name]:
                self.model.pop(name, None)
        return Moment(result, begin, end)

    def item(self, value: object, ttl: float | None, moment: Moment, version: int | None = None) -> Item:
        if ttl is None:
            return Item(value, version, None, None)
        return Item(
            value,
            version,
            moment.begin + ttl - CLOCK_SLACK_SECONDS,
            moment.end + ttl + CLOCK_SLACK_SECONDS,
        )

    def read_again(self, names: Iterable[bytes]) -> None:
        """Once what has a short life is gone, so that the same question does not come up again."""
        time.sleep(SHORT_SECONDS + 2 * CLOCK_SLACK_SECONDS)
        for name in names:
            begin = time.monotonic()
            value, version = self.store.get_with_version(name, _MISSING)
            self.model.pop(name, None)
            if value is not _MISSING:
                ttl = self.store.ttl(name)
                self.model[name] = self.item(value, ttl, Moment(None, begin, time.monotonic()), version)

    def write(self, key: Key, value: object, ttl: float | None, moment: Moment) -> None:
        self.model[named(key)] = self.item(value, ttl, moment)

    def rewrite(self, key: Key, value: object) -> None:
        """A new value that keeps its lifetime."""
        item = self.model[named(key)]
        self.model[named(key)] = Item(value, None, item.ends_from, item.ends_until)

    def value(self, key: Key, default: object = None) -> object:
        item = self.model.get(named(key))
        return default if item is None else item.value

    # What there is to do in any case.

    @rule(pairs=st.lists(st.tuples(keys, values), max_size=6), ttl=lifetimes, as_mapping=st.booleans())
    def set_many(self, pairs: list[tuple[Key, object]], ttl: float | None, as_mapping: bool) -> None:
        given: Any = dict(pairs) if as_mapping else iter(pairs)
        # A dict has the order of first appearance and the last value, and "a" beside b"a".
        order = list(dict(pairs).items()) if as_mapping else pairs
        moment = self.call({named(key) for key, _ in pairs}, lambda: self.store.set_many(given, ttl))
        if moment is not None:
            for key, value in order:
                self.write(key, value, ttl, moment)

    @rule(key=keys)
    def read(self, key: Key) -> None:
        """Every way to read agrees with every other, and with the model."""

        def look() -> tuple[object, ...]:
            try:
                item: object = self.store[key]
            except KeyError:
                item = _MISSING
            try:
                ttl: object = self.store.ttl(key)
            except KeyError:
                ttl = _MISSING
            found, version = self.store.get_with_version(key, _MISSING)
            return (
                item,
                ttl,
                found,
                version,
                self.store.get(key, _MISSING),
                self.store.get_many([key], _MISSING)[0],
                key in self.store,
                self.store.version(key),
                self.store.value_bytes(key),
                self.store.view(key),
            )

        moment = self.call([named(key)], look)
        if moment is None:
            return
        item, ttl, found, version, got, of_many, contained, again, size, view = moment.result
        expected = self.model.get(named(key))
        value = _MISSING if expected is None else expected.value
        for one in (item, found, got, of_many):
            assert exactly(one) == exactly(value)
        assert contained is (expected is not None)
        assert version == again
        assert (version != 0) is (expected is not None)
        if expected is None:
            assert (ttl, size, view) == (_MISSING, None, None)
            return
        assert len(view) == size
        if expected.ends_from is None or expected.ends_until is None:
            assert ttl is None
        else:
            assert (
                expected.ends_from - moment.end - 0.001 <= ttl <= expected.ends_until - moment.begin + 0.001
            )
        assert expected.version in (None, version)
        expected.version = version

    @rule(
        steps=st.lists(
            st.tuples(st.sampled_from(["get", "set", "delete"]), keys, values, lifetimes),
            # As many of the largest values fit into one transaction.
            max_size=5,
        ),
        meddling=st.none() | st.integers(0, 4),
        is_given_up=st.sampled_from([False, False, False, True]),
    )
    def transaction(
        self,
        steps: list[tuple[str, Key, object, float | None]],
        meddling: int | None,
        is_given_up: bool,
    ) -> None:
        """Some steps; perhaps somebody else changes a key of them before the commit, or the block raises."""
        meddled = None if meddling is None or not steps else steps[meddling % len(steps)][1]

        def run() -> tuple[str, list[object]]:
            answers: list[object] = []
            try:
                with self.store.transaction() as tx:
                    for verb, key, value, ttl in steps:
                        if verb == "get":
                            answers.append(tx.get(key, _MISSING))
                        elif verb == "set":
                            tx.set(key, value, ttl)
                        else:
                            answers.append(tx.delete(key))
                    if meddled is not None:
                        self.store[meddled] = "meddled"
                    if is_given_up:
                        raise ZeroDivisionError
            except thermae.TransactionConflictError:
                return "conflict", answers
            except ZeroDivisionError:
                return "given up", answers
            return "done", answers

        concerned = {named(key) for _, key, _, _ in steps} | (set() if meddled is None else {named(meddled)})
        moment = self.call(concerned, run)
        if moment is None:
            return
        outcome, answers = moment.result
        written: dict[bytes, tuple[object, float | None] | None] = {}
        read: set[bytes] = set()
        expected: list[object] = []
        for verb, key, value, ttl in steps:
            name = named(key)
            if verb == "set":
                written[name] = value, ttl
                continue
            if name in written:
                own = written[name]
                now = _MISSING if own is None else own[0]
            else:
                read.add(name)
                now = self.value(name, _MISSING)
            expected.append(now if verb == "get" else now is not _MISSING)
            if verb == "delete":
                written[name] = None
        assert list(map(exactly, answers)) == list(map(exactly, expected))
        if meddled is not None:
            self.write(meddled, "meddled", None, moment)
        if is_given_up:
            assert outcome == "given up"
        elif meddled is not None and named(meddled) in read:
            assert outcome == "conflict"
        else:
            assert outcome == "done"
            for name, change in written.items():
                if change is None:
                    self.model.pop(name, None)
                else:
                    self.write(name, *change, moment)

    @rule(how=st.sampled_from(["closed and opened", "pickled", "restarted"]))
    def reopen(self, how: str) -> None:
        """A new handle has it all; also after a restart of the machine, once it was flushed."""
        if how == "pickled":
            before, self.store = self.store, pickle.loads(pickle.dumps(self.store))
            before.close()
            return
        if how == "restarted":
            self.store.flush()
        self.store.close()
        if how == "restarted":
            _thermae.forget_shared_memory(self.location)
        self.store = thermae.open(self.location, create=False)

    # No precondition: which rules there are must not depend on time, or Hypothesis could repeat nothing.
    @rule()
    def time_passes(self) -> None:
        """All that has a short life ends."""
        soon = time.monotonic() + LONG_SECONDS / 2
        if any(item.ends_until is not None and item.ends_until < soon for item in self.model.values()):
            time.sleep(SHORT_SECONDS + 2 * CLOCK_SLACK_SECONDS)

    @invariant()
    def is_as_many(self) -> None:
        """The cheapest look at the whole, after every step: nothing lost, nothing that came back."""
        moment = self.call(NAMES, lambda: self.store.get_many(NAMES, _MISSING))
        if moment is not None:
            there = {name for name, value in zip(NAMES, moment.result, strict=True) if value is not _MISSING}
            assert there == set(self.model)


class ModelledVerbs(ModelledStore):
    """The same with all the other verbs, among which there would be few transactions."""

    # One key.

    @rule(key=keys, value=values)
    def set_item(self, key: Key, value: object) -> None:
        moment = self.call([named(key)], lambda: self.store.__setitem__(key, value))
        if moment is not None:
            self.write(key, value, None, moment)

    @rule(key=keys, value=values, ttl=lifetimes, condition=st.sampled_from([None, "if_absent", "if_present"]))
    def set(self, key: Key, value: object, ttl: float | None, condition: str | None) -> None:
        moment = self.call(
            [named(key)],
            lambda: self.store.set(
                key,
                value,
                ttl,
                if_absent=condition == "if_absent",
                if_present=condition == "if_present",
            ),
        )
        if moment is None:
            return
        does = condition is None or (named(key) in self.model) == (condition == "if_present")
        assert moment.result is does
        if does:
            self.write(key, value, ttl, moment)

    @rule(key=keys, value=values)
    def set_and_keep_the_lifetime(self, key: Key, value: object) -> None:
        moment = self.call([named(key)], lambda: self.store.set(key, value, keep_ttl=True))
        if moment is None:
            return
        if named(key) in self.model:
            self.rewrite(key, value)
        else:
            self.write(key, value, None, moment)

    @rule(key=keys, value=values, ttl=lifetimes)
    def add(self, key: Key, value: object, ttl: float | None) -> None:
        moment = self.call([named(key)], lambda: self.store.add(key, value, ttl))
        if moment is None:
            return
        assert moment.result is (named(key) not in self.model)
        if moment.result:
            self.write(key, value, ttl, moment)

    @rule(key=keys, value=values, ttl=lifetimes, is_late=st.booleans(), spelling=st.booleans())
    def compare_and_set(
        self, key: Key, value: object, ttl: float | None, is_late: bool, spelling: bool
    ) -> None:
        def change() -> tuple[int, bool]:
            version = self.store.version(key)
            if is_late:
                self.store.set(key, "earlier")
            if spelling:
                return version, self.store.set(key, value, ttl, if_version=version)
            return version, self.store.compare_and_set(key, value, version, ttl)

        moment = self.call([named(key)], change)
        if moment is None:
            return
        version, does = moment.result
        assert (version != 0) is (named(key) in self.model)
        assert does is not is_late
        if does:
            self.write(key, value, ttl, moment)
        else:
            self.write(key, "earlier", None, moment)

    @rule(key=keys, is_absent_fine=st.booleans())
    def pop(self, key: Key, is_absent_fine: bool) -> None:
        def take() -> object:
            try:
                return self.store.pop(key, "default") if is_absent_fine else self.store.pop(key)
            except KeyError:
                return _MISSING

        moment = self.call([named(key)], take)
        if moment is None:
            return
        expected = self.value(key, "default" if is_absent_fine else _MISSING)
        assert exactly(moment.result) == exactly(expected)
        self.model.pop(named(key), None)

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        moment = self.call([named(key)], lambda: self.store.delete(key))
        if moment is not None:
            assert moment.result is (self.model.pop(named(key), None) is not None)

    @rule(key=keys, ttl=lifetimes)
    def touch(self, key: Key, ttl: float | None) -> None:
        moment = self.call([named(key)], lambda: self.store.touch(key, ttl))
        if moment is None:
            return
        assert moment.result is (named(key) in self.model)
        if moment.result:
            self.write(key, self.value(key), ttl, moment)

    @rule(
        key=keys,
        by=st.integers(-3, 3) | numbers.filter(lambda number: number != -(2**63)),
        default=st.none() | st.integers(-3, 3),
        ttl=lifetimes,
        downwards=st.booleans(),
    )
    def count(self, key: Key, by: int, default: int | None, ttl: float | None, downwards: bool) -> None:
        def step() -> object:
            try:
                return (self.store.decr if downwards else self.store.incr)(key, by, default, ttl)
            except (KeyError, thermae.WrongTypeError, thermae.CounterOverflowError) as error:
                return type(error)

        moment = self.call([named(key)], step)
        if moment is None:
            return
        was_there = named(key) in self.model
        before = as_counter(self.value(key)) if was_there else default
        if before is None:
            assert moment.result is (thermae.WrongTypeError if was_there else KeyError)
            return
        after = before - by if downwards else before + by
        if not -COUNTER_MAX - 1 <= after <= COUNTER_MAX:
            assert moment.result is thermae.CounterOverflowError
            return
        assert moment.result == after
        if was_there:
            self.rewrite(key, after)
        else:
            self.write(key, after, ttl, moment)

    @rule(key=keys, default=values)
    def setdefault(self, key: Key, default: object) -> None:
        moment = self.call([named(key)], lambda: self.store.setdefault(key, default))
        if moment is None:
            return
        assert exactly(moment.result) == exactly(self.value(key, default))
        if named(key) not in self.model:
            self.write(key, default, None, moment)

    @rule(key=keys, made=plain, ttl=lifetimes)
    def get_or_set(self, key: Key, made: object, ttl: float | None) -> None:
        calls: list[object] = []

        def make() -> object:
            calls.append(made)
            return made

        moment = self.call([named(key)], lambda: self.store.get_or_set(key, make, ttl))
        if moment is None:
            return
        assert exactly(moment.result) == exactly(self.value(key, made))
        assert len(calls) == (named(key) not in self.model)
        if calls:
            self.write(key, made, ttl, moment)

    # Many keys.

    @rule(pairs=st.lists(st.tuples(keys, values), max_size=4))
    def update(self, pairs: list[tuple[Key, object]]) -> None:
        moment = self.call({named(key) for key, _ in pairs}, lambda: self.store.update(pairs))
        if moment is not None:
            for key, value in pairs:
                self.write(key, value, None, moment)

    @rule(chosen=st.lists(keys, max_size=8))
    def get_many(self, chosen: list[Key]) -> None:
        moment = self.call(map(named, chosen), lambda: self.store.get_many(chosen, "default"))
        if moment is not None:
            expected = [self.value(key, "default") for key in chosen]
            assert list(map(exactly, moment.result)) == list(map(exactly, expected))

    @rule(chosen=st.lists(keys, max_size=8))
    def delete_many(self, chosen: list[Key]) -> None:
        moment = self.call(map(named, chosen), lambda: self.store.delete_many(chosen))
        if moment is not None:
            gone = [self.model.pop(named(key), None) for key in chosen]
            assert moment.result == sum(item is not None for item in gone)

    @rule(prefix=st.sampled_from(["", b"", "user:", b"user:1", "nothing"]))
    def iterate(self, prefix: Key) -> None:
        moment = self.call(
            NAMES,
            lambda: (
                list(self.store.keys(prefix=prefix)),
                list(self.store.items(prefix=prefix)),
                list(self.store),
                len(self.store),
            ),
        )
        if moment is None:
            return
        found, pairs, everything, count = moment.result
        chosen = [shown(name) for name in self.model if name.startswith(named(prefix))]
        assert sorted(map(named, found)) == sorted(map(named, chosen))
        assert set(found) == set(chosen)
        assert {key: exactly(value) for key, value in pairs} == {
            key: exactly(self.value(key)) for key in chosen
        }
        assert len(pairs) == len(chosen)
        assert sorted(map(named, everything)) == sorted(self.model)
        assert count == len(self.model)

    @rule()
    def pop_item(self) -> None:
        def take() -> object:
            try:
                return self.store.popitem()
            except KeyError:
                return None

        moment = self.call(NAMES, take)
        if moment is None:
            return
        if moment.result is None:
            assert not self.model
            return
        key, value = moment.result
        assert shown(named(key)) == key
        assert exactly(value) == exactly(self.model.pop(named(key)).value)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @rule()
    def check(self) -> None:
        report = self.store.check()
        assert report["problems"] == []


test_transactions_on_a_dict_with_time = ModelledStore.TestCase
test_verbs_on_a_dict_with_time = ModelledVerbs.TestCase
