"""What the stubs (.pyi) say of compiled modules is so: names are there, and parameters and defaults are the module's.

mypy believes a stub and never sees the module. Signatures are read from the line that Cython embeds into docstrings;
what a stub leaves out, and members below "Of the compiled class only", are not asked for.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STUBS = [p for top in ("lb", "bench") for p in sorted((ROOT / top).rglob("*.pyi")) if "wire" not in p.parts]
HIDDEN = "# Of the compiled class only"


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
    text = re.sub(r"(^|, )(?:unsigned )?\w+ (?=\w+(?:,|=|$| ))", r"\1", found[1])
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return told(function)


def wrong(where: str, function: ast.FunctionDef, thing: Any) -> Iterator[str]:
    overloaded = any(isinstance(d, ast.Name) and d.id == "overload" for d in function.decorator_list)
    real = None if overloaded or function.name.startswith("__") else embedded(thing)
    if real is not None and real != told(function):
        yield f"{where}: the stub has {told(function)}, the module {real}"


def differences(stub: Path) -> Iterator[str]:
    text = stub.read_text()
    lines = text.split("\n")
    module = importlib.import_module(".".join(stub.relative_to(ROOT).with_suffix("").parts))
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases):
            continue  # the stub's own, for what others bring
        if not hasattr(module, node.name):
            yield f"{node.name} is not there"
        elif isinstance(node, ast.FunctionDef):
            yield from wrong(node.name, node, getattr(module, node.name))
        else:
            made = getattr(module, node.name)
            for member in node.body:
                if any(HIDDEN in line for line in lines[node.lineno : member.lineno - 1]):
                    break
                if isinstance(member, ast.FunctionDef):
                    name = member.name
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    name = member.target.id
                else:
                    continue
                if isinstance(member, ast.AnnAssign) and made.__dictoffset__:
                    continue  # of a plain class, whose instances alone have it
                if not hasattr(made, name):
                    yield f"{node.name}.{name} is not there"
                elif isinstance(member, ast.FunctionDef):
                    yield from wrong(f"{node.name}.{name}", member, getattr(made, name))


@pytest.mark.parametrize("stub", STUBS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stub_says_what_is_there(stub: Path) -> None:
    assert list(differences(stub)) == []
