"""`tidegate upgrade`."""

from __future__ import annotations

import sys
import time

from lb.cli.admin import AdminClient, AdminError

_PATIENCE = 60.0  # seconds for the new program to serve, or the one before to go on
_PAUSE = 0.2


def upgrade(client: AdminClient) -> int:
    """Asks for an upgrade, waits for its outcome and prints that; returns the exit status. Raises AdminError when
    nobody answers."""
    asked = client.upgrade()
    if not asked["ok"]:
        print(f"no upgrade, version {asked['before']} goes on: {asked['error']}", file=sys.stderr)
        return 1
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        time.sleep(_PAUSE)
        try:
            program = client.status()["program"]
        except AdminError:  # the admin server begins anew
            continue
        outcome = program["last_upgrade"]
        if outcome is None or outcome["at"] <= asked["at"]:
            continue
        if not outcome["ok"]:
            print(f"no upgrade, version {outcome['before']} goes on: {outcome['error']}", file=sys.stderr)
            return 1
        print(f"upgraded from version {outcome['before']} to version {outcome['after']}, in {program['path']}")
        return 0
    print(f"nothing is known of the upgrade after {_PATIENCE:.0f} s: see the log", file=sys.stderr)
    return 1
