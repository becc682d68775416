"""Bandwidth limits of routes: how they are written, and what they compile to."""

from __future__ import annotations

from pydantic import Field, model_validator

from lb.config.plan.routes import BandwidthPlan
from lb.config.schema.base import Model, problem
from lb.config.schema.routes.rate import RateKeyConfig, planned_key
from lb.config.units import KIB, TIB, Size


class BandwidthConfig(Model):
    """How fast answers go to clients, by the bytes of their bodies as the client gets them: behind compression, without
    what framing and TLS add. Sizes are bytes per second; a quarter of a second's bytes may come at once."""

    # Below 1 KiB/s a piece is a few bytes; above 1 TiB/s a byte takes less than a nanosecond, the unit here.
    per_request: Size | None = Field(default=None, ge=KIB, le=TIB)
    """Bytes per second of each answer (nginx's `limit_rate`). Default: no limit."""
    after: Size = 0
    """Bytes at the beginning of each answer that `per_request` does not count (nginx's `limit_rate_after`)."""
    per_key: Size | None = Field(default=None, ge=KIB, le=TIB)
    """Bytes per second of all answers of one key together, over all workers (HAProxy's `bwlim-out` with a `key`). They
    take turns, piece by piece. Default: no limit."""
    key: RateKeyConfig | None = None
    """Whose answers `per_key` counts together. Default: those of one source."""

    @model_validator(mode="after")
    def _used(self) -> BandwidthConfig:
        if self.per_request is None and self.per_key is None:
            raise problem("bandwidth", "per_request or per_key is needed: bytes per second, such as 1MiB")
        if self.after and self.per_request is None:
            raise problem("bandwidth", "after counts for per_request, which is not there")
        if self.key is not None and self.per_key is None:
            raise problem("bandwidth", "key counts for per_key, which is not there")
        return self


def bandwidth_plan(config: BandwidthConfig | None) -> BandwidthPlan | None:
    """What `config` compiles to."""
    if config is None:
        return None
    key, key_name = planned_key(config.key if config.key is not None else RateKeyConfig(source=True))
    return BandwidthPlan(
        per_request=config.per_request or 0, after=config.after, per_key=config.per_key or 0, key=key, key_name=key_name
    )
