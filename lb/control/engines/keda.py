"""KEDA's external scaler: the number of replicas that Tidegate wishes for, for an autoscaler of Kubernetes to act on.

Source: KEDA documentation, "External Scalers" (`externalscaler.proto`). grpcio is loaded when a pool asks for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from lb.errors import StartError

if TYPE_CHECKING:
    from lb.control.engines.scaled import ScaledPool

log = logging.getLogger("tidegate.scaling")

METRIC = "tidegate-replicas-wanted"
ACTIVE_FOR = 30.0  # s after its last request that a pool is active: KEDA asks every 30 s
LOOK = 0.1  # s between two looks at whether a pool is active


class KedaServer:
    """Answers on `bind` for the pools that `find` knows: a ScaledObject names its pool in the trigger's metadata."""

    def __init__(self, bind: str, find: Callable[[str], ScaledPool | None]) -> None:
        self.bind = bind
        self.port = 0
        self._find = find
        self._server: Any = None

    async def start(self) -> None:
        """Raises StartError when the address is taken, or grpcio is missing."""
        try:
            import grpc

            from lb.wire import externalscaler_pb2, services
        except ImportError:
            raise StartError("KEDA's external scaler needs the package grpcio: pip install 'tidegate[keda]'") from None
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service = externalscaler_pb2.DESCRIPTOR.services_by_name["ExternalScaler"]
        services.serve(self._server, service, _Servicer(self._find, externalscaler_pb2))
        try:
            self.port = self._server.add_insecure_port(self.bind)
        except RuntimeError as error:
            raise StartError(f"KEDA's external scaler cannot listen on {self.bind}: {error}") from None
        await self._server.start()
        log.info("KEDA's external scaler answers on port %d", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)


class _Servicer:
    """The methods of the service; `messages` is its module."""

    def __init__(self, find: Callable[[str], ScaledPool | None], messages: Any) -> None:
        self._find = find
        self._messages = messages

    async def IsActive(self, request: Any, context: Any) -> Any:
        pool = await self._pool(request, context)
        return self._messages.IsActiveResponse(result=pool.active(ACTIVE_FOR))

    async def StreamIsActive(self, request: Any, context: Any) -> AsyncIterator[Any]:
        pool = await self._pool(request, context)
        told = None
        while True:
            active = pool.active(ACTIVE_FOR)
            if active is not told:
                told = active
                yield self._messages.IsActiveResponse(result=active)
            await asyncio.sleep(LOOK)
            pool = await self._pool(request, context)

    async def GetMetricSpec(self, request: Any, context: Any) -> Any:
        await self._pool(request, context)
        # One replica for each that is wished for: the autoscaler's ratio gives the number itself.
        spec = self._messages.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return self._messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: Any, context: Any) -> Any:
        import grpc

        pool = await self._pool(request.scaledObjectRef, context)
        if request.metricName and not request.metricName.endswith(METRIC):  # KEDA puts `s0-` before it
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no metric {request.metricName!r}")
        wanted = pool.advice()
        if wanted is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing has been decided yet")
        value = self._messages.MetricValue(
            metricName=request.metricName or METRIC, metricValue=wanted, metricValueFloat=float(wanted or 0)
        )
        return self._messages.GetMetricsResponse(metricValues=[value])

    async def _pool(self, reference: Any, context: Any) -> ScaledPool:
        import grpc

        name = reference.scalerMetadata.get("pool", "")
        pool = self._find(name)
        if pool is None:
            text = f"there is no pool {name!r} with an engine" if name else "the trigger's metadata needs pool: NAME"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
            raise AssertionError("abort raises")
        return pool
