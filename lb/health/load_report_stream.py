"""One stream of an endpoint's load reports: the protocol of lb.health.load_reports, over HTTP/2 and protobuf."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from lb.config.units import SECOND
from lb.health.check import CheckFailed
from lb.health.checks.grpc_connection import grpc_connection
from lb.health.checks.tls import CheckTls
from lb.health.load_reports import Reported
from lb.wire import orca_load_report_pb2, orca_service_pb2

_METHOD = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
_CONNECT = 5.0
# Servers may report less often than they are asked to: by default every 30 s, in gRPC's own.
_SILENCE_LEAST, _SILENCE_PERIODS = 120.0, 4
_MOST = 1e18  # more than anything that is measured


async def reports(address: str, tls: CheckTls | None, period: int) -> AsyncIterator[Reported]:
    """Every report of the endpoint, which is asked for one each `period` ns, until it ends the stream. Raises
    CheckFailed or TimeoutError."""
    request = orca_service_pb2.OrcaLoadReportRequest()
    request.report_interval.FromNanoseconds(period)
    silence = max(_SILENCE_LEAST, _SILENCE_PERIODS * period / SECOND)
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(_CONNECT):
            connection = await stack.enter_async_context(grpc_connection(address, tls))
        stream = connection.stream(_METHOD, request.SerializeToString())
        while True:
            async with asyncio.timeout(silence):
                report = await anext(stream, None)
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
