"""`tidegate quota`: what clients have used of quotas, looked at and set back."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.text import Text

from lb.cli.admin import AdminClient
from lb.cli.plain import plain
from lb.cli.status import cell, table_of


def show(
    client: AdminClient, key: str | None, quota: str | None, last: int, as_json: bool, console: Console | None = None
) -> None:
    """Prints the quotas, and clients, those first that have used the largest part. Raises AdminError."""
    found = client.quotas(key, quota, last)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    if not found["quotas"]:
        console.print("no quotas")
        return
    table = table_of("quota", "requests", "per", "clients", "exhausted", "used", "resets at")
    for row in found["quotas"]:
        if quota in (None, row["name"]):
            names = ("name", "requests", "per", "clients", "exhausted", "used", "resets_at")
            table.add_row(*(cell(row[name]) for name in names))
    console.print(table)
    table = table_of("client", "by", "quota", "used", "limit", "remaining", "resets at")
    for row in found["clients"]:
        table.add_row(*(cell(row[name]) for name in ("key", "by", "quota", "used", "limit", "remaining", "resets_at")))
    console.print(table if found["clients"] else Text("nobody has used anything"))
    if found["left_out"]:
        console.print(f"{found['left_out']} more clients: --last says how many are shown")
    if found["trouble"]:
        console.print(Text(f"{found['file']} cannot be written: {found['trouble']}", "red"))


def reset(client: AdminClient, key: str, quota: str | None, dry_run: bool) -> None:
    """Gives a client all of its quotas again, and says so. Raises AdminError, also where it has used nothing."""
    for row in client.reset_quota(key, quota, dry_run):
        used = f"{'would be ' if dry_run else ''}0 used, before {row['used']}"
        print(f"{plain(row['key'])}: quota {row['quota']}: {used}")
