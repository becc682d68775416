"""When a pool goes to zero and when it wakes, over a stand-in for its model servers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from waiting import until

from lb.clock import ManualClock
from lb.control.servers.on_demand import OnDemand, Use

SECOND = 1_000_000_000


class Target:
    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.deaf = False  # as an engine that cannot be told

    def scale_to(self, n: int) -> None:
        if not self.deaf:
            self.wanted = n


class Demand:
    """A pool with an idle_timeout of 10 s, whose use the test sets."""

    def __init__(self, wanted: int = 0) -> None:
        self.clock = ManualClock()
        self.target = Target(wanted)
        self.use = Use()
        self.turns: list[bool] = []
        self.on_demand = OnDemand(
            "digits",
            self.target,
            10 * SECOND,
            use=lambda: self.use,
            turned=lambda: self.turns.append(self.on_demand.asleep),
            clock=self.clock,
        )

    def after(self, seconds: float, **use: Any) -> int:
        """A look after so many seconds: the number of model servers wanted then."""
        self.clock.advance(int(seconds * SECOND))
        self.use = Use(**use)
        self.on_demand.look()
        return self.target.wanted


def test_a_request_wakes_it_and_time_without_one_puts_it_to_sleep(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.scaling")
    pool = Demand()
    assert pool.after(100) == 0
    assert pool.turns == []
    pool.on_demand.wake()
    assert (pool.target.wanted, pool.on_demand.floor, pool.turns) == (1, 1, [False])
    assert pool.after(9) == 1
    assert pool.after(1) == 0
    assert (pool.on_demand.floor, pool.turns) == (0, [False, True])
    assert caplog.messages == [
        "pool digits: a request came, which wakes it",
        "pool digits: no request for 10s, it goes to zero",
    ]
    assert pool.on_demand.status()["wakes"] == 1


def test_a_further_request_that_waits_changes_no_number() -> None:
    pool = Demand()
    pool.on_demand.wake()
    pool.on_demand.scale_to(3)
    pool.on_demand.wake()
    assert pool.target.wanted == 3
    assert pool.turns == [False]


@pytest.mark.parametrize("use", [{"busy": 1}, {"waiting": 1}, {"kept": 1}])
def test_it_stays_awake_while_there_is_something_to_do(use: dict[str, int]) -> None:
    pool = Demand(1)
    for _ in range(5):
        assert pool.after(9, **use) == 1
        assert pool.after(9, **use) == 1
    assert pool.after(9.9) == 1
    assert pool.after(0.1) == 0


def test_requests_between_two_looks_keep_it_awake() -> None:
    pool = Demand(1)
    assert pool.after(6, begun={"a": 5}) == 1
    assert pool.after(6, begun={"a": 6}) == 1
    assert pool.after(6, begun={"a": 6}) == 1
    assert pool.after(6, begun={"a": 6}) == 0


def test_an_endpoint_that_leaves_or_joins_is_no_request() -> None:
    pool = Demand(3)
    pool.after(0, begun={"a": 5, "b": 9})
    assert pool.after(6, begun={"a": 5}) == 3
    assert pool.after(4, begun={"a": 5, "c": 0}) == 0


def test_all_stop_whatever_their_number() -> None:
    pool = Demand(5)
    assert pool.after(10) == 0


def test_requests_that_wait_unnoticed_wake_it() -> None:
    """As retries, which tell nobody."""
    pool = Demand()
    assert pool.after(1, waiting=2) == 1


def test_scaling_never_stops_the_last_but_may_start_the_first() -> None:
    pool = Demand(2)
    pool.on_demand.scale_to(0)
    assert pool.target.wanted == 1
    assert pool.after(10) == 0
    pool.on_demand.scale_to(0)
    assert (pool.target.wanted, pool.on_demand.asleep) == (0, True)
    pool.on_demand.scale_to(4)
    assert (pool.target.wanted, pool.on_demand.asleep, pool.turns) == (4, False, [True, False])


def test_it_follows_what_another_daemon_does() -> None:
    pool = Demand()
    pool.target.wanted = 3
    assert pool.after(100) == 3
    assert not pool.on_demand.asleep
    pool.target.wanted = 0
    assert pool.after(1) == 0
    assert (pool.on_demand.asleep, pool.on_demand.status()["wakes"]) == (True, 0)


def test_a_wake_that_was_not_taken_is_repeated_while_somebody_waits() -> None:
    pool = Demand()
    pool.target.deaf = True
    pool.on_demand.wake()
    assert pool.after(1, waiting=1) == 0
    pool.target.deaf = False
    assert pool.after(1, waiting=1) == 1
    assert pool.on_demand.status()["wakes"] == 1
    pool.target.wanted = 0
    assert pool.after(1) == 0
    assert pool.on_demand.asleep


def test_what_scaling_has_started_is_there_for_a_while() -> None:
    """Else a forecast would start model servers that the next look stops."""
    pool = Demand()
    pool.after(100)
    pool.on_demand.scale_to(2)
    assert pool.after(9) == 2
    assert pool.after(1) == 0


def test_another_time_holds_from_the_next_look_on() -> None:
    pool = Demand(1)
    pool.on_demand.follow(3 * SECOND)
    assert pool.after(3) == 0


async def test_it_looks_by_itself() -> None:
    pool = Demand(1)
    pool.on_demand.follow(SECOND // 10)
    pool.on_demand.start()
    pool.clock.advance(SECOND)
    try:
        await until(lambda: pool.target.wanted == 0, "it goes to zero")
    finally:
        await pool.on_demand.stop()
