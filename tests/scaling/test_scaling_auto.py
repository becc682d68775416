"""The rule `auto`: the contract of all rules, what it learns, and how it fares beside them."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looks import MINUTE, Pool
from property import examples
from scaling_contract import ScalerContract

from lb.config.units import MILLISECOND, SECOND
from lb.scaling.rules.auto import REFERENCES, Auto
from lb.scaling.rules.replay import Replay
from lb.scaling.scaler import Look, Scaler, Traffic
from lb.scaling.simulate.cli import rule
from lb.scaling.simulate.pool import SimulatedPool
from lb.scaling.simulate.run import Setup, looked, simulate
from lb.scaling.simulate.trace import Trace

SETUP = Setup(20 * MILLISECOND, 1, 30 * SECOND, 200 * MILLISECOND, 1, 200)


class TestAuto(ScalerContract):
    NAME = "auto"
    SETTLES = 180 * MINUTE

    def make(self) -> Scaler:
        return Auto()

    def test_with_more_load_than_anything_carries_it_goes_to_the_maximum(self) -> None:
        """Load is too much where requests wait; the contract's pool lets none wait."""
        setup = Setup(20 * MILLISECOND, 1, SECOND, 200 * MILLISECOND, 1, 12)
        result = simulate(trace([5000] * 300), setup, Auto(setup.objective))
        assert result.peak == 12


def trace(counts: list[int], width: int = SECOND) -> Trace:
    return Trace(width, array("q", counts))


def waves(seconds: int, level: float, height: float, period: float, burst: float = 0.0) -> list[int]:
    """A load that swings, with a burst of a minute each quarter of an hour."""
    return [
        round(level + height * math.sin(2 * math.pi * i / period) + (burst if i % 900 >= 840 else 0.0))
        for i in range(seconds)
    ]


def spied(setup: Setup, counts: list[int]) -> tuple[Auto, list[Look]]:
    auto, looks = Auto(setup.objective), []

    class Spy(Auto):
        def see(self, look: Look) -> None:
            looks.append(look)
            super().see(look)

    auto = Spy(setup.objective)
    simulate(trace(counts), setup, auto)
    return auto, looks


@pytest.mark.parametrize(("service", "concurrency", "start"), [(20, 1, 30), (5, 1, 1), (400, 8, 5), (20, 8, 1)])
def test_service_time_concurrency_and_start_time_are_learned(service: int, concurrency: int, start: int) -> None:
    setup = Setup(service * MILLISECOND, concurrency, start * SECOND, 10 * service * MILLISECOND, 1, 200)
    per_replica = 1000 / service * concurrency
    auto, _ = spied(setup, waves(600, 6 * per_replica, 3 * per_replica, 300))
    learned = auto.learned()
    assert learned["service_ms"] == pytest.approx(service, rel=0.02)
    assert learned["concurrency"] == pytest.approx(concurrency, rel=0.15)
    assert learned["start_s"] == start


@pytest.mark.parametrize("start", [1, 30])
@pytest.mark.parametrize("counts", [waves(7200, 300, 250, 600), waves(7200, 150, 80, 1800, burst=600)])
def test_half_the_late_requests_of_the_best_rule_for_no_more(start: int, counts: list[int]) -> None:
    setup = Setup(20 * MILLISECOND, 1, start * SECOND, 200 * MILLISECOND, 1, 200)
    # A minute in which the load rises first: what is late before anybody can act is equal for all.
    load = trace([counts[0] * i // 600 for i in range(600)] + counts)
    results = {name: simulate(load, setup, rule(name, setup)) for name in ("auto", *REFERENCES)}
    auto = results.pop("auto")
    best = min(results.values(), key=lambda r: (r.violations, r.replica_seconds))
    assert auto.violations <= 0.5 * best.violations
    assert auto.replica_seconds <= best.replica_seconds


@pytest.mark.parametrize("start", [1, 30])
def test_references_of_the_replay_are_the_rules(start: int) -> None:
    """A fluid at steps of a second, beside requests one by one."""
    setup = Setup(20 * MILLISECOND, 1, start * SECOND, 200 * MILLISECOND, 1, 200)
    counts = [100] * 60 + waves(7200, 400, 250, 3600)
    replay = Replay((0.0, 4.0), (), (0,), (0.0,), (0.0,), (1.0,), 1e9)
    replay.shaped(0.02, 1.0, 0.18, float(start), 1, 200)
    replay.begin(1)
    for count in counts:
        replay.see(1.0, count)
    for i, name in enumerate(REFERENCES):
        late, paid = replay.reference(i)
        real = simulate(trace(counts), setup, rule(name, setup))
        assert paid == pytest.approx(real.replica_seconds, rel=0.1)
        assert late == pytest.approx(real.violations, rel=0.2, abs=0.002 * sum(counts))


def test_a_restart_goes_on_with_what_was_learned() -> None:
    auto, looks = spied(SETUP, waves(3000, 200, 100, 600))
    heir = Auto(SETUP.objective)
    heir.restore(auto.memory())
    again = heir.learned()
    for name in ("service_ms", "concurrency", "start_s", "replayed"):
        assert again[name] == auto.learned()[name] or name == "replayed"
    heir.see(looks[-1])
    # One look is not enough to remove by, and nothing of what runs has to be found out again.
    assert heir.decide(looks[-1].at).replicas > 1


def test_memory_of_other_candidates_is_refused() -> None:
    replay = Replay((0.0, 4.0), (), (0,), (0.0,), (0.0,), (1.0,), 1e9)
    for kept in ([], [1.0], [-1.0] * 15, [math.nan] * 15):
        with pytest.raises(ValueError, match="other candidates"):
            replay.take_over(kept)


def test_a_pool_that_never_had_a_request_shrinks_after_a_while() -> None:
    pool = Pool(Auto(), 5, 1, 10)
    assert pool.run(299, 0.0) == 5
    assert pool.run(10, 0.0) == 1


def test_who_waits_is_answered_before_a_second_has_passed() -> None:
    """Ten times what one replica can do: more are ordered within half a second."""
    setup = Setup(20 * MILLISECOND, 1, SECOND, 200 * MILLISECOND, 1, 100)
    _, looks = spied(setup, [500] * 20)
    first = next(look for look in looks if look.wanted > 5)
    assert first.at <= 0.5 * SECOND


class Sleeper:
    """A simulated pool on demand: the first request orders a replica, 300 s without any stop all of them."""

    def __init__(self, setup: Setup, counts: list[int]) -> None:
        self.pool = SimulatedPool(
            array("q", counts), SECOND, setup.service, setup.concurrency, setup.start, setup.objective, 0, 1, False
        )
        self.setup = setup
        self.auto = Auto(setup.objective)
        self.now = self.used_at = self.wanted = 0
        self.wakes: list[str] = []

    def until(self, seconds: int) -> None:
        while self.now < seconds * SECOND:
            self.now += self.auto.interval
            pool = self.pool
            pool.forget()
            pool.advance(self.now)
            unused = not (pool.arrived or pool.waiting or pool.busy)
            self.used_at = self.used_at if unused else self.now
            if self.wanted == 0 and not unused:
                self._order(1, "a request")
            elif self.wanted and self.now - self.used_at >= 300 * SECOND:
                self._order(0, "")
            floor = min(self.wanted, 1)
            look = looked(pool, self.setup, self.now, self.auto.interval, self.wanted, 0.0, floor)
            self.auto.see(look)
            decision = self.auto.decide(self.now)
            asked = min(decision.replicas, decision.foreseen) if unused and not self.wanted else decision.replicas
            self._order(max(asked, floor), "the rule")

    def _order(self, n: int, why: str) -> None:
        if n != self.wanted:
            if self.wanted == 0:
                self.wakes.append(why)
            self.wanted = n
            self.pool.scale_to(n)


def test_requests_before_any_replica_could_have_started_teach_nothing() -> None:
    """A steady load for four replicas, from zero, twice. What is late while the first one starts says nothing of the
    load, which never changes: neither of the way to scale that is followed nor of the rules beside it."""
    setup = Setup(20 * MILLISECOND, 1, 10 * SECOND, 200 * MILLISECOND, 0, 200)
    sleeper = Sleeper(setup, ([200] * 1800 + [0] * 600) * 2)
    for begin in (0, 2400):
        sleeper.until(begin + 1790)
        assert 4 < sleeper.wanted <= 6
        learned = sleeper.auto.learned()
        assert learned["headroom"] <= 1.25
        followed, hpa = (float(told.split()[1]) for told in learned["replayed"][:2])  # percent that are late
        assert (followed < 0.05, hpa < 0.001) == (True, True)
        sleeper.until(begin + 2390)
        assert sleeper.wanted == 0
    assert sleeper.wakes == ["a request", "a request"]


def test_what_is_held_for_the_first_replica_does_not_say_what_a_replica_is_like() -> None:
    """A server without a limit gets all that was held at once: 200 requests, which it serves one after the other."""
    auto, at = Auto(), 0

    def look(ready: int, **traffic: float) -> None:
        nonlocal at
        at += SECOND
        auto.see(Look(at, 1, ready, 1, 100, traffic=Traffic(SECOND, **traffic)))  # type: ignore[arg-type]

    for _ in range(5):
        look(0, waiting=200.0)
    for second in range(4):
        left = 200 - 50 * second
        look(1, answered=50, in_flight=left - 25.0, served=int(50 * (second + 0.5) * SECOND))
        assert auto.learned()["service_ms"] / auto.learned()["concurrency"] == pytest.approx(20)
    for _ in range(20):
        look(1, arrived=10, answered=10, in_flight=0.2, served=10 * 20 * MILLISECOND)
    assert auto.learned()["service_ms"] == pytest.approx(20)
    assert auto.learned()["concurrency"] == 1


def test_forecasts_are_made_and_not_followed_in_a_dry_run() -> None:
    auto, dry = Auto(SETUP.objective), Auto(SETUP.objective, forecast=False)
    assert auto.learned() == dry.learned() == {}


@examples(15)
@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=40),
    st.sampled_from([1, 8]),
    st.sampled_from([0, 1, 30]),
    st.sampled_from([5, 500]),
    st.integers(0, 3),
)
def test_within_the_limits_whatever_comes(
    counts: list[int], concurrency: int, start: int, service: int, minimum: int
) -> None:
    setup = Setup(service * MILLISECOND, concurrency, start * SECOND, 3 * service * MILLISECOND, minimum, 20)
    auto, looks = spied(setup, [n for n in counts for _ in range(5)])
    assert all(minimum <= look.wanted <= 20 for look in looks)
    auto.learned()


def test_the_first_replicas_are_kept_until_one_has_started() -> None:
    """A start takes longer than the time after which candidates are chosen where starts are short. What was ordered
    for the first requests serves the burst that comes next."""
    setup = Setup(20 * MILLISECOND, 1, 45 * SECOND, 200 * MILLISECOND, 1, 200)
    _, looks = spied(setup, [300, 300, *[0] * 43, *[300] * 15])
    asked = [look.wanted for look in looks if look.start_time is None]
    assert max(asked) > 5
    assert asked == sorted(asked)
