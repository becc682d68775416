"""gRPC check: `grpc.health.v1.Health/Check` answers SERVING (gRPC health checking protocol)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed, Means
from lb.health.checks.grpc_connection import CallFailed, GrpcConnection, Status, lasting
from lb.health.checks.tls import CheckTls
from lb.wire import health_pb2

_CHECK = "/grpc.health.v1.Health/Check"


class GrpcCheck:
    """Passes when the status of `service` ("" = the whole server) is SERVING. A server without the protocol fails,
    unless `unimplemented: up` says that such an answer is enough."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None, means: Means | None = None) -> None:
        self._connection = lasting(tls, means)
        self._alive = config.unimplemented == "up"
        self._service = config.service
        self._request = health_pb2.HealthCheckRequest(service=config.service).SerializeToString()

    async def run(self, address: str) -> None:
        try:
            answer = await self._connection.ask(address, self._ask)
        except CallFailed as e:
            raise self._explained(e) from e
        if answer is None:
            return
        try:
            status = health_pb2.HealthCheckResponse.FromString(answer).status
        except DecodeError as e:
            raise CheckFailed("the answer is not of grpc.health.v1") from e
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise CheckFailed(f"status {_status_name(status)}")

    async def _ask(self, connection: GrpcConnection) -> bytes | None:
        """The answer; None: it has no health service, and need not."""
        try:
            return await connection.unary(_CHECK, self._request)
        except CallFailed as e:
            if e.code is Status.UNIMPLEMENTED and self._alive:
                return None
            raise

    def _explained(self, failure: CallFailed) -> CheckFailed:
        if failure.code is Status.UNIMPLEMENTED:
            return CheckFailed("the server does not implement grpc.health.v1")
        if failure.code is Status.NOT_FOUND:
            return CheckFailed(f"unknown service {self._service!r}")
        return failure


def _status_name(status: int) -> str:
    names = health_pb2.HealthCheckResponse.ServingStatus
    return names.Name(status) if status in names.values() else str(status)
