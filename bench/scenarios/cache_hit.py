"""A repeated inference POST of 700 bytes, answered from the proxy's cache."""

from bench.bed import Answer
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.inference import json_answer, json_request
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp, GrpcStub
from bench.wrk import Wrk

OUTPUT = 64
REQUEST = json_request(700)


def right(answer: Answer) -> bool:
    """All say in Cache-Status whether the answer was a hit; only a hit is what is to be measured."""
    return (
        answer.status == 200 and "hit" in answer.headers.get("cache-status", "").lower() and b"OUTPUT0" in answer.body
    )


LOAD = Wrk(REQUEST)
PACE = Open(REQUEST, 2000)

SCENARIO = Scenario(
    name="cache-hit",
    title="repeated inference POST of 700 bytes, answered from the cache",
    task=Task("cache"),
    servers={"http": FixedHttp(json_answer(OUTPUT)), "grpc": GrpcStub(OUTPUT)},
    measure=full_load(LOAD, Expect(REQUEST, right), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limits=(Limit(0.7, ("nginx", "varnish")),),
    default=True,
)
