"""Two of the same program before the same servers, each with half of the clients and without a word of the other.

The load is that of `overload`. What two do is held against what one Tidegate does that has all clients.
"""

from __future__ import annotations

from dataclasses import replace

from bench.peers import OURS
from bench.results import Limit
from bench.scenarios import overload
from bench.scenarios.base import Row, Scenario
from bench.scenarios.untuned import NOTE, OVERLOAD, tuned, untuned

ONE = f"{OURS}-one"
GOODPUT = overload.SCENARIO.metrics[1]
assert overload.SCENARIO.peer_task is not None

SCENARIO: Scenario = replace(
    OVERLOAD,
    name="untuned-two-daemons",
    title=f"without tuning: two proxies with half of the load each, {overload.SCENARIO.title}",
    task=untuned("oip", overload.DEADLINE, proxies=2),
    peer_task=untuned("http", overload.DEADLINE, proxies=2),
    rows=(
        Row(ONE, OURS, untuned("oip", overload.DEADLINE)),
        *tuned(replace(overload.SCENARIO.peer_task, proxies=2)),
    ),
    limits=(Limit(0.9, (ONE,), GOODPUT.key),),
    note=f"{overload.SCENARIO.note} {NOTE}",
)
