"""`tidegate upgrade`."""

from __future__ import annotations

import sys
import time
from typing import Any

from lb.cli.admin import AdminClient, AdminError, RefusedError

_PATIENCE = 60.0  # seconds for the new program to serve, or the one before to go on
_PAUSE = 0.2


def upgrade(client: AdminClient) -> int:
    """Asks for an upgrade, waits for its outcome and prints that; returns the exit status. Raises AdminError when
    nobody answers, or the new program does not let this client in."""
    asked = client.upgrade()
    if not asked["ok"]:
        print(f"no upgrade, version {asked['before']} goes on: {asked['error']}", file=sys.stderr)
        return 1
    place = asked.get("admin") or client.address
    coming = client.at(place)
    # Where the file has another `admin.bind` by now, the next program listens there, and the one before, where that
    # goes on, as it did.
    clients = [client] if coming is None or coming.address == client.address else [coming, client]
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        time.sleep(_PAUSE)
        program = _program(clients)
        outcome = program["last_upgrade"] if program is not None else None
        if program is None or outcome is None or outcome["at"] <= asked["at"]:
            continue
        if not outcome["ok"]:
            print(f"no upgrade, version {outcome['before']} goes on: {outcome['error']}", file=sys.stderr)
            return 1
        print(f"upgraded from version {outcome['before']} to version {outcome['after']}, in {program['path']}")
        return 0
    print(f"nothing is known of the upgrade after {_PATIENCE:.0f} s, at {place}: see the log", file=sys.stderr)
    return 1


def _program(clients: list[AdminClient]) -> dict[str, Any] | None:
    """What the first that answers says of its program; None where the admin server begins anew. Raises RefusedError."""
    for client in clients:
        try:
            found: dict[str, Any] = client.status()["program"]
        except RefusedError:
            raise
        except AdminError:
            continue
        return found
    return None
