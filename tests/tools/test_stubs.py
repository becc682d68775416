"""tools/stubs.py: what it makes of planted sources, and that the stubs of the tree say what the compiled modules have.

mypy believes a stub and never sees the module. Signatures of the modules are read from the line that Cython embeds into
docstrings.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "stubs.py"
SOURCES = {
    "lb/__init__.py": "",
    "lb/plan.py": "class Plan: ...\n",
    "lb/user.py": "from lb.table import Table, size_of\n\nprint(size_of(Table(3), 'web'))\n",
    "lb/table.pxd": """
from lb.row cimport Row

cdef class Table:
    cdef readonly tuple names     # type: tuple[str, ...]
    cdef readonly Row first
    cdef public bint open
    cdef readonly object unsaid
    cdef int hidden
    cpdef double load(self, int i)
""",
    "lb/table.pyx": """
from typing import TYPE_CHECKING

cimport cython
from lb.row cimport Row

if TYPE_CHECKING:
    from lb.plan import Plan

MOST: int = 3
LEAST = 1


@cython.final
cdef class Table:
    def __cinit__(self, int size, plan: Plan | None = None):
        pass

    def __len__(self) -> int:
        return 0

    cpdef double load(self, int i):
        return 0.0

    cdef int inner(self):
        return 0

    def rows(self, *, uint64_t now=0, names: Sequence[str] = (), Row last=None) -> Iterator[Row]:
        return iter(())

    def unsaid_result(self, int i):
        return i

    def unsaid_argument(self, i) -> int:
        return i

    def _inner(self) -> int:
        return 0


def size_of(Table table not None, str name) -> int:
    return 0
""",
    "lb/row.pxd": "cdef class Row:\n    cdef readonly int at\n",
    "lb/row.pyx": "cdef class Row:\n    pass\n",
    "lb/unused.pyx": "def f() -> int:\n    return 0\n",
}
TABLE = """\
# Written by tools/stubs.py: what is changed here is lost.
from collections.abc import Iterator, Sequence
from lb.plan import Plan
from lb.row import Row
from typing import final

MOST: int

@final
class Table:
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def first(self) -> Row: ...
    open: bool
    def __init__(self, size: int, plan: Plan | None = None) -> None: ...
    def __len__(self) -> int: ...
    def load(self, i: int) -> float: ...
    def rows(self, *, now: int = 0, names: Sequence[str] = (), last: Row | None = None) -> Iterator[Row]: ...
def size_of(table: Table, name: str) -> int: ...
"""


def plant(folder: Path, changes: dict[str, str] | None = None) -> None:
    for name, text in (SOURCES | (changes or {})).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run([sys.executable, TOOL, folder], check=True)


def mypy(folder: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null", "-p", "lb"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_a_stub_has_what_is_typed(tmp_path: Path) -> None:
    plant(tmp_path)
    assert (tmp_path / "lb/table.pyi").read_text() == TABLE
    assert "def at(self) -> int" in (tmp_path / "lb/row.pyi").read_text()  # table's stub names it
    assert not (tmp_path / "lb/unused.pyi").exists()


@pytest.mark.slow
def test_stubs_that_are_not_needed_any_more_are_removed_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "lb").mkdir()
    (tmp_path / "lb/hand_written.pyi").write_text("x: int\n")
    plant(tmp_path)
    plant(tmp_path, {"lb/user.py": "import lb.unused\n"})
    assert sorted(path.name for path in tmp_path.rglob("*.pyi")) == ["hand_written.pyi", "unused.pyi"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (("str name", "int name"), 'Argument 2 to "size_of" has incompatible type "str"; expected "int"'),
        (("def size_of(", "def size("), 'Module "lb.table" has no attribute "size_of"'),
        (("str name) -> int", "name) -> int"), 'Module "lb.table" has no attribute "size_of"'),
        (("int size,", "int size, int more,"), 'Missing positional argument "more" in call to "Table"'),
    ],
)
def test_mypy_sees_that_a_source_has_changed(tmp_path: Path, drift: tuple[str, str], message: str) -> None:
    plant(tmp_path)
    assert "Success" in mypy(tmp_path)
    plant(tmp_path, {"lb/table.pyx": SOURCES["lb/table.pyx"].replace(*drift)})
    assert message in mypy(tmp_path)


def told(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """Name of each parameter, and whether it has a default, by the stub."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    first_default = len(plain) - len(given.defaults)
    found = [(a.arg, i >= first_default) for i, a in enumerate(plain)]
    if given.vararg is not None:
        found.append((given.vararg.arg, False))
    found += [(a.arg, d is not None) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [(name, default) for name, default in found if name not in ("self", "cls")]


def embedded(thing: Any) -> list[tuple[str, bool]] | None:
    """The same by the module; None where nothing is embedded."""
    line = (getattr(thing, "__doc__", None) or "").split("\n")[0]
    found = re.match(r"[\w.]+\((.*)\)(?: -> .*)?$", line)
    if found is None:
        return None
    # As a function's definition Python takes it apart; Cython puts C types before names.
    text = re.sub(r"(^|, )(?:unsigned )?\w+ (?=\w+(?:,|=|:|$| ))", r"\1", found[1])
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return told(function)


def differences(text: str, module: Any) -> Iterator[str]:
    for node in ast.parse(text).body:
        name = getattr(node, "name", None)
        if name is None:
            continue
        if not hasattr(module, name):
            yield f"{name} is not there"
            continue
        thing = getattr(module, name)
        if isinstance(node, ast.FunctionDef):
            yield from wrong(name, node, thing)
            continue
        assert isinstance(node, ast.ClassDef)
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                if not hasattr(thing, member.name):
                    yield f"{name}.{member.name} is not there"
                else:
                    yield from wrong(f"{name}.{member.name}", member, getattr(thing, member.name))


def wrong(where: str, function: ast.FunctionDef, thing: Any) -> Iterator[str]:
    real = None if function.name.startswith("__") or function.decorator_list else embedded(thing)
    if real is not None and real != told(function):
        yield f"{where}: the stub has {told(function)}, the module {real}"


@pytest.mark.slow
def test_the_stubs_say_what_the_modules_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TOOL.parent)
    tool = importlib.import_module("stubs")
    found = [
        f"{path.relative_to(ROOT)}: {difference}"
        for path, text in tool.stubs(ROOT).items()
        for difference in differences(
            text, importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        )
    ]
    assert found == []
