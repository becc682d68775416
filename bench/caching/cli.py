"""`python -m bench cache-policies`: every policy over every trace, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.caching.policies import POLICIES
from bench.caching.replay import Found, replay
from bench.caching.traces import Trace, drift, read, zipf

ALPHAS = (0.7, 0.9, 1.1)
SHARES = (0.02, 0.1)
"""Sizes of the cache as shares of the bytes of all answers."""


def traces(files: Sequence[Path]) -> list[Trace]:
    """The files; without files, the made traces."""
    if files:
        return [read(file) for file in files]
    made = [zipf(alpha, scans=True, mixed=mixed) for mixed in (True, False) for alpha in ALPHAS]
    return made + [drift(0.9, mixed=mixed) for mixed in (True, False)]


def run(files: Sequence[Path], console: Console) -> None:
    table = Table("trace", "cache", *POLICIES, title="% of requests / bytes / compute time that the cache saves")
    for trace in traces(files):
        for share in SHARES:
            capacity = int(share * trace.footprint())
            found = [replay(trace, make, capacity) for make in POLICIES.values()]
            table.add_row(trace.name, f"{share:.0%}", *map(_cell, found))
    console.print(table)


def _cell(found: Found) -> str:
    return f"{100 * found.hits:.0f} / {100 * found.bytes:.0f} / {100 * found.compute:.0f}"
