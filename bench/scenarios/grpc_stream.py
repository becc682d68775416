"""Streaming gRPC calls: one request, a hundred messages of 256 bytes back, 8 connections of 4 streams."""

from __future__ import annotations

from bench.bed import Bed
from bench.h2load import H2load
from bench.load.request import Request
from bench.peers import Task
from bench.results import Metric, Sample
from bench.scenarios.base import Scenario
from bench.scenarios.checks import STREAM, expect_stream
from bench.scenarios.inference import grpc_message
from bench.scenarios.measures import full_load
from bench.servers import GrpcStub

MESSAGES = 100
MESSAGE = grpc_message(64)
LOAD = H2load(Request(STREAM, "POST", body=MESSAGE), connections=8, streams=4, grpc=True)
_calls = full_load(LOAD, expect_stream(MESSAGE, MESSAGES))


def measure(bed: Bed) -> Sample:
    """Per message instead of per call."""
    sample = _calls(bed)
    sample.values = {"cpu_us": sample.values["cpu_us"] / MESSAGES, "rps": sample.values["rps"] * MESSAGES}
    return sample


SCENARIO = Scenario(
    name="grpc-stream",
    title=f"gRPC, calls with {MESSAGES} messages of 256 bytes from the server, 8 connections of 4 streams",
    task=Task("grpc"),
    servers={"grpc": GrpcStub(256, stream_messages=MESSAGES)},
    measure=measure,
    metrics=(Metric("cpu_us", "CPU µs/message", "lower", 3), Metric("rps", "messages/s", "higher")),
    generators=(LOAD,),
)
