"""The section `admin` of a configuration file, for commands that ask a running daemon: loads no other section."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from pydantic import ValidationError

from lb.config.document import MalformedError, parse
from lb.config.environment import Variables, hidden, shown
from lb.config.problems import field_problem, listed, malformed, read
from lb.config.schema.admin import AdminConfig
from lb.config.schema.base import Model
from lb.config.units import FileContext


class _Section(Model):
    admin: AdminConfig = AdminConfig()


def load_admin(path: Path) -> tuple[AdminConfig, bool]:
    """The section `admin` of a file whatever is wrong with the rest, even where that is no YAML.

    The second value says whether the file as a whole is well formed; the values of other sections are not looked at.
    A file without that section has its defaults, as for the daemon. Raises ConfigError when the file cannot be read, or
    the section cannot be used.
    """
    raw = read(path)
    well_formed = True
    try:
        document = parse(raw, hidden)
    except MalformedError:
        well_formed = False
        alone = _top_level(raw, "admin")
        if not alone.strip():  # as in a file that is well formed and has no such section
            return AdminConfig(), False
        try:
            document = parse(alone, hidden)
        except MalformedError as error:
            raise malformed(path, MalformedError(shown(str(error)), error.line)) from None
    well_formed = well_formed and not document.problems
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
    return admin, well_formed


def _top_level(raw: bytes, key: str) -> bytes:
    """The lines of one key of a file's top level and of what stands under it; those before it are left empty, so that
    every line keeps its number."""
    lines = raw.splitlines()
    begins = re.compile(rb"""["']?%s["']?\s*:(?:\s|$)""" % key.encode())
    first = next((i for i, line in enumerate(lines) if begins.match(line)), len(lines))
    rest = itertools.takewhile(lambda line: not line.strip() or line[:1] in b" \t#", lines[first + 1 :])
    return b"\n" * first + b"\n".join([*lines[first : first + 1], *rest]) + b"\n"
