"""A repeated unary gRPC inference with a tensor of 256 bytes, answered from the proxy's cache.

No peer has a cache for gRPC: they pass the calls on.
"""

import grpc

from bench.bed import Bed
from bench.errors import BenchError
from bench.h2load import H2load
from bench.load.request import Request, frame
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.checks import INFER
from bench.scenarios.inference import grpc_message
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import GrpcStub

SIZE = 256
MESSAGE = grpc_message(SIZE)


def check(bed: Bed) -> None:
    """The tensor comes back, and who speaks of a cache answers the second call from it. Raises BenchError."""
    with grpc.insecure_channel(f"127.0.0.1:{bed.setup.port}") as channel:
        call = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
        for expected in ("", "hit"):
            answer, told = call.with_call(MESSAGE, timeout=5, wait_for_ready=True)
            status = str(dict(told.initial_metadata()).get("cache-status", expected))
            if MESSAGE[-SIZE:] not in answer or expected not in status:
                raise BenchError(f"{bed.proxy.name} gives a wrong answer, cache-status {status!r}")


LOAD = H2load(Request(INFER, "POST", body=MESSAGE), connections=8, streams=8, grpc=True)
PACE = Open(Request(INFER, "POST", body=frame(MESSAGE)), 1000, protocol="grpc", connections=8)

SCENARIO = Scenario(
    name="grpc-cache-hit",
    title="repeated gRPC inference with a tensor of 256 B, from the cache, 8 connections of 8 streams",
    task=Task("cache"),
    peer_task=Task("grpc"),
    servers={"grpc": GrpcStub()},
    measure=full_load(LOAD, check, PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limits=(Limit(4.0),),
    note="The peers have no cache for gRPC and pass the calls on.",
)
