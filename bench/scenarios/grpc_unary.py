"""Unary gRPC inference calls with a tensor of 256 bytes (an 8 x 8 image), 4 KiB or 1 MiB, and the tensor back."""

from bench.h2load import H2load
from bench.load.request import Request, frame
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.checks import INFER, expect_grpc
from bench.scenarios.inference import grpc_message
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import GrpcStub


def scenario(name: str, size: int, text: str, connections: int, streams: int, rate: float, *limits: Limit) -> Scenario:
    """`size` is the tensor's, in bytes; `rate` the fixed one, in requests/s."""
    message = grpc_message(size)
    load = H2load(Request(INFER, "POST", body=message), connections=connections, streams=streams, grpc=True)
    pace = Open(Request(INFER, "POST", body=frame(message)), rate, protocol="grpc", connections=connections)
    return Scenario(
        name=name,
        title=f"gRPC to gRPC, unary, {text} FP32 tensor there and back, {connections} connections of {streams} streams",
        task=Task("grpc"),
        servers={"grpc": GrpcStub()},
        measure=full_load(load, expect_grpc(message, lambda answer: message[-size:] in answer), pace),
        metrics=LOAD_METRICS,
        generators=(load, pace),
        limits=limits,
    )


SMALL = (Limit(0.4, ("haproxy",)), Limit(0.25, ("envoy",)), Limit(0.125, ("nginx",)))
SCENARIO = scenario("grpc-unary", 256, "256 B", 8, 8, 1000, *SMALL)
PAGE = scenario("grpc-unary-4k", 4096, "4 KiB", 8, 8, 1000)
LARGE = scenario("grpc-unary-1m", 1 << 20, "1 MiB", 4, 2, 50, Limit(1.0, ("haproxy", "envoy")))
