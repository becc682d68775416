"""YAML text to PyYAML's nodes, and these to values with their places and every mistake of form.

Loaded only when a place or a mistake is to be told (lb.config.document).
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from lb.config.document import MAX_DEPTH, MAX_NODES, MalformedError, Problem, join
from lb.config.scalars import CONVERTERS, RESOLVERS, TAG

_DEFAULT_TAGS: dict[type[Node], str] = {
    ScalarNode: TAG + "str",
    SequenceNode: TAG + "seq",
    MappingNode: TAG + "map",
}
# What to do about libyaml's commonest problems.
_HINTS = {
    "did not find expected alphabetic or numeric character": "; put text that begins with * or & in quotes",
    "did not find expected node content": "; put text that begins with [ or { in quotes",
    "found unknown escape character": "; put text with a \\ in single quotes",
    "mapping values are not allowed in this context": (
        "; look for a key that is not indented like its neighbours, or a colon without a space, also on the line before"
    ),
}


class _Loader(yaml.CSafeLoader):
    """PyYAML's, with our scalars. What a node's place in the tree would say of its tag is left out: nobody uses it, and
    it took most of the time."""

    yaml_implicit_resolvers = RESOLVERS

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass

    def resolve(self, kind: type[Node], value: Any, implicit: tuple[bool, bool] | bool) -> str:
        """The tag of a node that has none. `implicit`: whether a scalar is plain, and may be anything but text."""
        if kind is ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            for tag, pattern in RESOLVERS.get(value[:1], ()):
                if pattern.match(value):
                    return tag
        return _DEFAULT_TAGS[kind]


def mapping(text: str) -> MappingNode:
    root = _compose(text)
    if root is None or _is_empty(root):
        raise MalformedError("empty: a configuration needs at least listeners and pools")
    if not isinstance(root, MappingNode):
        raise MalformedError("not a mapping: a configuration begins with keys such as listeners:", _line(root))
    return root


def listed(text: str, key: str) -> MappingNode:
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
    return root is None or (isinstance(root, ScalarNode) and root.tag == TAG + "null")


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


class Builder:
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
        self._report(node, path, f"the tag {node.tag.replace(TAG, '!!')} is not supported")

    def _scalar(self, node: ScalarNode, path: str) -> Any:
        kind = node.tag.removeprefix(TAG)
        if kind == "null" and node.value == "" and not node.style:
            self.problems.append(Problem(self.lines[path], path, "has no value; give it one or remove it"))
            return None
        if kind == "merge":  # "<<" as a value is just text
            kind = "str"
        if kind not in CONVERTERS or not node.tag.startswith(TAG):
            self._refuse_tag(node, path)
            return None
        try:
            return CONVERTERS[kind](node.value)
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
            elif key.tag == TAG + "merge":
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
