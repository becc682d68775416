"""Whole pools with nothing but endpoints and a deadline in their file, in simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.emulator.spec import Batched, Exponential, Lognormal, Normal, Parallel, Serial, Service
from bench.load.arrivals import Poisson
from bench.simulate import SCENARIOS, Kind, Scenario, simulate
from bench.simulate._engine import Worker
from bench.simulate.scenario import capacity, slowed

STALLING = SCENARIOS["stalling"]
EVEN = (Service(Serial(Normal(10, 0.2))),) * 8
# A run takes a second or so; what is drawn is whole servers, which do not get simpler by trying.
DRAWN = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def overload(services: tuple[Service, ...], times: float, deadline_ms: float, *, warmup_s: float = 3) -> Scenario:
    able = capacity(services)
    return Scenario(
        "drawn", "drawn", services, Poisson(able * times), able, (Kind(deadline_ms=deadline_ms, patience_ms=2000),),
        seconds=6, warmup_s=warmup_s,
    )  # fmt: skip


@st.composite
def fleets(draw: st.DrawFn) -> tuple[tuple[Service, ...], float]:
    """Servers of one kind, some of them slower, and a deadline that leaves them time."""
    kind = draw(st.sampled_from(["serial", "parallel", "exponential", "lognormal"]))
    slots = draw(st.sampled_from([2, 4, 8]))
    slower = draw(st.sampled_from([1.0, 1.5, 3.0]))
    unit = draw(st.sampled_from([4.0, 10.0, 25.0]))

    def server(times: float) -> Service:
        if kind == "serial":
            return Service(Serial(Normal(unit * times, 0.2)))
        if kind == "exponential":
            return Service(Serial(Exponential(unit * times)))
        if kind == "lognormal":
            return Service(Serial(Lognormal(unit * times, 0.5)))
        return Service(Parallel(Lognormal(unit * times, 0.3), slots))

    count = draw(st.integers(2, 8))
    return (server(1.0),) * count + (server(slower),) * draw(st.integers(0, 4)), unit * slower * 20


@DRAWN
@given(fleets(), st.sampled_from([1.3, 1.5, 2.0]), st.integers(1, 1000))
def test_in_overload_nearly_all_that_the_servers_can_do_is_in_time(
    fleet: tuple[tuple[Service, ...], float], times: float, seed: int
) -> None:
    services, deadline_ms = fleet
    found = simulate(overload(services, times, deadline_ms), "", seed=seed)
    # One endpoint of few may be ejected once for what it could not answer in time while limits were found.
    assert found.goodput > 0.75 * capacity(services)
    assert min(found.shares) > 0


@DRAWN
@given(fleets(), st.sampled_from([1.3, 1.5, 2.0]), st.integers(1, 1000))
def test_limits_that_are_found_stay(fleet: tuple[tuple[Service, ...], float], times: float, seed: int) -> None:
    """What the pool does in a second stays within a fifth of its median, or within what chance makes of so many
    requests. So does its limit, the sum over the endpoints, or within a request for each of them, but for a third of
    the seconds at most, in which an endpoint tries fewer."""
    services, deadline_ms = fleet
    limits: list[int] = []

    def watch(seconds: float, daemons: Sequence[Sequence[Worker]]) -> None:
        if 0 <= seconds <= 30:
            endpoints = daemons[0][0].pools[0].endpoints
            limits.append(sum(endpoints.limit(i) for i in range(endpoints.size)))

    scenario = overload(services, times, deadline_ms, warmup_s=20)
    done = simulate(scenario, "", seed=seed, watch=watch, seconds=30).per_second()[:30]
    assert len(limits) > 290
    seconds = [limits[at : at + 10] for at in range(0, 300, 10)]
    swings = [max(second) - min(second) > max(len(services), 0.2 * median(limits)) for second in seconds]
    assert sum(swings) <= 10
    usual = median(done)
    assert max(abs(each - usual) for each in done) < max(0.2 * usual, 3.5 * usual**0.5)


@DRAWN
@given(fleets(), st.integers(1, 1000))
def test_where_the_servers_suffice_nobody_is_refused(fleet: tuple[tuple[Service, ...], float], seed: int) -> None:
    """A limit throttles no endpoint that is not the bottleneck."""
    services, deadline_ms = fleet
    able = capacity(services)
    scenario = replace(overload(services, 0.7, deadline_ms * 10), arrivals=Poisson(able * 0.7))
    found = simulate(scenario, "", seed=seed)
    assert not found.errors
    others = simulate(scenario, "policy: shortest_expected_delay", seed=seed)
    assert found.percentile(50) < 1.3 * others.percentile(50)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_learned_limit_is_one_limit_over_all_workers(workers: int) -> None:
    found = simulate(overload(EVEN, 1.5, 250), "", workers=workers)
    assert max(found.most_in_flight) <= 8
    assert found.goodput > 0.95 * capacity(EVEN)


def test_a_server_that_batches_gets_its_batches() -> None:
    services = (Service(Batched(16, 0.0, 5.0, 1.0)),) * 4
    found = simulate(overload(services, 1.5, 400), "")
    assert found.goodput > 0.93 * capacity(services)


def test_few_are_caught_by_a_server_that_stands_still() -> None:
    """As few as with the policy that measures silences in service times: hedges go by them here, too."""

    def slowest(pool: str) -> float:
        runs = [simulate(STALLING, pool, seed=seed, seconds=15) for seed in range(1, 6)]
        return float(median(run.percentile(99.9) for run in runs))

    assert slowest("") < 1.15 * slowest("policy: shortest_expected_delay")


def test_half_of_the_capacity_comes_and_goes() -> None:
    services = tuple(replace(each, antagonists=(slowed(2.0, 3, 6),)) for each in EVEN)
    able = capacity(EVEN)
    scenario = Scenario(
        "halved", "halved", services, Poisson(able * 0.9), able, (Kind(deadline_ms=250, patience_ms=2000),),
        seconds=12, warmup_s=2,
    )  # fmt: skip
    found = simulate(scenario, "")
    shares = found.shares_of_able()
    assert sum(share < 0.85 for share in shares) <= 2


@pytest.mark.parametrize("name", ["overload-two-daemons", "uneven-two-daemons"])
def test_two_daemons_share_endpoints(name: str) -> None:
    found = simulate(SCENARIOS[name], "", seconds=20)
    one = simulate(SCENARIOS[name.removesuffix("-two-daemons")], "", seconds=20)
    shares = found.shares_of_able()
    assert sum(shares[10:]) / 10 > 0.9 * sum(one.shares_of_able()[10:]) / 10


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("failing-")])
def test_nobody_is_drawn_to_an_endpoint_that_fails_at_once(name: str) -> None:
    """One of eight: an eighth of what goes there at first, then next to nothing."""
    found = simulate(SCENARIOS[name], "", seconds=20)
    assert found.failed_share < 0.01


def test_without_limits_nothing_waits_in_the_pool() -> None:
    found = simulate(overload(EVEN, 1.5, 250), "policy: {type: auto, limits: false}")
    assert max(found.most_in_flight) > 20
