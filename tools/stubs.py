"""Writes the type stubs (`.pyi`) of compiled modules from their sources. Run by `make dev` and for each wheel.

    python tools/stubs.py [FOLDER]

mypy and editors cannot read a `.pyx`. A signature stands there alone, and its types with it: C types (`int index`,
`Segment segment`), annotations (`addresses: Sequence[str]`, `-> None`), and for attributes a comment
(`cdef readonly tuple addresses  # type: tuple[str, ...]`). The stubs are no part of the repository.

A stub is made for each module that a `.py` under FOLDER/lb, FOLDER/backend or FOLDER/bench imports, and for the modules
of the types that such a stub names (default of FOLDER: the repository). A member without all of its types is left out,
so that mypy refuses its use; a type is never guessed. `typing` and `collections.abc` need no import in the source.

Stubs of before, whose module is gone or of which nothing is imported any more, are removed.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from Cython.Compiler import ExprNodes, Nodes
from Cython.Compiler.AutoDocTransforms import AnnotationWriter
from Cython.Compiler.Errors import init_thread
from Cython.Compiler.TreeFragment import parse_from_strings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lb", "backend", "bench")
HEADER = "# Written by tools/stubs.py: what is changed here is lost."
INTEGERS = {
    *("char", "short", "int", "long", "size_t", "ssize_t", "Py_ssize_t"),
    *(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
# C type -> Python type. `object`, `list`, `tuple` and `dict` say too little: they need an annotation.
C_TYPES = dict.fromkeys(INTEGERS, "int") | {
    "bint": "bool", "double": "float", "float": "float", "void": "None", "bytes": "bytes", "str": "str",
}  # fmt: skip
ATTRIBUTE_TYPE = re.compile(r"#\s*type:\s*(.+?)\s*$")
SHOWN_SPECIAL = {
    "__init__", "__len__", "__getitem__", "__contains__", "__iter__", "__next__", "__call__", "__enter__", "__exit__",
}  # fmt: skip


@dataclass
class Source:
    """A compiled module: the trees of its `.pyx` and `.pxd`, and where the names come from that it uses."""

    name: str
    path: Path
    trees: list[Any] = field(default_factory=list)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (module, name there); "" is a module
    classes: dict[str, Any] = field(default_factory=dict)

    @property
    def stub(self) -> Path:
        return self.path.with_suffix(".pyi")


def statements(node: Any) -> Iterator[Any]:
    """The statements of a body, those of `if TYPE_CHECKING` included."""
    if node is None:
        return
    if isinstance(node, Nodes.StatListNode):
        for each in node.stats:
            yield from statements(each)
    elif isinstance(node, Nodes.CompilerDirectivesNode):
        yield from statements(node.body)
    elif isinstance(node, Nodes.IfStatNode):
        for clause in node.if_clauses:
            if isinstance(clause.condition, ExprNodes.NameNode) and clause.condition.name == "TYPE_CHECKING":
                yield from statements(clause.body)
    else:
        yield node


@cache
def read(name: str, path: Path) -> Source:
    source = Source(name, path)
    for file in (path, path.with_suffix(".pxd")):
        if not file.exists():
            continue
        text = file.read_text()
        tree = parse_from_strings(name, text, level="module_pxd" if file.suffix == ".pxd" else "module")
        source.trees.append(tree)
        lines = text.split("\n")
        for node in statements(tree.body):
            note(source, node)
            if isinstance(node, Nodes.CClassDefNode):
                # Attributes stand in the declarations if there are some.
                source.classes[node.class_name] = (node, lines)
            elif isinstance(node, Nodes.PyClassDefNode):
                source.classes[node.name] = (node, lines)
    return source


def note(source: Source, node: Any) -> None:
    """Takes note of what an import statement names."""
    if isinstance(node, Nodes.FromCImportStatNode):
        for _, name, alias in node.imported_names:
            source.imported[alias or name] = (node.module_name, name)
    elif isinstance(node, Nodes.FromImportStatNode):
        module = node.module.module_name.value
        for name, target in node.items:
            source.imported[target.name] = (module, name)
    elif isinstance(node, Nodes.SingleAssignmentNode) and isinstance(node.rhs, ExprNodes.ImportNode):
        source.imported[node.lhs.name] = (node.rhs.module_name.value, "")


class Untyped(Exception):
    """A type that the source does not say."""


class Writer:
    """The text of one stub, and the modules whose stubs it needs."""

    def __init__(self, source: Source, compiled: dict[str, Path]) -> None:
        self.source = source
        self.compiled = compiled
        self.needed: set[str] = set()
        self.imports: dict[str, set[str]] = {}
        self.modules: set[str] = set()
        self.lines = source.path.read_text().split("\n")

    def text(self) -> str:
        body: list[str] = []
        for node in statements(self.source.trees[0].body):
            if isinstance(node, Nodes.CClassDefNode) and not node.class_name.startswith("_"):
                body += ["", *self.c_class(node)]
            elif isinstance(node, Nodes.PyClassDefNode) and not node.name.startswith("_"):
                try:
                    body += ["", *self.py_class(node)]
                except Untyped:
                    continue
            elif isinstance(node, Nodes.DefNode | Nodes.CFuncDefNode):
                body += self.function(node, "")
            else:
                body += self.variable(node, "")
        head = [HEADER]
        head += [f"import {module}" for module in sorted(self.modules)]
        head += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(self.imports.items())]
        return "\n".join([*head, "", *body, ""])

    # Types

    def type_of(self, text: str) -> str:
        """An annotation as the stub has it, after its names were made known there. Raises Untyped for one of unknown
        origin."""
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as error:
            raise Untyped(text) from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                self.know(node.id)
        return ast.unparse(tree)

    def know(self, name: str) -> None:
        if name in self.source.classes or hasattr(builtins, name):
            return
        module, original = self.source.imported.get(name, ("", ""))
        if module:
            while original and module in self.compiled and original not in self.declared(module).classes:
                # That one has it from elsewhere.
                module, original = self.declared(module).imported.get(original, ("", ""))
            if not module:
                raise Untyped(name)
            if module in self.compiled:
                self.needed.add(module)
            if not original:
                self.modules.add(name)
                return
            self.imports.setdefault(module, set()).add(name if name == original else f"{original} as {name}")
        elif name in collections.abc.__all__:
            self.imports.setdefault("collections.abc", set()).add(name)
        elif name in typing.__all__:
            self.imports.setdefault("typing", set()).add(name)
        else:
            raise Untyped(name)

    def declared(self, module: str) -> Source:
        return read(module, self.compiled[module])

    def c_type(self, base: Any, declarator: Any) -> str:
        if not isinstance(base, Nodes.CSimpleBaseTypeNode) or not isinstance(
            declarator, Nodes.CNameDeclaratorNode | Nodes.CFuncDeclaratorNode
        ):
            raise Untyped("a pointer, an array or the like")
        if base.name in C_TYPES:
            return C_TYPES[base.name]
        if base.name is None or base.name in ("object", "list", "tuple", "dict", "set"):
            raise Untyped(str(base.name))
        module, name = self.source.imported.get(base.name, ("", ""))
        if base.name in self.source.classes or (module in self.compiled and name[:1].isupper()):
            return self.type_of(base.name)
        raise Untyped(base.name)

    # Members

    def c_class(self, node: Any) -> Iterator[str]:
        declared, lines = self.source.classes[node.class_name]
        bases = [base.name for base in (declared.bases.args if declared.bases else ())]
        if any(written(d) in ("final", "cython.final") for d in self.decorators(node, declared)):
            self.imports.setdefault("typing", set()).add("final")
            yield "@final"
        yield from self.class_line(node.class_name, bases)
        members: list[str] = []
        for member in statements(declared.body):
            members += self.attribute(member, lines)
        for member in statements(node.body):
            members += self.variable(member, "    ", self.lines)
        members += self.methods(node.body)
        yield from members or ["    pass"]

    def decorators(self, *nodes: Any) -> Iterator[Any]:
        for node in nodes:
            for decorator in node.decorators or ():
                yield decorator.decorator

    def class_line(self, name: str, bases: list[str]) -> Iterator[str]:
        known = [self.type_of(base) for base in bases]
        yield f"class {name}({', '.join(known)}):" if known else f"class {name}:"

    def py_class(self, node: Any) -> Iterator[str]:
        bases = [written(base) for base in (node.bases.args if node.bases else ())]
        for base in bases:
            if base in collections.abc.__all__:
                raise Untyped(f"what a {base} is of")
        yield from self.class_line(node.name, bases)
        members: list[str] = []
        for member in statements(node.body):
            members += self.variable(member, "    ")
        members += self.methods(node.body)
        yield from members or ["    pass"]

    def attribute(self, node: Any, lines: list[str]) -> Iterator[str]:
        if not isinstance(node, Nodes.CVarDefNode) or node.visibility not in ("readonly", "public"):
            return
        comment = ATTRIBUTE_TYPE.search(lines[node.pos[1] - 1])
        for declarator in node.declarators:
            try:
                kind = self.type_of(comment[1]) if comment else self.c_type(node.base_type, declarator)
            except Untyped:
                continue
            if node.visibility == "public":
                yield f"    {declarator.name}: {kind}"
            else:
                yield from ("    @property", f"    def {declarator.name}(self) -> {kind}: ...")

    def methods(self, body: Any) -> Iterator[str]:
        named = {node.name for node in statements(body) if isinstance(node, Nodes.DefNode)}
        for node in statements(body):
            if isinstance(node, Nodes.DefNode | Nodes.CFuncDefNode):
                yield from self.function(node, "    ", instead="__init__" not in named)

    def variable(self, node: Any, indent: str, lines: Sequence[str] = ()) -> Iterator[str]:
        """`NAME: type`, with a value or without. Those of an extension type, whose `lines` are given, have the type in
        a comment: Cython would take an annotation for the declaration of an attribute."""
        target = None
        if isinstance(node, Nodes.ExprStatNode):
            target = node.expr
        elif isinstance(node, Nodes.SingleAssignmentNode):
            target = node.lhs
        if not isinstance(target, ExprNodes.NameNode):
            return
        comment = ATTRIBUTE_TYPE.search(lines[node.pos[1] - 1]) if lines else None
        if comment or target.annotation is not None:
            try:
                kind = self.type_of(comment[1] if comment else target.annotation.string.value)
            except Untyped:
                return
            yield f"{indent}{target.name}: {kind}"

    def function(self, node: Any, indent: str, instead: bool = False) -> Iterator[str]:
        c = isinstance(node, Nodes.CFuncDefNode)
        if c and not node.overridable:
            return
        name = node.declarator.declared_name() if c else node.name
        if name == "__cinit__" and instead:
            name = "__init__"
        if name.startswith("_") and name not in SHOWN_SPECIAL:
            return
        try:
            line = self.signature(name, node, c, bool(indent))
        except Untyped:
            return
        for decorator in self.decorators(node):
            text = written(decorator)
            if text in ("property", "staticmethod", "classmethod") or text.endswith(".setter"):
                yield f"{indent}@{text}"
        yield f"{indent}{line}"

    def signature(self, name: str, node: Any, c: bool, method: bool) -> str:
        if c:
            arguments, star, stars = node.declarator.args, None, None
            result = self.c_type(node.base_type, node.declarator)
        else:
            arguments, star, stars = node.args, node.star_arg, node.starstar_arg
            result = "None" if name == "__init__" else ""
            if node.return_type_annotation is not None:
                result = self.type_of(node.return_type_annotation.string.value)
        if not result:
            raise Untyped(name)
        static = any(written(d) == "staticmethod" for d in self.decorators(node))
        parts: list[str] = []
        keywords = False
        for at, argument in enumerate(arguments):
            if method and at == 0 and not static:
                parts.append(argument.declarator.name or argument.base_type.name)
                continue
            if argument.kw_only and not keywords and star is None:
                parts.append("*")
            if star is not None and argument.kw_only and not keywords:
                parts.append(f"*{star.name}: {self.annotated(star)}")
            keywords = keywords or bool(argument.kw_only)
            parts.append(self.argument(argument))
        if star is not None and not keywords:
            parts.append(f"*{star.name}: {self.annotated(star)}")
        if stars is not None:
            parts.append(f"**{stars.name}: {self.annotated(stars)}")
        asynchronous = "async " if getattr(node, "is_async_def", False) else ""
        return f"{asynchronous}def {name}({', '.join(parts)}) -> {result}: ..."

    def argument(self, node: Any) -> str:
        name, base = node.declarator.name, node.base_type
        if not name:  # `def f(x)`: the name stands where a type could
            name, base = base.name, None
        default = "" if node.default is None else written(node.default)
        if node.annotation is not None:
            kind = self.annotated(node)
        elif base is None:
            raise Untyped(name)
        else:
            kind = self.c_type(base, node.declarator)
            if default == "None":
                kind += " | None"
        return f"{name}: {kind} = {literal(default)}" if default else f"{name}: {kind}"

    def annotated(self, node: Any) -> str:
        if node.annotation is None:
            raise Untyped(node.name)
        return self.type_of(node.annotation.string.value)


def written(node: Any) -> str:
    """An expression as text."""
    return str(AnnotationWriter(description="").write(node))


def literal(default: str) -> str:
    try:
        ast.literal_eval(default)
    except (SyntaxError, ValueError):
        return "..."
    return default


def modules(folder: Path) -> dict[str, Path]:
    """The compiled modules, by their dotted names."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted((folder / package).rglob("*.pyx"))
    }


def imported(folder: Path, compiled: dict[str, Path]) -> set[str]:
    """Those that Python code imports."""
    found = set()
    for package in PACKAGES:
        for path in (folder / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
                elif isinstance(node, ast.Import):
                    found |= {each.name for each in node.names}
    return found & compiled.keys()


def stubs(folder: Path) -> dict[Path, str]:
    """The text of every stub."""
    init_thread()
    compiled = modules(folder)
    todo, made = imported(folder, compiled), {}
    while todo - made.keys():
        for name in sorted(todo - made.keys()):
            writer = Writer(read(name, compiled[name]), compiled)
            made[name] = writer.text()
            todo = todo | writer.needed
    return {compiled[name].with_suffix(".pyi"): text for name, text in made.items()}


def main(folder: Path) -> None:
    made = stubs(folder)
    for path, text in made.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for package in PACKAGES:
        for path in (folder / package).rglob("*.pyi"):
            if path not in made and path.read_text().startswith(HEADER):
                path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
