"""Spans of inferences, joined to their callers' traces."""

from __future__ import annotations

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import backend_models
import grpc
import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from backend_process import Backend, infer_request, until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from span_collector import Collector

from backend.errors import StartError
from backend.tracing import Spans
from lb.wire.services import INFERENCE, Stub

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
SERVER, ERROR = 2, 2


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.stop()


@pytest.fixture
def root(tmp_path):
    backend_models.scale(tmp_path, 2.0, 1)
    backend_models.pick(tmp_path)
    return tmp_path


def facts(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def scaled(rows: int = 1) -> Any:
    return infer_request("scale", ("x", "FP32", np.ones((rows, 2), "<f4")))


def check_tree(collector: Collector, name: str) -> None:
    """One inference: below the caller's span, with its queue and its compute in their order of time."""
    (whole,) = collector.named(name)
    (queue,), (compute,) = collector.named("queue"), collector.named("compute")
    assert {span.trace_id.hex() for span in (whole, queue, compute)} == {TRACE}
    assert whole.parent_span_id.hex() == CALLER
    assert {queue.parent_span_id, compute.parent_span_id} == {whole.span_id}
    assert len({whole.span_id, queue.span_id, compute.span_id}) == 3
    assert whole.kind == SERVER
    assert whole.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.end_time_unix_nano <= whole.end_time_unix_nano


def test_an_inference_over_grpc(root, collector):
    with Backend(root, "--trace-endpoint", collector.url) as backend:
        backend.wait_ready()
        with grpc.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            for other in ((), [("traceparent", UNSAMPLED)], [("traceparent", "00-nonsense-01")]):
                stub.ModelInfer(scaled(), metadata=other)
            stub.ModelInfer(scaled(3), metadata=[("traceparent", SAMPLED)])
            until(lambda: len(collector.spans) == 3, "no spans")
        backend.signal()
        assert backend.wait() == 0
    assert len(collector.spans) == 3  # and no more
    assert collector.service == "tidegate-backend"
    check_tree(collector, "infer scale")
    assert facts(collector.named("infer scale")[0]) == {
        "rpc.grpc.status_code": 0, "tidegate.model": "scale", "tidegate.model_version": "1"
    }  # fmt: skip
    assert facts(collector.named("compute")[0]).keys() == {
        "tidegate.batch_rows", "tidegate.input_us", "tidegate.infer_us", "tidegate.output_us"
    }  # fmt: skip
    assert facts(collector.named("compute")[0])["tidegate.batch_rows"] == 3


def test_an_inference_over_rest_and_what_is_left_at_the_end(root, collector):
    with Backend(root, "--trace-endpoint", collector.url) as backend:
        backend.wait_ready()
        host, _, port = backend.targets[0].rpartition(":")
        client = http.client.HTTPConnection(host, int(port))
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
        client.request("POST", "/v2/models/scale/infer", body, {"traceparent": SAMPLED})
        assert client.getresponse().status == 200
        client.close()
        backend.signal()
        assert backend.wait() == 0
    check_tree(collector, "infer scale")


def test_streams_failures_and_refusals(root, collector):
    with Backend(root, "--trace-endpoint", collector.url) as backend:
        backend.wait_ready()
        with grpc.insecure_channel(backend.targets[0]) as channel:
            stub = Stub(channel, INFERENCE)
            answers = stub.ModelStreamInfer(iter([scaled(), scaled()]), metadata=[("traceparent", SAMPLED)])
            assert len(list(answers)) == 2
            wrong = infer_request("pick", ("index", "INT64", np.array([9])))
            unknown = infer_request("none", ("index", "INT64", np.array([9])))
            for request in (wrong, unknown):
                with pytest.raises(grpc.RpcError):
                    stub.ModelInfer(request, metadata=[("traceparent", SAMPLED)])
            until(lambda: len(collector.named("infer scale")) == 2 and collector.named("infer"), "no spans")
    (failed,), (refused,) = collector.named("infer pick"), collector.named("infer")
    assert (failed.status.code, refused.status.code) == (ERROR, ERROR)
    assert "model pick version 1 refuses the input" in failed.status.message
    assert "unknown model 'none'" in refused.status.message
    assert facts(failed)["rpc.grpc.status_code"] == 3
    assert facts(refused)["rpc.grpc.status_code"] == 5


def test_spans_over_http(root):
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") is None:
                came.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/v1/traces"
    with Backend(root, "--trace-endpoint", url, "--trace-protocol", "http") as backend:
        backend.wait_ready()
        with grpc.insecure_channel(backend.targets[0]) as channel:
            Stub(channel, INFERENCE).ModelInfer(scaled(), metadata=[("traceparent", SAMPLED)])
        until(lambda: came, "no spans")
    receiver.shutdown()
    spans = came[0].resource_spans[0].scope_spans[0].spans
    assert {span.name for span in spans} == {"infer scale", "queue", "compute"}


def test_a_slow_collector_costs_spans_alone(root):
    with Backend(root, "--trace-endpoint", "http://127.0.0.1:1") as backend:  # nobody is there
        backend.wait_ready()
        with grpc.insecure_channel(backend.targets[0]) as channel:
            for _ in range(50):
                Stub(channel, INFERENCE).ModelInfer(scaled(), metadata=[("traceparent", SAMPLED)], timeout=10)
        backend.signal()
        assert backend.wait() == 0


def test_without_opentelemetry_the_reason_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(StartError, match="needs OpenTelemetry"):
        Spans("http://127.0.0.1:1", "grpc")
