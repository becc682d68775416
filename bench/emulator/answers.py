"""What an emulated server answers, as bytes made once: HTTP/1.1, HTTP/2 and the Open Inference Protocol over gRPC."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Final

from bench.emulator.spec import FailHow, ServerSpec
from lb.wire import grpc_service_pb2 as oip
from lb.wire import health_pb2

# How a request ends.
OK: Final = 0
UNAVAILABLE: Final = 1
EXHAUSTED: Final = 2
ERROR: Final = 3
LIMITED: Final = 4
# The outcome of each planned failure that is an answer.
FAILURES: Final[dict[FailHow, int]] = {"unavailable": UNAVAILABLE, "error": ERROR, "limited": LIMITED}

_HTTP: Final = (
    (200, "OK"),
    (503, "Service Unavailable"),
    (503, "Service Unavailable"),
    (500, "Internal Server Error"),
    (429, "Too Many Requests"),
)
# gRPC status codes: OK, UNAVAILABLE, RESOURCE_EXHAUSTED, INTERNAL, RESOURCE_EXHAUSTED.
_GRPC: Final = (0, 14, 8, 13, 8)
_WHY: Final = ("", "planned failure", "the queue is full", "planned failure", "planned failure")
_OUTCOMES: Final = range(len(_HTTP))
_SERVICE: Final = b"/inference.GRPCInferenceService/"

INFER: Final = _SERVICE + b"ModelInfer"
HEALTH_PREFIX: Final = b"/v2/health/"
BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Http2Answer:
    """Headers, body and trailers; without a body or trailers the headers end the stream."""

    headers: Headers
    body: bytes = b""
    trailers: Headers | None = None


class Answers:
    """All answers of one server. Error bodies are JSON with the reason, as the protocol's HTTP errors are."""

    def __init__(self, spec: ServerSpec) -> None:
        body = infer_json(spec).encode()
        bodies = [body, *(json.dumps({"error": why}).encode() for why in _WHY[1:])]
        extra = [(name, value) for name, value in spec.headers]
        self._http1 = [
            http1(outcome, bodies[outcome], extra, close, head)
            for outcome in _OUTCOMES
            for close in (False, True)
            for head in (False, True)
        ]
        self.http2 = [http2(outcome, bodies[outcome], extra) for outcome in _OUTCOMES]
        self.grpc_errors = [grpc_error(_GRPC[outcome], _WHY[outcome]) for outcome in _OUTCOMES]
        ready = oip.ModelReadyResponse(ready=True).SerializeToString()
        self.infer = grpc_message(infer_response(spec).SerializeToString())
        # By path: what is answered without an execution.
        self.checks = {
            _SERVICE + b"ServerLive": grpc_message(oip.ServerLiveResponse(live=True).SerializeToString()),
            _SERVICE + b"ServerReady": grpc_message(oip.ServerReadyResponse(ready=True).SerializeToString()),
            _SERVICE + b"ModelReady": grpc_message(ready),
            _SERVICE + b"ServerMetadata": grpc_message(
                oip.ServerMetadataResponse(name="bench.emulator", version="1").SerializeToString()
            ),
            _SERVICE + b"ModelMetadata": grpc_message(metadata(spec).SerializeToString()),
            b"/grpc.health.v1.Health/Check": grpc_message(
                health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
            ),
        }
        self.unimplemented = grpc_error(12, "unknown method")

    def http1(self, outcome: int, close: bool, head: bool) -> bytes:
        """A whole answer; `close` says that the connection ends, `head` leaves the body out."""
        return self._http1[outcome * 4 + close * 2 + head]


def infer_response(spec: ServerSpec) -> oip.ModelInferResponse:
    """One FP32 output of `answer_bytes`, all 0.5, as raw contents."""
    count = spec.answer_bytes // 4
    response = oip.ModelInferResponse(model_name=spec.model, model_version="1")
    response.outputs.add(name="OUTPUT0", datatype="FP32", shape=[1, count])
    response.raw_output_contents.append(struct.pack("<f", 0.5) * count)
    return response


def infer_json(spec: ServerSpec) -> str:
    """The same answer in the protocol's JSON form."""
    count = spec.answer_bytes // 4
    output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, count], "data": [0.5] * count}
    return json.dumps({"model_name": spec.model, "model_version": "1", "outputs": [output]}, separators=(",", ":"))


def metadata(spec: ServerSpec) -> oip.ModelMetadataResponse:
    """The model as clients see it: what it gives back; it takes anything."""
    response = oip.ModelMetadataResponse(name=spec.model, versions=["1"], platform="emulator")
    response.outputs.add(name="OUTPUT0", datatype="FP32", shape=[1, spec.answer_bytes // 4])
    return response


def http1(outcome: int, body: bytes, extra: list[tuple[str, str]], close: bool, head: bool) -> bytes:
    """An HTTP/1.1 answer as it goes over the wire."""
    status, reason = _HTTP[outcome]
    lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in extra if outcome == OK]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head else body)


def http2(outcome: int, body: bytes, extra: list[tuple[str, str]]) -> Http2Answer:
    """The same over HTTP/2, for clients that do not speak gRPC."""
    headers = [(b":status", str(_HTTP[outcome][0]).encode()), (b"content-type", b"application/json")]
    headers += [(b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in extra if outcome == OK]
    return Http2Answer(headers, body)


def grpc_message(message: bytes) -> Http2Answer:
    """A unary answer: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md"""
    return Http2Answer(
        [(b":status", b"200"), (b"content-type", b"application/grpc")],
        struct.pack(">BI", 0, len(message)) + message,
        [(b"grpc-status", b"0")],
    )


def grpc_error(status: int, message: str) -> Http2Answer:
    """Trailers only."""
    return Http2Answer(
        [
            (b":status", b"200"),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", str(status).encode()),
            (b"grpc-message", message.encode()),
        ]
    )
