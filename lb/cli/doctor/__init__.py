"""`tidegate doctor`: this machine as a place to run Tidegate, and a configuration on it.

Each module gives findings about one side; nothing here changes anything, and nothing is asked of a running daemon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lb.cli.doctor import files, machine, network, service
from lb.cli.doctor.finding import Finding, ok

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(path: Path, as_json: bool, required: bool) -> int:
    """Prints what there is to say; 1 if something fails. A file at `path` that is not there fails if it is `required`,
    else the machine alone is looked at."""
    found = list(findings(path if required or path.exists() else None))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _show(found)
    return 1 if any(one.state == "fail" for one in found) else 0


def findings(path: Path | None) -> Iterator[Finding]:
    """All of them. `path` is the configuration's; None where there is none."""
    yield from files.program()
    loaded = None
    if path is None:
        yield ok("configuration", "none; `tidegate init` writes one")
    else:
        loaded, found = files.configuration(path)
        yield from found
    config = loaded.config if loaded is not None else None
    yield from machine.findings(machine.Machine(), config)
    yield from network.findings(config)
    if path is not None and loaded is not None:
        yield from files.findings(path, loaded)
    yield from service.findings(config)


def _show(found: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 400)
    for one in found:
        console.print(Text.assemble((f"{one.state:<5}", _STYLES[one.state]), f"{one.area:<14} ", one.text))
        if one.advice:
            console.print(Text(f"{'':<20} → {one.advice}", style="bold" if one.state == "fail" else ""))
    counts = {state: sum(one.state == state for one in found) for state in _STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
