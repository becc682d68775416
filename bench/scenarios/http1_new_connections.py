"""A new connection for each request: what accepting, opening and closing cost."""

from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios import proxy_http1
from bench.scenarios.base import Scenario
from bench.scenarios.measures import LOAD_METRICS, full_load
from bench.servers import FixedHttp
from bench.wrk import Wrk

LOAD = Wrk(proxy_http1.REQUEST, close=True)
PACE = Open(proxy_http1.REQUEST, 500, close=True)

SCENARIO = Scenario(
    name="http1-new-connections",
    title="HTTP/1.1, one request on each connection, 32 at a time",
    task=Task("http"),
    servers={"http": FixedHttp(proxy_http1.ANSWER)},
    measure=full_load(LOAD, proxy_http1.CHECK, PACE),
    metrics=LOAD_METRICS,
    generators=(LOAD, PACE),
    limits=(Limit(1.1, ("haproxy",)),),
)
