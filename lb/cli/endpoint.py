"""`tidegate drain`, `enable`, `maintenance` and `weight`."""

from __future__ import annotations

import sys
import time
from typing import Any

from lb.cli.admin import AdminClient

_LOOK = 0.2  # seconds between two looks at what an endpoint still has


def set_state(client: AdminClient, pool: str, address: str, admin: str, wait: float | None = None) -> int:
    """Sets the state of an endpoint and says so; with `wait`, waits so many seconds for what it has in flight.

    Returns the exit status: 1 when there is something left. Raises AdminError.
    """
    row = client.operate(pool, address, admin=admin)
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


def set_weight(client: AdminClient, pool: str, address: str, weight: int | str) -> int:
    """Sets the weight of an endpoint (`default`: the configuration's) and says so. Raises AdminError."""
    print(describe(pool, client.operate(pool, address, weight=weight)))
    return 0


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
