"""An explanation of a choice by key names the endpoint that then gets the request, wherever the key is from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from compiled.endpoint_set import acquire, release
from datapath import SECOND, Site, settle
from msgspec.structs import replace
from oip_site import ModelServer, plain
from oip_site import ask as ask_model
from queue_site import QUEUE, Held, hold, waiting, warm
from queue_site import ask as ask_held
from routing_site import routing_gate

from lb.config.plan.plan import OutlierPlan, PolicyPlan, SequencePlan
from lb.config.values import CLOSE, OPEN
from lb.endpoints.ejection_state import EjectionStates
from lb.errors import ClientError
from lb.proxy.exchange.explain.described import Described

REQUESTS = {
    "header": ("/x", (("X-Key", " {} "),)),
    "cookie": ("/x", (("Cookie", "a=1; k={}; b=2"),)),
    "query": ("/x?a=1&k={}&b=2", ()),
    "nothing": ("/x", ()),
}


async def named(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = writer.get_extra_info("sockname")[1]
    while await reader.readuntil(b"\r\n\r\n"):
        body = b"127.0.0.1:%d" % port
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def test_values_that_a_request_does_not_show_are_told(site: Site) -> None:
    """By the same text the data path and an explanation choose the same endpoint."""
    addresses = [await site.endpoint(named) for _ in range(4)]
    text = f"{OPEN}tls.sni{CLOSE}{OPEN}header.x-key{CLOSE}{OPEN}auth.identity{CLOSE}"
    gate = await site.gate(addresses, pool={"policy": PolicyPlan("maglev", "text", text)})
    seen = set()
    for value in map(str, range(12)):
        values = (("tls.sni", f"{value}.org"), ("auth.identity", f"of {value}"))
        found = gate.proxy.explain(Described("web", host="a.test", values=values))["pool"]
        assert found["key"]["value"] == f"{value}.orgof {value}"
        request = f"GET / HTTP/1.1\r\nHost: a.test\r\nX-Key: {value}.orgof {value}\r\nConnection: close\r\n\r\n"
        answer = await gate.exchange(request.encode())
        seen.add(found["choice"]["address"])
        assert answer.endswith(found["choice"]["address"].encode())
    assert len(seen) > 1


@pytest.mark.parametrize("policy", ["maglev", "ring_hash", "rendezvous"])
@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [
        ("header", "x-key", "header"),
        ("cookie", "k", "cookie"),
        ("query", "k", "query"),
        ("header", "x-other", "nothing"),
        ("source", "", "nothing"),
    ],
)
async def test_keys_are_found_as_the_data_path_finds_them(
    site: Site, policy: str, kind: str, name: str, place: str
) -> None:
    addresses = [await site.endpoint(named) for _ in range(4)]
    gate = await site.gate(addresses, pool={"policy": PolicyPlan(policy, kind, name)})
    seen = set()
    target, fields = REQUESTS[place]
    for value in map(str, range(12)):
        headers = tuple((n, v.format(value)) for n, v in fields)
        asked = Described("web", target=target.format(value), host="a.test", headers=headers)
        found = gate.proxy.explain(asked)["pool"]
        assert found["key"]["value"] == (value if place != "nothing" else "127.0.0.1")
        lines = "".join(f"{n}: {v}\r\n" for n, v in headers)
        answer = await gate.exchange(
            f"GET {asked.target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\r\n".encode()
        )
        assert answer.endswith(found["choice"]["address"].encode())
        seen.add(found["choice"]["address"])
    assert (len(seen) > 1) == (place != "nothing")


async def test_a_pool_without_endpoints_or_with_one(site: Site) -> None:
    gate = await site.gate([await site.endpoint(named)], more_pools=([],))
    one = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert one["choice"] == {
        "address": gate.plan.pools[0].endpoints[0].address,
        "why": "no other endpoint takes requests now",
    }
    none = gate.proxy.explain(Described(pool="pool1"))["pool"]
    assert (none["endpoints"], none["choice"]) == ([], {"address": None, "why": "no endpoint takes requests now"})
    gate.segment.set_health(0, False, 1)
    down = gate.proxy.explain(Described(pool="pool"))["pool"]
    assert (down["endpoints"][0]["available"], down["choice"]["address"]) == (False, None)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Described("nowhere"), "there is no listener 'nowhere'; there are web"),
        (Described(pool="nowhere"), "there is no pool 'nowhere'; there are pool"),
        (Described("web", source="x"), "'x' is not an IP address"),
        (Described("web", values=(("request.path", "/"),)), "'request.path' is no value that can be given; there are "),
        (Described("web", method="B@D"), "no request: "),
        (Described("web", headers=(("a", "b\nc: d"),)), "holds what no request can"),
        (Described("web", target="/\x01"), "holds what no request can"),
        (Described("web", headers=(("no token", "x"),)), "no request: "),
    ],
)
async def test_what_cannot_be_asked(site: Site, asked: Described, problem: str) -> None:
    gate = await site.gate([await site.endpoint(named)])
    with pytest.raises(ClientError, match=problem):
        gate.proxy.explain(asked)


def choice_of(found: dict[str, Any]) -> tuple[str | None, str]:
    return found["choice"]["address"], found["choice"]["why"]


async def test_models_and_sequences(site: Site) -> None:
    addresses = [await site.model(ModelServer()) for _ in range(3)]
    settings = {"protocol": "oip", "models": ("a", "b"), "sequence": SequencePlan(SECOND * 60, SECOND * 60)}
    gate = await site.gate(addresses, pool=settings)
    for slot, unready in enumerate((0b01, 0b10, 0b11)):
        gate.segment.set_models_unready(slot, unready)

    def explain(**asked: str) -> dict[str, Any]:
        found: dict[str, Any] = gate.proxy.explain(Described("web", **asked))["pool"]
        return found

    found = explain(target="/v2/models/a/infer")
    assert choice_of(found) == (addresses[1], "no other endpoint takes requests now")
    assert found["steps"] == ["model a: ready at 1 of 3 endpoints"]
    not_ready = "the model is not ready there"
    assert [row["why_not"] for row in found["endpoints"]] == [not_ready, "", not_ready]
    assert explain(model="x")["steps"] == ["model x: nothing is known of where it is ready"]
    gate.segment.set_models_unready(1, 0b11)
    nowhere = explain(model="a")
    assert (*choice_of(nowhere), nowhere["refused"]) == (None, "503: the model is ready nowhere", 503)

    gate.segment.set_models_unready(1, 0b10)
    path = "/v2/models/a/versions/7/infer"
    answer = await ask_model(gate, plain(parameters={"sequence_id": 5, "sequence_start": True}), path=path)
    assert answer.status == 200
    gate.segment.set_models_unready(0, 0)
    found = explain(target=path, sequence="5")
    assert found["steps"][0] == f"sequence: it is open at {addresses[1]}"
    assert (*choice_of(found), found["refused"]) == (addresses[1], "it has the sequence's state", None)
    assert explain(target=path, sequence="6")["refused"] == 409
    assert "sequence_start" in choice_of(explain(target=path, sequence="6"))[1]
    assert "sequence_start" in choice_of(explain(target="/v2/models/a/infer", sequence="5"))[1]
    gate.segment.set_health(1, False, 1)
    for _ in range(2):  # asking does not lose it
        assert choice_of(explain(target=path, sequence="5")) == (None, "409: the sequence has to begin anew")
    gate.segment.set_health(1, True, 2)
    answer = await ask_model(gate, plain(parameters={"sequence_id": 5}), path=path)
    assert answer.status == 200


async def test_a_pool_that_keeps_no_sequences(site: Site) -> None:
    gate = await site.gate([await site.endpoint(named)])
    found = gate.proxy.explain(Described("web", sequence="5"))["pool"]
    assert found["steps"] == ["sequence: the pool keeps none together, so it is as good as any request"]
    assert found["choice"]["why"] == "no other endpoint takes requests now"


async def test_ejection_probation_shares_and_panic(site: Site) -> None:
    addresses = [await site.endpoint(named) for _ in range(4)]
    outlier = OutlierPlan(5, 5, 4, 1)
    gate = await site.gate(addresses, pool={"shaped": True, "outlier": outlier})
    states = EjectionStates(gate.segment, [0, 1, 2, 3])
    for slot in (0, 1):
        assert states.eject_endpoint(slot, 1, 4)
    assert states.begin_probation(1, 1)
    states.hold_back(2, 700, False)
    states.hold_back(3, 1000, False)
    acquire(gate.proxy.pools[0].endpoints, 1)
    found = gate.proxy.explain(Described("web"))["pool"]
    rows = found["endpoints"]
    assert [row["why_not"] for row in rows] == [
        "ejected for its answers", "on probation, with its 1 in flight", "",
        "others come before it: its share is held back",
    ]  # fmt: skip
    assert [(row["ejection_state"], row["share"]) for row in rows] == [
        ("ejected", 1), ("probation", 1), ("well", 0.3), ("well", 0),
    ]  # fmt: skip
    assert choice_of(found) == (addresses[2], "no other endpoint takes requests now")
    for slot in range(4):
        states.hold_back(slot, 0, True)
    found = gate.proxy.explain(Described("web"))["pool"]
    assert all(row["available"] for row in found["endpoints"])
    assert found["steps"] == ["panic: too few endpoints are healthy, so health and ejection have no say"]
    release(gate.proxy.pools[0].endpoints, 1)


async def test_whom_the_queue_would_refuse(site: Site) -> None:
    endpoint = Held()
    queue = replace(QUEUE, max=1)
    gate = await site.gate([await site.endpoint(endpoint)], cap=1, pool={"queue": queue})

    def explain() -> dict[str, Any]:
        found: dict[str, Any] = gate.proxy.explain(Described("web"))["pool"]
        return found

    tasks = [await hold(gate, endpoint)]
    tasks.append(asyncio.create_task(ask_held(gate, "/second")))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    found = explain()
    assert (found["queue"]["refused"], found["queue"]["would_wait"]) == ("queue-full", False)
    why = "503: all that take requests have as many as they may, and the queue is full"
    assert choice_of(found) == (None, why)
    assert (await ask_held(gate, "/third")).startswith(b"HTTP/1.1 503 ")
    endpoint.answer(2)
    await asyncio.gather(*tasks)
    tasks = [await hold(gate, endpoint, "/fourth")]
    assert explain()["queue"]["refused"] is None
    site.reload_pool(gate, queue=replace(QUEUE, timeout_ns=1))
    found = explain()
    assert found["queue"]["refused"] == "queue-late"
    why = "503: all that take requests have as many as they may, and its turn would come too late"
    assert choice_of(found) == (None, why)
    site.reload_pool(gate, queue=None, generation=3)
    why = "503: all that take requests have as many as they may, and there is no queue"
    assert choice_of(explain()) == (None, why)
    endpoint.answer()
    await asyncio.gather(*tasks)


async def test_a_drained_endpoint_at_its_limit_is_drained(site: Site) -> None:
    """What it has says nothing of who comes: it gets nobody when that is done."""
    endpoint = Held()
    gate = await site.gate([await site.endpoint(endpoint)], cap=1, pool={"queue": QUEUE})
    first = await hold(gate, endpoint)
    gate.segment.set_admin(0, 1)
    found = gate.proxy.explain(Described("web"))["pool"]
    assert found["endpoints"][0]["why_not"] == "draining"
    assert choice_of(found) == (None, "no endpoint takes requests now")
    assert not found["queue"]["would_wait"]
    assert b"no endpoint" in await ask_held(gate, "/second")
    endpoint.answer()
    await first


async def test_what_the_queue_would_make_of_it(site: Site) -> None:
    endpoint = Held()
    gate = await site.gate([await site.endpoint(endpoint)], cap=1, pool={"queue": QUEUE})

    def explain() -> dict[str, Any]:
        found: dict[str, Any] = gate.proxy.explain(Described("web"))["pool"]
        return found

    assert not explain()["queue"]["would_wait"]
    await warm(gate, endpoint)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.05)
    endpoint.answer()
    await first  # so a request takes 50 ms
    first = await hold(gate, endpoint, "/again")
    found = explain()
    assert (found["queue"]["would_wait"], found["queue"]["waiting"], found["queue"]["before"]) == (True, 0, 0)
    alone = found["queue"]["expected_wait_ms"]
    assert alone > 0
    assert choice_of(found) == (None, "all that take requests have as many as they may: it would wait for its turn")
    second = asyncio.create_task(ask_held(gate, "/second"))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    found = explain()
    assert (found["queue"]["waiting"], found["queue"]["before"]) == (1, 1)
    assert found["queue"]["expected_wait_ms"] == pytest.approx(2 * alone, abs=0.01)
    assert found["steps"][0] == "queue: 1 wait, 1 of them in front of it"
    endpoint.answer(2)
    await asyncio.gather(first, second)


async def test_what_the_route_says_of_retries(site: Site) -> None:
    retry = {"attempts": 2, "on": ["connect", "5xx"], "per_attempt_timeout": "200ms", "budget": 20}
    routes = [{"pool": "app", "retry": retry, "hedge": {"after": "p95"}, "timeout": "2s", "priority": "high"}]
    gate = await routing_gate(site, routes, {"app": [await site.endpoint(named)]})
    route = gate.proxy.explain(Described("web"))["route"]
    assert (route["priority"], route["timeout_ms"]) == ("high", 2000)
    assert route["retry"] == {
        "attempts": 2, "on": ["connect", "5xx"], "per_attempt_timeout_ms": 200, "budget_percent": 20,
    }  # fmt: skip
    assert route["hedge"]["quantile"] == 0.95
