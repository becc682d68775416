"""Outlier ejection: endpoints that are kept away from requests by the answers they gave."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lb.config.plan.plan import OutlierPlan
from lb.config.schema.base import Integer, Model, Number, problem
from lb.config.schema.pools.affinity import AffinityConfig
from lb.config.units import MILLISECOND, SECOND, Duration


class OutlierConfig(Model):
    """Ejects endpoints by the answers that clients' requests get, as a circuit breaker does: an ejected endpoint gets
    no requests for a time that grows with each ejection, then a few on probation, then its share again. Names and
    defaults are Envoy's where it has them. A failure is an answer of 5xx, or none: no connection, a reset, a timeout;
    for gRPC the status that corresponds (INTERNAL and DATA_LOSS 500, UNIMPLEMENTED 501, UNAVAILABLE 503,
    DEADLINE_EXCEEDED 504); for `tcp` a connection that is not made. Counts are of all workers together."""

    consecutive_5xx: Integer = Field(default=5, ge=0, le=1_000_000)
    """Failures in a row that eject at once, as long as most recent attempts succeed at half of the other endpoints or
    more: what a client got wrong, or what all endpoints lack, fails everywhere. 0: never."""
    consecutive_gateway_failure: Integer = Field(default=0, ge=0, le=1_000_000)
    """Failures in a row that eject at once, of 502, 503, 504 and no answer alone, whatever the other endpoints do; 0:
    never. For pools that fail over to another priority by their answers."""
    interval: Duration = Field(default=10 * SECOND, ge=100 * MILLISECOND)
    """Time between two looks at what follows, each over the requests since the one before."""
    success_rate_stdev_factor: Number = Field(default=1.9, ge=0, le=100)
    """An endpoint is ejected when its share of good answers is below the mean of all by more than this many standard
    deviations, and by more than 5 percentage points; 0: never. (Envoy writes 1900 for 1.9.)"""
    success_rate_minimum_hosts: Integer = Field(default=5, ge=2, le=1_000_000)
    """Endpoints that need enough requests for their rates to be compared."""
    success_rate_request_volume: Integer = Field(default=100, ge=1, le=1_000_000_000)
    """Requests in an interval that an endpoint's rate needs to count."""
    failure_percentage_threshold: Integer = Field(default=0, ge=0, le=100)
    """An endpoint of whose answers this percentage or more failed is ejected; 0: never. It needs no other endpoints to
    compare with: what other circuit breakers call the failure rate threshold."""
    failure_percentage_request_volume: Integer = Field(default=50, ge=1, le=1_000_000_000)
    """Requests in an interval that this needs."""
    latency_factor: Number = Field(default=0, ge=0, le=1_000)
    """An endpoint is ejected when its median latency is more than so many times that of the others (their median); 0:
    never. Not for pools whose endpoints differ by nature."""
    latency_minimum_hosts: Integer = Field(default=3, ge=2, le=1_000_000)
    """Endpoints that need enough requests for their latencies to be compared."""
    latency_request_volume: Integer = Field(default=100, ge=1, le=1_000_000_000)
    """Requests in an interval that this needs."""
    base_ejection_time: Duration = Field(default=10 * SECOND, ge=100 * MILLISECOND)
    """How long the first ejection lasts. The second in a row lasts twice as long, and so on. For each `interval` that
    an endpoint does well, one is forgotten. Envoy's default is 30 s, without a probation: there an endpoint that is
    back too early fails all of its share, here one request."""
    max_ejection_time: Duration = Field(default=300 * SECOND, ge=100 * MILLISECOND)
    """Longest ejection."""
    max_ejection_percent: Integer = Field(default=50, ge=0, le=100)
    """Largest part of the endpoints that may be ejected at once, but always one if it is not 0, and never all. Those
    that are down or drained are counted like others: the last that is up may be ejected, and is asked again only in a
    panic, which `panic_threshold: 0` forbids. Envoy's default is 10."""
    probation_requests: Integer = Field(default=5, ge=0, le=1_000_000)
    """Good answers that end the probation after an ejection. One failure ejects anew, for longer. 0: no probation."""
    probation_in_flight: Integer = Field(default=1, ge=1, le=1_000_000)
    """Most requests in flight at an endpoint on probation, from all workers together (a circuit breaker's half-open
    state), unless nobody else is left to take them."""

    def most(self, endpoints: int) -> int:
        """How many of so many endpoints may be ejected at once."""
        if self.max_ejection_percent == 0:
            return 0
        return min(max(1, endpoints * self.max_ejection_percent // 100), endpoints - 1)


def _switch(value: Any) -> Any:
    if value == "off":
        return None
    if value is None or isinstance(value, bool | str):
        raise problem("outlier", "must be off, or a mapping; {} is one with all defaults")
    return value


Outlier = Annotated[
    OutlierConfig | None, BeforeValidator(_switch, json_schema_input_type=Literal["off"] | OutlierConfig)
]


def outlier_of(protocol: str | None, affinity: AffinityConfig | None) -> OutlierConfig | None:
    """The default of a pool: on where answers tell how an endpoint is, and no session ends with an ejection."""
    if protocol not in ("http", "http2", "grpc", "oip") or affinity is None:
        return None
    return OutlierConfig() if affinity.cookie is None and affinity.learn is None else None


def outlier_plan(outlier: OutlierConfig, endpoints: int) -> OutlierPlan:
    """The plan for a pool of so many endpoints."""
    return OutlierPlan(
        outlier.consecutive_5xx,
        outlier.consecutive_gateway_failure,
        outlier.most(endpoints),
        outlier.probation_in_flight,
    )
