"""`tidegate table`: what stick tables have counted, looked at, cleared and set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import cell, table_of


def show(
    client: AdminClient,
    table: str | None,
    key: str | None,
    filter_: str | None,
    last: int,
    as_json: bool,
    console: Console | None = None,
) -> None:
    """Prints the tables, or the entries of one, those first that were used last. Raises AdminError."""
    found = client.tables(table, key, filter_, last)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    if not found["tables"]:
        console.print("no tables")
        return
    made = table_of("table", "key", "capacity", "evicted", "refused", "stores")
    for row in found["tables"]:
        if found["table"] in (None, row["name"]):
            columns = (row["name"], row["key"], row["capacity"], row["evicted"], row["refused"])
            made.add_row(*map(cell, columns), ", ".join(row["store"]))
    console.print(made)
    if found["table"] is None:
        console.print("`tidegate table show NAME` shows the entries of one")
        return
    if not found["entries"]:
        console.print(Text("no entries"))
        return
    names = [name for name in found["entries"][0] if name not in ("key", "idle_s", "expires_in_s")]
    made = table_of("key", "idle", "expires in", *names)
    for row in found["entries"]:
        ages = (f"{row['idle_s']:.1f} s", f"{row['expires_in_s']:.0f} s")
        made.add_row(cell(row["key"]), *ages, *(cell(row[name]) for name in names))
    console.print(made)
    if found["left_out"]:
        console.print(f"{found['left_out']} more entries: --last says how many are shown")


def clear(client: AdminClient, table: str, key: str | None, filter_: str | None, whole: bool, dry_run: bool) -> None:
    """Forgets entries, and says how many. Raises AdminError, also where there is no such entry."""
    if [key is not None, filter_ is not None, whole].count(True) != 1:
        raise AdminError("say which entries: KEY, --filter or --all")
    found = client.change_table({"table": table, "action": "clear", "key": key, "filter": filter_, "all": whole,
                                 "dry_run": dry_run})  # fmt: skip
    print(f"table {table}: {found['cleared']} entries {'would be' if dry_run else 'are'} cleared")


def put(client: AdminClient, table: str, key: str, values: Sequence[str], dry_run: bool) -> None:
    """Sets what is counted of a key, each value as FIELD=NUMBER. Raises AdminError."""
    wanted: dict[str, int] = {}
    for value in values:
        field, equals, number = value.partition("=")
        if not equals or not number.isascii() or not number.isdigit() or len(number) > 18:
            raise AdminError(f"{value!r} is not FIELD=NUMBER, such as gpt0=1")
        wanted[field] = int(number)
    client.change_table({"table": table, "action": "set", "key": key, "values": wanted, "dry_run": dry_run})
    said = ", ".join(f"{field}={number}" for field, number in wanted.items())
    print(f"table {table}: {key} {'would have' if dry_run else 'has'} {said}")
