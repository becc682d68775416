"""Load reports out of band: a stream to each endpoint on which it reports at a period of its own (ORCA; gRFC A51).

`xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, over a connection of its own: reports come whether or not there
are requests, and once for all workers. The stream itself (lb.health.load_report_stream) is loaded when an endpoint is
to report: most daemons need no protobuf in the master.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from lb.health.check import CheckFailed
from lb.health.checks.tls import CheckTls

log = logging.getLogger("tidegate.health")

# Pauses after a stream that ended, as gRPC has them; from the beginning again once a report has come.
_PAUSE_FIRST, _PAUSE_GROWS, _PAUSE_MOST = 1.0, 1.6, 120.0


class ReportTarget(Struct, frozen=True):
    """An endpoint that is to report every `period` ns; `slot` is its record in the shared segment."""

    pool: str
    address: str
    slot: int
    period: int
    tls: CheckTls | None = None


Reported = tuple[float, float, float]  # utilization, requests/s, errors/s


class LoadReportMonitor:
    """Keeps a stream to each target and hands on every report: `on_report(target, reported)` is called in the loop.

    An endpoint that does not report is logged once, and asked again. `update` and `close` need a running loop.
    """

    def __init__(self, on_report: Callable[[ReportTarget, Reported], None], rng: random.Random | None = None) -> None:
        self._on_report = on_report
        self._random = rng or random.Random()  # noqa: S311 - it spreads load, it guards nothing
        self._tasks: dict[ReportTarget, asyncio.Task[None]] = {}
        self._ended: set[asyncio.Task[None]] = set()

    def update(self, targets: Sequence[ReportTarget]) -> None:
        """Have exactly these report from now on; streams of those that stay are left alone."""
        wanted = set(targets)
        for target in self._tasks.keys() - wanted:
            self._end(self._tasks.pop(target))
        for target in wanted - self._tasks.keys():
            name = f"load reports {target.pool} {target.address}"
            self._tasks[target] = asyncio.create_task(self._run(target), name=name)

    async def close(self) -> None:
        """Every stream is closed when this returns."""
        for task in self._tasks.values():
            self._end(task)
        self._tasks.clear()
        while self._ended:
            await asyncio.gather(*self._ended, return_exceptions=True)

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancel():
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)

    async def _run(self, target: ReportTarget) -> None:
        from lb.health.load_report_stream import reports

        pause, told = _PAUSE_FIRST, False
        while True:
            try:
                async for report in reports(target.address, target.tls, target.period):
                    pause, told = _PAUSE_FIRST, False
                    self._on_report(target, report)
                why = "the stream ended"
            except (CheckFailed, TimeoutError) as e:
                why = str(e) or "no report came"
            except Exception as e:
                # A defect here must not end the reports: it is logged in full.
                log.exception("%s: load reports cannot be read, in an unforeseen way", target.address)
                why = f"{type(e).__name__}: {e}"
            if not told:
                told = True
                log.warning("pool %s: no load reports from endpoint %s: %s", target.pool, target.address, why)
            await asyncio.sleep(pause * self._random.uniform(0.8, 1.2))
            pause = min(pause * _PAUSE_GROWS, _PAUSE_MOST)
