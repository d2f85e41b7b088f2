"""docs/python.md runs as it is printed, and leaves no public name out."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import thermae
import thermae.aio
import thermae.options
from thermae import _thermae

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


@pytest.mark.parametrize("name", sorted({*public_names(thermae.Store), *public_names(thermae.aio.Store)}))
def test_every_verb_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", DOCUMENT.read_text()), f"docs/python.md says nothing of {name}"


@pytest.mark.parametrize("name", sorted(thermae.options.OpenOptions.__annotations__))
def test_every_option_is_documented(name: str) -> None:
    assert f"| `{name}` |" in DOCUMENT.read_text()


@pytest.mark.parametrize("name", sorted(set(thermae.__all__) - {"__version__", "Store", "OpenOptions"}))
def test_every_public_name_is_documented(name: str) -> None:
    text = DOCUMENT.read_text()
    assert re.search(rf"\b{name}\b", text) or name in {"Lock", "Transaction"}


@pytest.mark.parametrize("kind", [thermae.Store, thermae.aio.Store, thermae.Lock, thermae.Transaction])
def test_every_verb_explains_itself(kind: type) -> None:
    for name in public_names(kind):
        if isinstance(inspect.getattr_static(kind, name), (property, type(thermae.Lock.name))):
            continue
        assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name} has no docstring"


def test_every_example_of_the_compiled_module_runs(new_store: Callable[[], thermae.Store]) -> None:
    attempted = 0
    for case in doctest.DocTestFinder().find(_thermae):
        case.globs = {"store": new_store(), "thermae": thermae}
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(case)
        assert results.failed == 0, case.name
        attempted += results.attempted
    assert attempted > 30
