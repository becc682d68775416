"""Signals: what scaling goes by, and the values that rules hold them against."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from lb.config.schema.base import Boolean, Model, Number, problem
from lb.config.units import MILLISECOND, SECOND, Duration, parse_duration, parse_size

# Signals in seconds, which files spell as durations, and in bytes, which files spell as sizes.
_TIMES = ("queue_wait", "latency")
_SIZES = ("memory", "gpu_memory")


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or parts.query or parts.fragment:
        raise problem("url", f"{value!r} is not the URL of a server; write http://prometheus:9090")
    return value


class SignalConfig(Model):
    """A measure of a pool."""

    type: Literal[
        "in_flight", "requests_per_second", "latency", "queue_length", "queue_wait", "cpu", "memory", "gpu",
        "gpu_memory", "batch_occupancy", "utilization", "prometheus", "jobs",
    ]  # fmt: skip
    """`in_flight`: requests a model server works on at once, and its share of those that wait in the pool's `queue`.
    `requests_per_second`: requests that arrive, its share of the pool's. `latency`: time at a model server, the
    `quantile` of the last 15 s. `queue_length`: its share of the requests that wait. `queue_wait`: mean time in the
    queue. `cpu`: percent of one core that it uses, so that 100 is one busy core. `memory`: its resident memory. `gpu`:
    percent of time that its GPUs are busy, and `gpu_memory`: its memory there (NVIDIA; package nvidia-ml-py).
    `batch_occupancy`: its mean batch, percent of the model's `max_batch_size`, or of the largest batch so far where the
    model has none, as it says by ModelStatistics.
    `utilization`: as it reports by ORCA, 1 is full; needs the policy `client_side_weighted_round_robin`. `prometheus`:
    the number that a PromQL query gives. `jobs`: its share of the jobs for the pool that wait or run."""
    quantile: Number | None = Field(default=None, gt=0, lt=1)
    """Which quantile of `latency`. Default: 0.95."""
    url: Annotated[str, AfterValidator(_url)] | None = None
    """The server that `prometheus` asks, every 5 s."""
    query: str | None = Field(default=None, min_length=1, max_length=4096)
    """What `prometheus` asks: a PromQL expression that gives one number."""
    timeout: Duration | None = Field(default=None, ge=100 * MILLISECOND, le=10 * SECOND)
    """Longest time for the answer of `prometheus`. Default: `5s`."""
    shared: Boolean | None = None
    """Whether the number of `prometheus` is the sum over all model servers, of which each has its share (`AverageValue`
    of Kubernetes); with `false` it is held against the target as it is (`Value`). Default: `true`."""

    @property
    def signal(self) -> str:
        """Its name among the readings of a look (`lb.scaling.scaler.Look`)."""
        if self.type == "latency":
            return f"latency_p{100 * (self.quantile or QUANTILE):g}"
        return f"prometheus {self.query}" if self.type == "prometheus" else self.type

    @property
    def level(self) -> bool:
        """Whether it is a state of the pool or of each model server, and no load that more of them would share."""
        if self.type == "prometheus":
            return self.shared is False
        return self.type in (*_TIMES, "memory", "gpu_memory", "batch_occupancy")


QUANTILE = 0.95
TIMEOUT = 5 * SECOND


def _target(value: Any, info: ValidationInfo) -> Any:
    kind = info.data.get("type")
    if kind not in (*_TIMES, *_SIZES) or (info.context is None and isinstance(value, int | float)):
        return value
    if not isinstance(value, str):
        raise problem(
            "target",
            "must be a duration with its unit, such as 250ms or 2s"
            if kind in _TIMES
            else "must be a size with its unit, such as 512MiB or 2GiB",
        )
    try:
        return parse_duration(value) / SECOND if kind in _TIMES else float(parse_size(value))
    except ValueError as error:
        raise problem("target", str(error)) from None


Target = Annotated[Number, BeforeValidator(_target, json_schema_input_type=float | str)]
"""A value of a signal in its unit; of times a duration and of memory a size in files, seconds and bytes in Python."""


class MetricConfig(SignalConfig):
    """One measure, averaged over the ready model servers, and the value that scaling aims at."""

    target: Target = Field(gt=0)
    """The value to hold. Lower keeps more spare servers. Of `queue_wait` and `latency` a duration, of `memory` and
    `gpu_memory` a size."""
