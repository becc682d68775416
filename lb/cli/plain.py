"""Text that others chose, for a terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    """`text` on one line. Clients choose keys of tables and names of models: what a terminal would obey, such as ESC,
    U+009B (CSI) and marks of direction, is shown as it is escaped in Python."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
