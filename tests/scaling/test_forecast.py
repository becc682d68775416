"""Forecasts: what each method is made for, the combination, and what is kept."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.scaling.forecast.combined import BIN, DAY_BINS, LoadForecast
from lb.scaling.forecast.methods import Harmonics, Persistence, SeasonalNaive, Smoothing

MINUTE_S = BIN / 1e9


def test_persistence_repeats_the_last_bin() -> None:
    method = Persistence()
    assert method.expect(1) is None
    method.learn(3.0)
    assert method.expect(1) == method.expect(9) == 3.0


def test_seasonal_naive_repeats_a_season_at_the_level_of_now() -> None:
    method = SeasonalNaive(period=24, recent=3)
    season = [10.0 + 5 * math.sin(2 * math.pi * i / 24) for i in range(24)]
    for i in range(60):
        method.learn(season[i % 24] * (2 if i >= 48 else 1))
    assert method.expect(1) == pytest.approx(2 * season[60 % 24], rel=1e-5)
    assert method.expect(12) == pytest.approx(2 * season[71 % 24], rel=1e-5)
    assert method.expect(25) is None


def test_smoothing_follows_a_trend() -> None:
    method = Smoothing(0.6, 0.2, 1.0)
    for i in range(100):
        method.learn(5.0 * i)
    assert method.expect(4) == pytest.approx(5.0 * 103, rel=0.01)


def test_harmonics_find_a_season_and_let_deviations_fade() -> None:
    method = Harmonics(period=96, harmonics=2, forget=1.0)

    def season(i: int) -> float:
        return 100 + 40 * math.sin(2 * math.pi * i / 96) + 10 * math.cos(4 * math.pi * i / 96)

    for i in range(400):
        method.learn(season(i))
    assert method.expect(12) == pytest.approx(season(411), rel=0.01)


def test_harmonics_stay_finite_when_nothing_happens() -> None:
    method = Harmonics(period=50, harmonics=4, forget=0.9)
    for _ in range(5000):
        method.learn(0.0)
    for _ in range(50):
        method.learn(7.0)
    assert math.isfinite(method.expect(1) or 0.0)


def run(forecast: LoadForecast, minutes: int, rate: object, begin: int = 0, ahead: float = 600.0) -> None:
    for i in range(begin, begin + minutes):
        value = rate(i)  # type: ignore[operator]
        forecast.see((i + 1) * MINUTE_S, MINUTE_S, value * MINUTE_S, ahead)


def daily(i: int) -> float:
    return 100 + 80 * math.sin(2 * math.pi * i / DAY_BINS)


def test_a_season_is_forecast_better_than_by_persistence_and_used() -> None:
    forecast = LoadForecast()
    run(forecast, 3 * DAY_BINS + 300, daily)
    found = forecast.forecast()
    assert found is not None
    assert found.used
    assert found.ahead == 10
    # The bin that has not ended is the last one seen.
    assert found.expected == pytest.approx(daily(3 * DAY_BINS + 298 + 10), rel=0.03)
    assert found.quantile >= found.expected
    learned = forecast.learned()
    assert learned["error"] < learned["error_of_persistence"]


def test_forecasts_of_noise_are_not_used() -> None:
    """Of a random walk nothing is known but where it is."""
    random_ = random.Random(1)
    level = [1000.0]
    for _ in range(3 * DAY_BINS):
        level.append(max(1.0, level[-1] + random_.gauss(0, 20)))
    forecast = LoadForecast()
    run(forecast, 3 * DAY_BINS, lambda i: level[i], ahead=60.0)
    found = forecast.forecast()
    assert found is not None
    assert not found.used


def test_forecasts_stop_being_used_when_the_season_is_over() -> None:
    forecast = LoadForecast()
    run(forecast, 3 * DAY_BINS, daily)
    assert forecast.learned()["used"]
    random_ = random.Random(2)
    level = [100.0]
    for _ in range(3 * DAY_BINS):
        level.append(max(1.0, level[-1] * math.exp(random_.gauss(0, 0.2))))
    run(forecast, 2 * DAY_BINS, lambda i: level[i - 3 * DAY_BINS], begin=3 * DAY_BINS)
    assert not forecast.learned()["used"]


def test_what_is_kept_gives_the_same_forecast_in_another_process() -> None:
    forecast = LoadForecast()
    run(forecast, 2 * DAY_BINS, daily)
    again = LoadForecast()
    again.restore(forecast.memory())
    for one in (forecast, again):
        run(one, 30, daily, begin=2 * DAY_BINS)
    before, after = forecast.forecast(), again.forecast()
    assert before is not None
    assert after is not None
    assert after.expected == pytest.approx(before.expected, rel=0.01)
    assert len(forecast.memory()) < 200_000


def test_time_that_nobody_saw_is_not_a_time_without_requests() -> None:
    forecast = LoadForecast()
    run(forecast, DAY_BINS, lambda _: 50.0)
    run(forecast, 5, lambda _: 50.0, begin=DAY_BINS + 120)
    found = forecast.forecast()
    assert found is not None
    assert found.expected == pytest.approx(50.0)


@pytest.mark.parametrize("memory", [b"x", b"\x93\x01", b"\x93\x02\x00\xc4\x00", b"\x93\x01\x00\xc4\x03abc"])
def test_other_bytes_are_refused(memory: bytes) -> None:
    with pytest.raises(ValueError, match="no history of a forecast"):
        LoadForecast().restore(memory)


@given(st.lists(st.floats(0, 1e6), max_size=200), st.floats(1, 600))
@settings(deadline=None)
def test_a_forecast_is_a_finite_rate_whatever_came(rates: list[float], ahead: float) -> None:
    forecast = LoadForecast()
    run(forecast, len(rates), lambda i: rates[i], ahead=ahead)
    found = forecast.forecast()
    if found is not None:
        assert math.isfinite(found.expected)
        assert found.expected >= 0
        assert found.quantile >= found.expected
