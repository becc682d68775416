"""Inference requests of 700 bytes of JSON, all different, and JSON back.

Tidegate turns it into gRPC for a stub model server; the peers, which cannot, pass the same bytes on to a server with a
fixed answer of the same size.
"""

from bench.bed import Answer
from bench.open_loop import Open
from bench.peers import Task
from bench.scenarios.base import Scenario
from bench.scenarios.inference import json_answer, json_request
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp, GrpcStub
from bench.wrk import Wrk

_OUTPUT = 400
# Different ones: Tidegate remembers how it read the last few bodies, which only a benchmark repeats.
REQUESTS = tuple(json_request(700, seed) for seed in range(1000))
LOAD = Wrk(REQUESTS)
PACE = Open(REQUESTS, 2000)
NOTE = "Tidegate reads the request and speaks gRPC to the model server; the peers pass the same bytes on as HTTP/1.1."


def right(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.count(b"0.5") == _OUTPUT // 4


SCENARIO = Scenario(
    name="oip-json",
    title="inference requests of 700 bytes of JSON, all different, to gRPC (peers: the same bytes as HTTP/1.1)",
    task=Task("oip"),
    servers={"http": FixedHttp(json_answer(_OUTPUT)), "grpc": GrpcStub(_OUTPUT)},
    measure=full_load(LOAD, Expect(REQUESTS[0], right), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    note=NOTE,
)
