"""gRPC check: `grpc.health.v1.Health/Check` answers SERVING (gRPC health checking protocol)."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lb.config.schema import HealthConfig
from lb.health.channel import Channels, reason
from lb.health.check import CheckFailed
from lb.health.tls import CheckTls


class GrpcCheck:
    """Passes when the status of `service` ("" = the whole server) is SERVING. A server without the protocol fails,
    unless `unimplemented: up` says that such an answer is enough."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._channels = Channels(config.timeout, tls)
        self._alive = config.unimplemented == "up"
        self._request = health_pb2.HealthCheckRequest(service=config.service)

    async def run(self, address: str) -> None:
        async with self._channels.open(address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(self._request)
            except grpc.aio.AioRpcError as e:
                if e.code() is grpc.StatusCode.UNIMPLEMENTED and self._alive:
                    return
                raise CheckFailed(self._reason(e)) from e
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise CheckFailed(f"status {_status_name(answer.status)}")

    def _reason(self, error: grpc.aio.AioRpcError) -> str:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return "the server does not implement grpc.health.v1"
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return f"unknown service {self._request.service!r}"
        return reason(error)


def _status_name(status: int) -> str:
    names = health_pb2.HealthCheckResponse.ServingStatus
    return names.Name(status) if status in names.values() else str(status)
