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
    if wait is not None and row["in_flight"]:
        print(f"{row['in_flight']} requests are still there after {wait:g} s", file=sys.stderr)
        return 1
    return 0


def set_weight(client: AdminClient, pool: str, address: str, weight: int | str) -> int:
    """Sets the weight of an endpoint (`default`: the configuration's) and says so. Raises AdminError."""
    print(describe(pool, client.operate(pool, address, weight=weight)))
    return 0


def describe(pool: str, row: dict[str, Any]) -> str:
    """A line for an endpoint's row of the status document."""
    return f"{pool} {row['address']}: {row['admin']}, weight {row['weight']}, {row['in_flight']} in flight"


def _emptied(client: AdminClient, pool: str, row: dict[str, Any], deadline: float) -> dict[str, Any]:
    while row["in_flight"] and time.monotonic() < deadline:
        time.sleep(_LOOK)
        rows = [e for p in client.status()["pools"] if p["name"] == pool for e in p["endpoints"]]
        row = next((e for e in rows if e["address"] == row["address"]), {**row, "in_flight": 0})
    return row
