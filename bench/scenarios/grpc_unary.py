"""Unary gRPC inference calls with a 4 KiB tensor, and the tensor back: 8 connections of 8 streams."""

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

MESSAGE = grpc_message(4096)
REQUEST = Request(INFER, "POST", body=MESSAGE)
LOAD = H2load(REQUEST, connections=8, streams=8, grpc=True)
PACE = Open(Request(INFER, "POST", body=frame(MESSAGE)), 1000, protocol="grpc", connections=8)

SCENARIO = Scenario(
    name="grpc-unary",
    title="gRPC to gRPC, unary, 4 KiB FP32 tensor there and back, 8 connections of 8 streams",
    task=Task("grpc"),
    servers={"grpc": GrpcStub()},
    measure=full_load(LOAD, expect_grpc(MESSAGE, lambda answer: MESSAGE[-4096:] in answer), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limit=Limit(1.0, ("haproxy", "nginx", "envoy")),
)
