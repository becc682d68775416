"""Twice as many requests as the model servers can do: how many are answered in time, and is anybody served at all?

Four servers do 100 requests/s each; 800 come. An answer counts within half a second. Where a proxy can limit the
requests on an endpoint (4 at once here) and refuse those that waited too long (400 ms), it does.
"""

from bench.emulated import Emulated
from bench.emulator.spec import Constant, Serial, Service
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Metric
from bench.scenarios.base import Scenario
from bench.scenarios.latency import NOTE, P50, P99, REQUEST, fixed_rate

PACE = Open(REQUEST, 800, arrivals="poisson", connections=2000, timeout=2.0)
SERVERS = Emulated((Service(Serial(Constant(10.0))),) * 4)

SCENARIO = Scenario(
    name="overload",
    title="800 requests/s to four model servers that do 400, an answer counts within 500 ms",
    task=Task("oip", balance="least_request", endpoint_limit=4, queue_timeout=0.4),
    peer_task=Task("http", balance="least_request", endpoint_limit=4, queue_timeout=0.4),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 5, deadline_ms=500),
    metrics=(
        Metric("late_pct", "late or failed %", "lower", 1),
        Metric("goodput", "in time/s", "higher"),
        P50,
        P99,
    ),
    generators=(PACE,),
    note=NOTE + " The latencies are those of the answers that came.",
    max_rounds=5,
)
