"""gRPC's reflection, by grpcio's own package. It is loaded when it is asked for first: with grpcio behind it that takes
a tenth of a second, and memory that a server needs for nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

SERVICE = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


class Reflection:
    """Tells of `services`, whose descriptors `pool` has."""

    def __init__(self, services: list[str], pool: DescriptorPool) -> None:
        self._services = services
        self._pool = pool
        self._servicer: Any = None

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        if self._servicer is None:
            from grpc_reflection.v1alpha import reflection

            self._servicer = reflection.aio.ReflectionServicer(self._services, self._pool)
        async for answer in self._servicer.ServerReflectionInfo(requests, context):
            yield answer
