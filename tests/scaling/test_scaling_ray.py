"""The published vectors of Ray Serve's policy: ray-project/ray, python/ray/serve/tests/unit/test_autoscaling_policy.py
and the documentation's "Ray Serve Autoscaling"."""

from __future__ import annotations

from typing import Any

import pytest
from looks import SECOND, START, Pool, of, traffic

from lb.config.schema.file import RayConfig
from lb.scaling.rules.ray import Ray
from lb.scaling.scaler import Look


def ray(**settings: Any) -> Ray:
    return Ray(RayConfig.model_validate(settings))


def now(**settings: Any) -> Ray:
    return ray(upscale_delay=0, downscale_delay=0, **settings)


@pytest.mark.parametrize(
    ("ongoing", "ready", "settings", "wanted"),
    [
        # total ongoing / target, as the formula in the documentation has it
        (20, 10, {"target_ongoing_requests": 1}, 20),
        (5, 10, {"target_ongoing_requests": 1}, 5),
        (10, 10, {"target_ongoing_requests": 1}, 10),
        (0, 10, {"target_ongoing_requests": 1}, 0),
        (7, 1, {}, 4),  # rounded up
        # test_scaling_factor_scale_up, _scale_down: the way there is made shorter
        (20, 10, {"target_ongoing_requests": 1, "upscaling_factor": 0.5}, 15),
        (5, 10, {"target_ongoing_requests": 1, "downscaling_factor": 0.5}, 8),
        (20, 10, {"target_ongoing_requests": 1, "downscaling_factor": 0.5}, 20),
        # a small factor that would be stuck at 2 goes down by one
        (1, 2, {"target_ongoing_requests": 1, "downscaling_factor": 0.3}, 1),
    ],
)
def test_desired(ongoing: float, ready: int, settings: Any, wanted: int) -> None:
    assert ray(**settings).desired(ongoing, ready, ready) == wanted


@pytest.mark.parametrize(("factor", "wanted"), [(1, 1), (10, 10), (0.5, 1)])
def test_from_zero_it_goes_up_at_once_by_the_factor(factor: float, wanted: int) -> None:
    rule = ray(upscaling_factor=factor)  # test_scaling_factor_scale_up_from_0_replicas
    assert of(rule, Look(START, 0, 0, 0, 20, traffic=traffic(0.0, 1.0))).replicas == wanted
    assert of(ray(), Look(START, 0, 0, 0, 20, traffic=traffic(0.0))).replicas == 0


def test_each_delay_has_to_pass_without_a_break() -> None:
    # test_upscale_downscale_delay, with a look a second: 30 s up, 600 s down, one more for the last replica.
    pool = Pool(ray(target_ongoing_requests=1, look_back_period="1s"), 1, 0, 2)
    assert pool.run(30, 100.0) == 1
    assert pool.run(1, 100.0) == 2
    assert pool.run(600, 0.0) == 2
    assert pool.run(1, 0.0) == 1  # never from 2 to 0
    assert pool.run(600, 0.0) == 1
    assert pool.run(1, 0.0) == 0


def test_a_break_begins_the_delay_anew() -> None:
    pool = Pool(ray(target_ongoing_requests=1, look_back_period="1s"), 1, 1, 2)
    pool.run(15, 100.0)
    pool.run(1, 1.0)
    assert pool.run(30, 100.0) == 1
    assert pool.run(1, 100.0) == 2


def test_the_last_replica_has_a_delay_of_its_own() -> None:
    pool = Pool(ray(look_back_period="1s", downscale_to_zero_delay="10s"), 1, 0, 2)
    assert pool.run(10, 0.0) == 1
    assert pool.run(1, 0.0) == 0


def test_requests_are_averaged_over_the_look_back_period() -> None:
    pool = Pool(now(target_ongoing_requests=1, look_back_period="4s"), 2, 1, 100)
    pool.run(4, 2.0)
    pool.second(10.0)  # (2 + 2 + 2 + 10) / 4
    assert pool.wanted == 4


def test_a_missing_measure_begins_the_delay_anew() -> None:
    pool = Pool(ray(look_back_period="1s"), 1, 1, 9)
    pool.run(25, 100.0)
    pool.run(1, None)
    assert pool.run(30, 100.0) == 1
    assert pool.now == START + 56 * SECOND
    assert pool.run(1, 100.0) == 9
