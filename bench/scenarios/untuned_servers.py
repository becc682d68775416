"""Servers of other kinds, of which nobody tells the proxy: some do eight requests at a time, some batch up to 16.

Of eight servers three are three times slower; three quarters of what they can do comes. Tidegate has rows for its
policies that are the best somewhere: its default has to be as good as the best of them.
"""

from __future__ import annotations

from bench.emulated import Emulated
from bench.emulator.spec import Batched, Normal, Parallel, Service
from bench.open_loop import Open
from bench.peers import Task
from bench.results import Limit
from bench.scenarios.base import Scenario
from bench.scenarios.latency import FAILED, NOTE, P50, P99, P999, RATE, REQUEST, fixed_rate
from bench.scenarios.untuned import NOTE as DEFAULTS
from bench.scenarios.untuned import OUR_POLICIES, by_policy, tuned, untuned

FAST, SLOW = 5, 3
LOAD = 0.75  # of what the servers can do
LIMITS = (Limit(1.05, OUR_POLICIES, P99.key), Limit(0.98, OUR_POLICIES, RATE.key))


def scenario(name: str, kind: str, fast: Service, slow: Service, tuned_task: Task) -> Scenario:
    """Five fast servers and three slow ones."""
    servers = Emulated((fast,) * FAST + (slow,) * SLOW)
    pace = Open(REQUEST, LOAD * servers.capacity, arrivals="poisson", connections=1000)
    return Scenario(
        name=f"untuned-{name}",
        title=f"without tuning: eight model servers that {kind}, three of them three times slower, {pace.rate:.0f} "
        f"requests/s of {servers.capacity:.0f}",
        task=untuned("oip"),
        peer_task=untuned("http"),
        servers={"http": servers, "grpc": servers},
        measure=fixed_rate(pace, 10),
        metrics=(P99, P50, P999, RATE, FAILED),
        generators=(pace,),
        limits=LIMITS,
        note=f"{NOTE} {DEFAULTS}",
        rows=(*tuned(tuned_task), *by_policy()),
        max_rounds=3,
    )


SLOTS = 8
CONCURRENT = scenario(
    "concurrent",
    f"do {SLOTS} requests at a time",
    Service(Parallel(Normal(40, 0.2), SLOTS)),
    Service(Parallel(Normal(120, 0.2), SLOTS)),
    Task("http", balance="least_request", endpoint_limit=SLOTS, queue_timeout=5),
)
MOST = 16
BATCHING = scenario(
    "batching",
    f"batch up to {MOST}",
    Service(Batched(MOST, max_wait_ms=2, fixed_ms=40, per_item_ms=2)),
    Service(Batched(MOST, max_wait_ms=2, fixed_ms=120, per_item_ms=6)),
    # While one batch is computed the next is gathered.
    Task("http", balance="least_request", endpoint_limit=2 * MOST, queue_timeout=5),
)
