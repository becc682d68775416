"""The page with the scenarios of HAProxy's and nginx's tests: `python tests/peers/table.py` writes it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "peer-scenarios.md"

_TOP = """\
# Scenarios of HAProxy's and nginx's tests

HAProxy has [reg-tests](https://github.com/haproxy/haproxy/tree/master/reg-tests), nginx has
[nginx-tests](https://github.com/nginx/nginx-tests). The scenarios below are those of their files that are about what
Tidegate does as well. Each is built anew in `tests/peers`, with real processes and sockets, and passes. The last column
says what is otherwise here, and why.

This page is written by `python tests/peers/table.py`; a test compares it with the tests.
"""


def scenarios() -> Iterator[tuple[str, str, Any]]:
    """Theme, name and test of each, in the order of the modules' lines."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, test in vars(module).items():
            if hasattr(test, "sources"):
                yield (module.__doc__ or "").partition("\n")[0].rstrip("."), name, test


def page() -> str:
    """The page as it should be."""
    parts, theme = [_TOP], ""
    for found, _, test in scenarios():
        if found != theme:
            theme = found
            parts.append(f"\n## {theme}\n\n| Scenario | Source | Otherwise here |\n|---|---|---|\n")
        shows = " ".join((inspect.getdoc(test) or "").split())
        sources = ", ".join(f"{source.peer} [`{source.path}`]({source.url})" for source in test.sources)
        parts.append(f"| {shows} | {sources} | {test.differs} |\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "e2e")]
    PAGE.write_text(page())
