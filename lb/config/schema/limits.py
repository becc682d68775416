"""Limits of a worker as a whole, and what they compile to."""

from __future__ import annotations

from pydantic import Field

from lb.config.plan.plan import LimitsPlan
from lb.config.schema.base import FilePath, Integer, Model
from lb.config.units import Size


class LimitsConfig(Model):
    """Limits of each worker. What is over them is answered with 503 and `Retry-After` at once, rather than taken on and
    not finished."""

    max_in_flight: Integer = Field(default=0, ge=0, le=10_000_000)
    """Most exchanges that a worker has at once, over all its listeners. 0: no limit."""
    max_memory: Size = 0
    """Resident memory of a worker, looked at ten times a second, from which on it takes no new requests, until a
    twentieth of it is free again. Leave room below what the machine or its cgroup would kill for. `0B`: no limit."""
    quota_file: FilePath | None = None
    """SQLite file of the daemon's own in which what clients have used of `quotas` survives a restart. Default:
    `quotas.sqlite` in the folder that systemd's `StateDirectory=` names; without that, a restart forgets the counts."""


def limits_plan(limits: LimitsConfig) -> LimitsPlan:
    """What `limits` compiles to."""
    return LimitsPlan(limits.max_in_flight, limits.max_memory)
