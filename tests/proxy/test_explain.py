"""An explanation of a choice by key names the endpoint that then gets the request, wherever the key is from."""

from __future__ import annotations

import asyncio

import pytest
from datapath import Site

from lb.config.plan import PolicyPlan
from lb.errors import ClientError
from lb.proxy.explain import Described

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
