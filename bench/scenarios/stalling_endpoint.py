"""Four model servers of which one stands still for a second: how many requests wait with it?"""

from dataclasses import replace

from bench.emulated import Emulated
from bench.emulator.spec import Stall
from bench.open_loop import Open
from bench.peers import Task
from bench.scenarios.base import Scenario
from bench.scenarios.latency import FAILED, NOTE, P50, P99, P999, REQUEST, fixed_rate
from bench.scenarios.uneven_endpoints import server

PACE = Open(REQUEST, 400, arrivals="poisson", connections=256)
STALLING = replace(server(5), stalls=(Stall(1500, 1000),))
SERVERS = Emulated((server(5), server(5), server(5), STALLING))

SCENARIO = Scenario(
    name="stalling-endpoint",
    title="four model servers, one stalls for 1 s, 400 requests/s by Poisson arrivals",
    task=Task("oip", balance="least_request", checks=True),
    peer_task=Task("http", balance="least_request", checks=True),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 5),
    metrics=(P99, P50, P999, FAILED),
    generators=(PACE,),
    note=NOTE,
    max_rounds=5,
)
