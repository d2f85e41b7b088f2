"""docs/python.md runs as it is printed, and leaves no public name out."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import thermae
import thermae.aio
import thermae.options
from commands import commands_of
from thermae import _thermae
from thermae.cli import main

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def test_every_example_runs() -> None:
    # Left behind by a run that failed half-way.
    with contextlib.suppress(thermae.NotAStoreError):
        thermae.destroy("shm://thermae-documentation")
    results = doctest.testfile(
        str(DOCUMENT), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.attempted > 60
    assert results.failed == 0


def public_names(of: object) -> list[str]:
    return [name for name, _ in inspect.getmembers(of) if not name.startswith("_")]


def is_verb(kind: type, name: str) -> bool:
    return callable(inspect.getattr_static(kind, name)) or inspect.ismethoddescriptor(
        inspect.getattr_static(kind, name)
    )


@pytest.mark.parametrize("kind", [thermae.Store, thermae.aio.Store, thermae.Lock, thermae.Transaction])
def test_every_verb_is_documented(kind: type) -> None:
    """By a call, or by reading it: that a word occurs in a sentence is no documentation."""
    text = DOCUMENT.read_text()
    for name in public_names(kind):
        written = rf"\.{name}\(|`{name}\(" if is_verb(kind, name) else rf"\.{name}\b(?!\()|`{name}`"
        assert re.search(written, text), (
            f"docs/python.md does not show {kind.__module__}.{kind.__name__}.{name}"
        )


@pytest.mark.parametrize("name", sorted(thermae.options.OpenOptions.__annotations__))
def test_every_option_is_documented(name: str) -> None:
    assert f"| `{name}` |" in DOCUMENT.read_text()


@pytest.mark.parametrize("name", sorted(set(thermae.__all__) - {"__version__"}))
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"(`|thermae\.){name}\b", DOCUMENT.read_text())


@pytest.mark.parametrize("name", public_names(thermae.Store))
def test_every_verb_explains_itself(name: str) -> None:
    """In `help`: what it does, and an example, which the tests run."""
    text = inspect.getdoc(inspect.getattr_static(thermae.Store, name))
    assert text
    # What a dict has is done as by a dict, and docs/python.md shows it.
    if is_verb(thermae.Store, name) and not hasattr(dict, name):
        assert ">>> " in text, f"Store.{name} has no example"


@pytest.mark.parametrize("kind", [thermae.Lock, thermae.Transaction])
def test_every_verb_of_a_part_explains_itself(kind: type) -> None:
    assert ">>> " in (inspect.getdoc(kind) or "")
    for name in public_names(kind):
        # Slots say what they are where they are set.
        if not inspect.ismemberdescriptor(inspect.getattr_static(kind, name)):
            assert inspect.getdoc(inspect.getattr_static(kind, name)), f"{kind.__name__}.{name}"


STANDS_FOR = {"contains": "__contains__", "length": "__len__"}
ONLY_SYNCHRONOUS = {
    # What never waits is asked of `sync`.
    *("closed", "location", "read_only", "hot_bytes", "warm_bytes", "cold_bytes", "frame_bytes"),
    *("durability", "when_full", "value_bytes"),
    # Made of other verbs, or of the mapping protocol, which knows no `await`.
    *("popitem", "setdefault", "update", "values", "transaction"),
}


def test_the_asynchronous_verbs_are_those_of_the_store() -> None:
    """So that what is said of one holds for the other: the same names, taking the same."""
    synchronous, asynchronous = set(public_names(thermae.Store)), set(public_names(thermae.aio.Store))
    assert asynchronous - synchronous == set(STANDS_FOR)
    assert synchronous - asynchronous == ONLY_SYNCHRONOUS
    for name in asynchronous & synchronous:
        own = getattr(thermae.aio.Store, name)
        taken = inspect.signature(own).parameters
        assert list(taken) == list(inspect.signature(getattr(thermae.Store, name)).parameters), name
    for name in asynchronous:
        text = inspect.getdoc(getattr(thermae.aio.Store, name))
        twin = STANDS_FOR.get(name, name)
        assert text, name
        assert f"thermae.Store.{twin}" in text or "Raises:" in text or ">>> " in text, (
            f"thermae.aio.Store.{name} says neither what it raises nor where that is said"
        )


def test_every_example_of_the_compiled_module_runs(new_store: Callable[[], thermae.Store]) -> None:
    attempted = 0
    for case in doctest.DocTestFinder().find(_thermae):
        case.globs = {"store": new_store(), "thermae": thermae}
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(case)
        assert results.failed == 0, case.name
        attempted += results.attempted
    assert attempted > 30


def rows(table: str) -> list[list[str]]:
    """The cells of the rows of a table under this heading."""
    section = DOCUMENT.read_text().split(f"\n{table}\n", 1)[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`(\w[\w.-]*)`", cell)


def assert_all_have_a_row(heading: str, names: list[str]) -> None:
    listed = [name for row in rows(heading) for name in names_in(row[0])]
    assert len(listed) == len(set(listed))
    assert set(names) <= set(listed)


def test_every_verb_of_a_dict_has_a_row() -> None:
    assert_all_have_a_row("### dict", public_names(dict))


def test_every_verb_of_diskcache_has_a_row() -> None:
    diskcache = pytest.importorskip("diskcache")
    # Its recipes too; the rest are exceptions and settings.
    recipes = {"FanoutCache", "Index", "Deque", "Lock", "RLock", "Averager", "throttle", "BoundedSemaphore"}
    assert recipes <= set(diskcache.__all__)
    assert_all_have_a_row("### diskcache", [*public_names(diskcache.Cache), *recipes, "memoize_stampede"])


def test_every_verb_of_py_lmdb_has_a_row() -> None:
    lmdb = pytest.importorskip("lmdb")
    assert_all_have_a_row(
        "### py-lmdb",
        [
            f"{kind.__name__}.{name}"
            for kind in (lmdb.Environment, lmdb.Transaction)
            for name in public_names(kind)
        ],
    )


@pytest.mark.parametrize("heading", ["### dict", "### diskcache", "### py-lmdb"])
def test_what_it_is_called_here_is_here(heading: str) -> None:
    ours = {*public_names(thermae.Store), *public_names(thermae.Transaction), "dict", "list"}
    for _, here in rows(heading):
        called = set(re.findall(r"(?<![\w.])(\w+)\(", here))
        assert called <= ours, called - ours


def test_every_command_is_in_the_guide() -> None:
    guide = (DOCUMENT.parent / "operations.md").read_text()
    for name, command in commands_of(main).items():
        assert f"| `thermae {name}" in guide
        for option in (option for part in command.params for option in part.opts if option.startswith("--")):
            assert option in guide or option in COMMON_OPTIONS, f"thermae {name} {option}"
    bench = commands_of(main)["bench"]
    assert isinstance(bench, click.Group)
    (line,) = [line for line in guide.splitlines() if line.startswith("| `thermae bench")]
    assert set(bench.commands) <= set(names_in(line))


# What says enough by its name, and is explained by --help.
COMMON_OPTIONS = {"--json", "--output", "--every", "--samples", "--warm-directory"}
