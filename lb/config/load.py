"""A configuration file to a checked Config, or every problem in it at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lb.config.checks.file import Check, Found, check_config, check_files
from lb.config.document import Document, MalformedError, Problem, parse, value_at, where
from lb.config.environment import Variables, hidden, shown
from lb.config.memory import FileMemory
from lb.config.pause import collector_paused
from lb.config.problems import field_problem, listed, malformed, read
from lb.config.schema.base import nearest
from lb.config.schema.file import Config
from lb.config.schema.pools.pool import POOL_SOURCES
from lb.config.units import FileContext
from lb.errors import ConfigError


def load(
    path: Path,
    *,
    checks: Sequence[Check] = (),
    files: bool = True,
    memory: FileMemory | None = None,
    text: bytes | None = None,
) -> Config:
    """The configuration in the file `path`, whose content is `text` if that has been read.

    `checks` are run after the loader's own; each gets the Config and gives (path, message) pairs. When parts of the
    file are wrong, they get what is left of it, so that one run shows every problem. `files` says whether the files and
    folders named in the configuration have to be there, too. `memory` is what the load before left, from which parts
    that did not change are taken; it is left for the next one.

    Raises ConfigError with one line `FILE:LINE: path.to.key: message` for every problem. Blocks on the file system and,
    where a check resolves names, on the network.
    """
    with collector_paused():
        try:
            config = _load(path, [*checks, check_files] if files else checks, memory, text)
        except ConfigError:
            if memory is not None:
                memory.drop()
            raise
        if memory is not None:
            memory.keep()
        return config


def _context(path: Path, memory: FileMemory | None = None) -> FileContext:
    return FileContext(Path(path).absolute().parent, memory)


def _load(path: Path, checks: Sequence[Check], memory: FileMemory | None, text: bytes | None) -> Config:
    raw = read(path) if text is None else text
    try:
        document = parse(raw, hidden)
    except MalformedError as error:
        raise malformed(path, MalformedError(shown(str(error)), error.line)) from None
    variables = Variables(document, os.environ, Config, Path(path).absolute().parent) if b"${" in raw else None
    config, problems = _validate(document, _context(path, memory), checks, variables)
    if config is None or problems:
        raise listed(path, problems if variables is None else [variables.told(problem) for problem in problems])
    return config


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
