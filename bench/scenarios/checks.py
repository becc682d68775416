"""Checks of one answer by HTTP/2 and gRPC."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import grpc

from bench.bed import Bed
from bench.errors import BenchError
from bench.processes import require
from bench.scenarios.measures import Check

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def expect_http2(path: str, body: bytes) -> Check:
    """A GET by HTTP/2 with prior knowledge is answered with `body`."""

    def check(bed: Bed) -> None:
        command = [require("nghttp", "nghttp2-client"), "--timeout=5", f"http://127.0.0.1:{bed.setup.port}{path}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{bed.proxy.name} does not answer an HTTP/2 request") from None
        if done.returncode or done.stdout != body:
            bed.check_processes()
            raise BenchError(f"{bed.proxy.name} answers HTTP/2 with {done.stdout[:200]!r} {done.stderr[-200:]!r}")

    return check


def expect_grpc(message: bytes, right: Callable[[bytes], bool]) -> Check:
    """A unary ModelInfer with `message` is answered with status 0 and a message that is right."""

    def check(bed: Bed) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{bed.setup.port}") as channel:
            call = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
            _right(bed, lambda: right(call(message, timeout=5, wait_for_ready=True)))

    return check


def expect_stream(message: bytes, count: int) -> Check:
    """A ModelStreamInfer with `message` is answered with status 0 after `count` messages."""

    def check(bed: Bed) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{bed.setup.port}") as channel:
            call = channel.stream_stream(STREAM, request_serializer=None, response_deserializer=None)
            _right(bed, lambda: sum(1 for _ in call(iter([message]), timeout=5, wait_for_ready=True)) == count)

    return check


def _right(bed: Bed, ask: Callable[[], bool]) -> None:
    try:
        if ask():
            return
        problem = "with another message than expected"
    except grpc.RpcError as error:
        problem = f"with {error.code().name}: {error.details()}"
    bed.check_processes()
    raise BenchError(f"{bed.proxy.name} answers gRPC {problem}")
