"""Load reports out of band, by real servers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from waiting import until

from lb.config.units import SECOND
from lb.health.load_report_stream import read
from lb.health.load_reports import LoadReportMonitor, Reported, ReportTarget
from lb.wire import orca_load_report_pb2 as orca
from lb.wire.services import LOAD_REPORTS, serve


class Server:
    """Sends what is put into `reports`; None ends the stream."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[Any] = asyncio.Queue()
        self.periods: list[int] = []
        self.open = 0

    async def StreamCoreMetrics(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.periods.append(request.report_interval.ToNanoseconds())
        self.open += 1
        try:
            while (report := await self.reports.get()) is not None:
                yield report
        finally:
            self.open -= 1


@asynccontextmanager
async def serving(service: Server | None) -> AsyncIterator[str]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    if service is not None:
        serve(server, LOAD_REPORTS, service)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Rig:
    def __init__(self) -> None:
        self.found: list[tuple[int, Reported]] = []
        self.monitor = LoadReportMonitor(lambda target, reported: self.found.append((target.slot, reported)))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.monitor.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours: grpcio has asyncio log errors of its own where several loops follow each other in a process."""
    return [record.getMessage() for record in caplog.records if record.name == "tidegate.health"]


def target(address: str, slot: int = 3, period: int = 5 * SECOND) -> ReportTarget:
    return ReportTarget("pool", address, slot, period)


def report(utilization: float, rps: float = 0, eps: float = 0) -> Any:
    return orca.OrcaLoadReport(application_utilization=utilization, rps_fractional=rps, eps=eps)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"application_utilization": 0.5, "cpu_utilization": 0.3, "rps_fractional": 12.5, "eps": 1}, (0.5, 12.5, 1)),
        ({"cpu_utilization": 0.3, "rps": 10}, (0.3, 10, 0)),
        ({"rps_fractional": 10}, None),
        ({"cpu_utilization": -1}, None),
        ({"cpu_utilization": math.nan}, None),
        ({"cpu_utilization": 1, "eps": math.inf}, None),
        ({"cpu_utilization": 1, "rps_fractional": 1e300}, None),
    ],
)
def test_what_a_report_says(fields: dict[str, float], expected: Reported | None) -> None:
    assert read(orca.OrcaLoadReport(**fields)) == expected


async def test_reports_are_handed_on(rig: Rig) -> None:
    service = Server()
    async with serving(service) as address:
        rig.monitor.update([target(address)])
        service.reports.put_nowait(report(0.5, 10))
        service.reports.put_nowait(report(0))  # says nothing
        service.reports.put_nowait(report(0.75, 12, 1))
        await until(lambda: len(rig.found) == 2, "a report is missing")
        assert rig.found == [(3, (0.5, 10, 0)), (3, (0.75, 12, 1))]
        assert service.periods == [5 * SECOND]


async def test_a_stream_that_ends_is_opened_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    service = Server()
    with caplog.at_level(logging.WARNING, "tidegate.health"):
        async with serving(service) as address:
            rig.monitor.update([target(address)])
            service.reports.put_nowait(report(0.5))
            service.reports.put_nowait(None)
            service.reports.put_nowait(report(0.75))
            await until(lambda: len(rig.found) == 2, "it was not opened again")
    assert warnings(caplog)[:1] == [f"pool pool: no load reports from endpoint {address}: the stream ended"]


async def test_a_server_without_reports_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tidegate.health"):
        async with serving(None) as address:
            rig.monitor.update([target(address)])
            await until(lambda: warnings(caplog), "nothing was logged")
            await asyncio.sleep(2.5)  # the second try
    (warning,) = warnings(caplog)
    assert "UNIMPLEMENTED" in warning


async def test_only_what_changes_is_touched(rig: Rig) -> None:
    first, second = Server(), Server()
    async with serving(first) as one, serving(second) as other:
        rig.monitor.update([target(one), target(other, 4)])
        await until(lambda: first.open == second.open == 1, "no streams")
        rig.monitor.update([target(one)])
        await until(lambda: second.open == 0, "the stream is still open")
        assert (first.open, len(first.periods)) == (1, 1)
        rig.monitor.update([target(one, period=SECOND)])
        await until(lambda: first.periods == [5 * SECOND, SECOND] and first.open == 1, "not asked anew")


async def test_closing_ends_the_streams(rig: Rig) -> None:
    service = Server()
    async with serving(service) as address:
        rig.monitor.update([target(address)])
        await until(lambda: service.open == 1, "no stream")
        await rig.monitor.close()
        await until(lambda: service.open == 0, "the stream is still open")
