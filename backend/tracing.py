"""Spans of inferences for an OpenTelemetry collector, as the load balancer has them for exchanges.

An inference whose request brings a `traceparent` that is sampled gets three: `infer MODEL` below the caller's span, and
below that `queue`, from its arrival to the run, and `compute`, the run. A trace begins here where the trace settings
say so (backend.trace_settings). A thread of its own makes the spans after the answer; OpenTelemetry's sends them. Both
queues drop what they cannot hold: a slow collector costs spans, never inferences.
"""

from __future__ import annotations

import os
import queue
import random
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from backend.errors import StartError
from backend.model import Model

_WAITING = 4096  # spans, and inferences without theirs
_BATCH = 512
_DELAY_MS = 1000  # between two sendings
_SEND_SECONDS = 10.0
_CLOSE_SECONDS = 2.0  # for the last sending
_SWITCH_SECONDS = 0.0005  # in which the loop gets the interpreter's lock back from the encoder
_SERVICE = "tidegate-backend"

# When the run began, its computing began and ended, when it ended (monotonic ns); and its rows.
Times = tuple[int, int, int, int, int]


class Spans:
    """Sends spans to `endpoint` by the protocol `grpc` or `http`. Raises StartError without OpenTelemetry."""

    def __init__(self, endpoint: str, protocol: str) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _exporter(endpoint, protocol)
        except ImportError as error:
            raise StartError(f"--trace-endpoint needs OpenTelemetry (pip install 'tidegate[otel]'): {error}") from error
        except ValueError as error:
            raise StartError(f"--trace-endpoint {endpoint}: {error}") from error
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", _SERVICE)})
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_WAITING,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_DELAY_MS,
            export_timeout_millis=int(1000 * _SEND_SECONDS),
        )
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
        self._reports: queue.Queue[tuple[Any, ...] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def report(
        self, trace: bytes, model: Model | None, since: int, now: int, times: Times | None, status: int, problem: str
    ) -> None:
        """Takes an inference that was answered; does not wait. `trace` is its trace id, then the span id of the caller,
        zeros where the trace begins here. `status` is gRPC's. `model` is None, and so are `times`, of one that was
        refused."""
        ahead = time.time_ns() - time.monotonic_ns()
        with suppress(queue.Full):
            self._reports.put_nowait((trace, model, since, now, times, status, problem, ahead))

    def close(self) -> None:
        """Sends what is left, for at most _CLOSE_SECONDS."""
        closing = threading.Thread(target=self._close, name="spans-close", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _close(self) -> None:
        self._reports.put(None)
        self._thread.join()
        self._processor.shutdown()

    def _work(self) -> None:
        while (report := self._reports.get()) is not None:
            self._record(*report)

    def _record(
        self, trace: bytes, model: Model | None, since: int, now: int, times: Times | None, status: int, problem: str,
        ahead: int,
    ) -> None:  # fmt: skip
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        trace_id = int.from_bytes(trace[:16], "big")
        flags = TraceFlags(TraceFlags.SAMPLED)
        above = int.from_bytes(trace[16:], "big")
        caller = SpanContext(trace_id, above, is_remote=True, trace_flags=flags) if above else None

        def span(name: str, parent: Any, start: int, end: int, attributes: dict[str, str | int], **more: Any) -> Any:
            context = SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=flags)
            made = ReadableSpan(
                name=name, context=context, parent=parent, resource=self._resource, attributes=attributes,
                instrumentation_scope=InstrumentationScope("tidegate"), start_time=start + ahead, end_time=end + ahead,
                **more,
            )  # fmt: skip
            self._processor.on_end(made)
            return context

        attributes: dict[str, str | int] = {"rpc.grpc.status_code": status}
        if model is not None:
            attributes |= {"tidegate.model": model.name, "tidegate.model_version": model.version}
        said = Status(StatusCode.ERROR, problem) if status else Status(StatusCode.UNSET)
        name = f"infer {model.name}" if model is not None else "infer"
        whole = span(name, caller, since, now, attributes, kind=SpanKind.SERVER, status=said)
        if times is None:
            return
        began, inferring, inferred, ended, rows = times
        span("queue", whole, since, max(began, since), {})
        phases = {"input": inferring - began, "infer": inferred - inferring, "output": ended - inferred}
        attributes = {f"tidegate.{phase}_us": ns // 1000 for phase, ns in phases.items()}
        span("compute", whole, began, ended, {"tidegate.batch_rows": rows, **attributes})


def _exporter(endpoint: str, protocol: str) -> Any:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        insecure = endpoint.startswith("http:")
        return over_grpc.OTLPSpanExporter(endpoint=endpoint, insecure=insecure, timeout=_SEND_SECONDS)
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    return over_http.OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_SECONDS)
