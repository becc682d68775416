"""Checks what Cython takes without a word: a class that declares an attribute which a class that it derives from has.

    python tools/attributes.py [FOLDER]

The two are different memory under one name. Code that knows the object by its base sets the one, and code that knows
it by its class reads the other. Reads every `cdef class` of the `.pyx` and `.pxd` files under lb, bench and tests of
FOLDER (default: the repository). Exits with 1 and a line for each breach. Run by `make lint`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLASS = re.compile(r"^cdef class (?P<name>\w+)(?:\((?P<base>\w+)\))?:")
# `    cdef readonly const char *name[16], *other   # comment`; a method has a parenthesis behind its name.
ATTRIBUTES = re.compile(r"^    cdef (?:(?:public|readonly|const|unsigned|struct) )*[\w.]+(?P<names>[^#(]*)(?:#.*)?$")


@dataclass(slots=True)
class Class:
    base: str | None
    path: Path
    attributes: set[str] = field(default_factory=set)


def classes(folder: Path) -> dict[str, Class]:
    """The classes by name; the declarations of a `.pxd` and of its `.pyx` are together."""
    found: dict[str, Class] = {}
    for top in ("lb", "bench", "tests"):
        for path in sorted((*(folder / top).rglob("*.pxd"), *(folder / top).rglob("*.pyx"))):
            current = None
            for line in path.read_text().splitlines():
                if heading := CLASS.match(line):
                    current = found.setdefault(heading["name"], Class(heading["base"], path))
                elif line and not line.startswith((" ", "#")):
                    current = None
                elif current is not None and (declared := ATTRIBUTES.match(line)):
                    names = declared["names"].split(",")
                    found_here = (name.split()[-1] for name in names if name.strip())
                    current.attributes |= {re.sub(r"\[.*?\]|\W", "", name) for name in found_here}
    return found


def breaches(found: dict[str, Class]) -> Iterator[str]:
    for name, one in found.items():
        base = one.base
        while base in found:
            for attribute in sorted(one.attributes & found[base].attributes):
                yield f"{one.path.name}: {name}.{attribute} is declared by {base}, too"
            base = found[base].base


def main(folder: Path) -> int:
    found = classes(folder)
    lines = list(breaches(found))
    for line in lines:
        print(line)
    if not lines:
        print(f"{len(found)} classes: no attribute is declared twice")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
