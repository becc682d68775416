"""gRPC check: `grpc.health.v1.Health/Check` answers SERVING (gRPC health checking protocol)."""

from __future__ import annotations

import socket

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lb.config.schema import HealthConfig
from lb.config.units import MILLISECOND
from lb.health.check import CheckFailed, explain, sockaddr
from lb.health.tls import CheckTls

_OPTIONS = (
    # Without these, a channel would share its connection, and the back-off after a failed one, with those before it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
)


class GrpcCheck:
    """Passes when the status of `service` ("" = the whole server) is SERVING; a server without the protocol fails."""

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        # gRPC goes on connecting for these times, 20 s if not told, after the channel is closed: a socket per check.
        connect_ms = max(100, config.timeout // MILLISECOND)
        self._options = (
            *_OPTIONS,
            ("grpc.min_reconnect_backoff_ms", connect_ms),
            ("grpc.initial_reconnect_backoff_ms", connect_ms),
        )
        self._request = health_pb2.HealthCheckRequest(service=config.service)

    async def run(self, address: str) -> None:
        # A connection of its own, so that each check also proves that the endpoint still accepts.
        async with self._channel(address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(self._request)
            except grpc.aio.AioRpcError as e:
                raise CheckFailed(self._reason(e)) from e
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise CheckFailed(f"status {_status_name(answer.status)}")

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(_target(address), options=self._options)
        plan = self._tls.plan
        try:
            roots = self._tls.roots()
        except OSError as e:
            raise CheckFailed(explain(e)) from e
        credentials = grpc.ssl_channel_credentials(roots, plan.key or None, plan.certificate or None)
        named = (("grpc.ssl_target_name_override", self._tls.name), ("grpc.default_authority", self._tls.name))
        return grpc.aio.secure_channel(_target(address), credentials, options=(*self._options, *named))

    def _reason(self, error: grpc.aio.AioRpcError) -> str:
        code = error.code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return "the server does not implement grpc.health.v1"
        if code is grpc.StatusCode.NOT_FOUND:
            return f"unknown service {self._request.service!r}"
        details = " ".join((error.details() or "").split())
        return f"{code.name}: {details}" if details else str(code.name)


def _target(address: str) -> str:
    """The address in a form that gRPC takes literally, without its name resolution."""
    target = sockaddr(address)
    if target.family == socket.AF_UNIX:
        return address
    return f"{'ipv4' if target.family == socket.AF_INET else 'ipv6'}:{address}"


def _status_name(status: int) -> str:
    names = health_pb2.HealthCheckResponse.ServingStatus
    return names.Name(status) if status in names.values() else str(status)
