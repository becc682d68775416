"""HTML built so that text is always escaped: only what `element` made is passed on as it is."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Finished HTML."""

    __slots__ = ()


Child = str | Markup | Iterable["str | Markup"]
_VOID = {"meta", "br"}


def element(tag: str, *children: Child, **attributes: str) -> Markup:
    """An element. A trailing `_` of an attribute's name is dropped (`class_`), other `_` become `-`."""
    names = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    head = "".join([tag, *(f' {key}="{escape(value)}"' for key, value in names.items())])
    return Markup(f"<{head}>") if tag in _VOID else Markup(f"<{head}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other; plain text is escaped."""
    return Markup("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return escape(child, quote=False) if isinstance(child, str) else join(child)
