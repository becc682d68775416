"""A file that cannot be used: reading it, and its problems as the lines of a ConfigError."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from lb.config.document import MAX_BYTES, Document, MalformedError, Problem, value_at, where
from lb.errors import ConfigError


def read(path: Path) -> bytes:
    """What a file holds, up to a byte more than it may. Raises ConfigError."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError([f"{str(path)!r}: cannot be read: {error}"]) from None


def malformed(path: Path, error: MalformedError) -> ConfigError:
    """The error of a file that is not what it should be as a whole."""
    place = f"{path}:{error.line}" if error.line is not None else f"{path}"
    return ConfigError([f"{place}: {error}"])


def listed(path: Path, problems: Sequence[Problem]) -> ConfigError:
    """The error of a file with `problems`."""
    lines = [f"{path}:{p.line}: {p.path}: {p.message}" if p.path else f"{path}:{p.line}: {p.message}" for p in problems]
    return ConfigError([_printable(line) for line in lines])


def field_problem(document: Document, detail: ErrorDetails, root: type[BaseModel]) -> Problem:
    """An error of validating `root` with what `document` holds, as a problem in its file."""
    from lb.config.advice.explain import (
        message,  # loaded when there is a mistake: a start without one does not wait for it
    )

    path = where(detail["loc"])
    known = document.known(path)
    # An error inside a short spelling (an endpoint as plain text) has a longer path than the file.
    shown = path if detail["type"] == "missing" else known
    return Problem(document.lines[known], shown, message(detail, root, value_at(document.data, detail["loc"])))


def _printable(line: str) -> str:
    """`line` as one line: a key or value may hold line breaks and terminal controls."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
