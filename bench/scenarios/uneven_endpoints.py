"""Twelve model servers of which four are three times slower: does the proxy find out, and how long do requests wait?

Each executes one request at a time. Together they do 933 requests/s, the fast ones alone 800; 700 come. Tidegate learns
how fast each is. The peers count requests; HAProxy, which has a queue, gives a server one at a time: that is its best.
"""

from bench.emulated import Emulated
from bench.emulator.spec import Normal, Serial, Service
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.latency import BALANCERS, FAILED, NOTE, P50, P99, P999, REQUEST, fixed_rate


def server(mean_ms: float) -> Service:
    return Service(Serial(Normal(mean_ms, 0.2)))


PACE = Open(REQUEST, 700, arrivals="poisson", connections=256)
SERVICES = (server(10),) * 8 + (server(30),) * 4
SERVERS = Emulated(SERVICES)

SCENARIO = Scenario(
    name="uneven-endpoints",
    title="twelve model servers, four of them three times slower, 700 requests/s by Poisson arrivals",
    task=Task("oip", policy="shortest_expected_delay"),
    peer_task=Task("http", balance="least_request", serial=True),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 10, sweep=(300, 500, 800)),
    metrics=(P99, P50, P999, FAILED),
    generators=(PACE,),
    limits=(Limit(0.75, BALANCERS),),
    note=NOTE,
    default=True,
    max_rounds=5,
)
