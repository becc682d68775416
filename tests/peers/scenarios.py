"""What tests of HAProxy and nginx show, built here in our own words: which test of theirs each of ours goes back to.

A scenario is a test function. Its docstring says what it shows, `from_haproxy` and `from_nginx` name the file in the
peer's repository, `differs` says what is otherwise here, and why. `docs/peer-scenarios.md` is the table of all of them:
`python tests/peers/table.py` writes it, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Source(NamedTuple):
    """A test of a peer."""

    peer: str
    path: str

    @property
    def url(self) -> str:
        """Where it can be read."""
        if self.peer == "HAProxy":
            return f"https://github.com/haproxy/haproxy/blob/master/reg-tests/{self.path}"
        return f"https://github.com/nginx/nginx-tests/blob/master/{self.path}"


def from_haproxy(*paths: str, differs: str = "") -> Callable[[F], F]:
    """The test is what these files below `reg-tests` of haproxy/haproxy show."""
    return _from("HAProxy", paths, differs)


def from_nginx(*paths: str, differs: str = "") -> Callable[[F], F]:
    """The test is what these files of nginx/nginx-tests show."""
    return _from("nginx", paths, differs)


def _from(peer: str, paths: tuple[str, ...], differs: str) -> Callable[[F], F]:
    def mark(test: F) -> F:
        made: Any = test
        made.sources = [*(Source(peer, path) for path in paths), *getattr(test, "sources", [])]
        made.differs = " ".join(filter(None, (differs, getattr(test, "differs", ""))))
        return test

    return mark
