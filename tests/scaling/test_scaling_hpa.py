"""The published examples of the Kubernetes HPA documentation, and what must hold for every input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property import examples

from lb.config.schema.file import BehaviorConfig, MetricConfig, ScalingConfig, StepConfig
from lb.scaling.propose import Reading, propose
from lb.scaling.rules.hpa import Observation, Outcome, Sample, ScalerState, decide

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
FREE = {"window": 0, "policies": [{"type": "percent", "value": 100_000, "period": "1s"}]}


def scaling(target: float = 100, metric: str = "cpu", **more: Any) -> ScalingConfig:
    return ScalingConfig(metrics=[{"type": metric, "target": target}], **more)


def observe(replicas: int, average: float, metric: str = "cpu", low: int = 1, high: int = 1000) -> Observation:
    return Observation(replicas, low, high, {metric: Reading((float(average),) * replicas)})


def once(replicas: int, average: float, config: ScalingConfig, **limits: int) -> Outcome:
    return decide(ScalerState(), observe(replicas, average, **limits), config, now=MINUTE)


def simulate(replicas: int, average: float, config: ScalingConfig, *, step: int, count: int, low: int = 1) -> list[int]:
    """The replicas after each decision while every replica keeps showing `average`."""
    state, seen = ScalerState(), []
    for i in range(count):
        decision = decide(state, observe(replicas, average, low=low, high=10_000), config, MINUTE + i * step)
        state, replicas = decision.state, decision.replicas
        seen.append(replicas)
    return seen


class TestFormula:
    """desiredReplicas = ceil(currentReplicas * currentMetricValue / desiredMetricValue)"""

    @pytest.mark.parametrize(
        ("replicas", "value", "desired"),
        [
            (3, 200, 6),  # "if the current metric value is 200m and the desired value is 100m, replicas are doubled"
            (4, 50, 2),  # "if the current value is instead 50m, replicas are halved"
            (10, 110, 10),  # within the tolerance of 0.1, both ends included
            (10, 90, 10),
            (10, 111, 12),
            (10, 89, 9),
            (1, 130, 2),  # rounded up
            (3, 30, 1),
            (7, 0, 1),
        ],
    )
    def test_ratio(self, replicas: int, value: float, desired: int) -> None:
        config = scaling(up=FREE, down=FREE)
        assert once(replicas, value, config).replicas == desired

    def test_a_whole_number_is_not_rounded_up_by_float_noise(self) -> None:
        reading = Reading((0.1,) * 30)  # adds up to 3.0000000000000013 when summed naively
        assert propose(MetricConfig(type="cpu", target=0.05), 30, reading, 0.1).replicas == 60

    def test_a_tolerance_of_zero_reacts_to_everything(self) -> None:
        assert once(100, 101, scaling(tolerance=0.0, up=FREE)).replicas == 101

    def test_the_largest_of_several_metrics_counts(self) -> None:
        config = ScalingConfig(
            metrics=[{"type": "cpu", "target": 50}, {"type": "in_flight", "target": 2}], up=FREE, down=FREE
        )
        readings = {"cpu": Reading((10.0, 10.0)), "in_flight": Reading((6.0, 6.0))}
        decision = decide(ScalerState(), Observation(2, 1, 100, readings), config, MINUTE)
        assert decision.replicas == 6
        assert [(p.metric, p.replicas) for p in decision.proposals] == [("cpu", 1), ("in_flight", 6)]


class TestMissing:
    config = ScalingConfig(
        metrics=[{"type": "cpu", "target": 50}, {"type": "in_flight", "target": 2}], up=FREE, down=FREE
    )

    @pytest.mark.parametrize(("in_flight", "expected"), [(0.5, 4), (2.0, 4), (4.0, 8)])
    def test_a_missing_metric_blocks_scale_down_only(self, in_flight: float, expected: int) -> None:
        decision = decide(
            ScalerState(), Observation(4, 1, 100, {"in_flight": Reading((in_flight,) * 4)}), self.config, MINUTE
        )
        assert decision.replicas == expected
        if in_flight < 2:
            assert "not reduced: cpu is missing" in decision.reason

    def test_no_metric_at_all_changes_nothing(self) -> None:
        decision = decide(ScalerState(), Observation(4, 1, 100, {"cpu": Reading(unready=4)}), self.config, MINUTE)
        assert decision.replicas == 4
        assert decision.reason == "cpu is missing; in_flight is missing"

    @pytest.mark.parametrize(
        ("reading", "current", "expected"),
        [
            (Reading((300.0,) * 2, unready=2), 4, 6),  # 600 over 4: ratio 1.5
            (Reading((200.0,) * 2, unready=2), 4, 4),  # the unready make it 1.0: tolerated
            (Reading((150.0,) * 2, unready=2), 4, 4),  # they would turn it around: no action
            (Reading((50.0,) * 2, unready=2), 4, 1),  # going down they do not count
            (Reading((50.0,) * 3, missing=1), 4, 3),  # the missing are assumed at their target
            (Reading((100.0,) * 2, missing=2), 4, 4),
            (Reading((400.0,) * 3, missing=1), 4, 12),  # and idle on the way up
            (Reading((130.0,) * 3, missing=1), 4, 4),  # 0.975 with the missing: turned around
        ],
    )
    def test_replicas_without_a_value_damp(self, reading: Reading, current: int, expected: int) -> None:
        assert propose(MetricConfig(type="cpu", target=100), current, reading, 0.1).replicas == expected

    def test_a_rising_metric_never_asks_for_fewer(self) -> None:
        assert propose(MetricConfig(type="cpu", target=100), 10, Reading((120.0,) * 4), 0.1).replicas == 10


class TestSteps:
    """The examples of "Configurable scaling behavior"."""

    def test_default_scale_up_is_the_larger_of_doubling_and_four(self) -> None:
        # 100 % or 4 pods every 15 s, whichever is higher
        assert simulate(1, 100_000, scaling(), step=15 * SECOND, count=5) == [5, 10, 20, 40, 80]

    def test_default_scale_up_counts_what_was_added_in_the_period(self) -> None:
        assert simulate(10, 100_000, scaling(), step=5 * SECOND, count=5) == [20, 20, 20, 40, 40]

    def test_scale_down_of_80_by_ten_percent_or_four_a_minute(self) -> None:
        # "80 replicas: the first step removes 8; 72: 7.2 rounded up to 8; ... below 40 the policy of 4 pods applies"
        down = BehaviorConfig(
            policies=[
                StepConfig(type="replicas", value=4, period="60s"),
                StepConfig(type="percent", value=10, period="60s"),
            ]
        )
        seen = simulate(80, 0, scaling(down=down), step=MINUTE, count=40)
        assert seen[:7] == [72, 64, 57, 51, 45, 40, 36]
        assert seen[7:] == [*range(32, 0, -4), *[1] * 25]

    def test_limit_to_five_a_minute(self) -> None:
        # "to ensure that no more than 5 Pods are removed per minute": selectPolicy Min of 10 % and 5 pods
        down = BehaviorConfig(
            policies=[
                StepConfig(type="percent", value=10, period="60s"),
                StepConfig(type="replicas", value=5, period="60s"),
            ],
            select="min",
        )
        seen = simulate(80, 0, scaling(down=down), step=MINUTE, count=8)
        assert seen == [75, 70, 65, 60, 55, 50, 45, 40]

    def test_hundred_percent_down_removes_all_at_once(self) -> None:
        down = BehaviorConfig(policies=[StepConfig(type="percent", value=100, period="15s")])
        assert simulate(80, 0, scaling(down=down), step=15 * SECOND, count=1, low=2) == [2]

    def test_disabled_never_scales_down(self) -> None:
        config = scaling(down=BehaviorConfig(select="disabled"))
        decision = once(80, 0, config)
        assert decision.replicas == 80
        assert "scale-down is disabled" in decision.reason
        assert once(2, 200, config).replicas == 4

    def test_disabled_never_scales_up(self) -> None:
        assert once(2, 200, scaling(up=BehaviorConfig(select="disabled"))).replicas == 2

    def test_changes_of_both_directions_in_a_period_add_up(self) -> None:
        up = BehaviorConfig(policies=[StepConfig(type="replicas", value=4, period="60s")])
        state = ScalerState((Sample(0, 1),), (Sample(MINUTE - 1, 3), Sample(MINUTE - 1, -2)))
        decision = decide(state, observe(11, 1000), scaling(up=up), MINUTE)
        assert decision.replicas == 14  # the period began with 10


class TestWindows:
    def test_scale_down_waits_the_default_five_minutes(self) -> None:
        seen = simulate(10, 0, scaling(), step=15 * SECOND, count=22)
        assert seen[:20] == [10] * 20
        assert seen[20] == 1

    def test_the_highest_recommendation_of_the_window_holds(self) -> None:
        config = scaling(down=BehaviorConfig(window="60s"))
        state, replicas, seen = ScalerState(), 10, []
        for i, value in enumerate([100, 60, 40, 60, 40, 40, 40, 40, 40]):
            decision = decide(state, observe(replicas, value * 10 / replicas), config, (10 + i * 15) * SECOND)
            state, replicas = decision.state, decision.replicas
            seen.append(replicas)
        assert seen == [10, 10, 10, 10, 6, 6, 6, 4, 4]

    def test_the_lowest_recommendation_of_the_up_window_holds(self) -> None:
        config = scaling(up={"window": "30s", "policies": FREE["policies"]})
        assert simulate(2, 200, config, step=15 * SECOND, count=3)[:2] == [2, 2]
        assert simulate(2, 200, config, step=15 * SECOND, count=3)[2] == 4

    def test_a_flapping_metric_does_not_flap_the_replicas(self) -> None:
        state, replicas, seen = ScalerState(), 4, set()
        for i in range(40):
            total = 800 if i % 2 else 200
            decision = decide(state, observe(replicas, total / replicas), scaling(), i * 15 * SECOND)
            state, replicas = decision.state, decision.replicas
            seen.add(replicas)
        assert seen == {4, 8}

    def test_history_is_bounded(self) -> None:
        state, replicas = ScalerState(), 5
        for i in range(1000):
            decision = decide(state, observe(replicas, (i * 37) % 300), scaling(), i * 15 * SECOND)
            state, replicas = decision.state, decision.replicas
            assert len(state.recommendations) <= 21
            assert len(state.changes) <= 2


class TestLimits:
    def test_clamps_to_max_and_min_and_says_so(self) -> None:
        up = once(4, 1000, scaling(up=FREE), high=6)
        assert (up.replicas, up.recommended) == (6, 40)
        assert up.reason.endswith("limited by max to 6")
        down = once(4, 1, scaling(down=FREE), low=3)
        assert (down.replicas, down.recommended) == (3, 1)
        assert down.reason.endswith("limited by min to 3")

    @pytest.mark.parametrize(("replicas", "expected"), [(9, 6), (1, 3)])
    def test_limits_changed_by_the_operator_hold_at_once(self, replicas: int, expected: int) -> None:
        decision = once(replicas, 100, scaling(), low=3, high=6)
        assert decision.replicas == expected
        assert "outside the limits 3 to 6" in decision.reason


def behaviors() -> st.SearchStrategy[BehaviorConfig]:
    steps = st.builds(
        StepConfig,
        type=st.sampled_from(["percent", "replicas"]),
        value=st.integers(1, 200),
        period=st.integers(1, 120).map(lambda s: s * SECOND),
    )
    return st.builds(
        BehaviorConfig,
        window=st.integers(0, 120).map(lambda s: s * SECOND),
        policies=st.lists(steps, min_size=1, max_size=3),
        select=st.sampled_from(["max", "min", "disabled"]),
    )


configs = st.builds(
    lambda up, down, tolerance: scaling(up=up, down=down, tolerance=tolerance),
    behaviors(),
    behaviors(),
    st.sampled_from([0.0, 0.1, 0.5]),
)
loads = st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25)


def reading(load: float, missing: int, unready: int, replicas: int) -> Reading:
    ready = max(1, replicas - missing - unready)
    return Reading((load / ready,) * ready, missing, unready)


@pytest.mark.slow
@examples(150)
@given(configs, loads, st.integers(1, 5), st.integers(0, 40))
def test_every_step_keeps_limits_and_windows(config: ScalingConfig, load: Any, low: int, span: int) -> None:
    high, replicas, state = low + span, low, ScalerState()
    advised: list[Sample] = []
    for i, (total, missing, unready) in enumerate(load):
        now = i * 15 * SECOND
        seen = Observation(replicas, low, high, {"cpu": reading(total, missing, unready, replicas)})
        decision = decide(state, seen, config, now)
        advised.append(Sample(now, decision.recommended))
        assert low <= decision.replicas <= high
        if decision.replicas > replicas:
            assert config.up.select != "disabled"
            assert decision.replicas <= min(a.value for a in advised if a.at > now - config.up.window or a.at == now)
        if decision.replicas < replicas:
            assert config.down.select != "disabled"
            assert decision.replicas >= max(a.value for a in advised if a.at > now - config.down.window or a.at == now)
        state, replicas = decision.state, decision.replicas


@pytest.mark.slow
@examples(150)
@given(configs, loads, st.floats(0, 5000), st.floats(0, 5000), st.integers(0, 5), st.integers(0, 5))
def test_more_load_never_gives_fewer(config: Any, load: Any, a: float, b: float, missing: int, unready: int) -> None:
    replicas, state = 3, ScalerState()
    for i, (total, m, u) in enumerate(load):
        observation = Observation(replicas, 1, 50, {"cpu": reading(total, m, u, replicas)})
        decision = decide(state, observation, config, i * 15 * SECOND)
        state, replicas = decision.state, decision.replicas
    less, more = (
        decide(
            state,
            Observation(replicas, 1, 50, {"cpu": reading(total, missing, unready, replicas)}),
            config,
            len(load) * 15 * SECOND,
        ).replicas
        for total in sorted((a, b))
    )
    assert less <= more


@given(configs, st.integers(1, 50), st.floats(0, 1000))
def test_decide_is_pure(config: ScalingConfig, replicas: int, value: float) -> None:
    state = ScalerState((Sample(0, 4),), (Sample(0, 1),))
    assert decide(state, observe(replicas, value), config, MINUTE) == decide(
        state, observe(replicas, value), config, MINUTE
    )
    assert state == ScalerState((Sample(0, 4),), (Sample(0, 1),))
