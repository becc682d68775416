"""Checks what Cython takes without a word: an attribute that no class has, asked of an object whose class it knows.

    python tools/lookups.py [FOLDER]

What a `cdef class` does not declare is looked up by name when the code runs, as of any object of Python. A name that
was misspelt, or taken away from the class, is an error then, which a `noexcept` function prints and drops. Reads the C
that Cython has made beside the `.pyx` files under lb, backend and bench of FOLDER (default: the repository), and the
names that the `.pyx` and `.pxd` files give to Python. Exits with 1 and a line for each breach. Run by `make lint`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("lb", "backend", "bench")
METHOD = re.compile(r"^\s*(?:(?:async )?def|cpdef [^(\n]*?) ?(\w+)\(", re.MULTILINE)
SHARED = re.compile(r"^\s*cdef (?:public|readonly) ([^#\n]*)", re.MULTILINE)
ASSIGNED = re.compile(r"^    (\w+) = ", re.MULTILINE)  # in the body of a class
# Only an object of a known class is cast.
LOOKUP = re.compile(r"GetAttrStr\(\(\(PyObject ?\*\)(__pyx_[vt]_[^;]*?)\), ?(?:\w+->)?__pyx_n_[us]_(\w+)\)")


def plain(name: str) -> str:
    """Of an identifier of C, which has no underscores in front and may have a number behind."""
    return re.sub(r"_\d+$", "", name).strip("_")


def known(folder: Path) -> set[str]:
    names: set[str] = set()
    for top in TOPS:
        for path in (*(folder / top).rglob("*.pyx"), *(folder / top).rglob("*.pxd")):
            text = path.read_text()
            names.update(METHOD.findall(text), ASSIGNED.findall(text))
            for line in SHARED.findall(text):
                names.update(re.findall(r"\w+", line))
    return {plain(name) for name in names}


def breaches(folder: Path, names: set[str]) -> Iterator[str]:
    for top in TOPS:
        for path in sorted((folder / top).rglob("*.pyx")):
            made = path.with_suffix(".c")
            if not made.exists():
                continue
            for of, name in sorted(set(LOOKUP.findall(made.read_text()))):
                if plain(name) not in names and not hasattr(object, f"__{plain(name)}__"):
                    where = re.sub(r"__pyx_(?:[vt]_|base\.)?", "", of)
                    yield f"{path.relative_to(folder)}: {where} has no {plain(name)}"


def main(folder: Path) -> int:
    names = known(folder)
    lines = list(breaches(folder, names))
    for line in lines:
        print(line)
    if not lines:
        print(f"{len(names)} names: no class is asked for another one")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
