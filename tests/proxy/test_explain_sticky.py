"""What `explain` says of cookies and sessions is what then happens."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from affinity_site import COOKIE, DRAIN, MAINTENANCE, App, Web, web
from datapath import Site, settle

from lb.config.plan.plan import PolicyPlan
from lb.proxy.exchange.explain.described import Described


def asked(cookie: str) -> Described:
    return Described("web", headers=(("Cookie", f"a=1; {cookie}"),))


def sticky(app: Web, cookie: str) -> dict[str, Any]:
    found = app.gate.proxy.explain(asked(cookie))["pool"]
    said: dict[str, Any] = {**found["sticky"], "choice": found["choice"]["address"]}
    if said["taken"]:
        assert [row["address"] for row in found["endpoints"] if row["best"]] == [said["address"]]
        assert found["choice"]["why"] == f"its {said['by']} names it"
    return said


async def cookie_of(app: Web) -> tuple[str, str]:
    """Of the pool's own: who answered, and the pair."""
    answer = await app.gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    found = re.search(rb"Set-Cookie: (STAY=[^;]+)", answer)
    assert found
    return answer[-1:].decode(), found[1].decode()


@pytest.mark.parametrize("kind", ["cookie", "session"])
async def test_it_says_where_a_client_stays_and_why_not(site: Site, kind: str) -> None:
    app = await web(site, 3, cap=2)
    if kind == "cookie":
        site.reload_pool(app.gate, learn=None, cookie=COOKIE)
        name, cookie = await cookie_of(app)
        by = "cookie STAY"
    else:
        name, session = await app.login()
        cookie, by = f"SID={session}", "session of cookie SID"
    address, slot = app.gate.plan.pools[0].endpoints[int(name)].address, app.slot(name)
    segment = app.gate.segment
    assert sticky(app, cookie) == {"by": by, "address": address, "taken": True, "why": "sticky", "choice": address}
    segment.set_admin(slot, DRAIN)
    assert sticky(app, cookie)["why"] == "sticky, although it takes no new clients"
    segment.set_admin(slot, MAINTENANCE)
    assert sticky(app, cookie)["why"] == "falls back to the policy, because it is in maintenance"
    assert sticky(app, cookie)["choice"] != address
    segment.set_admin(slot, 0)
    segment.set_health(slot, False, 1)
    assert sticky(app, cookie)["why"] == "falls back to the policy, because it is down"
    segment.set_health(slot, True, 2)
    line = f"GET /hold HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode()
    held = [asyncio.create_task(app.gate.exchange(line)) for _ in range(2)]
    await settle(lambda: segment.inflight(slot) == 2, "nothing is held")
    said = sticky(app, cookie)
    assert (said["address"], said["taken"], said["choice"] != address) == (address, False, True)
    assert "because it is full" in said["why"]
    app.apps[int(name)].hold.set()
    await asyncio.gather(*held)
    assert sticky(app, cookie)["taken"]
    assert app.gate.proxy.explain(asked("b=2"))["pool"]["sticky"] is None


async def test_what_names_nobody(site: Site) -> None:
    app = await web(site, 2)
    assert sticky(app, "SID=made-up")["why"] == "is not known, no endpoint has set it: by the policy"
    name, session = await app.login()
    (pool,) = app.gate.plan.pools
    site.reload_pool(app.gate, endpoints=tuple(e for i, e in enumerate(pool.endpoints) if i != int(name)))
    assert sticky(app, f"SID={session}")["why"] == "is of an endpoint that has left: by the policy"
    site.reload_pool(app.gate, learn=None, cookie=COOKIE)
    assert sticky(app, "STAY=forged")["why"] == "is not valid: by the policy"
    site.reload_pool(app.gate, learn=None)
    assert app.gate.proxy.explain(asked("SID=x"))["pool"]["sticky"] is None


async def test_to_ask_is_not_to_use(site: Site) -> None:
    app = await web(site, 2)
    _, session = await app.login()
    before = app.counted()
    for _ in range(3):
        assert sticky(app, f"SID={session}")["taken"]
        assert not sticky(app, "SID=unknown")["taken"]
    assert app.counted() == before


async def test_networks_of_sources(site: Site) -> None:
    """As `source` of the question, and as the data path sees the client."""
    apps = [App(str(i)) for i in range(4)]
    addresses = [await site.endpoint(app.serve) for app in apps]
    policy = PolicyPlan("maglev", "source", ipv4_prefix=24, ipv6_prefix=64)
    gate = await site.gate(addresses, pool={"policy": policy})
    networks = {f"203.0.{i}": f"203.0.{i}.0/24" for i in range(1, 9)} | {
        f"2001:db8:{i}:": f"2001:db8:{i}::/64" for i in range(1, 9)
    }
    seen = set()
    for prefix, network in networks.items():
        separator = "::" if ":" in prefix else "."
        choices = set()
        for host in ("1", "77", "254"):
            source = prefix.rstrip(":") + separator + host
            found = gate.proxy.explain(Described(pool="pool", source=source))["pool"]
            assert found["key"] == {"from": "source", "value": network}
            choices.add(found["choice"]["address"])
            if "." in prefix:
                mapped = gate.proxy.explain(Described(pool="pool", source=f"::ffff:{source}"))["pool"]
                assert mapped["choice"] == found["choice"]
        assert len(choices) == 1
        seen |= choices
    assert len(seen) > 1
    one = gate.proxy.explain(Described(pool="pool", source="127.0.0.1"))["pool"]
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer[-1:].decode() == str(addresses.index(one["choice"]["address"]))
