"""1,000 rules by path, all in use: what finding the right one costs."""

from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import Task
from bench.peers.base import route_prefix
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, Expect, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk

ROUTES = 1000
REQUESTS = tuple(Request(f"{route_prefix(i)}item") for i in range(ROUTES))
LOAD = Wrk(REQUESTS)
PACE = Open(REQUESTS, proxy_http1.RATE)

SCENARIO = Scenario(
    name="many-routes",
    title=f"HTTP/1.1, {ROUTES:,} routes by path prefix, requests to each in turn",
    task=Task("http", routes=ROUTES),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(LOAD, Expect(REQUESTS[-1], proxy_http1.right), PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
)
