"""HTTP/1.1 to HTTP/1.1: a small JSON answer on 32 keep-alive connections, and its latency at rising rates; a tensor of
1 MiB there and back, as bytes."""

from bench.bed import Answer
from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.inference import binary_request
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk

ANSWER = '{"ok":true,"data":[1,2,3,4,5,6,7,8]}'
REQUEST = Request("/")
RATE = 2000
SWEEP = (500, 1000, 4000, 8000)


def right(answer: Answer) -> bool:
    return answer.status == 200 and answer.body == ANSWER.encode()


LOAD = Wrk(REQUEST)
CHECK = Expect(REQUEST, right)

SCENARIO = Scenario(
    name="proxy-http1",
    title="HTTP/1.1 to HTTP/1.1, small JSON answer, 32 connections",
    task=Task("http"),
    servers={"http": FixedHttp(ANSWER)},
    measure=full_load(LOAD, CHECK, Open(REQUEST, RATE), SWEEP),
    metrics=LOAD_METRICS,
    generators=(LOAD, Open(REQUEST, RATE)),
    limits=(Limit(0.95, ("haproxy", "nginx")),),
    default=True,
)

_LARGE = binary_request(1 << 20)
_UPLOAD = Wrk(_LARGE, connections=8)

LARGE = Scenario(
    name="proxy-http1-1m",
    title="HTTP/1.1 to HTTP/1.1, a body of 1 MiB there and one back, 8 connections",
    task=Task("http"),
    servers={"http": FixedHttp(_LARGE.body, "application/octet-stream", reads=True)},
    measure=full_load(
        _UPLOAD,
        Expect(_LARGE, lambda answer: answer.status == 200 and answer.body == _LARGE.body),
        Open(_LARGE, 50),
    ),
    metrics=LOAD_METRICS,
    generators=(_UPLOAD, Open(_LARGE, 50)),
    limits=(Limit(1.0, ("haproxy", "envoy")),),
)
