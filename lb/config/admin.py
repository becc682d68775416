"""The section `admin` of a configuration file, for commands that ask a running daemon: loads no other section."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from lb.config.document import MalformedError, parse
from lb.config.environment import Variables, hidden, shown
from lb.config.problems import field_problem, listed, malformed, read
from lb.config.schema.admin import AdminConfig
from lb.config.schema.base import Model
from lb.config.units import FileContext


class _Section(Model):
    admin: AdminConfig = AdminConfig()


class AdminSection(NamedTuple):
    """`problems` are lines about the form of the file as a whole: its section `admin` may have been another one. `bind`
    is the place of `admin.bind` in the file, FILE:LINE; "" where the file leaves it to the default."""

    admin: AdminConfig
    problems: tuple[str, ...] = ()
    bind: str = ""


def load_admin(path: Path) -> AdminSection:
    """The section `admin` of a file whatever is wrong with the rest, even where that is no YAML.

    The values of other sections are not looked at. A file without that section has its defaults, as for the daemon.
    Raises ConfigError when the file cannot be read, or the section cannot be used.
    """
    raw = read(path)
    wrong: tuple[str, ...] = ()
    try:
        document = parse(raw, hidden)
    except MalformedError as error:
        wrong = tuple(malformed(path, MalformedError(shown(str(error)), error.line)).problems)
        alone = _top_level(raw, "admin")
        if not alone.strip():  # as in a file that is well formed and has no such section
            return AdminSection(AdminConfig(), wrong)
        try:
            document = parse(alone, hidden)
        except MalformedError as error:
            raise malformed(path, MalformedError(shown(str(error)), error.line)) from None
    wrong = wrong or (tuple(listed(path, document.problems).problems) if document.problems else ())
    document.data = {key: value for key, value in document.data.items() if key == "admin"}
    variables = Variables(document, os.environ, _Section, Path(path).absolute().parent) if b"${" in raw else None
    section = document.data.get("admin")
    try:
        admin = AdminConfig.model_validate(
            {} if section is None else section, context=FileContext(Path(path).absolute().parent)
        )
        problems = [p for p in document.problems if p.path == "admin" or p.path.startswith("admin.")]
    except ValidationError as error:
        from lb.config.schema.file import Config  # loaded when there is a mistake

        details = error.errors(include_url=False)
        problems = [field_problem(document, {**d, "loc": ("admin", *d["loc"])}, Config) for d in details]
    if problems:
        raise listed(path, problems if variables is None else [variables.told(problem) for problem in problems])
    bind = f"{path}:{document.line('admin.bind')}" if "bind" in admin.model_fields_set else ""
    return AdminSection(admin, wrong, bind)


def _top_level(raw: bytes, key: str) -> bytes:
    """The lines of one key of a file's top level and of what stands under it; those before it are left empty, so that
    every line keeps its number."""
    lines = raw.splitlines()
    begins = re.compile(rb"""["']?%s["']?\s*:(?:\s|$)""" % key.encode())
    first = next((i for i, line in enumerate(lines) if begins.match(line)), len(lines))
    rest = itertools.takewhile(lambda line: not line.strip() or line[:1] in b" \t#", lines[first + 1 :])
    return b"\n" * first + b"\n".join([*lines[first : first + 1], *rest]) + b"\n"
