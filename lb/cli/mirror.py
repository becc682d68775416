"""`tidegate mirror`: what comparing the answers of mirrors has found."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from lb.cli.admin import AdminClient
from lb.cli.status import cell, table_of


def report(client: AdminClient, route: str | None, last: int, as_json: bool, console: Console | None = None) -> None:
    """Prints the routes whose answers are compared, the differences by model and output, and the last answers that
    differ. Raises AdminError, also for a route that compares nothing."""
    rows = client.mirrors(route)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    if not rows:
        console.print("no route compares answers")
        return
    table = table_of("route", "equal", "different", "skipped")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in ("route", "equal", "different", "skipped")))
    console.print(table)
    names = ("model", "output", "answers", "different", "largest_absolute", "largest_relative")
    table = table_of("route", *(name.replace("_", " ") for name in names))
    for row in rows:
        for tensor in row["tensors"][:last]:
            table.add_row(cell(row["route"]), *(cell(_shown(tensor[name])) for name in names))
    console.print(table)
    table = table_of("at", "route", "model", "difference")
    for row in rows:
        for sample in row["samples"][:last]:
            at = datetime.fromtimestamp(sample["at"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            table.add_row(*map(cell, (at, row["route"], sample["model"], sample["text"])))
    if any(row["samples"] for row in rows):
        console.print(table)


def _shown(value: Any) -> Any:
    if value is None:
        return "infinite"
    return f"{value:.3g}" if isinstance(value, float) else value
