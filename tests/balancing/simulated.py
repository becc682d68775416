"""A simulated pool of servers, for what a policy does to latencies and to the endpoints' shares of the requests."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any

from compiled.endpoint_set import acquire, release
from fleet import Fleet, choose

MS = 1_000_000
S = 1_000_000_000
T0 = 1_000 * S


def simulate(
    policy: str,
    speeds: list[float],
    rate: float,
    seconds: int = 40,
    stalled: Callable[[float, int], float] = lambda seconds, server: 0.0,
    weights: list[int] | None = None,
    at_once: int = 1,
    **options: object,
) -> list[tuple[int, float]]:
    """(server, latency in ms) of each request, in the order of their answers, of Poisson arrivals at `rate` a second
    over servers of the given mean service times in ms (lognormal, sigma 0.2), each of which works on `at_once`
    requests at a time. `stalled(seconds, server)` is how many seconds a server that begins a request then stands still
    first. `weights`: 1 each by default."""
    dice = random.Random(7)
    with Fleet(weights or [1] * len(speeds)) as fleet:
        made = fleet.build(policy, **options)
        endpoints = fleet.sets[0]
        lines: list[list[tuple[int, int]]] = [[] for _ in speeds]
        events: list[tuple[int, int, int, tuple[int, int]]] = [(T0, 0, -1, (0, 0))]
        took = []
        number = 0
        while events:
            now, _, index, request = heapq.heappop(events)
            number += 1
            if index < 0:
                if now < T0 + seconds * S:
                    heapq.heappush(events, (now + round(dice.expovariate(rate) * S), number, -1, (0, 0)))
                index = choose(made, now, dice.getrandbits(64))
                acquire(endpoints, index)
                lines[index].append((now, endpoints.inflight(index)))
                if endpoints.inflight(index) > at_once:
                    continue
            else:
                sent, in_flight_at_start = request
                release(endpoints, index)
                made.learn(index, now, now - sent, True, in_flight_at_start, 1)
                took.append((index, (now - sent) / MS))
                if not lines[index]:
                    continue
            service = speeds[index] * math.exp(dice.gauss(0, 0.2)) * MS
            service += stalled((now - T0) / S, index) * S
            heapq.heappush(events, (now + round(service), number, index, lines[index].pop(0)))
        return took


def latencies(policy: str, speeds: list[float], rate: float, *more: Any, **options: Any) -> list[float]:
    """Sorted latencies in ms of a simulated pool."""
    return sorted(took for _, took in simulate(policy, speeds, rate, *more, **options))


def shares(policy: str, speeds: list[float], rate: float, **more: Any) -> list[float]:
    """Each server's share of the requests of a simulated pool, of the second half of them."""
    answers = simulate(policy, speeds, rate, **more)
    later = [server for server, _ in answers[len(answers) // 2 :]]
    return [later.count(server) / len(later) for server in range(len(speeds))]


def percentile(values: list[float], share: float) -> float:
    return values[int(len(values) * share)]
