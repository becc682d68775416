"""`tidegate transitions`: the last changes of endpoints as a table, as a log has them: the newest at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console

from lb.cli.status import cell, table_of


def show(changes: Sequence[dict[str, Any]], as_json: bool, console: Console | None = None) -> None:
    """Prints what /api/v1/transitions gave."""
    if as_json:
        print(json.dumps(list(changes), indent=2))
        return
    # Into a pipe or a file nothing is cut off.
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = table_of("time", "pool", "endpoint", "what", "from", "to", "reason")
    for change in reversed(changes):
        at = datetime.fromtimestamp(change["at"]).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        words = (change[name] for name in ("pool", "endpoint", "what", "from", "to", "reason"))
        table.add_row(*map(cell, (at, *words)))
    console.print(table)
