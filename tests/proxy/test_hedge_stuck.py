"""Hedges where the policy knows how long an endpoint takes for each answer, and when it gave the last one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from datapath import Gate, Site
from hedge_site import averages, call, get, idle, models, results, two
from oip_site import ask as ask_model
from oip_site import plain

HEDGE = {"after": "p90", "samples": 20, "budget": 100}
POLICY = "shortest_expected_delay"
MANY = 60
LATE = 0.2  # seconds, long enough for a few requests to be sent within
Ask = Callable[[], Awaitable[object]]


async def pool_of(site: Site, protocol: str) -> tuple[Gate, Ask, Callable[[], int], Callable[[], None]]:
    """Two endpoints that answer: the gate, a request, how many the first has got, and what makes it hang."""
    if protocol == "oip":
        gate, (model, _) = await models(site, False, False, policy=POLICY, hedge=HEDGE)
        return (
            gate,
            lambda: ask_model(gate, plain()),
            lambda: len(model.requests),
            lambda: setattr(model, "hangs", True),
        )
    more: dict[str, Any] = {"route": {"idempotent": True}} if protocol == "grpc" else {}
    gate, a, _ = await two(site, protocol, ["answer"], ["answer"], hedge=HEDGE, pool={"policy": POLICY}, **more)
    ask = (lambda: call(gate)) if protocol == "grpc" else (lambda: get(gate))
    return gate, ask, lambda: len(a.seen), lambda: a.turns.__setitem__(0, "hang")


async def learn(gate: Gate, ask: Ask, requests: int, seconds: float = 0.0) -> None:
    """So many answers, each while the endpoints' averages are `seconds`, if that is given; then these count."""
    for _ in range(requests):
        if seconds:
            averages(gate, seconds, seconds)
        await ask()
    assert results(gate)[0] == 0
    await asyncio.sleep(0.1)  # until quantiles are looked at again
    averages(gate, 0.05, 10)  # whoever comes now goes to the first


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "oip"])
async def test_all_that_wait_at_an_endpoint_found_stuck_have_hedges(site: Site, protocol: str) -> None:
    gate, ask, seen, hang = await pool_of(site, protocol)
    await learn(gate, ask, 25, seconds=1)  # far longer than a silence between answers
    before = seen()
    hang()
    # Of so many one after another the last would be late after six seconds.
    await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(MANY))), 4)
    assert results(gate)[1] == seen() - before > 1
    await idle(gate)


async def test_what_has_others_before_it_is_late_after_their_time_too(site: Site) -> None:
    gate, ask, seen, hang = await pool_of(site, "http")
    # An endpoint's first answer tells nothing of silences, so that too few of them are known.
    await learn(gate, ask, 20)
    averages(gate, LATE, 100)
    hang()
    before = seen()

    async def timed() -> float:
        began = time.monotonic()
        await ask()
        return time.monotonic() - began

    took = await asyncio.gather(*(timed() for _ in range(5)))
    assert seen() - before == 5, "some went elsewhere"
    assert results(gate)[1] == 5
    assert all(seconds >= 2 * LATE * (place + 1) for place, seconds in enumerate(sorted(took)))
    await idle(gate)


async def test_who_looks_after_one_that_was_stuck_has_a_hedge_soon(site: Site) -> None:
    gate, ask, seen, hang = await pool_of(site, "http")
    await learn(gate, ask, 25, seconds=1e-7)  # thousands of averages pass between answers: nobody is stuck before that
    hang()
    await ask()
    assert results(gate)[1] == 1
    await asyncio.sleep(1.1)  # it is left alone for a second
    averages(gate, 0.05, 10)
    before = seen()
    await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(MANY))), 4)
    assert results(gate)[1] - 1 == seen() - before > 0
    await idle(gate)
