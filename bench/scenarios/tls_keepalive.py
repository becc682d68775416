"""TLS in front on keep-alive connections, HTTP/1.1 in clear behind: what encrypting costs."""

from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import FixedHttp

PACE = Open(proxy_http1.REQUEST, proxy_http1.RATE)

SCENARIO = Scenario(
    name="tls-keepalive",
    title="HTTPS to HTTP/1.1, small JSON answer, 32 connections that stay",
    task=Task("http", tls=True),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(proxy_http1.LOAD, proxy_http1.CHECK, PACE),
    metrics=LOAD_METRICS,
    generators=(proxy_http1.LOAD, PACE),
    limits=(Limit(1.2, ("nginx",)),),
)
