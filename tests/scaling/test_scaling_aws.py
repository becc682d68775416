"""The rules `target_tracking` and `step` by the examples of AWS' documentation.

- EC2 Auto Scaling user guide, "Step and simple scaling policies": adjustment types, rounding, and the group of 10 that
  grows by 10 and 30 percent.
- Application Auto Scaling API reference, StepScalingPolicyConfiguration: Cooldown, MinAdjustmentMagnitude.
- EC2 API reference, StepAdjustment: which bound belongs to a step.
- Application Auto Scaling user guide, "Target tracking scaling policies".
"""

from __future__ import annotations

from typing import Any

import pytest
from looks import MINUTE, SECOND, START, Pool

from lb.config.schema.file import AlarmConfig, StepScalingConfig, TargetTrackingConfig
from lb.scaling.cooldown import Cooldown
from lb.scaling.propose import Reading
from lb.scaling.rules.step import Step, adjusted, adjustment_of
from lb.scaling.rules.target_tracking import TargetTracking
from lb.scaling.scaler import Look


def alarm(steps: Any, threshold: float = 50, comparison: str = "above", **more: Any) -> AlarmConfig:
    return AlarmConfig.model_validate(
        {"type": "cpu", "threshold": threshold, "comparison": comparison, "steps": steps, **more}
    )


class TestAdjustments:
    @pytest.mark.parametrize(
        ("kind", "replicas", "adjustment", "after"),
        [
            ("change_in_capacity", 3, 5, 8),  # "the current capacity is 3 and the adjustment is 5 …: a total of 8"
            ("exact_capacity", 3, 5, 5),
            ("percent_change_in_capacity", 10, 10, 11),
            # "greater than 1 are rounded down, between 0 and 1 to 1, between 0 and -1 to -1, less than -1 up"
            ("percent_change_in_capacity", 127, 10, 139),  # 12.7
            ("percent_change_in_capacity", 6, 10, 7),  # 0.6
            ("percent_change_in_capacity", 6, -10, 5),  # -0.6
            ("percent_change_in_capacity", 66, -10, 60),  # -6.6
            ("percent_change_in_capacity", 11, 30, 14),  # "add 30 percent of 11, 3.3, rounded down to 3"
            ("percent_change_in_capacity", 14, -10, 13),  # "remove 10 percent of 14, 1.4, rounded down to 1"
            ("percent_change_in_capacity", 13, -30, 10),  # "remove 30 percent of 13, 3.9, rounded down to 3"
            ("percent_change_in_capacity", 10, 0, 10),
            ("change_in_capacity", 3, -5, 0),
        ],
    )
    def test_types_and_rounding(self, kind: str, replicas: int, adjustment: int, after: int) -> None:
        assert adjusted(alarm([{"adjustment": 1}], adjustment_type=kind), replicas, adjustment) == after

    def test_the_least_magnitude(self) -> None:
        # "25 percent of 4 is 1. However, because you specified a MinAdjustmentMagnitude of 2, … scales out by 2"
        config = alarm([{"adjustment": 25}], adjustment_type="percent_change_in_capacity", min_adjustment_magnitude=2)
        assert adjusted(config, 4, 25) == 6
        assert adjusted(config, 4, -25) == 2

    @pytest.mark.parametrize(
        ("value", "adjustment"),
        [(49.9, 0), (50, 1), (59.9, 1), (60, 2), (1000, 2)],
    )
    def test_above_a_threshold_the_lower_bound_belongs_to_a_step(self, value: float, adjustment: int) -> None:
        # "greater than or equal to 50 and less than 60: a lower bound of 0 and an upper bound of 10"
        steps = [{"lower_bound": 0, "upper_bound": 10, "adjustment": 1}, {"lower_bound": 10, "adjustment": 2}]
        assert adjustment_of(alarm(steps), value) == adjustment

    @pytest.mark.parametrize(
        ("value", "adjustment"),
        [(50.1, 0), (50, -1), (40.1, -1), (40, -2), (0, -2)],
    )
    def test_below_a_threshold_the_upper_bound_does(self, value: float, adjustment: int) -> None:
        # "greater than 40 and less than or equal to 50: a lower bound of -10 and an upper bound of 0"
        steps = [{"lower_bound": -10, "upper_bound": 0, "adjustment": -1}, {"upper_bound": -10, "adjustment": -2}]
        assert adjustment_of(alarm(steps, comparison="below"), value) == adjustment


class TestStep:
    def test_the_example_of_the_documentation_is_the_default(self) -> None:
        # 10 instances; 60 percent: 11; 70 percent: 14; 40 percent: 13; 30 percent: 10
        pool = Pool(Step(StepScalingConfig(cooldown=0)), 10, 1, 100)

        def two_minutes(percent: float) -> int:
            for _ in range(120):
                pool.second(percent / 100 * pool.wanted)
            return pool.wanted

        assert two_minutes(50) == 10
        assert two_minutes(60) == 11
        assert pool.run(60, 0.7 * 11) == 14
        pool.run(60, 0.5 * 14)  # ends the alarm
        assert two_minutes(40) == 13
        assert pool.run(60, 0.3 * 13) == 10

    def test_a_larger_alarm_in_the_cooldown_adds_the_difference(self) -> None:
        # "to increase the capacity by 2 … again during the cooldown period but at a more aggressive step adjustment
        # of 3, the previous increase of 2 is considered part of the current capacity. Therefore, only 1 is added"
        steps = [{"upper_bound": 10, "adjustment": 2}, {"lower_bound": 10, "adjustment": 3}]
        rule = Step(StepScalingConfig(alarms=[alarm(steps, evaluation_periods=1)]))
        pool = Pool(rule, 4, 1, 100)
        assert pool.run(60, 0.55 * 4) == 6
        assert pool.run(60, 0.55 * 6) == 6
        assert pool.run(60, 0.65 * 6) == 7
        pool.run(240, 0.3 * 7)
        assert pool.run(60, 0.55 * 7) == 9  # the cooldown is over

    def test_nothing_is_removed_in_a_cooldown_and_adding_ends_one(self) -> None:
        alarms = [
            alarm([{"adjustment": 1}], 70, evaluation_periods=1),
            alarm([{"adjustment": -1}], 30, "below", evaluation_periods=1),
        ]
        pool = Pool(Step(StepScalingConfig(alarms=alarms)), 5, 1, 100)
        assert pool.run(60, 0.0) == 4
        assert pool.run(240, 0.0) == 4
        assert pool.run(60, 0.0) == 3
        assert pool.run(60, 9.0) == 4  # at once
        assert pool.run(240, 0.0) == 4
        assert pool.run(60, 0.0) == 3

    def test_seventy_and_thirty_percent(self) -> None:
        alarms = [alarm([{"adjustment": 1}], 70), alarm([{"adjustment": -1}], 30, "below")]
        pool = Pool(Step(StepScalingConfig(alarms=alarms, period=10 * SECOND, cooldown=10 * SECOND)), 1, 1, 8)
        pool.run(300, 3.0)
        assert pool.wanted == 5  # 60 percent each
        pool.run(600, 0.2)
        assert pool.wanted == 1

    def test_a_missing_point_keeps_an_alarm_off(self) -> None:
        pool = Pool(Step(StepScalingConfig()), 4, 1, 100)
        pool.run(60, 4.0)
        pool.run(60, None)
        assert pool.run(60, 4.0) == 4
        assert pool.run(60, 4.0) == 5


class TestTargetTracking:
    def test_out_in_proportion_after_three_points(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig()), 4, 1, 100)
        assert pool.run(120, 4.0) == 4
        assert pool.run(60, 4.0) == 8  # 100 percent, target 50

    def test_rounded_up(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig()), 3, 1, 100)
        assert pool.run(180, 0.51 * 3) == 4

    def test_in_after_fifteen_points_a_tenth_below_the_target(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig()), 8, 1, 100)
        assert pool.run(20 * 60, 0.46 * 8) == 8  # less than ten percent below
        pool = Pool(TargetTracking(TargetTrackingConfig()), 8, 1, 100)
        assert pool.run(14 * 60, 0.25 * 8) == 8
        assert pool.run(60, 0.25 * 8) == 4

    def test_one_point_that_is_not_low_begins_anew(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig()), 8, 1, 100)
        pool.run(14 * 60, 0.25 * 8)
        pool.run(60, 0.5 * 8)
        assert pool.run(14 * 60, 0.25 * 8) == 8
        assert pool.run(60, 0.25 * 8) == 4

    def test_what_was_added_counts_in_the_cooldown(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig(scale_out_cooldown=10 * MINUTE)), 4, 1, 100)
        pool.run(180, 4.0)
        assert pool.wanted == 8
        assert pool.run(60, 6.0) == 8  # 75 percent of 4 asks for 6
        assert pool.run(60, 12.0) == 12  # 150 percent of 4

    def test_of_several_metrics_the_largest_counts_and_all_agree_on_less(self) -> None:
        settings = TargetTrackingConfig.model_validate(
            {"metrics": [{"type": "cpu", "target": 50}, {"type": "in_flight", "target": 4}]}
        )

        def see(rule: TargetTracking, at: int, cpu: float, in_flight: float | None) -> int:
            readings = {"cpu": Reading((cpu,) * 8)}
            if in_flight is not None:
                readings["in_flight"] = Reading((in_flight,) * 8)
            rule.see(Look(at, 8, 8, 1, 100, readings=readings))
            return rule.decide(at).replicas

        for in_flight, wanted in ((1.0, 4), (4.0, 8), (None, 8)):
            rule = TargetTracking(settings)
            for minute in range(14):
                assert see(rule, START + minute * MINUTE, 25, in_flight) == 8
            assert see(rule, START + 14 * MINUTE, 25, in_flight) == wanted
        rule = TargetTracking(settings)
        assert [see(rule, START + i * MINUTE, 100, 12) for i in range(3)] == [8, 8, 24]

    def test_scale_in_can_be_disabled(self) -> None:
        pool = Pool(TargetTracking(TargetTrackingConfig(disable_scale_in=True)), 8, 1, 100)
        assert pool.run(3600, 0.0) == 8


class TestCooldown:
    def test_the_base_stays_until_it_is_over(self) -> None:
        cooldown = Cooldown(60 * SECOND, 60 * SECOND)
        cooldown.changed(4, 6, START)
        assert cooldown.base(6, START + 59 * SECOND) == 4
        assert cooldown.base(6, START + 60 * SECOND) == 6

    def test_a_pool_that_shrank_counts_from_what_it_has(self) -> None:
        cooldown = Cooldown(60 * SECOND, 0)
        cooldown.changed(4, 6, START)
        assert cooldown.base(3, START) == 3
