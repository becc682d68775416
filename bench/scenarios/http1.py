"""HTTP/1.1 to HTTP/1.1: a small JSON answer on 32 keep-alive connections."""

from bench.bed import Answer, Bed
from bench.results import Sample
from bench.scenarios.base import LOAD_METRICS, Limit, Scenario
from bench.servers import FixedHttp
from bench.wrk import Load

ANSWER = '{"ok":true,"data":[1,2,3,4,5,6,7,8]}'
LOAD = Load("/")


def right(answer: Answer) -> bool:
    return answer.status == 200 and answer.body == ANSWER.encode()


def measure(bed: Bed) -> Sample:
    return bed.drive(LOAD, right)


SCENARIO = Scenario(
    name="http1",
    title="HTTP/1.1 to HTTP/1.1, small JSON answer, 32 connections",
    job="http",
    servers={"http": FixedHttp(ANSWER)},
    measure=measure,
    metrics=LOAD_METRICS,
    limit=Limit(1.0, ("haproxy", "nginx")),
)
