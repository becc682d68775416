"""YAML text to plain values, with the line of every key, and every mistake of form at once.

libyaml alone gives the values of a text without mistakes (lb.config.yaml_values). Where each value stands, and what is
wrong with its form, is told by PyYAML's nodes (lb.config.nodes), which are loaded when somebody asks.

Scalars follow YAML 1.2's core schema, so that `off`, `on`, `yes` and `no` stay text and `010` is ten; merge keys (`<<`)
and aliases work. Python's own tags are refused: the text only ever becomes dict, list, str, int, float, bool and None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from lb.config.scalars import MERGE, PLAIN, RESOLVERS
from lb.config.yaml_values import NotPlainError, values

if TYPE_CHECKING:
    from lb.config.nodes import Builder

MAX_BYTES = 4 << 20
# An alias repeats its node, so a short text can grow without limit ("billion laughs"); no real file comes near this.
MAX_NODES = 200_000
MAX_DEPTH = 64

_ON = re.compile(r"\.on(?![^.\[])")
_SEGMENT = re.compile(r"(?:\.[^.\[]*|\[\d+\]|^[^.\[]+)$")


class MalformedError(Exception):
    """The text is not one YAML mapping. `line` is None when the mistake has no place."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Problem(NamedTuple):
    """One mistake in a file."""

    line: int
    path: str
    message: str


class Document:
    """Values of a file, and the mistakes of its form. Where they stand is found out when it is asked for, which for a
    file without mistakes is never."""

    def __init__(self, text: str, list_key: str = "") -> None:
        """The text is a mapping, or, with a `list_key`, only the list that a mapping would have there. Raises
        MalformedError when it is neither, is not YAML, or has too much in it."""
        self._text = text
        self._list_key = list_key
        self.data: dict[str, Any] = {}
        self.problems: list[Problem] = []
        try:
            self.data = values(text.encode(), _value, MAX_DEPTH, MAX_NODES)
        except NotPlainError:
            self.data, self.problems = self._built.data, self._built.problems

    @cached_property
    def _built(self) -> Builder:
        from lb.config import nodes

        return nodes.Builder(nodes.listed(self._text, self._list_key) if self._list_key else nodes.mapping(self._text))

    @property
    def lines(self) -> dict[str, int]:
        """Line numbers from 1 by path, such as `listeners.web.routes[0].pool`."""
        return self._built.lines

    def line(self, path: str) -> int:
        """Line of `path`, or of the nearest part around it that the file has."""
        return self.lines[self.known(path)]

    def known(self, path: str) -> str:
        """`path`, shortened until the file has it; a key `on` may be `true` there (lb.config.schema.truths)."""
        while path not in self.lines:
            if (other := _ON.sub(r".true", path)) in self.lines:
                return other
            shorter = _SEGMENT.sub("", path)
            path = shorter if shorter != path else ""  # not a path: the whole file is meant
        return path


def join(path: str, key: str | int) -> str:
    """The path of an item or key below `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def where(loc: tuple[int | str, ...]) -> str:
    """The path of an error's location; pydantic's mark for a key of a mapping is left out."""
    path = ""
    for part in loc:
        if part != "[key]":
            path = join(path, part)
    return path


def value_at(data: Any, location: tuple[int | str, ...]) -> Any:
    """The value at `location`; None when there is none in the file."""
    for part in location:
        if isinstance(data, dict):
            data = data.get(str(part))
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def parse(raw: bytes, prepared: Callable[[str], str] = str) -> Document:
    """The document in `raw`, whose text `prepared` may change without moving anything to another line. Raises
    MalformedError when there is no mapping to go on with."""
    return Document(prepared(_text(raw)))


def parse_list(raw: bytes, key: str) -> Document:
    """The document in `raw`, which is a mapping, or only the list that such a mapping would have at `key`.

    Raises MalformedError when it is neither.
    """
    return Document(_text(raw), key)


def _text(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise MalformedError(f"larger than {MAX_BYTES >> 20}MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"not UTF-8 text: byte 0x{raw[error.start]:02x}", raw.count(b"\n", 0, error.start) + 1
        ) from None


def _value(text: str) -> Any:
    """The value of a plain scalar. Raises NotPlainError where it is a mistake, or a merge key."""
    for tag, pattern in RESOLVERS.get(text[:1], ()):
        if pattern.match(text):
            if tag == MERGE or text == "":
                raise NotPlainError
            return PLAIN[tag](text)
    return text
