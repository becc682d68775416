"""The health checks there are, by the name in `health.type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lb.config.schema.file import HealthConfig
from lb.health.check import Check
from lb.health.checks.grpc import GrpcCheck
from lb.health.checks.http import HttpCheck
from lb.health.checks.oip import OipCheck
from lb.health.checks.tcp import TcpCheck
from lb.health.checks.tls import CheckTls
from lb.health.checks.udp import UdpCheck

CHECKS: Mapping[str, Callable[[HealthConfig, CheckTls | None], Check]] = {
    "tcp": TcpCheck,
    "http": HttpCheck,
    "grpc": GrpcCheck,
    "oip": OipCheck,
    "udp": UdpCheck,
}


def build(config: HealthConfig, tls: CheckTls | None = None) -> Check:
    """The check that `config` asks for, through `tls`; the schema admits only types that are registered here."""
    return CHECKS[config.type](config, tls)
