"""Load reports out of band: a stream to each endpoint on which it reports at a period of its own (ORCA; gRFC A51).

`xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, over a connection of its own: reports come whether or not there
are requests, and once for all workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from lb.config.units import SECOND
from lb.health.check import CheckFailed
from lb.health.checks.grpc_connection import grpc_connection
from lb.health.checks.tls import CheckTls
from lb.wire import orca_load_report_pb2, orca_service_pb2

log = logging.getLogger("tidegate.health")

_METHOD = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
_CONNECT = 5.0
# Pauses after a stream that ended, as gRPC has them; from the beginning again once a report has come.
_PAUSE_FIRST, _PAUSE_GROWS, _PAUSE_MOST = 1.0, 1.6, 120.0
# Servers may report less often than they are asked to: by default every 30 s, in gRPC's own.
_SILENCE_LEAST, _SILENCE_PERIODS = 120.0, 4
_MOST = 1e18  # more than anything that is measured


@dataclass(frozen=True, slots=True)
class ReportTarget:
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
        pause, told = _PAUSE_FIRST, False
        while True:
            try:
                async for report in self._stream(target):
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

    async def _stream(self, target: ReportTarget) -> AsyncIterator[Reported]:
        request = orca_service_pb2.OrcaLoadReportRequest()
        request.report_interval.FromNanoseconds(target.period)
        silence = max(_SILENCE_LEAST, _SILENCE_PERIODS * target.period / SECOND)
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(_CONNECT):
                connection = await stack.enter_async_context(grpc_connection(target.address, target.tls))
            reports = connection.stream(_METHOD, request.SerializeToString())
            while True:
                async with asyncio.timeout(silence):
                    report = await anext(reports, None)
                if report is None:
                    return
                try:
                    found = read(orca_load_report_pb2.OrcaLoadReport.FromString(report))
                except DecodeError:
                    raise CheckFailed("what the server sends is no OrcaLoadReport") from None
                if found is not None:
                    yield found


def read(report: Any) -> Reported | None:
    """What an OrcaLoadReport says; None when it says nothing of its utilization, or what cannot be right."""
    utilization = report.application_utilization or report.cpu_utilization
    found = (utilization, report.rps_fractional or float(report.rps), report.eps)
    if not all(math.isfinite(value) and 0 <= value <= _MOST for value in found) or utilization == 0:
        return None
    return found
