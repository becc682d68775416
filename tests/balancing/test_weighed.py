"""Large and small requests over servers that work on one after another: what it is worth to weigh them."""

from __future__ import annotations

import heapq
import random

import pytest
from compiled.endpoint_set import acquire, release
from fleet import Fleet, choose

MS = 1_000_000
S = 1_000_000_000
SIZES = (1, 1, 1, 1, 1, 1, 1, 32, 16, 32)
MEAN = sum(SIZES) / len(SIZES)


def mean_wait(policy: str, weighed: bool, **options: object) -> float:
    """How many ms requests wait until a server begins with them, by Poisson arrivals at 70 % of what eight servers can
    do, which take 1 ms for a unit of size."""
    dice = random.Random(11)
    with Fleet([1] * 8, weighed=weighed) as fleet:
        made, endpoints = fleet.build(policy, **options), fleet.sets[0]
        lines: list[list[tuple[int, int, int, int, int]]] = [[] for _ in range(8)]
        events = [(S, 0, -1)]
        waits = []
        for number in range(1, 30_000):
            now, _, index = heapq.heappop(events)
            if index < 0:
                heapq.heappush(events, (now + round(dice.expovariate(0.7 * 8 * 1000 / MEAN) * S), number, -1))
                size = dice.choice(SIZES)
                index = choose(made, now, number, cost=size / MEAN)
                charged = acquire(endpoints, index, size / MEAN)
                load_at_start = round(endpoints.load(index) * endpoints.one)
                lines[index].append((now, size, charged, endpoints.inflight(index), load_at_start))
                if len(lines[index]) > 1:
                    continue
            else:
                sent, size, charged, in_flight_at_start, load_at_start = lines[index].pop(0)
                release(endpoints, index, charged)
                waits.append((now - sent) / MS - size)
                # As Pool.release does it.
                latency = now - sent
                if weighed:
                    if made.by_cost:
                        in_flight_at_start = -(-load_at_start // endpoints.one)
                    else:
                        latency = max(round(latency * in_flight_at_start * endpoints.one / load_at_start), 1)
                made.learn(index, now, latency, True, in_flight_at_start, max(charged, 1))
                if not lines[index]:
                    continue
            heapq.heappush(events, (now + lines[index][0][1] * MS, number, index))
        return sum(waits) / len(waits)


@pytest.mark.parametrize(
    "policy", ["least_request", "power_of_two", "shortest_expected_delay", "peak_ewma", "least_time", "prequal"]
)
def test_every_policy_that_looks_at_load_does_better(policy: str) -> None:
    assert mean_wait(policy, True) < mean_wait(policy, False)


def test_a_bounded_hash_does_too() -> None:
    bounded = {"bounded_load": 1.25}
    assert mean_wait("maglev", True, **bounded) < mean_wait("maglev", False, **bounded)
