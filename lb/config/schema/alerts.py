"""Alerts: problems that are told to webhooks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lb.config.schema.base import FilePath
from lb.config.schema.pools.platforms import RareModel, WholeUrl
from lb.config.units import HOUR, SECOND, Duration

# Explained in docs/dashboard.md and lb.control.watch.problems.
Condition = Literal[
    "pool_without_endpoint",
    "pool_panic",
    "endpoint_down",
    "endpoint_ejected",
    "endpoint_failing",
    "route_errors",
    "model_failing",
    "requests_refused",
    "queue_full",
    "worker_down",
    "model_server_failing",
    "cache_tier_down",
    "cache_disk_failing",
    "certificate_expiring",
    "certificate_unused",
    "reload_failed",
    "jobs_down",
    "jobs_store",
    "jobs_dead",
    "jobs_late",
    "discovery_stale",
    "engine_stale",
    "quota_file",
    "canary_aborted",
    "access_log",
    "open_files_short",
]


class AlertsConfig(RareModel):
    """Webhooks that are told of problems and of their end, for those without Prometheus. How to use them:
    [Alerts and boards](howto/alert.md#webhooks)."""

    urls: list[WholeUrl] = Field(min_length=1, max_length=16)
    """Where messages are posted, as JSON with a field `text` that Slack, Mattermost and the like show. Each URL gets
    every message, and has its own repetitions until an answer of 2xx."""
    secret_file: FilePath | None = None
    """File with the secret of the signatures (Standard Webhooks): base64 behind `whsec_`, or any text of 24 bytes at
    least. Read at each reload. Default: messages are not signed."""
    after: Duration = Field(default=30 * SECOND, ge=0, le=HOUR)
    """How long a problem has to last before it is told, and how long it has to be away before its end is. More means
    fewer messages of what comes and goes; less means to know earlier."""
    repeat: Duration = Field(default=4 * HOUR, ge=60 * SECOND)
    """Time after which a problem that lasts is told again."""
    conditions: list[Condition] | None = None
    """Problems that are told, by the names of their conditions ([list](dashboard.md#problems)). Default: all."""
