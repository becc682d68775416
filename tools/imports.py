"""Checks what import-linter cannot see: cycles of modules, and layers of `cimport`. Run by `make lint`.

    python tools/imports.py [FOLDER]

Reads `import` and `cimport` of every `.py`, `.pyx` and `.pxd` under FOLDER/lb and FOLDER/backend (default: the
repository). A module and its declarations (`.pxd`) are one module. Three rules:

- No cycle of modules. Imports within functions, and for type checkers alone, are no part of a cycle.
- A `cimport` goes down the layers that `[tool.importlinter]` in pyproject.toml has for imports.
- The model server cimports nothing that it may not import there.

Exits with 1 and a line for each breach.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# At the beginning of a line: statements within functions and `if TYPE_CHECKING` are indented.
STATEMENT = re.compile(
    r"^(?:from[ \t]+(?P<package>[\w.]+)[ \t]+)?(?P<kind>c?import)[ \t]+(?P<names>\([^)]*\)|[^(#\n]*)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Import:
    """`importer` needs `imported`; `kind` is "import" or "cimport"."""

    importer: str
    imported: str
    kind: str


def modules(folder: Path) -> dict[str, list[Path]]:
    """The files of each module under `folder`/lb and `folder`/backend, by its dotted name."""
    found: dict[str, list[Path]] = {}
    for package in ("lb", "backend"):
        for suffix in ("py", "pyx", "pxd"):
            for path in sorted((folder / package).rglob(f"*.{suffix}")):
                name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
                found.setdefault(name, []).append(path)
    return found


def imports(files: dict[str, list[Path]]) -> Iterator[Import]:
    """Those between the modules, each once for its kind."""
    seen = set()
    for importer, paths in files.items():
        for path in paths:
            for statement in STATEMENT.finditer(path.read_text()):
                for imported in named(statement["package"], statement["names"]):
                    module = imported if imported in files else imported.rpartition(".")[0]
                    found = Import(importer, module, statement["kind"])
                    if module in files and module != importer and found not in seen:
                        seen.add(found)
                        yield found


def named(package: str | None, names: str) -> Iterator[str]:
    """What a statement names, with its package."""
    for name in names.strip("()\n").split(","):
        if words := re.sub(r"#.*", "", name).split():
            yield f"{package}.{words[0]}" if package else words[0]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan), each in order of its names."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def contracts(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def layers(folder: Path) -> list[list[str]]:
    """Packages from the highest layer to the lowest; those of one layer do not know each other."""
    (contract,) = (contract for contract in contracts(folder) if contract["type"] == "layers")
    return [[package.strip(" ()") for package in layer.split("|")] for layer in contract["layers"]]


def forbidden(folder: Path) -> set[str]:
    """Packages that the model server may not import."""
    return {
        package
        for contract in contracts(folder)
        if contract["type"] == "forbidden" and contract["source_modules"] == ["backend"]
        for package in contract["forbidden_modules"]
    }


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def breaches(found: list[Import], order: list[list[str]]) -> Iterator[str]:
    """A line for each cimport that goes up, or to a neighbour in its layer."""
    ranks = {package: rank for rank, layer in enumerate(order) for package in layer}

    for one in found:
        above, below = package_of(one.importer), package_of(one.imported)
        if one.kind == "import" or above == below or above not in ranks or below not in ranks:
            continue
        if ranks[above] >= ranks[below]:
            yield f"{one.importer} cimports {one.imported}, but {below} is not below {above}"


def main(folder: Path) -> int:
    sys.setrecursionlimit(10_000)
    found = list(imports(modules(folder)))
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.importer, set()).add(one.imported)
    kept_out = forbidden(folder)
    lines = [
        *breaches(found, layers(folder)),
        *(
            f"{one.importer} cimports {one.imported}, which is not for the model server"
            for one in found
            if one.importer.startswith("backend.") and one.kind == "cimport" and package_of(one.imported) in kept_out
        ),
        *(f"a cycle: {', '.join(cycle)}" for cycle in cycles(graph)),
    ]
    for line in lines:
        print(line)
    if not lines:
        print(f"{len(graph)} modules: no cycle, and every cimport goes down")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
