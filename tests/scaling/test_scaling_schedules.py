"""Schedules: when they are on, over changes of the clocks, and what they make of a pool's limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from looks import SECOND, START, of, traffic
from property import examples
from scaling_contract import ScalerContract

from lb.config.schema.file import ScalingConfig, ScheduleConfig
from lb.scaling import registry
from lb.scaling.scaler import Look, Scaler
from lb.scaling.schedules import Schedule, Scheduled

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600


def schedule(**fields: Any) -> Schedule:
    return Schedule(ScheduleConfig.model_validate({"min": 1, **fields}))


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "on"),
    [
        ("2026-11-30 07:59:59", False),  # a Monday
        ("2026-11-30 08:00:00", True),
        ("2026-11-30 17:59:59", True),
        ("2026-11-30 18:00:00", False),
        ("2026-12-04 12:00", True),
        ("2026-12-05 12:00", False),  # a Saturday
    ],
)
def test_working_hours(moment: str, on: bool) -> None:
    hours = {"cron": "0 8 * * 1-5", "timezone": "Europe/Berlin", "duration": "10h"}
    assert schedule(**hours).is_on(at(moment)) is on


def test_over_midnight_and_over_itself() -> None:
    night = schedule(cron="0 22 * * *", timezone="Europe/Berlin", duration="8h")
    assert [night.is_on(at(f"2026-11-30 {h:02}:30")) for h in (21, 22, 23)] == [False, True, True]
    assert [night.is_on(at(f"2026-12-01 {h:02}:30")) for h in (0, 5, 6)] == [True, True, False]
    always = schedule(cron="0 * * * *", duration="2h")
    assert all(always.is_on(at("2026-12-01 00:00") + 600 * i) for i in range(100))


def test_the_hour_that_is_left_out() -> None:
    # Berlin, 2026-03-29: after 01:59 comes 03:00.
    early = schedule(cron="30 2 * * *", timezone="Europe/Berlin", duration="1h")
    assert early.is_on(at("2026-03-28 02:30"))
    assert not early.is_on(at("2026-03-29 01:59"))
    assert early.is_on(at("2026-03-29 03:00"))  # what would begin in it begins right after
    assert not early.is_on(at("2026-03-29 04:00"))
    assert early.is_on(at("2026-03-30 02:45"))


def test_the_hour_that_comes_twice() -> None:
    # Berlin, 2026-10-25: after 02:59 comes 02:00 again.
    early = schedule(cron="30 2 * * *", timezone="Europe/Berlin", duration="30m")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0).timestamp()
    second = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1).timestamp()
    assert second - first == HOUR
    assert early.is_on(first)
    assert not early.is_on(first + 1800)
    assert not early.is_on(second)  # it begins once


def test_a_day_of_the_change_has_its_hours() -> None:
    day = schedule(cron="0 0 * * *", timezone="Europe/Berlin", duration="23h")
    begin = at("2026-03-29 00:00")  # a day of 23 hours
    assert day.is_on(begin)
    assert day.is_on(begin + 22.9 * HOUR)
    assert day.is_on(begin + 23 * HOUR)  # the next day has begun
    assert datetime.fromtimestamp(begin + 23 * HOUR, BERLIN).hour == 0


@pytest.mark.parametrize(
    ("moment", "on"),
    [
        ("2026-12-23 23:59:59", False),
        ("2026-12-24 00:00", True),
        ("2026-12-26 23:59:59", True),  # a date alone is meant with all of its day
        ("2026-12-27 00:00", False),
    ],
)
def test_dates(moment: str, on: bool) -> None:
    holidays = {"from": "2026-12-24", "until": "2026-12-26", "timezone": "Europe/Berlin"}
    assert schedule(**holidays).is_on(at(moment)) is on


def test_dates_with_times_and_zones_of_their_own() -> None:
    sale = schedule(**{"from": "2026-11-27 18:00", "until": "2026-11-27T20:00:00+00:00", "timezone": "Europe/Berlin"})
    assert not sale.is_on(at("2026-11-27 17:59"))
    assert sale.is_on(at("2026-11-27 20:59"))
    assert not sale.is_on(at("2026-11-27 21:00"))


def test_a_cron_expression_between_dates() -> None:
    hours = {"cron": "0 8 * * *", "duration": "2h", "from": "2026-12-01", "until": "2026-12-02"}
    found = schedule(**hours, timezone="Europe/Berlin")
    days = ("2026-11-30", "2026-12-01", "2026-12-02", "2026-12-03")
    assert [found.is_on(at(f"{day} 09:00")) for day in days] == [False, True, True, False]


def test_open_ends() -> None:
    assert schedule(**{"from": "2026-12-01"}).is_on(at("2030-01-01", "UTC"))
    assert not schedule(**{"from": "2026-12-01"}).is_on(at("2026-11-30", "UTC"))
    assert schedule(until="2026-12-01").is_on(0.0)
    assert schedule(**{"from": "2026-12-01", "until": "9999-12-31"}).is_on(at("9000-01-01", "UTC"))  # for ever


def test_a_clock_that_is_set_back() -> None:
    hours = schedule(cron="0 8 * * *", duration="1h")
    assert not hours.is_on(at("2026-12-01 12:00", "UTC"))
    assert hours.is_on(at("2026-12-01 08:30", "UTC"))
    assert not hours.is_on(at("2026-12-01 07:30", "UTC"))


@examples(60)
@given(st.lists(st.integers(0, 400 * 24 * 60), min_size=1, max_size=8), st.sampled_from([1, 7, 24, 200]))
def test_what_is_remembered_changes_nothing(minutes: list[int], hours: int) -> None:
    fields = {"cron": "15 2,14 * * 1-5", "timezone": "Europe/Berlin", "duration": f"{hours}h"}
    remembers, base = schedule(**fields), at("2026-01-01", "UTC")
    for minute in minutes:
        moment = base + 60 * minute
        assert remembers.is_on(moment) == schedule(**fields).is_on(moment)


def scheduled(*schedules: dict[str, Any]) -> Scheduled:
    settings = ScalingConfig.model_validate(
        {"metrics": [{"type": "in_flight", "target": 2}], "schedules": list(schedules)}
    )
    rule = registry.build(settings)
    assert isinstance(rule, Scheduled)
    return rule


ALWAYS = {"from": "2020-01-01"}


@pytest.mark.parametrize(
    ("schedules", "wanted"),
    [
        ([{**ALWAYS, "min": 5}], 5),
        ([{**ALWAYS, "min": 5}, {**ALWAYS, "min": 7}], 7),  # the highest floor
        ([{**ALWAYS, "min": 50}], 10),  # never beyond the pool's own
        ([{**ALWAYS, "max": 1}], 1),
        ([{**ALWAYS, "max": 0}], 1),
        ([{**ALWAYS, "min": 6, "max": 8}, {**ALWAYS, "max": 4}], 6),  # floors before ceilings
        ([{"until": "2020-01-01", "min": 5}], 2),
    ],
)
def test_limits_of_schedules(schedules: list[dict[str, Any]], wanted: int) -> None:
    look = Look(START, 2, 2, 1, 10, at("2026-12-01", "UTC"), traffic(4.0))
    assert of(scheduled(*schedules), look).replicas == wanted


def test_replicas_are_started_ahead_of_a_floor() -> None:
    floor = {"cron": "0 8 * * *", "duration": "1h", "min": 4}
    early = at("2026-12-01 07:59:00", "UTC")
    look = Look(START, 2, 2, 1, 10, early, traffic(4.0), start_time=30 * SECOND)
    assert of(scheduled(floor), look).replicas == 2
    rule = scheduled(floor)
    assert of(rule, look, wall=early + 31).replicas == 4
    assert rule.floor == 4


def test_the_reason_names_the_schedule() -> None:
    look = Look(START, 2, 2, 1, 10, at("2026-12-01", "UTC"), traffic(4.0))
    rule = scheduled({**ALWAYS, "min": 5})
    assert "schedule from 2020-01-01 (UTC): min 5" in of(rule, look).reason
    assert rule.learned()["schedules"] == ["from 2020-01-01 (UTC): min 5"]
    assert rule.learned()["scheduled_limits"] == "5 to 10"


class TestScheduledRule(ScalerContract):
    NAME = "hpa"
    PER_REPLICA = 2.0

    def make(self) -> Scaler:
        return scheduled({"from": "1960-01-01", "until": "1970-02-01", "min": 1})
