"""`tidegate canary`: how far canaries have come, and what operators want of them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import cell, table_of


def show(client: AdminClient, route: str | None, as_json: bool, console: Console | None = None) -> int:
    """Prints the canaries; of one route alone with its history. Returns the exit status. Raises AdminError, also for a
    route without one."""
    rows = client.canaries()
    if route is not None:
        known = [row["route"] for row in rows]
        if route not in known:
            from lb.config.schema.base import did_you_mean  # slow to load

            raise AdminError(f"there is no route {route!r} with a canary{did_you_mean(route, known)}")
        rows = [row for row in rows if row["route"] == route]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    if not rows:
        console.print("no canaries")
        return 0
    table = table_of("route", "canary", "baseline", "phase", "percent", "requests", "errors", "why", "waits for")
    for row in rows:
        seen = row["observed"]
        found = (
            *(row[name] for name in ("route", "pool", "baseline", "phase", "percent")),
            *(seen["requests"], seen["errors"], row["reason"], row["waits_for"] or ""),
        )
        table.add_row(*map(cell, found))
    console.print(table)
    if route is not None:
        table = table_of("at", "phase", "percent", "why")
        for entry in rows[0]["history"]:
            at = datetime.fromtimestamp(entry["at"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            table.add_row(*map(cell, (at, entry["phase"], entry["percent"], entry["reason"])))
        console.print(table)
    return 0


def change(client: AdminClient, route: str, action: str, dry_run: bool) -> int:
    """Promotes a canary, takes it back or has it begin anew, and says so. Raises AdminError."""
    answer: dict[str, Any] = client.change_canary(route, action, dry_run)
    row = answer["canary"]
    if dry_run:
        print(f"{route}: {action} would change {'its phase' if answer['changed'] else 'nothing'}: it is {row['phase']}")
    else:
        unchanged = "" if answer["changed"] else ", as before"
        print(f"{route}: {row['phase']}, {row['percent']:g} % for {row['pool']}{unchanged}")
    return 0
