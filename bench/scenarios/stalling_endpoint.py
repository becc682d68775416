"""Twelve model servers of which one or another stands still for 2 s out of 5: how many requests wait with it?"""

from dataclasses import replace

from bench.emulated import Emulated
from bench.emulator.spec import Stall
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.latency import BALANCERS, FAILED, NOTE, P50, P99, P999, REQUEST, fixed_rate
from bench.scenarios.uneven_endpoints import SERVICES

PACE = Open(REQUEST, 600, arrivals="poisson", connections=1024)
SECONDS = 15
# Who stalls, drawn once: fast ones and a slow one, in turn from 1.5 s on.
STALLING = (3, 9, 6)
SERVERS = Emulated(
    tuple(
        replace(service, stalls=tuple(Stall(1500 + 5000 * n, 2000) for n, one in enumerate(STALLING) if one == i))
        for i, service in enumerate(SERVICES)
    )
)

SCENARIO = Scenario(
    name="stalling-endpoint",
    title="twelve model servers, one at a time stalls for 2 s, 600 requests/s by Poisson arrivals",
    task=Task("oip", policy="shortest_expected_delay"),
    peer_task=Task("http", balance="least_request", serial=True),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, SECONDS),
    metrics=(P99, P50, P999, FAILED),
    generators=(PACE,),
    limits=(Limit(0.8, BALANCERS, P99.key), Limit(0.8, BALANCERS, P999.key)),
    note=NOTE,
    max_rounds=5,
)
HEDGED = replace(
    SCENARIO,
    name="stalling-endpoint-hedged",
    title="the same, and Tidegate asks a second server when the first is late",
    task=replace(SCENARIO.task, hedge="p99"),
    limits=(Limit(0.7, BALANCERS, P99.key), Limit(0.7, BALANCERS, P999.key)),
)
