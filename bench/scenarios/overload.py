"""Half as many requests again as the model servers can do: how many are answered in time, and how soon?

Twelve servers, eight of 10 ms and four of 30 ms, do 933 requests/s; 1,400 come. An answer counts within 250 ms.
Tidegate is told the deadline, and to give a server a second request while it works on one, so that it never waits for
the next. The peers have no deadlines: those with a queue get a queue timeout tuned by hand, the deadline less what a
slow server takes at most, and give a server one request at a time: with two, what they answer is late more often.
"""

from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit, Metric
from bench.scenarios.base import Scenario
from bench.scenarios.latency import IN_TIME_SHARE, NOTE, P50, P99, REQUEST, Goodput, fixed_rate
from bench.scenarios.uneven_endpoints import SERVERS

DEADLINE = 0.25  # seconds
PACE = Open(REQUEST, 1400, arrivals="poisson", connections=2000, timeout=2.0, warmup=1.0, cooldown=1.0)

SCENARIO = Scenario(
    name="overload",
    title=f"1,400 requests/s to twelve model servers that do {SERVERS.capacity:.0f}, an answer counts within 250 ms",
    task=Task("oip", balance="least_request", endpoint_limit=2, deadline=DEADLINE),
    peer_task=Task("http", balance="least_request", endpoint_limit=1, queue_timeout=DEADLINE - 0.05),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 10, goodput=Goodput(DEADLINE * 1000, SERVERS.capacity)),
    metrics=(
        Metric("late_pct", "late or failed %", "lower", 1),
        Metric("goodput", "in time/s", "higher"),
        IN_TIME_SHARE,
        P50,
        P99,
    ),
    generators=(PACE,),
    limits=(Limit(97, metric=IN_TIME_SHARE.key), Limit(0.5, ("haproxy",), P50.key)),
    note=NOTE + " The latencies are those of the answers that came.",
    max_rounds=5,
)
