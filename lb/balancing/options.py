"""The options of the policies: the keys that stand beside `type` and `key` in a pool's `policy`.

Plain Python for all policies, since pydantic reads the source of these classes for their documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lb.config.schema.base import AskedPath, Integer, Number
from lb.config.units import MILLISECOND, MINUTE, SECOND, Duration, FileContext

# Options come from a file: a duration without a unit is a mistake there. What has a path would start from here.
FROM_FILE = FileContext(Path())

MOST_CHOICES = 32


class PolicyOptions(BaseModel):
    """Options of a policy that has none, and base of those that have some: closed, immutable, documented by its
    attributes' docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        """What does not go together with a pool of `protocol`, as (path, message)."""
        return iter(())


class ChoiceOptions(PolicyOptions):
    choices: Integer = Field(default=2, ge=2, le=MOST_CHOICES)
    """How many endpoints are drawn and compared. More spread the load more evenly, cost more, and let workers that
    choose at the same moment meet more often."""


class DecayOptions(PolicyOptions):
    decay: Duration = Field(default=10 * SECOND, ge=MILLISECOND)
    """Time in which what is known of an endpoint's latency fades to a third (1/e). Shorter forgets a bad moment sooner
    and depends more on the draw."""


class ServiceTimeOptions(DecayOptions):
    decay: Duration = Field(default=MINUTE, ge=MILLISECOND)
    """Time in which what is known of an idle endpoint's service time fades to about a third. Shorter finds out sooner
    that a slow endpoint has recovered, at the cost of requests that try it."""


class PeakEwmaOptions(ChoiceOptions, DecayOptions):
    """Those of power_of_two, and how fast latencies fade."""


class ProbeOptions(PolicyOptions):
    """Questions to endpoints about their load, beside the requests: Prequal's probes, by the names of the paper."""

    rate: Number = Field(default=3, gt=0, le=32)
    """Probes for each choice (r_probe), to different endpoints drawn at random. May be fractional."""
    pool_size: Integer = Field(default=16, ge=2, le=256)
    """Most answers that are kept, one of each endpoint (m)."""
    max_age: Duration = Field(default=SECOND, ge=MILLISECOND)
    """Time after which an answer no longer counts."""
    timeout: Duration = Field(default=3 * MILLISECOND, ge=MILLISECOND, le=SECOND)
    """An answer that takes longer does not count."""
    remove: Number = Field(default=1, ge=0, le=32)
    """Answers that are dropped for each choice (r_remove), the oldest and the worst in turn; where `pool_size` is less
    than the pool."""
    max_idle: Duration = Field(default=500 * MILLISECOND, ge=0)
    """After so long without a probe, as many are sent as for a choice, so that the first request after a pause finds
    answers. `0s`: never."""
    service: str = Field(default="", max_length=100)
    """Service that `grpc.health.v1.Health/Check` is asked for, in pools of protocol `grpc` and `oip`."""
    path: AskedPath | None = Field(default=None, max_length=1024)
    """What is asked for with GET, in pools of protocol `http` and `http2`, which need it."""

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        if protocol in ("tcp", "udp"):
            yield "", f"has no effect: endpoints of a {protocol} pool are not asked"
        elif protocol in ("http", "http2"):
            if self.path is None:
                yield "path", f"is required: it is what endpoints of protocol {protocol} are asked for"
            if self.service:
                yield "service", f"has no effect with protocol {protocol}: `path` says what is asked for"
        elif self.path is not None:
            yield "path", f"has no effect with protocol {protocol}: endpoints are asked for grpc.health.v1.Health/Check"


class PrequalOptions(DecayOptions):
    quantile: Number = Field(default=0.84, ge=0, le=1)
    """Share of the loads seen of late that an endpoint's may reach before it is hot (Prequal's Q_RIF). Lower looks
    more at what is in flight, higher more at latencies; 0.6 to 0.9 is usual."""
    full_utilization: Number | None = Field(default=None, gt=0)
    """Reported utilization (ORCA, from 0 to 1 and above) from which an endpoint is hot, whatever is in flight there
    from here: for endpoints that others send requests to as well. A report counts for `decay`. Default: load reports
    are not read."""
    probes: ProbeOptions | None = None
    """Questions to endpoints about what they have in flight from others; an empty mapping (`probes: {}`) takes the
    defaults. Default: none are sent, and what is in flight from here decides."""

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        if self.probes is not None:
            for path, text in self.probes.problems(protocol):
                yield f"probes.{path}" if path else "probes", text


class HashOptions(PolicyOptions):
    bounded_load: Number | None = Field(default=None, ge=1, le=1000)
    """Most requests in flight at an endpoint, as a multiple of its share of those at the whole pool; a key whose
    endpoint has that many goes to the next in its order. Default: no bound. Close to 1 is even and moves many keys;
    1.25 is a usual value."""


class RingHashOptions(HashOptions):
    points: Integer = Field(default=160, ge=1, le=10_000)
    """Points on the ring per unit of weight. The shares of keys are even to about 1/sqrt(points)."""


class OutOfBandOptions(PolicyOptions):
    """Reports on a stream of their own, beside the answers: gRPC's `enable_oob_load_report`."""

    period: Duration = Field(default=10 * SECOND, ge=100 * MILLISECOND)
    """How often endpoints are asked to report; they may do it less often."""


class ReportOptions(PolicyOptions):
    blackout_period: Duration = Field(default=10 * SECOND, ge=0)
    """Time from an endpoint's first report, or since it came up, until its reports count: the first ones say little."""
    weight_expiration_period: Duration = Field(default=180 * SECOND, ge=MILLISECOND)
    """Time after which a report no longer counts."""
    weight_update_period: Duration = Field(default=SECOND, ge=100 * MILLISECOND)
    """How often the weights are made anew from the reports."""
    error_utilization_penalty: Number = Field(default=1.0, ge=0)
    """What a share of errors adds to an endpoint's utilization, as a multiple of it: with 1, one that fails every
    second request counts as busier by a half. 0: errors do not matter."""
    oob: OutOfBandOptions | None = None
    """Endpoints report on a stream to the master, and reports in answers are not read; an empty mapping (`oob: {}`)
    takes the default. In pools of protocol `grpc` and `oip`. Default: reports in answers are."""

    def problems(self, protocol: str) -> Iterator[tuple[str, str]]:
        if self.oob is not None and protocol not in ("grpc", "oip"):
            yield "oob", f"has no effect with protocol {protocol}: reports are streamed over gRPC"


class FirstOptions(PolicyOptions):
    fill: Integer = Field(ge=1, le=1_000_000)
    """Requests in flight per unit of weight at an endpoint before the next one is used."""
