"""Spans for an OpenTelemetry collector, made from the records of sampled exchanges (lb.telemetry.accesslog).

One span of kind SERVER for each exchange, by the semantic conventions for HTTP; its id is the parent that the
endpoint got in `traceparent`. The log's thread makes it after the exchange is over; OpenTelemetry's own thread
gathers and sends. Both queues are bounded and drop what they cannot hold: a slow collector costs spans, never
requests.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from lb.config.plan.plan import TracingPlan
from lb.errors import StartError
from lb.failure import grpc_faults

QUEUE = 4096  # spans that wait to be sent
BATCH = 512
DELAY_MS = 1000  # between two sendings
CLOSE_SECONDS = 2.0  # for the last sending
# The encoder is Python and shares the worker's interpreter lock with the data path, which gets it back after this time.
SWITCH_SECONDS = 0.0005
OK, SERVER_ERROR = 200, 500
# Errors of a server's span by the conventions, and those that the counters take for its fault.
GRPC_FAULTS = frozenset(grpc_faults())


class SpanExporter:
    """Sends spans to where `plan` says. Raises StartError when OpenTelemetry is not installed or refuses the plan."""

    def __init__(self, plan: TracingPlan) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _otlp(plan)
        except ImportError as error:
            raise StartError(f"tracing needs OpenTelemetry (pip install 'tidegate[otel]'): {error}") from error
        except ValueError as error:
            raise StartError(f"tracing: {plan.endpoint}: {error}") from error
        self.plan = plan
        self._resource = Resource.create({"service.name": plan.service})
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE,
            max_export_batch_size=BATCH,
            schedule_delay_millis=DELAY_MS,
            export_timeout_millis=plan.timeout_ns // 1_000_000,
        )
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))

    def __repr__(self) -> str:
        return f"<SpanExporter {self.plan.protocol} to {self.plan.endpoint}>"

    def record(self, record: Mapping[str, Any]) -> None:
        """Takes one record of the access log's ring; does not wait."""
        self._processor.on_end(_span(record, self._resource))

    def close(self) -> None:
        """Sends what is left, for at most CLOSE_SECONDS."""
        # The processor waits for its last sending as long as the collector lets it.
        last = threading.Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


def _otlp(plan: TracingPlan) -> Any:
    seconds = plan.timeout_ns / 1e9
    if plan.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_exporter

        return grpc_exporter.OTLPSpanExporter(
            endpoint=plan.endpoint, insecure=plan.endpoint.startswith("http:"), timeout=seconds
        )
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter

    return http_exporter.OTLPSpanExporter(endpoint=plan.endpoint, timeout=seconds)


def _span(record: Mapping[str, Any], resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    trace_id = int.from_bytes(record["trace_id"], "big")
    flags = TraceFlags(record["trace_flags"])
    parent = None
    if record["parent_id"]:
        parent = SpanContext(trace_id, int.from_bytes(record["parent_id"], "big"), is_remote=True, trace_flags=flags)
    failed = bool(fault_of(record)) or record["status"] == 0
    return ReadableSpan(
        name=f"{record['method']} {record['route']}",
        context=SpanContext(trace_id, int.from_bytes(record["span_id"], "big"), is_remote=False, trace_flags=flags),
        parent=parent,
        resource=resource,
        attributes=attributes(record),
        kind=SpanKind.SERVER,
        instrumentation_scope=InstrumentationScope("tidegate"),
        status=Status(StatusCode.ERROR, record["reason"] or None) if failed else Status(StatusCode.UNSET),
        start_time=record["start_ns"],
        end_time=record["start_ns"] + record["total_ns"],
    )


def fault_of(record: Mapping[str, Any]) -> str:
    """The server's fault that an answer is, by the status that says so; "": it is none. A call that fails has HTTP's
    200 and a status of gRPC, of which the conventions take the same ones for errors as the counters do."""
    if record["status"] >= SERVER_ERROR:
        return str(record["status"])
    if record["status"] == OK and record["grpc_status"] in GRPC_FAULTS:
        return str(record["grpc_status"])
    return ""


def attributes(record: Mapping[str, Any]) -> dict[str, str | int]:
    """The attributes of a record's span: those of the HTTP conventions, then our own as `tidegate.…`."""
    path, _, query = record["target"].partition("?")
    protocol, _, version = record["protocol"].partition("/")
    found: dict[str, str | int] = {
        "http.request.method": record["method"],
        "http.response.status_code": record["status"],
        "http.route": record["route"],
        "http.request.body.size": record["bytes_in"],
        "http.response.body.size": record["bytes_out"],
        "url.scheme": "https" if record["tls"] else "http",
        "url.path": path,
        "url.query": query,
        "server.address": record["host"],
        "client.address": record["client"],
        "client.port": record["port"],
        "network.protocol.name": protocol.lower(),
        "network.protocol.version": version,
        "tls.protocol.version": record["tls"].removeprefix("TLSv"),
        "error.type": record["reason"] or fault_of(record),
        "tidegate.listener": record["listener"],
        "tidegate.pool": record["pool"],
        "tidegate.endpoint": record["endpoint"],
        "tidegate.cache": record["cache"],
        "tidegate.request_id": record["request_id"],
    }
    # What does not apply is left out, as the conventions ask.
    found = {name: value for name, value in found.items() if value not in ("", 0)}
    if record["grpc_status"] is not None:
        found["rpc.grpc.status_code"] = record["grpc_status"]  # 0 is OK, and said
    found["tidegate.attempts"] = record["attempts"]
    for name in ("wait", "connect", "upstream", "transfer"):
        found[f"tidegate.{name}_us"] = record[f"{name}_ns"] // 1000
    return found
