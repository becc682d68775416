"""Spans at a real OTLP receiver, over gRPC and over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lb.config.plan.plan import TracingPlan
from lb.telemetry.tracing import GRPC_FAULTS, SpanExporter, attributes, fault_of

SECOND = 1_000_000_000
RECORD: dict[str, Any] = {
    "start_ns": 1_700_000_000 * SECOND, "total_ns": 4_000_000, "wait_ns": 1_000_000, "connect_ns": 500_000,
    "upstream_ns": 2_000_000, "transfer_ns": 1_000_000, "bytes_in": 5, "bytes_out": 0, "status": 200, "attempts": 1,
    "port": 4711, "cache": "", "protocol": "HTTP/1.1", "tls": "", "trace_id": bytes(range(1, 17)),
    "span_id": b"spanspan", "parent_id": b"parentid", "trace_flags": 1, "client": "203.0.113.1", "method": "POST",
    "host": "a", "target": "/b?c=d", "listener": "web", "route": "web/0", "pool": "app", "endpoint": "127.0.0.1:1",
    "reason": "", "request_id": "abc", "grpc_status": None,
}  # fmt: skip


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector's trace service; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def over_grpc() -> Iterator[tuple[Receiver, TracingPlan]]:
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, TracingPlan(f"http://127.0.0.1:{port}", "grpc", "gate", 5 * SECOND)
    server.stop(None)


@pytest.fixture
def over_http() -> Iterator[tuple[Receiver, TracingPlan]]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            receiver.Export(trace_service_pb2.ExportTraceServiceRequest.FromString(body), None)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield receiver, TracingPlan(f"http://127.0.0.1:{server.server_port}/v1/traces", "http", "gate", 5 * SECOND)
    server.shutdown()
    server.server_close()


def plain(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def check(receiver: Receiver, plan: TracingPlan) -> None:
    exporter = SpanExporter(plan)
    exporter.record(RECORD)
    exporter.record({**RECORD, "parent_id": b"", "status": 504, "reason": "timeout", "tls": "TLSv1.3"})
    exporter.close()
    resources = [resource for request in receiver.requests for resource in request.resource_spans]
    assert {plain(resource.resource.attributes)["service.name"] for resource in resources} == {"gate"}
    first, second = (span for resource in resources for scope in resource.scope_spans for span in scope.spans)
    assert (first.trace_id, first.span_id, first.parent_span_id) == (bytes(range(1, 17)), b"spanspan", b"parentid")
    assert (first.name, first.kind, first.status.code) == ("POST web/0", 2, 0)  # SPAN_KIND_SERVER, UNSET
    assert first.start_time_unix_nano == RECORD["start_ns"]
    assert first.end_time_unix_nano - first.start_time_unix_nano == 4_000_000
    assert plain(first.attributes) == attributes(RECORD)
    assert (second.parent_span_id, second.status.code, second.status.message) == (b"", 2, "timeout")
    assert plain(second.attributes)["error.type"] == "timeout"
    assert plain(second.attributes)["url.scheme"] == "https"


def test_over_grpc(over_grpc: tuple[Receiver, TracingPlan]) -> None:
    check(*over_grpc)


def test_over_http(over_http: tuple[Receiver, TracingPlan]) -> None:
    check(*over_http)


def test_attributes_follow_the_conventions_and_leave_out_what_does_not_apply() -> None:
    assert attributes(RECORD) == {
        "http.request.method": "POST", "http.response.status_code": 200, "http.route": "web/0",
        "http.request.body.size": 5, "url.scheme": "http", "url.path": "/b", "url.query": "c=d", "server.address": "a",
        "client.address": "203.0.113.1", "client.port": 4711, "network.protocol.name": "http",
        "network.protocol.version": "1.1", "tidegate.listener": "web", "tidegate.pool": "app",
        "tidegate.endpoint": "127.0.0.1:1", "tidegate.request_id": "abc", "tidegate.attempts": 1, "tidegate.wait_us":
        1000, "tidegate.connect_us": 500, "tidegate.upstream_us": 2000, "tidegate.transfer_us": 1000,
    }  # fmt: skip


@pytest.mark.parametrize("code", [0, 14])
def test_a_span_has_the_grpc_status(code: int) -> None:
    assert attributes({**RECORD, "grpc_status": code})["rpc.grpc.status_code"] == code


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [(200, None, ""), (200, 0, ""), (200, 5, ""), (200, 14, "14"), (400, 2, ""), (503, 14, "503"), (504, None, "504")],
)
def test_a_span_is_an_error_by_either_status(status: int, code: int | None, fault: str) -> None:
    record = {**RECORD, "status": status, "grpc_status": code}
    assert fault_of(record) == attributes(record).get("error.type", "") == fault
    assert attributes({**record, "reason": "connect"})["error.type"] == "connect"


def test_the_same_statuses_are_errors_as_in_the_metrics() -> None:
    # UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
    assert {2, 4, 12, 13, 14, 15} == GRPC_FAULTS


def test_a_collector_that_is_gone_costs_spans_and_no_time() -> None:
    exporter = SpanExporter(TracingPlan("http://127.0.0.1:9", "grpc", "gate", SECOND))
    began = time.monotonic()
    for _ in range(10_000):
        exporter.record(RECORD)
    exporter.close()
    assert time.monotonic() - began < 30  # a hang would be the end of the worker's drain
