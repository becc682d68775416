"""`tidegate endpoint`, and `drain`, `enable`, `maintenance` and `weight`, which are short for parts of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from lb.cli.admin import AdminClient
from lb.config.schema.base import did_you_mean, listed

_LOOK = 0.2  # seconds between two looks at what an endpoint still has


def set_state(
    client: AdminClient, pool: str, address: str, admin: str, wait: float | None = None, dry_run: bool = False
) -> int:
    """Sets the state of an endpoint and says so; with `wait`, waits so many seconds for what it has in flight.

    Returns the exit status: 1 when there is something left. Raises AdminError.
    """
    answer = client.operate(pool, address, admin=admin, dry_run=dry_run)
    if dry_run:
        return show_changed(pool, answer)
    row = answer["endpoint"]
    if wait is not None:
        row = _emptied(client, pool, row, time.monotonic() + wait)
    print(describe(pool, row))
    if admin == "enabled":
        for line in held_by_agent(row):
            print(line)
    if wait is not None and _left(row):
        open_ = f" and {row['sequences']} sequences" if row.get("sequences") else ""
        print(f"{row['in_flight']} requests{open_} are still there after {wait:g} s", file=sys.stderr)
        return 1
    return 0


def set_weight(client: AdminClient, pool: str, address: str, weight: int | str, dry_run: bool = False) -> int:
    """Sets the weight of an endpoint (`default`: the configuration's) and says so. Raises AdminError."""
    answer = client.operate(pool, address, weight=weight, dry_run=dry_run)
    if dry_run:
        return show_changed(pool, answer)
    print(describe(pool, answer["endpoint"]))
    return 0


def set_limit(client: AdminClient, pool: str, address: str, limit: int | str, dry_run: bool = False) -> int:
    """Sets the most requests that an endpoint has at once (`default`: the configuration's). Raises AdminError."""
    answer = client.operate(pool, address, max_in_flight=limit, dry_run=dry_run)
    if dry_run:
        return show_changed(pool, answer)
    row = answer["endpoint"]
    print(f"{describe(pool, row)}, at most {row['max_in_flight'] or 'as many as come'}")
    return 0


def show_changed(pool: str, answer: dict[str, Any]) -> int:
    """What a dry run would have done."""
    row = answer["endpoint"]
    for change in answer["changed"]:
        print(f"would change: {pool} {row['address']}: {change['setting']} from {change['from']} to {change['to']}")
    if not answer["changed"]:
        print(f"would change nothing: {describe(pool, row)}")
    elif any(c["setting"] == "admin" and c["to"] != "enabled" for c in answer["changed"]) and _left(row):
        print(f"it would finish {row['in_flight']} requests")
    return 0


def list_endpoints(document: dict[str, Any], pool: str | None, as_json: bool) -> int:
    """Prints the endpoints of a status document, of one pool or of all; 1 when there is no such pool."""
    from lb.cli.status import pools_table, printer

    pools = [row for row in document["pools"] if pool in (None, row["name"])]
    if as_json:
        print(json.dumps({row["name"]: row["endpoints"] for row in pools}, indent=2))
    elif pools:
        console = printer()
        for part in pools_table(pools, console.width):
            console.print(part)
    if not pools and pool is not None:
        print(f"tidegate: there is no pool {pool!r}{_known(pool, document['pools'])}", file=sys.stderr)
        return 1
    return 0


def _known(pool: str, pools: Sequence[dict[str, Any]]) -> str:
    names = [row["name"] for row in pools]
    return did_you_mean(pool, names) or (f"; there are {listed(names)}" if names else "")


def describe(pool: str, row: dict[str, Any]) -> str:
    """A line for an endpoint's row of the status document."""
    open_ = f", {row['sequences']} sequences" if row.get("sequences") else ""
    return f"{pool} {row['address']}: {row['admin']}, weight {row['weight']}, {row['in_flight']} in flight{open_}"


def held_by_agent(row: dict[str, Any]) -> list[str]:
    """What the agent of an endpoint says that keeps requests away from it, whatever the operator says."""
    agent = row.get("agent") or {}
    lines = []
    if agent.get("admin") in ("drain", "maint"):
        lines.append(f"its agent says {agent['admin']}: it gets no new requests until the agent says ready")
    if agent.get("health") not in (None, "up"):
        lines.append(f"its agent says {agent['health']}: it gets no new requests until the agent says up")
    if agent.get("weight_percent") == 0:
        lines.append("its agent says 0%: it gets no new requests until the agent gives it some weight")
    return lines


def _left(row: dict[str, Any]) -> int:
    """What an endpoint still has to do."""
    return int(row["in_flight"]) + int(row.get("sequences", 0))


def _emptied(client: AdminClient, pool: str, row: dict[str, Any], deadline: float) -> dict[str, Any]:
    while _left(row) and time.monotonic() < deadline:
        time.sleep(_LOOK)
        row = {**row, **client.left(pool, row["address"])}  # a reload or discovery may have removed it meanwhile
    return row
