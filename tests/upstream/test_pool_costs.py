"""What requests of a pool cost: an average one 1, each model as long as it takes the endpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from compiled.exchange import learn_cost, price

from lb.config.plan.plan import CostPlan
from lb.shared.costs import Costs
from lb.shared.segment import Segment
from lb.upstream.load.cost import PoolCosts

MS = 1_000_000
S = 1_000_000_000
ONE = 256
LEARNED = CostPlan("batch", True)


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(4)
    yield made
    made.close()


def test_an_average_request_costs_one_whatever_the_units_are(segment: Segment) -> None:
    dice = random.Random(1)
    for scale in (1, 1000, 0.001):
        costs = PoolCosts(CostPlan("batch", False), f"pool{scale}", segment)
        found = [price(costs, scale * dice.choice((1, 1, 8, 32)), b"m", S) for _ in range(4000)]
        assert sum(found[500:]) / len(found[500:]) == pytest.approx(ONE, rel=0.05)
        assert max(found[500:]) / min(found[500:]) == pytest.approx(32, rel=0.9)


def test_workers_have_one_mean(segment: Segment) -> None:
    first, second = (PoolCosts(LEARNED, "p", segment) for _ in range(2))
    for _ in range(1000):
        price(first, 10, b"m", S)
    assert price(second, 20, b"m", S) == pytest.approx(2 * ONE, rel=0.02)


def test_one_that_claims_to_be_huge_costs_what_a_request_may_and_moves_the_mean_a_little(segment: Segment) -> None:
    costs = PoolCosts(LEARNED, "p", segment)
    for _ in range(1000):
        price(costs, 4, b"m", S)
    assert price(costs, 2**62, b"m", S) == 4096 * ONE
    assert price(costs, 4, b"m", S) > 0.85 * ONE
    assert price(costs, 1e-9, b"m", S) == 1, "nothing is free"


def simulated(segment: Segment, times: dict[bytes, float], rate: float, batches: tuple[int, ...]) -> PoolCosts:
    """Poisson arrivals at `rate` a second of requests for the models, which take a server that works on one after
    another so many ms for each of their batch; what is learned of that."""
    dice = random.Random(3)
    costs = PoolCosts(LEARNED, "p", segment)
    now, free_at = S, S
    there: list[tuple[int, bytes, int, int, int, int]] = []  # end, model, batch, came, charged, load_at_start
    for _ in range(3000):
        now += round(dice.expovariate(rate) * S)
        while there and there[0][0] <= now:
            end, model, batch, came, charged, load_at_start = there.pop(0)
            learn_cost(costs, model, batch, end - came, charged, load_at_start, end)
        model, batch = dice.choice(sorted(times)), dice.choice(batches)
        charged = price(costs, batch, model, now)
        load_at_start = charged + sum(one[4] for one in there)
        free_at = max(now, free_at) + round(times[model] * batch * MS)
        there.append((free_at, model, batch, now, charged, load_at_start))
    return costs


@pytest.mark.parametrize("rate", [5, 30, 50], ids=["alone", "with others", "in a queue"])
def test_a_model_with_ten_times_the_cost_is_learned_under_load_too(segment: Segment, rate: float) -> None:
    simulated(segment, {b"quick": 1.0, b"slow": 10.0}, rate, (1, 2, 4))
    rows = Costs(segment).rows()
    assert rows["p|slow"][0] / rows["p|quick"][0] == pytest.approx(10, rel=0.5)


def test_its_requests_cost_ten_times_as_much(segment: Segment) -> None:
    costs = simulated(segment, {b"quick": 1.0, b"slow": 10.0}, 20, (1, 2, 4))
    slow, quick, unknown = (price(costs, 2, model, S) for model in (b"slow", b"quick", b"new"))
    assert slow / quick == pytest.approx(10, rel=0.5)
    assert quick < unknown < slow, "of which nothing is known it is the pool's"


def test_without_learning_models_are_alike(segment: Segment) -> None:
    costs = PoolCosts(CostPlan("batch", False), "p", segment)
    learn_cost(costs, b"slow", 1, 10 * MS, ONE, ONE, S)
    assert Costs(segment).rows() == {}


def test_pools_learn_for_themselves(segment: Segment) -> None:
    one, other = PoolCosts(LEARNED, "one", segment), PoolCosts(LEARNED, "other", segment)
    learn_cost(one, b"m", 1, 10 * MS, ONE, ONE, S)
    learn_cost(other, b"m", 1, 20 * MS, ONE, ONE, S)
    rows = {name: unit for name, (unit, _) in Costs(segment).rows().items()}
    assert rows == {"one": 10 * MS, "one|m": 10 * MS, "other": 20 * MS, "other|m": 20 * MS}


def test_a_model_is_not_put_in_by_being_asked_for(segment: Segment) -> None:
    costs = PoolCosts(LEARNED, "p", segment)
    for n in range(5000):
        price(costs, 1, b"m%d" % n, S)
    assert set(Costs(segment).rows()) == {"p"}
    assert Costs(segment).evicted == 0


def test_what_is_not_known_of_a_request_is_not_learned_from(segment: Segment) -> None:
    costs = PoolCosts(LEARNED, "p", segment)
    for charged, load_at_start, latency in ((0, 0, MS), (ONE, 0, MS), (ONE, ONE - 1, MS), (ONE, ONE, 0)):
        learn_cost(costs, b"m", 1, latency, charged, load_at_start, S)
    learn_cost(costs, b"x" * 300, 1, MS, ONE, ONE, S)
    assert Costs(segment).rows() == {}
