"""YAML text to plain values, with the line of every key, and every mistake of form at once.

Scalars follow YAML 1.2's core schema, so that `off`, `on`, `yes` and `no` stay text and `010` is ten; merge keys (`<<`)
and aliases work. Python's own tags are refused: the text only ever becomes dict, list, str, int, float, bool and None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lb.config.yaml_values import NotPlainError, values

MAX_BYTES = 4 << 20
# An alias repeats its node, so a short text can grow without limit ("billion laughs"); no real file comes near this.
MAX_NODES = 200_000
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_SEGMENT = re.compile(r"(?:\.[^.\[]*|\[\d+\]|^[^.\[]+)$")

_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0) if text.startswith(("0x", "0o")) else int(text),
    "float": float,
    "str": str,
}
# At most 18 digits: a longer number stays text, which no field takes for a number.
_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}", list("-+0123456789")),
    "float": (r"[-+]?(?:\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{0,18})?)(?:[eE][-+]?[0-9]{1,3})?", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.CSafeLoader):
    """PyYAML's, with our scalars. What a node's place in the tree would say of its tag is left out: nobody uses it, and
    it took most of the time."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass

    def resolve(self, kind: type[Node], value: Any, implicit: tuple[bool, bool] | bool) -> str:
        """The tag of a node that has none. `implicit`: whether a scalar is plain, and may be anything but text."""
        if kind is ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            for tag, pattern in self.yaml_implicit_resolvers.get(value[:1], ()):
                if pattern.match(value):
                    return tag
        return _DEFAULT_TAGS[kind]


_MERGE = _TAG + "merge"
# What to do about libyaml's commonest problems.
_HINTS = {
    "did not find expected alphabetic or numeric character": "; put text that begins with * or & in quotes",
    "did not find expected node content": "; put text that begins with [ or { in quotes",
    "found unknown escape character": "; put text with a \\ in single quotes",
    "mapping values are not allowed in this context": (
        "; look for a key that is not indented like its neighbours, or a colon without a space, also on the line before"
    ),
}
_PLAIN = {_TAG + kind: convert for kind, convert in _SCALARS.items()}
_NUMBER_OR_TRUTH = frozenset((_TAG + "int", _TAG + "float", _TAG + "bool"))
_DEFAULT_TAGS: dict[type[Node], str] = {
    ScalarNode: _TAG + "str",
    SequenceNode: _TAG + "seq",
    MappingNode: _TAG + "map",
}

for _kind, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)


class MalformedError(Exception):
    """The text is not one YAML mapping. `line` is None when the mistake has no place."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a file."""

    line: int
    path: str
    message: str


class Document:
    """Values of a file, and the mistakes of its form. Where they stand is found out when it is asked for, which for a
    file without mistakes is never."""

    def __init__(self, text: str, root: Callable[[str], MappingNode]) -> None:
        """`root` gives the nodes of `text`. Raises MalformedError as it does, and when there is too much of them."""
        self._text = text
        self._root = root
        self.data: dict[str, Any] = {}
        self.problems: list[Problem] = []
        try:
            self.data = values(text.encode(), _value, MAX_DEPTH, MAX_NODES)
        except NotPlainError:
            self.data, self.problems = self._built.data, self._built.problems

    @cached_property
    def _built(self) -> _Builder:
        return _Builder(self._root(self._text))

    @property
    def lines(self) -> dict[str, int]:
        """Line numbers from 1 by path, such as `listeners.web.routes[0].pool`."""
        return self._built.lines

    def line(self, path: str) -> int:
        """Line of `path`, or of the nearest part around it that the file has."""
        return self.lines[self.known(path)]

    def known(self, path: str) -> str:
        """`path`, shortened until the file has it."""
        while path not in self.lines:
            path = _SEGMENT.sub("", path)
        return path


def join(path: str, key: str | int) -> str:
    """The path of an item or key below `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def parse(raw: bytes, prepared: Callable[[str], str] = str) -> Document:
    """The document in `raw`, whose text `prepared` may change without moving anything to another line. Raises
    MalformedError when there is no mapping to go on with."""
    return Document(prepared(_text(raw)), _mapping)


def parse_list(raw: bytes, key: str) -> Document:
    """The document in `raw`, which is a mapping, or only the list that such a mapping would have at `key`.

    Raises MalformedError when it is neither.
    """
    return Document(_text(raw), lambda text: _list(text, key))


def _text(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise MalformedError(f"larger than {MAX_BYTES >> 20}MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"not UTF-8 text: byte 0x{raw[error.start]:02x}", raw.count(b"\n", 0, error.start) + 1
        ) from None


def _mapping(text: str) -> MappingNode:
    root = _compose(text)
    if root is None or _is_empty(root):
        raise MalformedError("empty: a configuration needs at least listeners and pools")
    if not isinstance(root, MappingNode):
        raise MalformedError("not a mapping: a configuration begins with keys such as listeners:", _line(root))
    return root


def _list(text: str, key: str) -> MappingNode:
    root = _compose(text)
    if root is None or _is_empty(root):
        raise MalformedError("empty: a list is needed, [] if nothing is to be in it")
    if isinstance(root, SequenceNode):
        name = ScalarNode(_DEFAULT_TAGS[ScalarNode], key, root.start_mark, root.start_mark)
        root = MappingNode(_DEFAULT_TAGS[MappingNode], [(name, root)], root.start_mark, root.end_mark)
    if not isinstance(root, MappingNode):
        raise MalformedError(f"not a list, nor a mapping with the key {key}", _line(root))
    return root


def _is_empty(root: Node | None) -> bool:
    return root is None or (isinstance(root, ScalarNode) and root.tag == _TAG + "null")


def _compose(text: str) -> Node | None:
    try:
        root: Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {_told(error.problem, text, mark) or error.context}"
        if error.problem and error.context and error.context_mark and mark and error.context_mark.line != mark.line:
            message += f" ({error.context} that begins on line {error.context_mark.line + 1})"
        raise MalformedError(message, mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise MalformedError(f"not YAML: character #x{error.character:04x} is not allowed", line) from None
    return root


def _told(problem: str | None, text: str, mark: yaml.Mark | None) -> str | None:
    """libyaml's `problem`, or better words for a character with which nothing begins."""
    if mark is None or problem is None:
        return problem
    if problem != "found character that cannot start any token":
        return problem + _HINTS.get(problem, "")
    line = "".join(text.split("\n")[mark.line : mark.line + 1])
    character = line[mark.column : mark.column + 1]
    if character == "\t":
        return "a tab; only spaces indent"
    return f"{character} begins no value; put the text in quotes" if character in ("@", "`", "%") else problem


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _value(text: str) -> Any:
    """The value of a plain scalar. Raises NotPlainError where it is a mistake, or a merge key."""
    for tag, pattern in _Loader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text):
            if tag == _MERGE or text == "":
                raise NotPlainError
            return _PLAIN[tag](text)
    return text


def number_or_truth(text: str) -> str | int | float | bool:
    """What a plain scalar of this text is: a number or a truth value, or the text itself."""
    for tag, pattern in _Loader.yaml_implicit_resolvers.get(text[:1], ()):
        if tag in _NUMBER_OR_TRUTH and text and pattern.match(text):
            value: int | float | bool = _PLAIN[tag](text)
            return value
    return text


class _Builder:
    """Turns nodes into values, and says where each stands and what is wrong."""

    def __init__(self, root: MappingNode) -> None:
        self.lines = {"": 1}
        self.problems: list[Problem] = []
        self._nodes = 0
        self.data = self.mapping(root, "", 0)

    def mapping(self, node: MappingNode, path: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, (key_node, value) in self._pairs(node, path, depth).items():
            below = join(path, key)
            self.lines[below] = _line(key_node)
            result[key] = self._value(value, below, depth + 1)
        return result

    def _value(self, node: Node, path: str, depth: int) -> Any:
        if isinstance(node, MappingNode):
            return self.mapping(node, path, depth)
        self._enter(node, depth)
        if isinstance(node, SequenceNode):
            self._expect_tag(node, path)
            for i, item in enumerate(node.value):
                self.lines[join(path, i)] = _line(item)
            return [self._value(item, join(path, i), depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, path)

    def _enter(self, node: Node, depth: int) -> None:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise MalformedError(f"nested more than {MAX_DEPTH} levels deep", _line(node))
        if self._nodes > MAX_NODES:
            raise MalformedError(f"more than {MAX_NODES} values, aliases included", _line(node))

    def _report(self, node: Node, path: str, message: str) -> None:
        self.problems.append(Problem(_line(node), path, message))

    def _expect_tag(self, node: Node, path: str) -> None:
        if node.tag != _DEFAULT_TAGS[type(node)]:
            self._refuse_tag(node, path)

    def _refuse_tag(self, node: Node, path: str) -> None:
        self._report(node, path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported")

    def _scalar(self, node: ScalarNode, path: str) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "null" and node.value == "" and not node.style:
            self.problems.append(Problem(self.lines[path], path, "has no value; give it one or remove it"))
            return None
        if kind == "merge":  # "<<" as a value is just text
            kind = "str"
        if kind not in _SCALARS or not node.tag.startswith(_TAG):
            self._refuse_tag(node, path)
            return None
        try:
            return _SCALARS[kind](node.value)
        except ValueError:  # only an explicit tag gets here: !!int abc
            self._report(node, path, f"{node.value!r} is not of the type !!{kind}")
            return None

    def _pairs(self, node: MappingNode, path: str, depth: int) -> dict[str, tuple[Node, Node]]:
        """Keys with their nodes; own keys go before merged ones, and the first of several merged ones counts."""
        self._enter(node, depth)
        self._expect_tag(node, path)
        own: dict[str, tuple[Node, Node]] = {}
        merged: list[MappingNode] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._report(key, path, "a key must be plain text")
            elif key.tag == _TAG + "merge":
                merged += self._sources(key, value, path)
            elif key.value in own:
                first = _line(own[key.value][0])
                self._report(key, join(path, key.value), f"duplicate key, first given on line {first}")
            else:
                own[key.value] = (key, value)
        for source in merged:
            for name, pair in self._pairs(source, path, depth + 1).items():
                own.setdefault(name, pair)
        return own

    def _sources(self, key: Node, value: Node, path: str) -> list[MappingNode]:
        sources = value.value if isinstance(value, SequenceNode) else [value]
        if not all(isinstance(source, MappingNode) for source in sources):
            self._report(key, path, "<< takes a mapping or a list of mappings")
        return [source for source in sources if isinstance(source, MappingNode)]
