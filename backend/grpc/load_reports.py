"""Reports of the load beside the answers (xds.service.orca.v3.OpenRcaService; gRFC A51)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from backend.inference.load import WINDOW_NS, Load
from lb.wire import orca_load_report_pb2 as orca
from lb.wire import orca_service_pb2

SERVICE = orca_service_pb2.DESCRIPTOR.services_by_name["OpenRcaService"]
METADATA = "endpoint-load-metrics-bin"  # of the trailers that carry a report with an answer


class LoadReports:
    """Reports until `stop` is set."""

    def __init__(self, load: Load, stop: asyncio.Event) -> None:
        self._load = load
        self._stop = stop

    async def StreamCoreMetrics(self, request: Any, context: Any) -> AsyncIterator[Any]:
        period = max(request.report_interval.ToNanoseconds(), WINDOW_NS) / 1e9
        while not self._stop.is_set():
            yield orca.OrcaLoadReport.FromString(self._load.report(time.monotonic_ns()))
            with suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._stop.wait()
