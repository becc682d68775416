"""Weights from load reports (gRFC A58) and the static stride scheduler, with the cases of gRPC's own tests.

The scheduler's expected numbers are those of grpc/grpc test/core/load_balancing/static_stride_scheduler_test.cc; the
weights' are worked out from A58's formula, qps / (utilization + eps / qps * penalty).
"""

from collections import Counter

import pytest
from compiled.endpoint_set import set_report
from fleet import DRAIN, ENABLED, Fleet, choose
from statistics_checks import agrees

from lb.balancing import policy_checks
from lb.balancing.stride import Stride
from lb.config.schema.file import PolicyConfig
from lb.errors import ConfigError

S = 1_000_000_000
T0 = 1_000 * S
POLICY = "client_side_weighted_round_robin"


def turns(weights, count, sequence=0):
    stride = Stride(len(weights), sequence)
    assert stride.fill(weights)
    return [stride.next() for _ in range(count)]


def counts(picked, size):
    seen = Counter(picked)
    return [seen[i] for i in range(size)]


# gRPC's cases.


@pytest.mark.parametrize("weights", [[0.0], [0.0] * 4, [1.0], [0.0, 5.0, 0.0]])
def test_fewer_than_two_weights_say_nothing(weights):
    """The last case is A58's: with fewer than two weights it is plain round robin."""
    stride = Stride(len(weights))
    assert not stride.fill(weights)
    assert [stride.next() for _ in range(8)] == [n % len(weights) for n in range(8)]


@pytest.mark.parametrize(
    ("weights", "picks", "expected"),
    [
        ([1.0, 2.0, 3.0], 6, [1, 2, 3]),
        ([3.0, 0.0, 1.0], 6, [3, 2, 1]),  # an unknown weight is the mean
        # More than ten times the mean, 5, counts as that.
        ([81.0] + [1.0] * 19, 69, [50] + [1] * 19),
        # Less than a hundredth of the mean counts as that.
        ([100.0, 1e-10], 201, [200, 1]),
    ],
)
def test_picks_are_weighted_exactly(weights, picks, expected):
    assert counts(turns(weights, picks), len(weights)) == expected


def test_equal_weights_are_round_robin():
    picked = turns([300.0, 300.0, 0.0], 1003)
    assert sorted(picked[:3]) == [0, 1, 2]
    assert picked == (picked[:3] * 335)[:1003]


def test_the_sequence_alone_decides():
    picked = turns([1.0, 2.0, 3.0], 100)
    assert turns([1.0, 2.0, 3.0], 100) == picked
    stride, sequence = Stride(3), 0
    for expected in picked:  # each by a table of its own
        stride = Stride(3, sequence)
        stride.fill([1.0, 2.0, 3.0])
        assert stride.next() == expected
        sequence = stride.sequence


def test_the_largest_is_picked_in_every_generation():
    assert counts(turns([1.0, 2.0, 3.0], 65_535 * 2), 3)[2] == 65_535


def test_the_exact_sequence():
    """By hand: weights 21845, 43690 and 65535 of 65535, offsets 0, 32767 and 65534. In generation g endpoint i is taken
    if (weight * g + i * 32767) mod 65535 is at least 65535 - weight. Endpoint 0 has 0, 21845, 43690 and needs 43690;
    endpoint 1 has 32767, 10922, 54612 and needs 21845; endpoint 2 needs 0."""
    assert turns([1.0, 2.0, 3.0], 12) == [1, 2, 2, 0, 1, 2] * 2


# The weights.


def reporting(fleet, reports, at=T0 - 20 * S):
    for i, report in enumerate(reports):
        if report is not None:
            set_report(fleet.sets[0], i, *report, at)


def shares(fleet, now=T0, picks=6000, worker=0, **options):
    made = fleet.build(POLICY, worker, **options)
    return counts((choose(made, now, 0) for _ in range(picks)), len(fleet.addresses))


@pytest.mark.parametrize(
    ("utilization", "qps", "eps", "penalty", "weight"),
    [
        (0.5, 100, 0, 1.0, 200.0),
        (1.0, 100, 0, 1.0, 100.0),
        (0.5, 100, 50, 1.0, 100.0),  # half of them fail
        (0.5, 100, 50, 0.0, 200.0),
        (0.5, 100, 50, 2.0, 100 / 1.5),
        (1.5, 30, 3, 1.0, 30 / 1.6),
        (0.0, 100, 0, 1.0, 0.0),
        (0.5, 0, 0, 1.0, 0.0),
    ],
)
def test_weight_formula(utilization, qps, eps, penalty, weight):
    with Fleet([1]) as fleet:
        made = fleet.build(POLICY, error_utilization_penalty=penalty)
        assert made.weight(utilization, qps, eps) == pytest.approx(weight)


def test_shares_are_what_each_would_do_fully_busy():
    """100 requests/s at 50 %, 100 at 100 %, 30 at 10 %: weights 200, 100, 300."""
    with Fleet([1, 1, 1]) as fleet:
        reporting(fleet, [(0.5, 100, 0), (1.0, 100, 0), (0.1, 30, 0)])
        picked = shares(fleet)
        assert agrees(picked, [200, 100, 300])
        assert max(abs(n - share) for n, share in zip(picked, (2000, 1000, 3000), strict=True)) <= 2


def test_errors_cost_their_share():
    with Fleet([1, 1]) as fleet:
        reporting(fleet, [(0.5, 100, 0), (0.5, 100, 50)])
        assert shares(fleet, picks=3000) == pytest.approx([2000, 1000], abs=2)
        assert shares(fleet, picks=3000, error_utilization_penalty=0) == [1500, 1500]


def test_without_a_report_the_mean_of_the_others():
    with Fleet([1, 1, 1]) as fleet:
        reporting(fleet, [(0.5, 150, 0), None, (0.5, 50, 0)])
        assert shares(fleet) == pytest.approx([3000, 2000, 1000], abs=2)


@pytest.mark.parametrize("reports", [[], [(0.1, 100, 0)]])
def test_fewer_than_two_reports_are_round_robin(reports):
    with Fleet([1, 1, 1]) as fleet:
        reporting(fleet, reports)
        made = fleet.build(POLICY)
        assert [choose(made, T0, 0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_configured_weights_multiply():
    with Fleet([1, 3]) as fleet:
        assert shares(fleet, picks=4000) == pytest.approx([1000, 3000], abs=2)
        reporting(fleet, [(0.5, 300, 0), (0.5, 100, 0)])
        assert shares(fleet, picks=4000) == pytest.approx([2000, 2000], abs=2)


def test_blackout_then_weights_then_expiry():
    even, uneven = [1000, 1000], [1500, 500]
    with Fleet([1, 1]) as fleet:
        reporting(fleet, [(0.5, 300, 0), (0.5, 100, 0)], T0)
        assert shares(fleet, T0 + 10 * S - 1, 2000) == even
        assert shares(fleet, T0 + 10 * S, 2000) == pytest.approx(uneven, abs=2)
        assert shares(fleet, T0 + 3 * S, 2000, blackout_period="2s") == pytest.approx(uneven, abs=2)
        assert shares(fleet, T0 + 180 * S - 1, 2000) == pytest.approx(uneven, abs=2)
        assert shares(fleet, T0 + 180 * S, 2000) == even
        # After that the next report is the first again.
        reporting(fleet, [(0.5, 300, 0), (0.5, 100, 0)], T0 + 200 * S)
        assert shares(fleet, T0 + 209 * S, 2000) == even
        assert shares(fleet, T0 + 210 * S, 2000) == pytest.approx(uneven, abs=2)


def test_blackout_begins_anew_when_an_endpoint_comes_up():
    with Fleet([1, 1]) as fleet:
        reporting(fleet, [(0.5, 300, 0), (0.5, 100, 0)])
        fleet.master.set_health(fleet.slots[0], False, T0)
        fleet.master.set_health(fleet.slots[0], True, T0 + S)
        assert shares(fleet, T0 + 10 * S, 2000) == [1000, 1000]
        assert shares(fleet, T0 + 11 * S, 2000) == pytest.approx([1500, 500], abs=2)


def test_weights_are_made_anew_once_a_period():
    with Fleet([1, 1]) as fleet:
        made = fleet.build(POLICY)
        choose(made, T0, 0)
        reporting(fleet, [(0.5, 300, 0), (0.5, 100, 0)])
        soon = counts((choose(made, T0 + S - 1, 0) for _ in range(2000)), 2)
        later = counts((choose(made, T0 + S, 0) for _ in range(2000)), 2)
        assert soon == [1000, 1000]
        assert later == pytest.approx([1500, 500], abs=2)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_another_configured_weight_counts_before_the_period_is_over(size):
    with Fleet([1] * size) as fleet:
        reporting(fleet, [(0.5, 100, 0)] * size)
        made = fleet.build(POLICY)
        for _ in range(size):
            choose(made, T0, 0)
        for weight in (9, 2, 1):
            fleet.weigh(size - 1, weight)
            picked = (choose(made, T0 + 1, 0) for _ in range(1000 * (size - 1 + weight)))
            assert counts(picked, size) == pytest.approx([1000] * (size - 1) + [1000 * weight], abs=10)


def test_who_comes_back_has_its_share_before_the_period_is_over():
    with Fleet([1, 1, 8]) as fleet:
        fleet.admin(2, DRAIN)
        made = fleet.build(POLICY)
        assert counts((choose(made, T0, 0) for _ in range(1000)), 3) == [500, 500, 0]
        fleet.admin(2, ENABLED)
        assert counts((choose(made, T0 + 1, 0) for _ in range(1000)), 3) == pytest.approx([100, 100, 800], abs=10)


def test_turns_are_not_made_by_who_has_the_model_of_one_request():
    """The request that makes the table wants model 0, which the endpoint with the best report does not have."""
    with Fleet([1, 1, 1]) as fleet:
        reporting(fleet, [(0.5, 100, 0), (0.5, 100, 0), (0.5, 300, 0)])
        fleet.master.set_models_unready(fleet.slots[2], 1)
        made = fleet.build(POLICY)
        assert counts((choose(made, T0, 0, models=1) for _ in range(1000)), 3) == [500, 500, 0]
        assert counts((choose(made, T0, 0) for _ in range(1000)), 3) == pytest.approx([200, 200, 600], abs=4)


def test_workers_share_reports_and_start_apart():
    with Fleet([1] * 4, workers=2) as fleet:
        assert [choose(fleet.build(POLICY, worker), T0, 0) for worker in (0, 1)] == [0, 1]
        for i, qps in enumerate((100, 100, 200, 400)):
            set_report(fleet.sets[1], i, 0.5, qps, 0, T0 - 20 * S)
        for worker in (0, 1):
            assert shares(fleet, picks=8000, worker=worker) == pytest.approx([1000, 1000, 2000, 4000], abs=3)


def test_an_unavailable_endpoints_turns_go_to_all_others():
    with Fleet([1, 1, 1]) as fleet:
        reporting(fleet, [(0.5, 100, 0), (0.5, 200, 0), (0.5, 600, 0)])
        made = fleet.build(POLICY)
        choose(made, T0, 0)
        fleet.admin(2, DRAIN)
        assert counts((choose(made, T0 + 2 * S, 0) for _ in range(3000)), 3) == pytest.approx([1000, 2000, 0], abs=2)


def test_a_thousand_endpoints_in_proportion():
    with Fleet([1] * 1000) as fleet:
        reporting(fleet, [(0.5, 100 + i % 10 * 20, 0) for i in range(1000)])
        assert agrees(shares(fleet, picks=100_000), [100 + i % 10 * 20 for i in range(1000)])


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight_update_period", "99ms"), ("error_utilization_penalty", -1), ("blackout_period", 10)],
)
def test_wrong_option(option, value):
    with Fleet([1]) as fleet, pytest.raises(ConfigError, match=f"policy '{POLICY}': {option}: "):
        fleet.build(POLICY, **{option: value})


def test_reports_in_answers_are_read_unless_they_come_out_of_band():
    with Fleet([1, 1]) as fleet:
        assert fleet.build("client_side_weighted_round_robin").reads_reports
        assert not fleet.build("client_side_weighted_round_robin", oob={}).reads_reports


@pytest.mark.parametrize(
    ("policy", "period"),
    [
        ({"type": "client_side_weighted_round_robin"}, None),
        ({"type": "client_side_weighted_round_robin", "oob": {}}, 10 * S),
        ({"type": "client_side_weighted_round_robin", "oob": {"period": "1500ms"}}, 3 * S // 2),
        ({"type": "least_request"}, None),
    ],
)
def test_how_often_endpoints_are_to_report(policy, period):
    assert policy_checks.report_period(PolicyConfig.model_validate(policy)) == period
