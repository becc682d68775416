"""`tidegate reload`."""

from __future__ import annotations

import sys

from lb.cli.admin import AdminClient


def reload(client: AdminClient) -> int:
    """Asks for a reload and prints its outcome; returns the exit status. Raises AdminError when nobody answers."""
    result = client.reload()
    for note in result.get("notes", ()):
        print(f"needs a restart: {note}")
    for change in result.get("changes", ()):
        print(f"changed at run time: {change}")
    if result["ok"]:
        print(f"reloaded: plan {result['generation']}")
        return 0
    print("the old configuration stays:", file=sys.stderr)
    print("\n".join(result.get("problems") or [result.get("error", "no reason was given")]), file=sys.stderr)
    return 1
