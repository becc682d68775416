"""A configuration file to a checked Config, or every problem in it at once."""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lb.config.checks.file import Check, Found, check_config, check_files
from lb.config.document import MAX_BYTES, Document, MalformedError, Problem, parse, value_at, where
from lb.config.environment import Variables, hidden, shown
from lb.config.memory import FileMemory
from lb.config.pause import collector_paused
from lb.config.schema.base import nearest
from lb.config.schema.file import AdminConfig, Config
from lb.config.schema.pools.pool import POOL_SOURCES
from lb.config.units import FileContext
from lb.errors import ConfigError


def load(path: Path, *, checks: Sequence[Check] = (), files: bool = True, memory: FileMemory | None = None) -> Config:
    """The configuration in the file `path`.

    `checks` are run after the loader's own; each gets the Config and gives (path, message) pairs. When parts of the
    file are wrong, they get what is left of it, so that one run shows every problem. `files` says whether the files and
    folders named in the configuration have to be there, too. `memory` is what the load before left, from which parts
    that did not change are taken; it is left for the next one.

    Raises ConfigError with one line `FILE:LINE: path.to.key: message` for every problem. Blocks on the file system and,
    where a check resolves names, on the network.
    """
    with collector_paused():
        try:
            config = _load(path, [*checks, check_files] if files else checks, memory)
        except ConfigError:
            if memory is not None:
                memory.drop()
            raise
        if memory is not None:
            memory.keep()
        return config


def load_admin(path: Path) -> AdminConfig:
    """The section `admin` of a file whatever is wrong with the rest, even where that is no YAML.

    Raises ConfigError when the file cannot be read, or that section cannot be used.
    """
    raw = _read(path)
    try:
        document = parse(raw, hidden)
    except MalformedError:
        try:
            document = parse(_top_level(raw, "admin"), hidden)
        except MalformedError as error:
            raise malformed(path, MalformedError(shown(str(error)), error.line)) from None
    variables = Variables(document, os.environ, Config) if b"${" in raw else None
    section = document.data.get("admin")
    try:
        admin = AdminConfig.model_validate({} if section is None else section, context=_context(path))
        problems = [p for p in document.problems if p.path == "admin" or p.path.startswith("admin.")]
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [field_problem(document, {**d, "loc": ("admin", *d["loc"])}, Config) for d in details]
    if problems:
        raise listed(path, problems if variables is None else [variables.told(problem) for problem in problems])
    return admin


def _top_level(raw: bytes, key: str) -> bytes:
    """The lines of one key of a file's top level and of what stands under it; those before it are left empty, so that
    every line keeps its number."""
    lines = raw.splitlines()
    begins = re.compile(rb"""["']?%s["']?\s*:(?:\s|$)""" % key.encode())
    first = next((i for i, line in enumerate(lines) if begins.match(line)), len(lines))
    rest = itertools.takewhile(lambda line: not line.strip() or line[:1] in b" \t#", lines[first + 1 :])
    return b"\n" * first + b"\n".join([*lines[first : first + 1], *rest]) + b"\n"


def _context(path: Path, memory: FileMemory | None = None) -> FileContext:
    return FileContext(Path(path).absolute().parent, memory)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError([f"{str(path)!r}: cannot be read: {error}"]) from None


def _load(path: Path, checks: Sequence[Check], memory: FileMemory | None) -> Config:
    raw = _read(path)
    try:
        document = parse(raw, hidden)
    except MalformedError as error:
        raise malformed(path, MalformedError(shown(str(error)), error.line)) from None
    variables = Variables(document, os.environ, Config) if b"${" in raw else None
    config, problems = _validate(document, _context(path, memory), checks, variables)
    if config is None or problems:
        raise listed(path, problems if variables is None else [variables.told(problem) for problem in problems])
    return config


def malformed(path: Path, error: MalformedError) -> ConfigError:
    """The error of a file that is not what it should be as a whole."""
    place = f"{path}:{error.line}" if error.line is not None else f"{path}"
    return ConfigError([f"{place}: {error}"])


def listed(path: Path, problems: Sequence[Problem]) -> ConfigError:
    """The error of a file with `problems`."""
    lines = [f"{path}:{p.line}: {p.path}: {p.message}" if p.path else f"{path}:{p.line}: {p.message}" for p in problems]
    return ConfigError([_printable(line) for line in lines])


def _validate(
    document: Document, context: FileContext, checks: Sequence[Check], variables: Variables | None
) -> tuple[Config | None, list[Problem]]:
    problems = set(document.problems)
    reported = {p.path for p in problems}
    broken = set(reported)
    config: Config | None = None
    data = document.data
    try:
        config = _validated(data, context, variables)
    except ValidationError as error:
        # A default that depends on another field cannot be had when the section has an error anyway.
        details = [d for d in error.errors(include_url=False) if d["type"] != "default_factory_not_called"]
        for detail in details:
            path = where(detail["loc"])
            if document.known(path) not in reported or detail["type"] == "extra_forbidden":
                problems.add(field_problem(document, detail, Config))
        data, parts = _without(data, details)
        broken |= parts
        config = _rest(data, context)
    if config is not None:
        found: list[Found] = check_config(config, broken)
        for check in checks:
            found += check(config)
        for path, text in found:
            if document.known(path) not in reported:
                problems.add(Problem(document.line(path), path, text))
    return config, sorted(problems)


def _validated(data: dict[str, Any], context: FileContext, variables: Variables | None) -> Config:
    """Raises ValidationError."""
    while True:
        try:
            return Config.model_validate(data, context=context)
        except ValidationError as error:
            if variables is None or not variables.retyped(data, error.errors(include_url=False)):
                raise


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


def _rest(data: dict[str, Any], context: FileContext) -> Config | None:
    try:
        return Config.model_validate(data, context=context)
    except ValidationError:
        return None


def _without(data: dict[str, Any], details: Sequence[ErrorDetails]) -> tuple[dict[str, Any], set[str]]:
    """`data` without the parts that hold the errors `details`, and the paths of those parts.

    An unknown key goes alone. Else the listener or pool around the error goes, or the whole section where it is another
    one; the rest can still be checked.
    """
    rest = copy.deepcopy(data)
    broken = set()
    for location in (detail["loc"] for detail in details if detail["type"] != "extra_forbidden"):
        section = str(location[0]) if location else ""
        names = rest.get(section)
        if section in ("listeners", "pools") and isinstance(names, dict) and len(location) > 1:
            names.pop(str(location[1]), None)
            broken.add(f"{section}.{location[1]}")
        else:
            rest.pop(section, None)
            broken.add(section)
    for location in (detail["loc"] for detail in details if detail["type"] == "extra_forbidden"):
        parent = value_at(rest, location[:-1])
        if isinstance(parent, dict):
            parent.pop(str(location[-1]), None)
            if location[0] == "pools" and len(location) == 3 and not any(key in parent for key in POOL_SOURCES):
                parent["endpoints"] = ["127.0.0.1:1"]  # the key was meant for them: the rest of the pool has its checks
        if len(location) == 1 and (meant := nearest(str(location[0]), Config.model_fields)):
            broken.add(meant)
    return rest, broken


def _printable(line: str) -> str:
    """`line` as one line: a key or value may hold line breaks and terminal controls."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
