"""The scalars of YAML 1.2's core schema: which text is a number, a truth value, null, or just text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

TAG = "tag:yaml.org,2002:"
CONVERTERS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0) if text.startswith(("0x", "0o")) else int(text),
    "float": float,
    "str": str,
}
# At most 18 digits: a longer number stays text, which no field takes for a number.
_PATTERNS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}", list("-+0123456789")),
    "float": (r"[-+]?(?:\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{0,18})?)(?:[eE][-+]?[0-9]{1,3})?", list("-+.0123456789")),
    "merge": (r"<<", ["<"]),
}
MERGE = TAG + "merge"
PLAIN = {TAG + kind: convert for kind, convert in CONVERTERS.items()}
_NUMBER_OR_TRUTH = frozenset((TAG + "int", TAG + "float", TAG + "bool"))
# first character -> tag and pattern of each kind that may begin with it
RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _kind, (_pattern, _first) in _PATTERNS.items():
    for _character in _first:
        RESOLVERS.setdefault(_character, []).append((TAG + _kind, re.compile(rf"(?:{_pattern})\Z", re.ASCII)))


def number_or_truth(text: str) -> str | int | float | bool:
    """What a plain scalar of this text is: a number or a truth value, or the text itself."""
    for tag, pattern in RESOLVERS.get(text[:1], ()):
        if tag in _NUMBER_OR_TRUTH and text and pattern.match(text):
            value: int | float | bool = PLAIN[tag](text)
            return value
    return text
