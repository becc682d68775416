"""The one line in which a load generator of ours, or a script of ours in another's, hands over what it counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.errors import BenchError

MARK = "bench-result "


def print_result(found: Mapping[str, object]) -> None:
    """Prints the line."""
    print(MARK + json.dumps(found, separators=(",", ":")), flush=True)


def result_line(name: str, output: str) -> dict[str, Any]:
    """What the line says. Raises BenchError, naming the generator, if it is missing, there twice or no JSON object."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise BenchError(f"{name} reported no result: {output.strip().splitlines()[-1:] or 'it printed nothing'}")
    try:
        found = json.loads(lines[0].removeprefix(MARK))
    except ValueError as error:
        raise BenchError(f"{name}'s result cannot be read: {lines[0]!r} ({error})") from error
    if not isinstance(found, dict):
        raise BenchError(f"{name}'s result cannot be read: {lines[0]!r}")
    return found
