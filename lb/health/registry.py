"""The health checks by the name in `health.type`: type NAME is the class `NameCheck` of lb.health.checks.NAME.

The types are declared once, in lb.config.schema.pools.health. The module of a check is loaded when the check is first
built: checks over gRPC need libraries whose loading would take a tenth of the master's start, and most daemons use one
or two types.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from lb.config.schema.file import HealthConfig
from lb.health.check import Check, Means
from lb.health.checks.tls import CheckTls

_WITH_MEANS = ("http", "tcp", "grpc", "oip")


def build(config: HealthConfig, tls: CheckTls | None = None, means: Means | None = None) -> Check:
    """The check that `config` asks for, through `tls`. With `means` it is for one address, and cheap to repeat."""
    module = import_module(f"lb.health.checks.{config.type}")
    kind: Callable[..., Check] = getattr(module, f"{config.type.capitalize()}Check")
    return kind(config, tls, means) if config.type in _WITH_MEANS else kind(config, tls)
