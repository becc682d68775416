"""Path templates such as `/v2/models/{model}/infer`: names stand for whole segments, `{rest...}` for what is left."""

from __future__ import annotations

import re

from msgspec import Struct

from lb.config.values import CLOSE, OPEN

# A worker remembers where the first 64 segments of a path begin, and which of them are variable in a word of 64 bits.
MAX_SEGMENTS = 64

VARIABLE = b"\x00"
REST = b"\x01"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Template(Struct, frozen=True):
    """A template, taken apart.

    `key` is the template's text with `VARIABLE` for each name and `REST` for the tail's: neither byte can be in a path.
    """

    key: bytes
    names: tuple[str, ...]  # in the order in which they stand, the tail's last
    segments: int  # the tail does not count
    mask: int  # bit i: segment i is a name
    tail: bool

    @property
    def literal(self) -> int:
        """How many bytes of a path the template gives itself: the more, the more particular it is."""
        return len(self.key) - self.mask.bit_count() - self.tail

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises ValueError with what is wrong."""
        parts = text.removeprefix("/").split("/")
        names: list[str] = []
        key = b""
        mask = 0
        tail = False
        for i, part in enumerate(parts):
            if not part.startswith("{"):
                if "{" in part or "}" in part:
                    raise ValueError(f"{part!r}: a name in braces is a whole segment, as in /models/{{model}}/infer")
                key += b"/" + part.encode()
                continue
            name = part[1:-1].removesuffix("...")
            if not part.endswith("}") or not _NAME.fullmatch(name):
                raise ValueError(f"{part!r} is not a name in braces: letters, digits and '_', no digit first")
            if name in names:
                raise ValueError(f"the name {name!r} is there twice")
            names.append(name)
            if part.endswith("...}"):
                if i != len(parts) - 1:
                    raise ValueError(f"{part!r} takes all that is left, so nothing can follow it")
                tail = True
                key += b"/" + REST
            else:
                mask |= 1 << i
                key += b"/" + VARIABLE
        if len(parts) > MAX_SEGMENTS:
            raise ValueError(f"has more than {MAX_SEGMENTS} segments")
        if not names:
            raise ValueError("has no name in braces; write it as exact")
        return cls(key, tuple(names), len(parts) - tail, mask, tail)


def parts_of(text: str, names: tuple[str, ...]) -> tuple[str | int, ...]:
    """A replacement such as `/new/{model}` as its literal parts and the numbers of its names in `names`.

    Raises ValueError for a name that is not in `names`, and for a brace without its fellow.
    """
    parts: list[str | int] = []
    for i, piece in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if i % 2 == 0:
            if "{" in piece or "}" in piece:
                raise ValueError(f"a brace without its fellow in {text!r}")
            if piece:
                parts.append(piece)
        elif piece not in names:
            known = ", ".join(names) if names else "none"
            raise ValueError(f"there is no name {piece!r} in the route's template; its names: {known}")
        else:
            parts.append(names.index(piece))
    return tuple(parts)


def substitution_of(text: str) -> tuple[str | int, ...]:
    r"""A substitution such as `/\1/x` as its literal parts and the numbers of its groups; `\\` is a backslash.

    Raises ValueError for a backslash before anything else.
    """
    parts: list[str | int] = []
    for i, piece in enumerate(re.split(r"\\([0-9\\])", text)):
        if i % 2 == 0:
            if "\\" in piece:
                raise ValueError("a backslash stands before a digit (a group) or before another backslash")
            if piece:
                parts.append(piece)
        elif piece == "\\":
            parts.append("\\")
        else:
            parts.append(int(piece))
    return tuple(parts)


def with_captures(text: str) -> str:
    """A replacement such as `/new/{model}` with values in place of its names. Raises as `parts_of` does for a brace
    without its fellow."""
    pieces = re.split(r"\{([^{}]*)\}", text)
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise ValueError(f"a brace without its fellow in {text!r}")
    return "".join(f"{OPEN}capture.{piece}{CLOSE}" if i % 2 else piece for i, piece in enumerate(pieces))


def groups_of(pattern: str) -> dict[str, int]:
    """The numbers of the named groups of a regular expression (RE2's syntax)."""
    names: dict[str, int] = {}
    count = 0
    # Escapes, quoted text and classes of characters hold no group.
    for found in re.finditer(
        r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]|\((\?(?:P?<(\w+)>)?)?", pattern, re.ASCII
    ):
        if not found[0].startswith("(") or (found[1] and not found[2]):
            continue
        count += 1
        if found[2]:
            names[found[2]] = count
    return names
