"""The use of GPUs by model servers, without waiting for the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from lb.control.servers.polled import MeasureFailed
from lb.scaling.gpu import GpuMeter, GpuUnavailable, Use


class GpuSignals:
    """The use of GPUs by address. A driver may take its time: it is asked in a thread."""

    def __init__(self, pids: Callable[[], Mapping[str, int]], meter: GpuMeter | None = None) -> None:
        self._pids = pids
        self._meter = meter or GpuMeter()

    async def ask(self) -> Mapping[str, Use]:
        """Raises MeasureFailed."""
        try:
            return await asyncio.to_thread(self._meter.read, dict(self._pids()))
        except GpuUnavailable as error:
            raise MeasureFailed(str(error)) from None
