"""Distributed tracing: where spans go and which are recorded, and what that compiles to."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lb.config.plan.plan import TracingPlan
from lb.config.schema.base import Model, Number, problem
from lb.config.units import MILLISECOND, SECOND, Duration

_URL = re.compile(r"https?://[A-Za-z0-9_.\-\[\]:]+(/[!-~]*)?", re.ASCII)
# What the extra `otel` installs, for each protocol.
_MODULES = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "http": "opentelemetry.exporter.otlp.proto.http",
}


def _url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise problem("url", f"{value!r} is not a URL such as http://127.0.0.1:4317")
    return value


class TracingConfig(Model):
    """Spans for an OpenTelemetry collector: one for each recorded exchange. Needs the extra `otel`: `pip install
    'tidegate[otel]'`. With this section requests carry `traceparent` to the endpoint (W3C Trace Context); without it
    the field passes as it came."""

    endpoint: Annotated[str, AfterValidator(_url)]
    """URL of the collector: `http://127.0.0.1:4317` for `grpc`, `http://127.0.0.1:4318/v1/traces` for `http`."""
    protocol: Literal["grpc", "http"] = "grpc"
    """How spans are sent: OTLP over gRPC, or over HTTP with protobuf."""
    ratio: Number = Field(default=0.01, ge=0, le=1)
    """Share of the traces that begin here which is recorded. A trace that comes with a request keeps its caller's
    decision."""
    parent: Literal["any", "trusted", "ignore"] = "any"
    """Whose `traceparent` is continued: everybody's, that of `trusted_proxies` only, or nobody's. Whoever is continued
    can have each of its requests recorded; take `trusted` on the open internet."""
    service: str = Field(default="tidegate", min_length=1, max_length=255)
    """Value of `service.name` in the spans."""
    timeout: Duration = Field(default=10 * SECOND, ge=MILLISECOND)
    """Longest time for one sending of spans; then they are lost."""


def tracing_plan(tracing: TracingConfig | None) -> TracingPlan | None:
    """What `tracing` compiles to."""
    if tracing is None:
        return None
    return TracingPlan(tracing.endpoint, tracing.protocol, tracing.service, tracing.timeout)


def check_tracing(tracing: TracingConfig | None) -> Iterator[tuple[str, str]]:
    """What this installation lacks for it, as (path, message)."""
    if tracing is not None and not _installed(_MODULES[tracing.protocol]):
        yield "tracing", "needs OpenTelemetry; install it with: pip install 'tidegate[otel]'"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
