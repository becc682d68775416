"""`tidegate scaling`: why a pool has as many replicas as it has, and traces of its load."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb.cli.admin import AdminClient, AdminError
from lb.cli.status import cell, table_of


def explain(client: AdminClient, pool: str, as_json: bool, console: Console | None = None) -> None:
    """Prints why a pool has as many replicas as it has. Raises AdminError."""
    found = client.scaling(pool)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    scaling = found["scaling"]
    if scaling is None:
        raise AdminError(f"pool {pool} is not scaled: it has no section scaling")
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    for line in _lines(pool, scaling):
        console.print(line)


def record(
    client: AdminClient, pool: str, seconds: int, file: Path | None, pause: Callable[[float], None] = time.sleep
) -> int:
    """Writes a trace of the requests that arrive for a pool, second by second (CSV: second, requests); the number of
    requests. Each second is written as it is over. Raises AdminError."""
    with contextlib.ExitStack() as stack:
        out: TextIO = sys.stdout if file is None else stack.enter_context(_opened(file))
        print("second,requests", file=out, flush=True)
        before, begun, total = _arrived(client, pool), time.monotonic(), 0
        for second in range(seconds):
            pause(max(0.0, begun + second + 1 - time.monotonic()))
            now = _arrived(client, pool)
            # A pool that was taken away and put back counts from 0 again.
            requests = now - before if now >= before else now
            print(f"{second},{requests}", file=out, flush=True)
            before, total = now, total + requests
    return total


def _opened(file: Path) -> TextIO:
    try:
        return open(file, "w", encoding="ascii")
    except OSError as error:
        raise AdminError(f"{file}: cannot be written: {error.strerror}") from error


def _arrived(client: AdminClient, pool: str) -> int:
    arrived = client.scaling(pool)["arrived"]
    if arrived is None:
        raise AdminError(f"pool {pool} counts no requests: its protocol has none")
    return int(arrived)


def _lines(pool: str, scaling: dict[str, Any]) -> Iterator[Text | Table]:
    limits = f"{scaling['min']} to {scaling['max']}"
    yield Text(f"pool       {pool}: {scaling['wanted']} wanted, {scaling['ready']} ready, limits {limits}")
    yield Text(f"rule       {scaling['rule']}, decides every {scaling['interval_s']:g} s")
    decided = scaling["decided_s_ago"]
    ago = "no decision yet" if decided is None else f"{decided:.0f} s ago: {scaling['reason']}"
    yield Text(f"decision   {ago}")
    if scaling["start_time_s"] is not None:
        yield Text(f"start      a replica took {scaling['start_time_s']:.3g} s to be ready")
    yield Text(f"traffic    {_traffic(scaling['traffic'])}")
    for name, value in scaling["learned"].items():
        yield Text(f"learned    {name}: {_shown(value)}")
    # A rule that learns writes its first file after a minute, or when the daemon stops.
    yield Text(f"memory     {scaling['memory'] or 'nothing is kept over restarts so far'}")
    if scaling["recommenders"]:
        table = table_of("recommender", "target", "measured", "replicas")
        for name, row in scaling["recommenders"].items():
            table.add_row(cell(name), *(_shown(row.get(key)) for key in ("target", "average", "replicas")))
        yield table
    table = table_of("signal", "average", "missing", "not ready")
    for name, row in scaling["signals"].items():
        table.add_row(cell(name), _shown(row["average"]), str(row["missing"]), str(row["unready"]))
    if table.row_count:
        yield table
    for name, row in scaling["measures"].items():
        if row["error"]:
            yield Text(f"missing    {name}: {row['error']}", "red")
    table = table_of("event", "from", "to", "reason")
    for event in reversed(scaling["events"]):
        table.add_row(f"{event['s_ago']:.0f} s ago", str(event["from"]), str(event["to"]), Text(event["reason"]))
    if table.row_count:
        yield table


def _traffic(traffic: dict[str, Any] | None) -> str:
    if traffic is None:
        return "not known"
    return (
        f"{traffic['requests_per_second']:.4g} requests/s, {traffic['in_flight']:g} in flight, "
        f"{traffic['waiting']:g} waiting, {traffic['failed']} failed and {traffic['refused']} refused"
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
