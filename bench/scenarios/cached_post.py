"""A repeated inference POST of 700 bytes, answered from the proxy's cache."""

from bench.bed import Answer, Bed
from bench.results import Sample
from bench.scenarios.base import LOAD_METRICS, Limit, Scenario
from bench.scenarios.inference import json_answer, json_request
from bench.servers import FixedHttp, GrpcStub

_OUTPUT = 64
LOAD = json_request(700)


def right(answer: Answer) -> bool:
    """Both say in Cache-Status whether the answer was a hit; only a hit is what is to be measured."""
    return (
        answer.status == 200 and "hit" in answer.headers.get("cache-status", "").lower() and b"OUTPUT0" in answer.body
    )


def measure(bed: Bed) -> Sample:
    return bed.drive(LOAD, right)


SCENARIO = Scenario(
    name="cached-post",
    title="repeated inference POST of 700 bytes, answered from the cache",
    job="cache",
    servers={"http": FixedHttp(json_answer(_OUTPUT)), "grpc": GrpcStub(_OUTPUT)},
    measure=measure,
    metrics=LOAD_METRICS,
    limit=Limit(0.7, ("nginx",)),
)
