"""The running configuration as plain data, spelled as in the file, and what differs between it and the file on disk.

Variables stay as the file spells them: `${NAME}`. What the file holds in comments is not kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lb.config import settings
from lb.config.document import MalformedError, parse
from lb.config.environment import hidden, shown
from lb.config.problems import malformed, read
from lb.control.changes import Settings
from lb.control.configuration import load_configuration
from lb.errors import ConfigError


def running_data(text: bytes, changed: Settings) -> dict[str, Any]:
    """The content of the file that was loaded last, `text`, with the changes of operators in their places."""
    data = _data(text)
    for change in changed.changes.values():
        settings.overlaid(data, change.setting, change.value)
    return data


def difference(path: Path, text: bytes) -> dict[str, Any]:
    """{differences: [{setting, running, file}], problems}: what `path` says otherwise than `text` did, which was loaded
    last, and what is wrong with it. Secrets are hidden. Blocks on the file system and on name lookups."""
    try:
        raw = read(path)
        found = settings.differences(_data(text), _data(raw))
    except MalformedError as error:
        return {"differences": [], "problems": malformed(path, error).problems}
    except ConfigError as error:
        return {"differences": [], "problems": error.problems}
    problems: list[str] = []
    if raw != text:
        try:
            load_configuration(path)
        except ConfigError as error:
            problems = error.problems
    rows = [{"setting": name, "running": _plain(name, a), "file": _plain(name, b)} for name, a, b in found]
    return {"differences": rows, "problems": problems}


def between(before: bytes, after: bytes) -> list[dict[str, Any]]:
    """[{setting, from, to}] of what two files say otherwise, as difference() has it; of one that cannot be read,
    nothing."""
    try:
        found = settings.differences(_data(before), _data(after))
    except MalformedError:
        return []
    return [{"setting": name, "from": _plain(name, a), "to": _plain(name, b)} for name, a, b in found]


def _plain(name: str, value: Any) -> Any:
    return settings.without_secrets(value, name.rpartition(".")[2])


def _data(text: bytes) -> dict[str, Any]:
    """Raises MalformedError."""
    try:
        data: dict[str, Any] = _shown(parse(text, hidden).data)
    except MalformedError as error:
        raise MalformedError(shown(str(error)), error.line) from None
    return data


def _shown(value: Any) -> Any:
    """`value` with the variables as they stand in the file."""
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return shown(value) if isinstance(value, str) else value
