"""The watch of a running master: takes samples, and says what the dashboard and the alerts need to know.

Each INTERVAL a sample of the counters is taken. The status document, which costs more, is made only where somebody asks
for the overview, or where alerts are configured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from lb.control.watch import overview, problems
from lb.control.watch.history import INTERVAL, History
from lb.control.watch.topology import topology

if TYPE_CHECKING:
    from lb.clock import Clock
    from lb.control.master import Master

log = logging.getLogger("tidegate.watch")

_KEEP = 1_000_000_000  # ns for which an overview is given to all who ask
_CHANGES = 20


class Watch:
    """Of one master; `history` has the samples."""

    def __init__(self, master: Master, clock: Clock) -> None:
        self.history = History()
        self._master = master
        self._clock = clock
        self._made: tuple[int, dict[str, Any]] | None = None  # when, and what
        self._topology: tuple[int, dict[str, Any]] = (-1, {})

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                self.look()
            except Exception:  # a look that fails must not be the last
                log.exception("the traffic was not sampled")
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """Takes a sample."""
        plan = self._master.plan
        if plan is not None:
            self.history.sample(plan, self._master.segment.series_total, self._clock.now(), time.time())

    def overview(self, fresh: bool = False) -> dict[str, Any]:
        """The overview (lb.control.watch.overview), at most a second old; `fresh`: made now."""
        now = self._clock.now()
        if self._made is None or fresh or now - self._made[0] >= _KEEP:
            status = self._master.status()
            found = problems.find(status, self.history)
            changes = self._master.transitions.last(_CHANGES)
            self._made = now, overview.document(status, found, self.history, self._ways(), changes)
        return self._made[1]

    def _ways(self) -> dict[str, Any]:
        plan = self._master.plan
        if plan is None:
            return {"listeners": [], "routes": [], "routes_left_out": 0}
        if self._topology[0] != plan.generation:
            self._topology = plan.generation, topology(plan)
        return self._topology[1]
