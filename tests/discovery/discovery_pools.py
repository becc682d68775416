"""Pieces of configurations for the tests of discovery."""

from __future__ import annotations

from typing import Any

from lb.config.schema.file import DnsSourceConfig, FileSourceConfig, PoolConfig


def pool(**settings: Any) -> PoolConfig:
    return PoolConfig.model_validate({"protocol": "http", "endpoints": ["127.0.0.1:1"], **settings})


def dns(**settings: Any) -> DnsSourceConfig:
    return DnsSourceConfig.model_validate({"name": "models.test", "port": 9001, **settings})


def file(**settings: Any) -> FileSourceConfig:
    return FileSourceConfig.model_validate({"interval": "20ms", **settings})


def addresses(found: Any) -> list[str]:
    return [endpoint.address for endpoint in found.endpoints]
