"""How values are written in the body of an answer of our own."""

from __future__ import annotations

from collections.abc import Mapping


def body_encoding(fields: Mapping[str, str]) -> str:
    """The encoding (lb.config.values.parse) of a body by its `Content-Type` among `fields`: a browser takes one of
    another type, or of none, for HTML."""
    kind = next((value for name, value in fields.items() if name.lower() == "content-type"), "")
    kind = kind.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return "json"
    return "text" if kind == "text/plain" else "html"
