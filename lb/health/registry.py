"""The health checks there are, by the name in `health.type`.

The module of a check is loaded when the check is first built: those that speak gRPC need libraries whose loading would
take a tenth of the master's start, and most daemons use one or two kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from lb.config.schema.file import HealthConfig
from lb.health.check import Check
from lb.health.checks.tls import CheckTls

# type -> module and class; the class takes a HealthConfig and a CheckTls or None.
CHECKS: Mapping[str, tuple[str, str]] = {
    "tcp": ("lb.health.checks.tcp", "TcpCheck"),
    "http": ("lb.health.checks.http", "HttpCheck"),
    "grpc": ("lb.health.checks.grpc", "GrpcCheck"),
    "oip": ("lb.health.checks.oip", "OipCheck"),
    "udp": ("lb.health.checks.udp", "UdpCheck"),
}


def build(config: HealthConfig, tls: CheckTls | None = None) -> Check:
    """The check that `config` asks for, through `tls`; the schema admits only types that are registered here."""
    module, name = CHECKS[config.type]
    kind: Callable[[HealthConfig, CheckTls | None], Check] = getattr(import_module(module), name)
    return kind(config, tls)
