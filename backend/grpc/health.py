"""gRPC's health checks (grpc/health/v1/health.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from backend.errors import NotFound
from lb.wire import health_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["Health"]
SERVING = wire.HealthCheckResponse.SERVING
NOT_SERVING = wire.HealthCheckResponse.NOT_SERVING


class Health:
    """The status of each of `services`: NOT_SERVING until `set` says otherwise. "" is the server."""

    def __init__(self, *services: str) -> None:
        self._services = frozenset(services)
        self._status = NOT_SERVING
        self._changed = asyncio.Event()
        self._over = False

    def end(self) -> None:
        """The server stops: NOT_SERVING is the last that who watches hears."""
        self._over = True
        self.set(NOT_SERVING)

    def set(self, status: int) -> None:
        """The status of all services; who watches hears of it."""
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:
        """Raises NotFound for an unknown service."""
        if request.service not in self._services:
            raise NotFound(f"unknown service '{request.service}'")
        return wire.HealthCheckResponse(status=self._status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Each status from the one now on."""
        if request.service not in self._services:
            yield wire.HealthCheckResponse(status=wire.HealthCheckResponse.SERVICE_UNKNOWN)
            while not self._over:  # it may be asked for before it is there
                await self._changed.wait()
            return
        while True:
            changed = self._changed
            yield wire.HealthCheckResponse(status=self._status)
            if self._over:
                return
            await changed.wait()
