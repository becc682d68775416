"""One of eight endpoints that fails at once, with nothing in the file about it: what it costs, under every policy.

A worker's pool and the master's steering, over simulated time. Each answer of a good endpoint takes 8 ms, each failure
1 ms, so that the bad one looks idle and fast to whatever a policy goes by.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from compiled.pool import acquire, release

from lb.balancing import registry, turns
from lb.clock import ManualClock
from lb.config.plan.compile import compile_plan
from lb.config.schema.file import Config
from lb.config.schema.pools.outlier import OutlierConfig
from lb.control.endpoints import targets
from lb.control.endpoints.steering import Steering
from lb.control.registry import Registry
from lb.endpoints.ejection_state import EjectionStates
from lb.health.outlier import EJECTED, PROBATION, WELL
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT
from lb.telemetry.series import Series
from lb.upstream.pool import Pool

MS, SECOND = 1_000_000, 1_000_000_000
ENDPOINTS, BAD = 8, 3
RATE = 500  # requests a second
LOOK = 100 * MS
OPTIONS: dict[str, dict[str, Any]] = {"first": {"fill": 2}}
KEYED = {"key": {"header": "x-user"}}
POLICIES = sorted(registry.POLICIES)
VERDICTS = ["fault", "gateway", "busy"]  # 500; 503, a reset, an empty answer; 429


class World:
    """The pool, its master, and requests that come and go."""

    def __init__(self, policy: str, protocol: str = "http", **settings: Any) -> None:
        keyed = KEYED if registry.find(policy).needs_key else {}
        pool = {
            "protocol": protocol,
            "policy": {"type": policy, **OPTIONS.get(policy, {}), **keyed},
            "endpoints": [f"192.0.2.{i}:80" for i in range(ENDPOINTS)],
            **settings,
        }
        config = Config.model_validate({"listeners": {}, "pools": {"app": pool}})
        self.master = Segment.create(1, 16, 64)
        slots = Registry(self.master, 16, 64)
        self.clock = ManualClock(1000 * SECOND)
        self.steering = Steering(self.master, self.clock, lambda *_: True, lambda *_: False)
        slots.begin()
        plan = compile_plan(config, generation=1, workers=1, allocator=slots, managed={})
        slots.prepare(dict(targets.initial(plan, config)), 1)
        slots.commit(dict(targets.initial(plan, config)), 1)
        self.steering.update(plan, config)
        self.slots = [endpoint.slot for endpoint in plan.pools[0].endpoints]
        self.segment = Segment.attach(os.dup(self.master.fd), 0)
        self.pool = Pool(plan.pools[0], self.segment, (None,) * len(self.slots))
        self.states = EjectionStates(self.master, self.slots)
        self.series = plan.pools[0].endpoints[min(BAD, len(self.slots) - 1)].series
        self.keyed = bool(keyed)
        self.dice = random.Random(5)
        self.bad = frozenset([BAD])
        self.verdict = "good"  # of the bad ones' answers
        self.looked = 0
        self.started = 0

    def close(self) -> None:
        self.pool = None  # type: ignore[assignment]
        self.segment.close()
        self.master.close()

    def count(self) -> int:
        """Attempts so far at the bad one."""
        return Series(ENDPOINT, self.master.series_total(self.series))["started"]

    def look(self, now: int) -> None:
        while self.looked + LOOK <= now:
            self.looked += LOOK
            self.clock.advance(max(0, self.looked - self.clock.now()))
            self.steering.look()

    def rest(self, seconds: float) -> None:
        """Nobody asks."""
        self.look(self.clock.now() + round(seconds * SECOND))

    def serve(self, seconds: float) -> tuple[int, int]:
        """(requests, those that failed)."""
        now = self.clock.now()
        self.looked = self.looked or now
        end, asked, failed = now + round(seconds * SECOND), 0, 0
        coming, running = now, []  # type: int, list[tuple[int, int, int, int, int, int]]
        number = 0
        while coming < end or running:
            number += 1
            if running and (running[0][0] <= coming or coming >= end):
                over, _, index, charged, in_flight, begun = heapq.heappop(running)
                self.look(over)
                verdict = self.verdict if index in self.bad else "good"
                failed += verdict != "good"
                release(self.pool, index, charged, in_flight, begun, over, verdict)
                continue
            self.look(coming)
            index, charged, in_flight = acquire(self.pool, coming, self.dice.getrandbits(64) if self.keyed else 0)
            assert index >= 0, "somebody takes it"
            asked += 1
            took = MS if index in self.bad and self.verdict != "good" else 8 * MS + self.dice.randrange(MS)
            heapq.heappush(running, (coming + took, number, index, charged, in_flight, coming))
            coming += max(1, round(self.dice.expovariate(RATE) * SECOND))
        self.clock.advance(max(0, end - self.clock.now()))
        return asked, failed

    def up(self, is_up: bool) -> None:
        self.master.set_health(self.slots[BAD], is_up, self.clock.now())
        self.steering.look()


Make = Callable[..., World]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Which turns an endpoint takes is drawn from the same numbers each time."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\x07" * size)
    turns.reseed()
    made: list[World] = []

    def make(policy: str, **settings: Any) -> World:
        made.append(World(policy, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def from_the_start(world: World, verdict: str) -> None:
    world.verdict = verdict


def late(world: World, verdict: str) -> None:
    world.serve(3)
    world.verdict = verdict


def joining(world: World, verdict: str) -> None:
    world.up(False)
    world.serve(3)
    world.verdict = verdict
    world.up(True)


def joining_after_idleness(world: World, verdict: str) -> None:
    world.up(False)
    world.serve(3)
    world.verdict = verdict
    world.rest(25)
    world.up(True)


def after_idleness(world: World, verdict: str) -> None:
    """It failed before, too, and both its failures and its ejection are over."""
    world.serve(2)
    world.verdict = verdict
    world.serve(2)
    world.rest(45)


MOMENTS = [from_the_start, late, joining, joining_after_idleness, after_idleness]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_it_costs_no_more_than_one_percent_after_the_first_second(world: Make, policy: str, moment: Any) -> None:
    cost = {}
    for verdict in VERDICTS:
        one = world(policy)
        moment(one, verdict)
        one.serve(1)
        asked, failed = one.serve(10)
        cost[verdict] = round(100 * failed / asked, 2)
    assert max(cost.values()) <= 1, cost


@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_found_out_that_it_is_well_again(world: Make, policy: str) -> None:
    """It has its share again, which is nothing under a policy that needs no more than some of the endpoints."""
    before, after = world(policy), world(policy)
    for one, verdict in ((before, "good"), (after, "fault")):
        one.verdict = verdict
        one.serve(5)
        one.verdict = "good"
        one.serve(60)
        one.started = one.count()
        one.serve(5)
    shares = [one.count() - one.started for one in (before, after)]
    assert shares[1] >= shares[0] // 2, shares


@pytest.mark.parametrize("policy", ["least_request", "round_robin"])
@pytest.mark.parametrize("switch", ["outlier", "avoid_failing"])
def test_each_of_the_two_defaults_can_be_switched_off_by_name(world: Make, policy: str, switch: str) -> None:
    one = world(policy, **{switch: "off" if switch == "outlier" else False})
    one.verdict = "fault"
    one.serve(2)
    assert (one.states.ejected() == 0) == (switch == "outlier")
    assert (one.pool.endpoints.failing(BAD, one.clock.now()) == 0) == (switch == "avoid_failing")


def test_off_by_name_is_what_it_was_without_a_default(world: Make) -> None:
    off, on = world("least_request", outlier="off"), world("least_request")
    assert off.pool.outlier is None
    assert on.pool.outlier is not None
    assert off.pool.endpoints.unit == on.pool.endpoints.unit == 1
    assert off.steering.status("app") is None


@pytest.mark.parametrize("verdict", VERDICTS)
def test_what_fails_everywhere_ejects_nobody(world: Make, verdict: str) -> None:
    """As a request does that a client got wrong, or a database that all endpoints lack."""
    one = world("least_request")
    one.bad = frozenset(range(ENDPOINTS))
    one.verdict = verdict
    one.serve(5)
    assert one.states.ejected() == 0


@pytest.mark.parametrize("bad", [1, 2, 4, 6])
def test_half_of_the_endpoints_are_ejected_at_most(world: Make, bad: int) -> None:
    one = world("round_robin", avoid_failing=False)
    one.bad = frozenset(range(bad))
    one.verdict = "fault"
    one.serve(2)
    assert one.states.ejected() == min(bad, ENDPOINTS // 2)


def test_being_busy_neither_ejects_nor_ends_a_probation(world: Make) -> None:
    one = world("round_robin")
    one.verdict = "fault"
    for _ in range(60):  # the more it fails, the fewer turns it takes
        one.serve(1)
        if one.states.state(BAD)[0] == EJECTED:
            break
    assert one.states.state(BAD)[0] == EJECTED
    one.verdict = "busy"
    one.rest(11)
    assert one.states.state(BAD)[0] == PROBATION
    one.serve(5)
    assert one.states.state(BAD)[0] == PROBATION
    one.verdict = "good"
    one.serve(20)
    assert one.states.state(BAD)[0] == WELL


@pytest.mark.parametrize("endpoints", [1, 2, 3])
def test_small_pools_keep_somebody(world: Make, endpoints: int) -> None:
    one = world("least_request", endpoints=[f"192.0.2.{i}:80" for i in range(endpoints)])
    one.bad = frozenset([0])
    one.verdict = "fault"
    one.serve(2)
    assert one.states.ejected() == (0 if endpoints == 1 else 1)
    one.bad = frozenset(range(endpoints))
    one.serve(2)  # nobody is left unasked


def test_sessions_that_an_ejection_would_end_keep_their_endpoints() -> None:
    def outlier(**settings: Any) -> Any:
        pool = {"protocol": "http", "endpoints": ["192.0.2.1:80"], **settings}
        return Config.model_validate({"listeners": {}, "pools": {"app": pool}}).pools["app"].outlier

    assert outlier() == outlier(outlier={}) == outlier(protocol="oip") == OutlierConfig()
    assert outlier(affinity={"cookie": {"name": "c"}}) is None
    assert outlier(affinity={"learn": {"header": "mcp-session-id"}}) is None
    assert outlier(affinity={"learn": {"header": "mcp-session-id"}}, outlier={}) == OutlierConfig()
    assert outlier(protocol="tcp") is outlier(protocol="udp") is outlier(outlier="off") is None
