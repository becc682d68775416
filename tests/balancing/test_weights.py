"""What docs/howto/choose-a-policy.md says of weights holds, whether servers work on one request or many at a time."""

from __future__ import annotations

import pytest
from fleet import Fleet, choose
from simulated import MS, T0, S, latencies, percentile, shares

from lb.balancing import registry

MANY = 1_000_000
# Where requests are sent in these shares whatever the servers do.
BY_SHARE = ("round_robin", "client_side_weighted_round_robin", "random")
# Where a weight is how much an endpoint can have in flight beside the others.
BY_CAPACITY = ("least_request", "never_queue", "least_time", "shortest_expected_delay", "peak_ewma", "power_of_two")
BY_KEY = ("maglev", "ring_hash", "rendezvous")


def share_of_light(policy: str, rate: float, **more: object) -> float:
    """The share of an endpoint of weight 1 beside one of weight 3 that is as fast."""
    return shares(policy, [10, 10], rate, seconds=20, weights=[3, 1], **more)[1]


def test_every_policy_has_its_meaning_here():
    rest = {"auto", "first", "prequal"}  # by cost, too; a number of requests; hot or cold: see their own tests
    assert {*BY_SHARE, *BY_CAPACITY, *BY_KEY} == set(registry.POLICIES) - rest


@pytest.mark.parametrize("at_once", [1, 4, 16, MANY])
@pytest.mark.parametrize("policy", BY_SHARE)
def test_a_share_of_the_requests(policy, at_once):
    assert share_of_light(policy, 130.0, at_once=at_once) == pytest.approx(0.25, abs=0.06)  # random, too


@pytest.mark.parametrize(("at_once", "rate"), [(16, 1600.0), (16, 800.0), (MANY, 2000.0), (MANY, 5000.0)])
@pytest.mark.parametrize("policy", BY_CAPACITY)
def test_a_share_of_what_is_in_flight_at_servers_that_work_on_many_requests(policy, at_once, rate):
    assert share_of_light(policy, rate, at_once=at_once) == pytest.approx(0.25, abs=0.035)


@pytest.mark.parametrize(("at_once", "rate"), [(1, 100.0), (4, 400.0), (16, 1600.0), (MANY, 2000.0), (MANY, 5000.0)])
def test_auto_sends_less_to_servers_of_less_weight_and_starves_none(at_once, rate):
    """What it expects of an endpoint counts beside the weight."""
    assert 0.05 < share_of_light("auto", rate, at_once=at_once) < 0.45


@pytest.mark.parametrize("policy", BY_CAPACITY)
def test_servers_that_work_on_few_requests_are_not_starved_either(policy):
    assert 0.18 < share_of_light(policy, 400.0, at_once=4) < 0.35


@pytest.mark.parametrize("policy", BY_CAPACITY)
def test_servers_that_work_on_one_request_get_what_they_can_do(policy):
    """Near capacity weights cannot make a server faster: both are as busy, and what waits is at the one of more
    weight."""
    assert 0.10 < share_of_light(policy, 100.0) < 0.42
    assert 0.33 < share_of_light(policy, 160.0) < 0.48


@pytest.mark.parametrize("at_once", [1, MANY])
def test_slow_servers_of_less_weight_get_no_more_than_they_can_do(at_once):
    """`shortest_expected_delay` knows speeds; the weight does not make it use a slow server sooner."""
    fast, slow = [10.0] * 8, [30.0] * 4
    weights = [3] * 8 + [1] * 4
    found = shares("shortest_expected_delay", fast + slow, 500, seconds=20, weights=weights, at_once=at_once)
    assert sum(found[8:]) < 0.02
    taken = latencies("shortest_expected_delay", fast + slow, 700, seconds=20, weights=weights, at_once=at_once)
    assert percentile(taken, 0.99) < 40


def test_a_server_of_less_weight_gets_its_share_again_when_it_is_no_longer_slow():
    """The second one takes five times as long for 10 s."""

    def slowed(seconds: float, server: int) -> float:
        return 0.04 if server == 1 and 10 < seconds < 20 else 0.0

    found = shares(
        "shortest_expected_delay", [10, 10], 1600, seconds=60, weights=[3, 1], at_once=MANY, stalled=slowed, decay="5s"
    )
    assert found[1] > 0.15


def test_one_that_nothing_is_known_of_is_compared_by_its_delay_alone():
    with Fleet([3, 1]) as fleet:
        made = fleet.build("shortest_expected_delay")
        assert choose(made, T0, 0) in (0, 1)
        made.learn(0, T0 + 10 * MS, 10 * MS, True, 1, 1)
        fleet.load(0, 2)
        assert choose(made, T0 + S, 0) == 1  # one request shows how fast it is
        fleet.load(1, 1)
        assert choose(made, T0 + S, 0) == 0


@pytest.mark.parametrize("policy", BY_KEY)
def test_a_share_of_the_keys(policy):
    options = {"points": 1000} if policy == "ring_hash" else {}
    with Fleet([3, 1]) as fleet:
        made = fleet.build(policy, **options)
        chosen = [choose(made, T0, (key * 0x9E3779B97F4A7C15) % 2**64 or 1) for key in range(20_000)]
        assert chosen.count(1) / len(chosen) == pytest.approx(0.25, abs=0.035)


def test_first_holds_its_weight_in_requests():
    with Fleet([3, 1]) as fleet:
        made = fleet.build("first", fill=2)
        fleet.load(0, 5)
        assert choose(made, T0, 0) == 0
        fleet.load(0, 1)
        assert choose(made, T0, 0) == 1


def test_prequal_compares_loads_by_weight_among_servers_as_fast():
    """Of two hot ones the least loaded by weight is chosen, and a share of a busy pool follows from that."""
    assert share_of_light("prequal", 5000.0, at_once=MANY) == pytest.approx(0.25, abs=0.05)
