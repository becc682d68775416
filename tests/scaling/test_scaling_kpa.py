"""The published vectors of Knative's autoscaler: knative/serving, pkg/autoscaler/scaling/autoscaler_test.go.

Its tests run with a target of 10 (or what they say), rates of change of 10, a panic threshold of 2 and a stable window
of 60 s. Its target burst capacity has no counterpart here.
"""

from __future__ import annotations

from typing import Any

import pytest
from looks import SECOND, START, traffic

from lb.config.schema.file import KpaConfig
from lb.scaling.rules.kpa import Kpa, target_of
from lb.scaling.scaler import Look
from lb.scaling.windows import Highest


def kpa(target: float = 10, **more: Any) -> Kpa:
    settings = {"target": target, "target_utilization_percentage": 100, "max_scale_up_rate": 10}
    return Kpa(KpaConfig.model_validate({**settings, "max_scale_down_rate": 10, **more}))


@pytest.mark.parametrize(
    ("target", "stable", "panic", "ready", "more", "wanted"),
    [
        (10, 50, 10, 1, {}, 5),  # StableModeIncreaseWithConcurrencyDefault
        (10, 100, 10, 1, {}, 10),
        (10, 0, 0, 1, {}, 0),  # NoDataAtZeroNoAutoscale
        (181, 21, 26, 1, {}, 1),  # StableModeUnlimitedTBC
        (10, 50, 49, 1, {}, 5),  # 0TBC
        (10, 50, 50, 5, {}, 5),  # StableModeNoChangeAlreadyScaled
        (1, 3, 3.1, 2, {"max_scale_up_rate": 1.1}, 3),  # StableModeIncreaseWithSmallScaleUpRate
        (10, 1, 1, 100, {"max_scale_down_rate": 1.1}, 90),  # StableModeDecreaseWithSmallScaleDownRate
        (10, 50, 100, 1, {}, 10),  # PanicModeDoublePodCount
        (10, 100, 100, 8, {}, 10),  # StableModeDecrease
        (10, 50, 50, 8, {}, 5),
        (10, 1, 0, 1, {}, 1),  # StableModeNoTrafficScaleToZero
        (10, 1000, 1001, 1, {}, 10),  # RateLimitScaleUp
        (10, 1000, 1001, 10, {}, 100),
        (10, 1, 1, 100, {}, 10),  # RateLimitScaleDown
        (10, 1, 1, 10, {}, 1),
        (10, 1000, 888, 0, {}, 10),  # UseOnePodAsMinimumIfEndpointsNotFound
    ],
)
def test_one_decision(target: float, stable: float, panic: float, ready: int, more: Any, wanted: int) -> None:
    assert kpa(target, **more).recommend(stable, panic, ready, START) == wanted


@pytest.mark.parametrize(("stable", "panic", "wanted"), [(50, 30, 50), (20, 30, 30)])
def test_in_a_panic_the_larger_window_counts(stable: float, panic: float, wanted: int) -> None:
    rule = kpa(1)  # PanicStableLargerThanPanic, PanicStableLessThanPanic
    rule.begin_panic(START - 5 * SECOND, 5)
    assert rule.recommend(stable, panic, 5, START) == wanted


def test_exponential_growth_is_followed() -> None:
    rule = kpa(1)  # PanicModeExponentialTrackAndStabilize
    for second, (load, ready) in enumerate([(6, 1), (36, 6), (216, 36), (1296, 216), (1296, 1296)]):
        assert rule.recommend(load, load, ready, START + second * SECOND) == load


def test_the_panic_ends_after_a_stable_window_and_the_pool_shrinks() -> None:
    rule = kpa(10)  # PanicThenUnPanicScaleDown
    assert rule.recommend(100, 100, 1, START) == 10
    assert rule.recommend(100, 1000, 10, START) == 100
    assert rule.recommend(1, 1, 10, START + 30 * SECOND) == 100
    assert rule.recommend(1, 1, 10, START + 61 * SECOND) == 1


def test_the_panic_ends_after_a_slow_increase() -> None:
    rule = kpa(1)  # UnpanicAfterSlowIncrease
    assert rule.recommend(11, 25, 10, START) == 25
    assert rule.recommend(30, 41, 40, START + 30 * SECOND) == 41
    assert rule.recommend(50, 56, 55, START + 62 * SECOND) == 50
    assert rule.learned()["panic"] is False


def test_the_panic_is_extended_while_the_load_surges() -> None:
    rule = kpa(1)  # ExtendPanicWindow
    assert rule.recommend(11, 25, 10, START) == 25
    assert rule.recommend(30, 80, 40, START + 30 * SECOND) == 80
    assert rule.recommend(1, 1, 80, START + 89 * SECOND) == 80


def test_a_start_with_several_replicas_is_a_panic() -> None:
    for ready in (0, 1, 2):  # TestStartInPanicMode
        rule = Kpa(KpaConfig())
        rule.see(Look(START, ready, ready, 0, 100, traffic=traffic(10)))
        assert rule.learned()["panic"] is (ready == 2)


def test_a_delay_of_scaling_down() -> None:
    minute = 60 * SECOND  # ScaleDownDelay, "simple" and "gradual"
    delayed = Highest(5 * minute)
    for at, value, held in [
        (2 * SECOND, 4, 4), (5 * minute, 0, 4), (5 * minute + 2 * SECOND, 0, 0), (9 * minute, 4, 4),
        (10 * minute, 3, 4), (11 * minute, 0, 4), (14 * minute, 0, 3), (15 * minute, 0, 0),
    ]:  # fmt: skip
        assert delayed.of(at, value) == held


@pytest.mark.parametrize(
    ("settings", "target"),
    [
        ({}, 70.0),  # container-concurrency-target-default 100, container-concurrency-target-percentage 70
        ({"container_concurrency": 1}, 0.7),
        ({"container_concurrency": 10, "target": 50}, 7.0),  # the smaller of the two
        ({"container_concurrency": 10, "target": 5, "target_utilization_percentage": 100}, 5.0),
        ({"metric": "rps"}, 140.0),  # requests-per-second-target-default 200
        ({"metric": "rps", "target": 10, "container_concurrency": 1}, 7.0),
        ({"target": 0.001, "target_utilization_percentage": 1}, 0.01),  # autoscaling.TargetMin
    ],
)
def test_the_target_of_one_replica(settings: Any, target: float) -> None:
    assert target_of(KpaConfig.model_validate(settings)) == pytest.approx(target)
