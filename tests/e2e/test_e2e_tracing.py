"""Spans of a running daemon arrive at a collector, with the ids that the endpoint saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")

from daemon import Daemon, digits_pool, eventually, http_listener, route
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from traffic import DIGITS_INFER, ask_once, digit_samples, request

Start = Callable[..., Daemon]
ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, message: Any, context: Any) -> Any:
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_arrive_with_the_ids_that_the_endpoint_saw(start: Start) -> None:
    collector = Collector()
    receiver = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    parents: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        parents.append(next(line for line in head.split("\r\n") if line.startswith("traceparent: "))[13:])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = {
        "workers": 2,
        "listeners": {"web": http_listener({"name": "app", "pool": "app"})},
        "pools": {"app": {"protocol": "http", "endpoints": [address]}},
        "tracing": {"endpoint": f"http://127.0.0.1:{port}", "ratio": 0, "service": "gate"},
        "log": {"access": "access.log"},
    }
    daemon = start(config)
    gate = daemon.port()
    await ask_once(gate, request("GET", "/sampled", traceparent=f"00-{ID}-{SPAN}-01"))
    await ask_once(gate, request("GET", "/unsampled", traceparent=f"00-{ID}-{SPAN}-00"))
    await ask_once(gate, request("GET", "/begun-here"))
    assert [text[3:35] == ID for text in parents] == [True, True, False]
    assert [text[-2:] for text in parents] == ["01", "00", "02"]
    await asyncio.to_thread(eventually, lambda: len(collector.spans) == 1, "the span")
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex()) == (ID, SPAN, parents[0][36:52])
    assert span.name == "GET app"
    path = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: path.read_text().count("\n") == 3, "three lines")
    lines = {line["target"]: line for line in map(json.loads, path.read_text().splitlines())}
    assert lines["/sampled"]["trace_id"] == ID
    assert lines["/begun-here"]["trace_id"] == parents[2][3:35]
    outcome = await asyncio.to_thread(daemon.reload, {**config, "tracing": {**config["tracing"], "ratio": 1}})
    assert outcome["ok"]
    await ask_once(gate, request("GET", "/now"))
    await asyncio.to_thread(eventually, lambda: len(collector.spans) == 2, "the span after the reload")
    assert daemon.stop() == 0
    server.close()
    receiver.stop(None)


async def test_the_spans_of_the_model_server_are_below_the_gate_s(start: Start) -> None:
    collector = Collector()
    receiver = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)
    url = f"http://127.0.0.1:{receiver.add_insecure_port('127.0.0.1:0')}"
    receiver.start()
    daemon = start({
        "workers": 1,
        "listeners": {"web": http_listener(route("/v2", "digits"))},
        "pools": {"digits": digits_pool(min=1, args=["--trace-endpoint", url])},
        "tracing": {"endpoint": url, "ratio": 0},
    })  # fmt: skip
    inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": digit_samples()[0]["image"]}]
    asked = request("POST", DIGITS_INFER, {"inputs": inputs}, traceparent=f"00-{ID}-{SPAN}-01")
    await asyncio.to_thread(daemon.wait_ready)
    assert (await ask_once(daemon.port(), asked)).status == 200
    await asyncio.to_thread(eventually, lambda: len(collector.spans) == 4, "the spans", 15)
    spans = {span.name: span for span in collector.spans}
    assert {span.trace_id.hex() for span in collector.spans} == {ID}
    gate, infer = spans["POST digits"], spans["infer digits"]
    assert (gate.parent_span_id.hex(), infer.parent_span_id) == (SPAN, gate.span_id)
    assert {spans["queue"].parent_span_id, spans["compute"].parent_span_id} == {infer.span_id}
    assert daemon.stop() == 0
    receiver.stop(None)
