"""Four model servers of which one is five times slower: does the proxy find out, and how long do requests wait?

Each executes one request at a time. Together they do 640 requests/s; in turn, each would get a quarter of the 400 that
come, and the slow one does 40.
"""

from bench.emulated import Emulated
from bench.emulator.spec import Lognormal, Serial, Service
from bench.open_loop import Open
from bench.peers import Task
from bench.scenarios.base import Scenario
from bench.scenarios.latency import FAILED, NOTE, P50, P99, P999, REQUEST, fixed_rate


def server(median_ms: float) -> Service:
    return Service(Serial(Lognormal(median_ms, 0.25)))


PACE = Open(REQUEST, 400, arrivals="poisson", connections=256)
SERVERS = Emulated((server(5), server(5), server(5), server(25)))

SCENARIO = Scenario(
    name="uneven-endpoints",
    title="four model servers, one five times slower, 400 requests/s by Poisson arrivals",
    task=Task("oip", balance="least_request"),
    peer_task=Task("http", balance="least_request"),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 5, sweep=(200, 300, 500)),
    metrics=(P99, P50, P999, FAILED),
    generators=(PACE,),
    note=NOTE,
    default=True,
    max_rounds=5,
)
