"""A simulated pool of servers that work on one request after another, for what a policy does to latencies."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

from compiled.endpoint_set import acquire, release
from fleet import Fleet, choose

MS = 1_000_000
S = 1_000_000_000
T0 = 1_000 * S


def latencies(
    policy: str,
    speeds: list[float],
    rate: float,
    seconds: int = 40,
    stalled: Callable[[float, int], float] = lambda seconds, server: 0.0,
    weights: list[int] | None = None,
    **options: object,
) -> list[float]:
    """Sorted latencies in ms of Poisson arrivals at `rate` a second over servers of the given mean service times in ms
    (lognormal, sigma 0.2). `stalled(seconds, server)` is how many seconds a server that begins a request then stands
    still first. `weights`: 1 each by default."""
    dice = random.Random(7)
    with Fleet(weights or [1] * len(speeds)) as fleet:
        made = fleet.build(policy, **options)
        endpoints = fleet.sets[0]
        lines: list[list[tuple[int, int]]] = [[] for _ in speeds]
        events = [(T0, 0, -1)]
        took = []
        number = 0
        while events:
            now, _, index = heapq.heappop(events)
            number += 1
            if index < 0:
                if now < T0 + seconds * S:
                    heapq.heappush(events, (now + round(dice.expovariate(rate) * S), number, -1))
                index = choose(made, now, 0)
                acquire(endpoints, index)
                lines[index].append((now, endpoints.inflight(index)))
                if len(lines[index]) > 1:
                    continue
            else:
                sent, in_flight_at_start = lines[index].pop(0)
                release(endpoints, index)
                made.learn(index, now, now - sent, True, in_flight_at_start, 1)
                took.append((now - sent) / MS)
                if not lines[index]:
                    continue
            service = speeds[index] * math.exp(dice.gauss(0, 0.2)) * MS
            service += stalled((now - T0) / S, index) * S
            heapq.heappush(events, (now + round(service), number, index))
        return sorted(took)


def percentile(values: list[float], share: float) -> float:
    return values[int(len(values) * share)]
