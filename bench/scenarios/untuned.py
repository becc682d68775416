"""Nobody tunes: each program has its documented defaults, and its file has the servers and a route's time limit.

The twins of the scenarios in which each program is tuned by hand. The peers have a second row each, tuned by an expert
as there: what is asked of Tidegate without tuning is held against the peers with it.
"""

from __future__ import annotations

from dataclasses import replace

from bench.peers import OURS, Task
from bench.peers.base import Job
from bench.results import Limit
from bench.scenarios import mixed_batches, overload, overload_classes, stalling_endpoint, uneven_endpoints
from bench.scenarios.base import Row, Scenario
from bench.scenarios.latency import BALANCERS, IN_TIME_SHARE, P50, P99, P999

# Seconds: the route's time limit where answers are of use however late they come.
PATIENCE = 10.0
TUNED = tuple(f"{peer}-tuned" for peer in BALANCERS)
NOTE = "Each program has its documented defaults and a time limit; the rows `-tuned` are tuned by hand."
# Our policies that are the best somewhere: what chooses for itself has to be as good as the best of them.
POLICIES = ("least_request", "shortest_expected_delay", "least_time", "prequal")
OUR_POLICIES = tuple(f"{OURS}-{policy}" for policy in POLICIES)


def untuned(job: Job, deadline: float = PATIENCE, *, endpoints: int = 0, proxies: int = 1) -> Task:
    """What a program does by its defaults."""
    return Task(job, deadline=deadline, untuned=True, endpoints=endpoints, proxies=proxies)


def tuned(task: Task) -> tuple[Row, ...]:
    """A row of each peer that takes an endpoint's load into account, with a task that is tuned for it."""
    return tuple(Row(f"{peer}-tuned", peer, task) for peer in BALANCERS)


def by_policy(deadline: float = PATIENCE) -> tuple[Row, ...]:
    """A row of Tidegate for each of POLICIES, with nothing else in the file."""
    return tuple(
        Row(name, OURS, replace(untuned("oip", deadline), policy=policy))
        for name, policy in zip(OUR_POLICIES, POLICIES, strict=True)
    )


def twin(scenario: Scenario, deadline: float, limits: tuple[Limit, ...] = ()) -> Scenario:
    """The scenario without tuning; its peers are tuned as they are there in rows of their own."""
    assert scenario.peer_task is not None
    task, peer_task = untuned("oip", deadline), untuned("http", deadline)
    return replace(
        scenario,
        name=f"untuned-{scenario.name.removeprefix('overload-').removesuffix('-endpoints').removesuffix('-endpoint')}",
        title=f"without tuning: {scenario.title}",
        task=replace(task, classes=scenario.task.classes),
        peer_task=replace(peer_task, classes=scenario.task.classes),
        rows=tuned(scenario.peer_task),
        limits=limits,
        note=f"{scenario.note} {NOTE}",
        default=False,
        max_rounds=3,
    )


UNEVEN = twin(uneven_endpoints.SCENARIO, PATIENCE, (Limit(0.75, ("haproxy-tuned",), P99.key),))
STALLING = twin(stalling_endpoint.SCENARIO, PATIENCE, (Limit(0.8, TUNED, P99.key), Limit(0.8, TUNED, P999.key)))
OVERLOAD = twin(
    overload.SCENARIO,
    overload.DEADLINE,
    (Limit(95, metric=IN_TIME_SHARE.key), Limit(0.5, ("haproxy-tuned",), P50.key)),
)
# The routes of the classes have their time limits, and no priorities.
CLASSES = twin(overload_classes.SCENARIO, overload_classes.BATCH.deadline)
MIXED_BATCHES = twin(mixed_batches.SCENARIO, PATIENCE)
