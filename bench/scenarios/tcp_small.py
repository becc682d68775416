"""The same requests and answers as in `proxy-http1`, passed on as bytes."""

from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import FixedHttp

PACE = Open(proxy_http1.REQUEST, proxy_http1.RATE)

SCENARIO = Scenario(
    name="tcp-small",
    title="TCP relay of small HTTP/1.1 requests, 32 connections",
    task=Task("tcp"),
    servers={"tcp": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(proxy_http1.LOAD, proxy_http1.CHECK, PACE),
    metrics=LOAD_METRICS,
    generators=(proxy_http1.LOAD, PACE),
    limits=(Limit(1.0, ("haproxy",)),),
    default=True,
)
