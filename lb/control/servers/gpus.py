"""The use of GPUs by model servers, without waiting for the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from lb.control.servers.polled import MeasureFailed
from lb.scaling.cpu import families
from lb.scaling.gpu import GpuMeter, GpuUnavailable, Use


class GpuSignals:
    """The use of GPUs by address. A driver may take its time: it is asked in a thread."""

    def __init__(self, pids: Callable[[], Mapping[str, int]], meter: GpuMeter | None = None) -> None:
        self._pids = pids
        self._meter = meter or GpuMeter()

    async def ask(self) -> Mapping[str, Use]:
        """Raises MeasureFailed."""
        try:
            return await asyncio.to_thread(self._read, dict(self._pids()))
        except GpuUnavailable as error:
            raise MeasureFailed(str(error)) from None

    def _read(self, pids: Mapping[str, int]) -> Mapping[str, Use]:
        members = families(pids.values())  # a server may be a shell, or have a process for each model
        return self._meter.read({address: members[pid] for address, pid in pids.items()})
