"""What tests/test_layers.py checks with: which layer a source file belongs to, and which layers it names.

Both checkers return sentences, one per problem, and an empty list for a tree in order. They read sources
only and compile nothing, so they hold for code behind any feature. Asking the compilers instead (the crate's
metadata, import hooks) was rejected: they see one configuration at a time, and no import inside a function.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# ---------------------------------------------------------------- Rust

RUST_LAYER = re.compile(r"^//! - \[?`?(\w+)`?\]?: \S", re.MULTILINE)
RUST_MODULE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.MULTILINE)
RUST_PLACED_MODULE = re.compile(r'#\[path = "([^"]+)"\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;')
RUST_EXPORT = re.compile(r"\bpub\s+use\s+(?:crate\s*::\s*|self\s*::\s*)?(\w+)\s*::\s*([^;]+);")
RUST_LITERAL = re.compile(
    r"""
      //[^\n]*                                  # line comment
    | \b[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)   # raw string
    | \b[bc]?"(?:\\.|[^"\\])*"                  # string, with a prefix
    | "(?:\\.|[^"\\])*"                         # string
    | '(?:\\.[^']*|[^\\'])'                     # character, and no lifetime
    """,
    re.VERBOSE | re.DOTALL,
)


def without_literals(source: str) -> str:
    """Blank out comments, strings and characters, so that only code is left, on the same lines."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    pieces: list[str] = []
    position = 0
    while position < len(source):
        literal = RUST_LITERAL.search(source, position)
        comment = source.find("/*", position)
        if comment >= 0 and (literal is None or comment < literal.start()):
            pieces.append(source[position:comment])
            end = end_of_block_comment(source, comment)
            pieces.append(re.sub(r"[^\n]", " ", source[comment:end]))
            position = end
        elif literal is not None:
            pieces.append(source[position : literal.start()] + blank(literal))
            position = literal.end()
        else:
            pieces.append(source[position:])
            break
    return "".join(pieces)


def end_of_block_comment(source: str, start: int) -> int:
    """Where the block comment that starts at `start` ends; they nest in Rust."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(source, start):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(source)


def first_names(code: str, position: int) -> Iterator[str]:
    """The names that a path goes on with at `position`: one, or each of a group in braces."""
    if position < len(code) and code[position] == "{":
        depth = 0
        expects_name = True
        for match in re.compile(r"[{},]|\w+!?").finditer(code, position):
            token = match.group()
            if token == "{":
                depth += 1
            elif token == "}":
                depth -= 1
                if depth == 0:
                    return
            elif token == ",":
                expects_name = depth == 1
            elif expects_name and depth == 1:
                expects_name = False
                yield token
    else:
        name = re.compile(r"\w+!?").match(code, position)
        if name is not None:
            yield name.group()


def root_references(code: str, file_depth: int, crate_name: str = "crate") -> Iterator[tuple[str, int]]:
    """Each name at the crate's root that the code refers to, through `crate::` or `super::`, with its line.

    Args:
        code: A file's code without literals.
        file_depth: How many modules deep the file is; 1 for `src/log.rs`.
        crate_name: `crate` inside the crate itself, else the crate's name.
    """
    open_blocks: list[bool] = []  # For each open brace, whether it opened a module.
    tokens = re.compile(
        rf"\bmod\s+\w+\s*\{{|[{{}}]|(?<![\w.])\$?{crate_name}\s*::\s*|(?<![\w:])(?:super\s*::\s*)+"
    )
    for match in tokens.finditer(code):
        token = match.group()
        if token == "}":
            if open_blocks:
                open_blocks.pop()
            continue
        if token.endswith("{"):
            open_blocks.append(token != "{")
            continue
        levels = token.count("super")
        if levels and (crate_name != "crate" or levels != file_depth + sum(open_blocks)):
            continue
        line = code.count("\n", 0, match.start()) + 1
        for name in first_names(code, match.end()):
            yield name, line


def rust_problems(crate: Path, users: Sequence[Path] = ()) -> list[str]:
    """Check one crate: layers listed, imports pointing down, every file declared, every module used.

    Args:
        crate: The crate's directory, with `src/lib.rs`.
        users: Files of other crates that may use this one's modules.
    """
    source = crate / "src"
    root = source / "lib.rs"
    layers = RUST_LAYER.findall(root.read_text())
    root_code = without_literals(root.read_text())
    declared = [match.group(2) for match in RUST_MODULE.finditer(root_code)]
    problems = [f"{root}: mod {name} is not in the list of layers" for name in declared if name not in layers]
    problems += [f"{root}: layer {name} is not a module" for name in layers if name not in declared]
    problems += [f"{root}: layer {name} is listed twice" for name in set(layers) if layers.count(name) > 1]

    exports: dict[str, str] = {}
    for match in RUST_EXPORT.finditer(root_code):
        for name in re.findall(r"\w+(?=\s*(?:[,}]|$))", match.group(2)):
            exports[name] = match.group(1)

    codes = {path: without_literals(path.read_text()) for path in sorted(source.rglob("*.rs"))}
    modules = declared_files(root, codes)
    macros = set(re.findall(r"\bmacro_rules!\s+(\w+)", "".join(codes.values())))
    used = {name for name in declared if re.search(rf"\b{name}\s*::", root_code)}
    for path, module in modules.items():
        own = module[0] if module else ""
        for name, line in root_references(codes[path], len(module)) if module else ():
            target = name if name in layers else exports.get(name)
            if target is None:
                # An exported macro lives at the root wherever it is written.
                if name.rstrip("!") not in macros:
                    problems.append(f"{path}:{line}: {name} is none of the layers; name the module it is in")
            elif target != own:
                used.add(target)
                if own in layers and layers.index(target) < layers.index(own):
                    problems.append(f"{path}:{line}: {own} imports {target}, which stands above it")

    # A layer may be methods of a type from below it: it is used where one of them is called elsewhere.
    for path, module in modules.items():
        if module and module[0] not in used:
            methods = set(re.findall(r"\bfn\s+(\w+)", codes[path]))
            others = "".join(
                code for other, code in codes.items() if modules.get(other, ("",))[:1] != module[:1]
            )
            if methods & set(re.findall(r"\.(\w+)\(", others)):
                used.add(module[0])

    crate_name = crate.name.replace("-", "_")
    for path in users:
        used.update(name for name, _ in root_references(without_literals(path.read_text()), 0, crate_name))
    problems += [f"{root}: nothing uses the module {name}" for name in declared if name not in used]
    programs = (source / "main.rs", source / "bin")
    for path in codes:
        if path not in modules and not any(path.is_relative_to(program) for program in programs):
            problems.append(f"{path}: no module declares this file")
    return problems


def declared_files(root: Path, codes: Mapping[Path, str]) -> dict[Path, tuple[str, ...]]:
    """The files that `root` declares, directly or through others, each with its module's path from the root.

    Args:
        root: The crate's `lib.rs`.
        codes: Each file's code without literals.
    """
    modules: dict[Path, tuple[str, ...]] = {}
    pending: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while pending:
        path, module = pending.pop()
        if path in modules or path not in codes:
            continue
        modules[path] = module
        placed = {name: place for place, name in RUST_PLACED_MODULE.findall(path.read_text())}
        directory = path.parent if path.name in ("lib.rs", "mod.rs") else path.with_suffix("")
        for match in RUST_MODULE.finditer(codes[path]):
            name = match.group(2)
            if name in placed:
                places = [path.parent / placed[name]]
            else:
                places = [directory / f"{name}.rs", directory / name / "mod.rs"]
            pending += [(place, (*module, name)) for place in places]
    return modules


# ---------------------------------------------------------------- Python


def python_layers(document: Path, heading: str) -> list[str]:
    """The first column of the first table below a heading: a package's layers, top to bottom."""
    section = document.read_text().split(f"\n{heading}\n", 1)[1]
    section = re.split(r"\n#+ ", section, maxsplit=1)[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def python_imports(
    tree: ast.AST, module: str, is_package: bool, modules: set[str]
) -> Iterator[tuple[str, int]]:
    """Each module of the package that a module imports, at its top or inside a function, with its line."""
    package = module.split(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            named = [name if name in modules else base for name in submodules]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id) == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            named = [str(node.args[0].value)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What is imported when it is needed is named as an entry point is, by module and attribute.
            name, _, attribute = node.value.partition(":")
            named = [name] if attribute.isidentifier() and name in modules else []
        else:
            continue
        for name in named:
            if name.split(".")[0] == package:
                yield name, node.lineno


def python_problems(package: Path, layers: Sequence[str], users: Sequence[Path] = ()) -> list[str]:
    """Check one package: layers listed, imports pointing down, no cycle inside a layer, every module used.

    Args:
        package: The package's directory.
        layers: Its top-level modules and packages, top to bottom; `__init__` is the package itself.
        users: Python files outside the package whose imports count as uses, and pyproject.toml for its
            entry points.
    """

    def layer_of(module: str) -> str:
        return module.split(".")[1] if "." in module else "__init__"

    modules: dict[str, Path] = {}
    for path in sorted([*package.rglob("*.pyi"), *package.rglob("*.py")]):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    present = {layer_of(module) for module in modules}
    problems = [f"{package}: {name} is not in the list of layers" for name in sorted(present - set(layers))]
    problems += [f"{package}: layer {name} does not exist" for name in layers if name not in present]
    imported: set[str] = set()
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        own = layer_of(module)
        tree = ast.parse(path.read_text(), str(path))
        is_package = path.name == "__init__.py"
        for name, line in python_imports(tree, module, is_package, set(modules)):
            target = layer_of(name)
            if name != module:
                imported.add(name)
            if own == target:
                graph.setdefault(module, set()).add(name)
            elif own in layers and target in layers and layers.index(target) < layers.index(own):
                problems.append(f"{path}:{line}: {own} imports {target}, which stands above it")
    problems += [f"{package}: {' -> '.join(cycle)} import each other in a circle" for cycle in cycles(graph)]

    for path in users:
        if path.suffix == ".toml":
            project = tomllib.loads(path.read_text())["project"]
            groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
            imported.update(target.split(":")[0] for group in groups for target in group.values())
        else:
            tree = ast.parse(path.read_text(), str(path))
            imported.update(name for name, _ in python_imports(tree, f"{package.name}.", False, set(modules)))
    for module, path in modules.items():
        is_used = any(name == module or name.startswith(f"{module}.") for name in imported)
        if not is_used and module != package.name and path.name != "__main__.py":
            problems.append(f"{path}: nothing imports this module")
    return problems


def cycles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """One circle of modules that import each other for each that a depth-first walk meets."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[list[str]]:
        if module in trail:
            yield [*trail[trail.index(module) :], module]
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                yield from walk(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        yield from walk(module, [])
