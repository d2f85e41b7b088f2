"""Imports point down the list of layers, and there is no file that nothing uses."""

from __future__ import annotations

from pathlib import Path

import pytest

import layers

REPOSITORY = Path(__file__).resolve().parent.parent
CRATES = sorted(path.parent.parent for path in REPOSITORY.glob("crates/*/src/lib.rs"))


def rust_files() -> list[Path]:
    places = ("crates/*/src/**/*.rs", "crates/*/tests/**/*.rs", "crates/*/benches/**/*.rs", "fuzz/**/*.rs")
    return [path for place in places for path in REPOSITORY.glob(place) if "target" not in path.parts]


@pytest.mark.parametrize("crate", CRATES, ids=lambda path: path.name)
def test_crate_is_layered(crate: Path) -> None:
    users = [path for path in rust_files() if crate / "src" not in path.parents]
    assert layers.rust_problems(crate, users) == []


def test_both_crates_are_checked() -> None:
    assert {"thermae-core", "thermae-python"} <= {path.name for path in CRATES}


def test_package_is_layered() -> None:
    package = REPOSITORY / "python" / "thermae"
    listed = layers.python_layers(REPOSITORY / "CONTRIBUTING.md", "### Layers of the Python package")
    users = [
        REPOSITORY / "pyproject.toml",
        *REPOSITORY.glob("tests/**/*.py"),
        *REPOSITORY.glob("examples/**/*.py"),
    ]
    assert layers.python_problems(package, listed, users) == []


# The checkers themselves: a tree in order passes, and each way to break one is found.

GOOD_CRATE = {
    "lib.rs": """
//! - store: what a caller sees
//! - log: records in order
//! - error: what can go wrong
mod error;
mod log;
mod store;
pub use error::{Error, Result};
pub use store::Store;
""",
    "store.rs": """
use crate::{error::Result, log::{self, Log}};
fn f(s: &str) { crate::log::g('"', "crate::nowhere"); crate::crash_point!("x") }
mod tests { use super::*; }
""",
    "log.rs": "/// See [`crate::store::Store`]. /* /* crate::store */\nmod entry;\npub use entry::Entry;",
    "log/entry.rs": '#[path = "entry_tests.rs"]\nmod tests;\n'
    + 'use super::super::error::Error;\nuse crate::Result;\nconst S: &str = r#"crate::store"#;',
    "log/entry_tests.rs": "use super::super::super::error::Error;",
    "error.rs": "/* crate::store /* nested */ crate::log */\npub struct Error<'a>(&'a str);\n"
    + "macro_rules! crash_point { () => {} }",
}


def problems_of_crate(directory: Path, changes: dict[str, str]) -> str:
    for name, text in (GOOD_CRATE | changes).items():
        path = directory / "good-crate" / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return "\n".join(layers.rust_problems(directory / "good-crate"))


def test_crate_in_order_passes(tmp_path: Path) -> None:
    assert problems_of_crate(tmp_path, {}) == ""


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("error.rs", "use crate::log::Log;", "error.rs:1: error imports log, which stands above it"),
        ("error.rs", "use crate::{error::A, log::Log};", "error imports log"),
        ("error.rs", "\nuse super::log::Log;", "error.rs:2: error imports log"),
        ("error.rs", "fn f() { crate::store::open(); }", "error imports store"),
        ("error.rs", "mod tests { use super::super::store::Store; }", "error imports store"),
        ("error.rs", "use crate::Store;", "error imports store"),
        ("error.rs", "fn f() { crate::unknown!() }", "unknown! is none of the layers"),
        ("error.rs", "use crate::Somewhere;", "Somewhere is none of the layers"),
        ("log/entry.rs", "use super::super::store::Store;", "log imports store"),
        ("log/entry_tests.rs", "use crate::store::Store;", "log imports store"),
        ("log/forgotten.rs", "", "forgotten.rs: no module declares this file"),
        ("log.rs", "", "entry.rs: no module declares this file"),
        ("store.rs", "", "nothing uses the module log"),
        ("lib.rs", GOOD_CRATE["lib.rs"] + "mod pool;", "mod pool is not in the list of layers"),
        ("lib.rs", "//! - pool: frames\n" + GOOD_CRATE["lib.rs"], "layer pool is not a module"),
    ],
)
def test_broken_crate_is_found(tmp_path: Path, name: str, text: str, problem: str) -> None:
    assert problem in problems_of_crate(tmp_path, {name: text})


GOOD_PACKAGE = {
    "__init__.py": "from good.store import Store",
    "cli/__init__.py": "from good.cli.root import main",
    "cli/root.py": "import good\nfrom . import output\nfrom ..store import Store",
    "cli/output.py": "import sys",
    "store.py": "from . import _native\nfrom good.errors import Error",
    "errors.py": "from good._native import Base",
    "_native.pyi": "class Base: ...",
}
GOOD_LAYERS = ["cli", "__init__", "store", "errors", "_native"]


def problems_of_package(directory: Path, changes: dict[str, str], listed: list[str]) -> str:
    for name, text in (GOOD_PACKAGE | changes).items():
        path = directory / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project = directory / "pyproject.toml"
    project.write_text('[project]\nscripts = { good = "good.cli:main" }\n')
    return "\n".join(layers.python_problems(directory / "good", listed, [project]))


def test_package_in_order_passes(tmp_path: Path) -> None:
    assert problems_of_package(tmp_path, {}, GOOD_LAYERS) == ""


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("errors.py", "import good._native, good.store", "errors imports store, which stands above it"),
        ("errors.py", "def f():\n    from good import cli", "errors.py:2: errors imports cli"),
        ("errors.py", "from . import Store", "errors imports __init__"),
        ("errors.py", "import importlib\nimportlib.import_module('good.cli')", "errors imports cli"),
        ("cli/output.py", "from ..cli import root", "good.cli.root -> good.cli.output -> good.cli.root"),
        ("cli/forgotten.py", "", "forgotten.py: nothing imports this module"),
        ("forgotten.py", "", "forgotten is not in the list of layers"),
    ],
)
def test_broken_package_is_found(tmp_path: Path, name: str, text: str, problem: str) -> None:
    assert problem in problems_of_package(tmp_path, {name: text}, GOOD_LAYERS)


def test_layer_that_is_gone_is_found(tmp_path: Path) -> None:
    assert "layer pool does not exist" in problems_of_package(tmp_path, {}, [*GOOD_LAYERS, "pool"])
