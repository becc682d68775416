"""Priorities and zones in the data path: where requests go by shares, and when there is nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from datapath import Gate, Site, settle
from oip_site import ModelServer, ask, echo, plain
from ports import free_port
from queue_site import QUEUE, Held, hold, waiting
from routing_site import routing_gate

from lb.config.plan.plan import OutlierPlan, PolicyPlan
from lb.endpoints.ejection_state import EjectionStates
from lb.proxy.exchange.explain.described import Described

GET = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Named:
    """An endpoint that answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.served = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            self.served += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self.name), self.name))


def divided(*groups: int, **settings: Any) -> dict[str, Any]:
    return {"shaped": True, "groups": groups, **settings}


def tell(gate: Gate, *shares: int) -> None:
    """What the master says: the share of each endpoint's group."""
    states = EjectionStates(gate.segment, [e.slot for e in gate.plan.pools[0].endpoints])
    for i, share in enumerate(shares):
        states.hold_back(i, 0, False, share)


async def named_gate(site: Site, names: str, pool: dict[str, Any], **settings: Any) -> tuple[Gate, list[Named]]:
    endpoints = [Named(name) for name in names]
    return await site.gate([await site.endpoint(one) for one in endpoints], pool=pool, **settings), endpoints


async def answers(gate: Gate, count: int, request: bytes = GET) -> Counter[str]:
    seen: Counter[str] = Counter()
    for _ in range(count):
        answer = await gate.exchange(request)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        seen[answer.rpartition(b"\r\n\r\n")[2].decode()] += 1
    return seen


@pytest.mark.parametrize("policy", ["least_request", "round_robin", "power_of_two", "prequal"])
async def test_levels_have_their_shares_whatever_the_policy(site: Site, policy: str) -> None:
    gate, _ = await named_gate(site, "abcd", divided(0, 0, 2, 2, policy=PolicyPlan(policy)))
    tell(gate, 700, 700, 300, 300)
    seen = await answers(gate, 100)
    assert 67 <= seen["a"] + seen["b"] <= 73
    tell(gate, 1000, 1000, 0, 0)
    assert set(await answers(gate, 20)) <= {"a", "b"}
    tell(gate, 0, 0, 1000, 1000)
    assert set(await answers(gate, 20)) <= {"c", "d"}


@pytest.mark.parametrize(
    "policy", ["least_request", "least_time", "shortest_expected_delay", "client_side_weighted_round_robin"]
)
@pytest.mark.parametrize("share", [300, 500, 700])
async def test_each_group_has_its_own_turns(site: Site, policy: str, share: int) -> None:
    """Idle endpoints of a level share evenly, however requests for the levels alternate."""
    gate, _ = await named_gate(site, "abcd", divided(0, 0, 2, 2, policy=PolicyPlan(policy)))
    tell(gate, share, share, 1000 - share, 1000 - share)
    seen = await answers(gate, 100)
    if policy in ("least_request", "client_side_weighted_round_robin"):
        assert abs(seen["a"] - seen["b"]) <= 1
        assert abs(seen["c"] - seen["d"]) <= 1
    assert set(seen) == set("abcd")


async def test_the_first_level_before_the_master_has_said_anything(site: Site) -> None:
    gate, _ = await named_gate(site, "abc", divided(2, 0, 2))
    assert set(await answers(gate, 10)) == {"b"}


async def test_nobody_waits_for_the_master_to_see_that_a_level_is_lost(site: Site) -> None:
    """Down, ejected, drained or of no weight: the next one in order is asked at once."""
    outlier = OutlierPlan(1, 0, 9, 1)
    gate, _ = await named_gate(site, "abcdef", divided(0, 0, 0, 0, 2, 4, outlier=outlier))
    tell(gate, 1000, 1000, 1000, 1000, 0, 0)
    gate.segment.set_health(0, False, 1)
    assert set(await answers(gate, 12)) == {"b", "c", "d"}
    assert EjectionStates(gate.segment, [1]).eject_endpoint(0, 1, 1)
    gate.segment.set_admin(2, 1)
    gate.segment.set_weight(3, 0)
    assert set(await answers(gate, 5)) == {"e"}
    gate.segment.set_health(4, False, 1)
    assert set(await answers(gate, 5)) == {"f"}
    gate.segment.set_health(5, False, 1)
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 503 ")
    gate.segment.set_weight(3, 1)
    assert set(await answers(gate, 5)) == {"d"}


async def test_on_probation_a_level_has_its_few_and_the_next_the_rest(site: Site) -> None:
    held, spare = Held(), Named("b")
    gate = await site.gate(
        [await site.endpoint(held), await site.endpoint(spare)], pool=divided(0, 2, outlier=OutlierPlan(1, 0, 9, 1))
    )
    tell(gate, 1000, 0)
    states = EjectionStates(gate.segment, [0])
    states.eject_endpoint(0, 1, 1)
    states.begin_probation(0, 1)
    first = await hold(gate, held)
    assert await answers(gate, 5) == {"b": 5}
    held.answer()
    assert (await first).startswith(b"HTTP/1.1 200 ")


async def test_a_failed_try_is_repeated_at_another_level_where_its_own_has_nobody_else(site: Site) -> None:
    spare = Named("b")
    dead = f"127.0.0.1:{free_port()}"
    gate = await site.gate([dead, await site.endpoint(spare)], pool=divided(0, 2))
    tell(gate, 1000, 0)
    assert await answers(gate, 5) == {"b": 5}
    other = await site.gate([dead, await site.endpoint(Named("c")), await site.endpoint(spare)], pool=divided(0, 0, 2))
    tell(other, 1000, 1000, 0)
    assert await answers(other, 6) == {"c": 6}, "its own level, as long as there is another endpoint"
    alone = await site.gate([dead, dead], pool=divided(0, 2))
    tell(alone, 1000, 0)
    alone.segment.set_health(1, False, 1)
    assert (await alone.exchange(GET)).startswith(b"HTTP/1.1 502 "), "the same one again, where nobody else is left"
    assert alone.total(10)["connect_errors"] == 2, "two connections failed"
    assert alone.in_flight() == 0


async def test_a_level_that_has_no_room_is_waited_for(site: Site) -> None:
    """That is what the queue is for; backup endpoints of other balancers are not asked either."""
    held, spare = Held(), Named("b")
    addresses = [await site.endpoint(held), await site.endpoint(spare)]
    gate = await site.gate(addresses, pool=divided(0, 2, queue=QUEUE), cap=1)
    tell(gate, 1000, 0)
    first = await hold(gate, held)
    second = asyncio.create_task(gate.exchange(GET))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    assert spare.served == 0
    # The level is lost while it waits.
    gate.segment.set_health(0, False, 1)
    assert (await second).endswith(b"b")
    held.answer()
    await first


async def test_a_level_with_a_share_that_has_room_takes_what_the_other_has_none_for(site: Site) -> None:
    held, spare, last = Held(), Named("b"), Named("c")
    addresses = [await site.endpoint(each) for each in (held, spare, last)]
    gate = await site.gate(addresses, pool=divided(0, 2, 4, queue=QUEUE), cap=1)
    tell(gate, 900, 100, 0)
    first = await hold(gate, held)
    assert await answers(gate, 10) == {"b": 10}
    held.answer()
    await first


async def test_a_zone_that_has_no_room_is_not_waited_for(site: Site) -> None:
    held, other, backup = Held(), Named("b"), Named("c")
    addresses = [await site.endpoint(each) for each in (held, other, backup)]
    gate = await site.gate(addresses, pool=divided(0, 1, 2, queue=QUEUE), cap=1)
    tell(gate, 1000, 0, 0)
    first = await hold(gate, held)
    assert await answers(gate, 5) == {"b": 5}
    held.answer()
    await first
    gate.segment.set_health(0, False, 1)
    assert await answers(gate, 5) == {"b": 5}
    gate.segment.set_health(1, False, 1)
    assert await answers(gate, 5) == {"c": 5}


async def test_where_a_model_is_not_ready_the_next_level_is_asked(site: Site) -> None:
    servers = [ModelServer(echo), ModelServer(echo)]
    pool = divided(0, 2, protocol="oip", models=("a", "b"))
    gate = await site.gate([await site.model(server) for server in servers], pool=pool)
    tell(gate, 1000, 0)
    gate.segment.set_models_unready(0, 1 << 1)
    for model in ("a", "b"):
        assert (await ask(gate, plain(), path=f"/v2/models/{model}/infer")).status == 200
    assert [[sent.model_name for sent in server.requests] for server in servers] == [["a"], ["b"]]


async def test_a_key_keeps_its_level_and_its_endpoint(site: Site) -> None:
    policy = PolicyPlan("maglev", "header", "x-key")
    gate, _ = await named_gate(site, "abcd", divided(0, 0, 2, 2, policy=policy))

    async def owners() -> dict[int, str]:
        found = {}
        for key in range(60):
            seen = await answers(gate, 1, GET.replace(b"\r\n\r\n", b"\r\nX-Key: %d\r\n\r\n" % key))
            (found[key],) = seen
        return found

    tell(gate, 700, 700, 300, 300)
    before = await owners()
    assert set(before.values()) == set("abcd")
    assert await owners() == before
    tell(gate, 400, 400, 600, 600)
    after = await owners()
    changed = {key for key in before if before[key] != after[key]}
    assert changed
    assert all(before[key] in "ab" and after[key] in "cd" for key in changed)


async def test_an_explanation_names_the_group_and_why_others_get_nothing(site: Site) -> None:
    gate, _ = await named_gate(site, "abcd", divided(0, 1, 2, 2))
    tell(gate, 1000, 0, 0, 0)
    found = gate.proxy.explain(Described(pool="pool"))["pool"]
    first, *others = gate.plan.pools[0].endpoints
    assert found["choice"]["address"] == first.address
    assert [row["note"] for row in found["endpoints"]][1:] == [
        "another zone: 0 % of the requests, not this one",
        "priority 0: 0 % of the requests, not this one",
        "priority 0: 0 % of the requests, not this one",
    ]
    gate.segment.set_health(0, False, 1)
    found = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert found["choice"]["address"] == others[0].address
    for slot in (1, 2, 3):
        gate.segment.set_health(slot, False, 1)
    found = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert found["choice"] == {"address": None, "why": "no endpoint takes requests now"}
    gate.segment.set_health(3, True, 1)
    assert await answers(gate, 3) == {"d": 3}, "nothing of it is left behind"


async def test_an_explanation_says_which_levels_are_in_a_panic(site: Site) -> None:
    endpoints = [{"address": await site.endpoint(Named("a")), "priority": priority} for priority in (0, 10, 10)]
    pools = {"pool": {"protocol": "http", "endpoints": endpoints}}
    gate = await routing_gate(site, [{"pool": "pool"}], pools)
    states = EjectionStates(gate.segment, [e.slot for e in gate.plan.pools[0].endpoints])
    for slot, panic, share in ((0, False, 700), (1, True, 300), (2, True, 300)):
        states.hold_back(slot, 0, panic, share)
    everywhere = "panic: too few endpoints are healthy, so health and ejection have no say"
    found = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert found["steps"] == [f"{everywhere} among those of priority 10"]
    states.hold_back(0, 0, True, 700)
    found = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert found["steps"] == [everywhere]


async def test_a_hedge_may_go_to_another_level(site: Site) -> None:
    held, spare = Held(), Named("b")
    endpoints = [
        {"address": await site.endpoint(held), "priority": 5},
        {"address": await site.endpoint(spare), "priority": 10},
    ]
    pools = {"pool": {"protocol": "http", "endpoints": endpoints}}
    gate = await routing_gate(site, [{"pool": "pool", "hedge": {"after": "20ms", "budget": 100}}], pools)
    assert (gate.plan.pools[0].groups, gate.plan.pools[0].shaped) == ((0, 2), True)
    tell(gate, 1000, 0)
    assert await answers(gate, 3) == {"b": 3}
    assert len(held.seen) == 3
    held.answer(3)
