"""`tidegate check --trial`: whether this program would start with a configuration, as an upgrade to it wants to know.

It loads all that a daemon loads, and has the fork server make a worker, which loads the data path. It opens no
listening socket and speaks to no endpoint.
"""

from __future__ import annotations

import asyncio
import importlib

from lb.clock import MonotonicClock
from lb.control import signals
from lb.control.workers.fleet import Fleet, FleetSettings
from lb.shared.segment import Segment

_WORKERS = 1
_RECORDS = 16
_PARTS = ("lb.control.master", "lb.control.admin.server", "lb.cli.run")


def start() -> None:
    """Raises TidegateError, ImportError."""
    signals.ignore()  # `systemctl kill` reaches the trial, too
    for module in _PARTS:
        importlib.import_module(module)
    asyncio.run(_make_worker())


async def _make_worker() -> None:
    segment = Segment.create(_WORKERS, _RECORDS, _RECORDS)
    fleet = Fleet(_WORKERS, segment, FleetSettings(), MonotonicClock(), lambda: -1)
    try:
        await fleet.start()
    finally:
        await fleet.stop(0, asyncio.Event())
        segment.close()
