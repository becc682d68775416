"""The cookie by which a client stays with an endpoint: over both fronts, to all pools that speak HTTP, and forged."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import pytest
from affinity_site import COOKIE, DRAIN, MAINTENANCE, QUEUE
from datapath import Gate, Handler, Site, settle
from h2_client import h2_client
from msgspec.structs import replace
from oip_site import OIP, ModelServer, ask, echo, plain, tensor
from test_http2_pool import nghttpd

from lb.config.plan.plan import CookiePlan
from lb.config.plan.routes import HedgePlan

KEYED = replace(COOKIE, keys=(b"k" * 32,))


def named(name: str, seen: list[str] | None = None, hold: asyncio.Event | None = None, status: int = 200) -> Handler:
    """An endpoint that answers with its name, the heads of its requests in `seen`; those of /hold wait for `hold`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if seen is not None:
                seen.append(head)
            if hold is not None and head.startswith("GET /hold "):
                await hold.wait()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 1\r\n\r\n%s" % (status, name.encode()))

    return serve


class Web:
    """A gate in front of the endpoints "0", "1", …, with what each was sent."""

    def __init__(self, gate: Gate, seen: list[list[str]]) -> None:
        self.gate = gate
        self.seen = seen

    async def get(self, cookie: str = "", path: str = "/") -> tuple[str, str]:
        """The name of the endpoint that answered, and the cookie that came with it ("" for none)."""
        line = f"Cookie: {cookie}\r\n" if cookie else ""
        answer = await self.gate.exchange(
            f"GET {path} HTTP/1.1\r\nHost: a\r\n{line}Connection: close\r\n\r\n".encode("latin-1")
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), answer
        found = re.findall(r"(?im)^set-cookie: (STAY=[^;\r]*)", head.decode())
        assert len(found) <= 1
        assert bool(found) == (b"Cache-Control: private" in head)
        return body.decode(), found[0] if found else ""

    def slot(self, name: str) -> int:
        return self.gate.plan.pools[0].endpoints[int(name)].slot


async def web(site: Site, count: int = 3, *, cookie: CookiePlan = COOKIE, **settings: Any) -> Web:
    seen: list[list[str]] = [[] for _ in range(count)]
    hold = settings.pop("hold", None)
    addresses = [await site.endpoint(named(str(i), seen[i], hold)) for i in range(count)]
    pool = {"cookie": cookie, **settings.pop("pool", {})}
    return Web(await site.gate(addresses, pool=pool, **settings), seen)


async def test_a_client_stays_where_it_was_and_is_told_once(site: Site) -> None:
    app = await web(site)
    for _ in range(3):
        name, cookie = await app.get()
        assert cookie
        for _ in range(5):
            assert await app.get(cookie) == (name, "")
    assert app.gate.in_flight() == 0


async def test_the_cookie_tells_nothing_and_has_the_attributes_that_were_asked_for(site: Site) -> None:
    full = CookiePlan("STAY", "/app", "example.org", 3600, True, True, "lax")
    app = await web(site, 1, cookie=full)
    answer = await app.gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    made = re.search(rb"Set-Cookie: STAY=([\w-]{43})((; [^\r;]+)*)\r\n", answer)
    assert made
    assert made[2] == b"; Path=/app; Domain=example.org; Max-Age=3600; Secure; HttpOnly; SameSite=Lax"
    address = app.gate.plan.pools[0].endpoints[0].address
    raw = base64.urlsafe_b64decode(made[1] + b"=")
    for part in (address, address.rpartition(":")[2]):
        assert part.encode() not in raw


async def test_endpoints_do_not_see_it(site: Site) -> None:
    app = await web(site, 1)
    _, cookie = await app.get()
    for given, left in [
        (cookie, None),
        (f"a=1; {cookie}; b=2", "a=1; b=2"),
        (f"{cookie}; b=2", "b=2"),
        (f"a=1;{cookie}", "a=1"),
        (f"a=1; {cookie}; STAY=other", "a=1"),
        (f"STAYS=1; {cookie}; XSTAY=2; STAY", "STAYS=1; XSTAY=2; STAY"),
        ("a=1;b=2", "a=1;b=2"),
    ]:
        await app.get(given)
        got = re.findall(r"(?im)^cookie: (.*)\r$", app.seen[0][-1])
        assert got == ([] if left is None else [left]), given


def flipped(value: str, at: int) -> str:
    return value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :]


async def test_hostile_cookies_are_as_none(site: Site) -> None:
    app = await web(site, 1)
    other = await web(site, 1)  # another key
    _, cookie = await app.get()
    _, foreign = await other.get()
    value = cookie.partition("=")[2]
    hostile = [
        foreign,
        *(f"STAY={flipped(value, at)}" for at in range(43)),
        *(f"STAY={value[:n]}" for n in (0, 1, 42)),
        f"STAY={value}A",
        f'STAY="{value}"',
        "STAY=" + "\xff" * 43,
        "STAY=" + "A" * 12_000,
        "; ".join(["STAY=" + "A" * 43] * 200),
        "STAY",
        "STAY=",
        ";;; ;",
    ]
    for bad in hostile:
        name, new = await app.get(bad)
        assert (name, bool(new)) == ("0", True), bad
        assert await app.get(new) == ("0", "")
    assert app.gate.in_flight() == 0


async def test_a_cookie_is_of_one_pool(site: Site) -> None:
    """The same key and name, and even the same endpoints."""
    addresses = [await site.endpoint(named(str(i))) for i in range(2)]
    one = Web(await site.gate(addresses, pool={"cookie": KEYED}), [])
    two = Web(await site.gate(addresses, pool={"cookie": KEYED}), [])
    name, cookie = await one.get()
    for _ in range(4):
        assert await two.get(cookie) == (name, "")  # balancers that share a key
    stranger = Web(await site.gate([], more_pools=[], pool={"cookie": KEYED}), [])
    pool = replace(one.gate.plan.pools[0], name="another")
    for endpoint in pool.endpoints:
        stranger.gate.segment.set_health(endpoint.slot, True, 0)
        stranger.gate.segment.set_weight(endpoint.slot, 1)
    site.reload(stranger.gate, pools=(pool,))
    assert (await stranger.get(cookie))[1]


async def test_cookies_of_all_keys_are_valid_and_the_first_signs(site: Site) -> None:
    addresses = [await site.endpoint(named(str(i))) for i in range(3)]
    old, new = b"o" * 32, b"n" * 32

    async def balancer(*keys: bytes) -> Web:
        return Web(await site.gate(addresses, pool={"cookie": replace(COOKIE, keys=keys)}), [])

    before, ready, turned, after = [await balancer(*keys) for keys in ((old,), (old, new), (new, old), (new,))]
    for _ in range(3):  # whichever endpoint it is
        name, cookie = await before.get()
        assert await ready.get(cookie) == (name, "")
        same, fresh = await turned.get(cookie)
        assert same == name
        assert fresh not in ("", cookie)  # signed by the key that stays
        assert await turned.get(fresh) == (name, "")
        assert await after.get(fresh) == (name, "")
        assert (await ready.get(fresh))[0] == name  # a balancer that has not turned yet
        assert (await before.get(fresh))[1]
        assert (await after.get(cookie))[1]


async def test_it_runs_out(site: Site) -> None:
    app = await web(site, 2, cookie=replace(KEYED, ttl_s=2))
    name, cookie = await app.get()
    assert await app.get(cookie) == (name, "")
    renewed = ""
    while not renewed:
        await asyncio.sleep(0.1)
        again, renewed = await app.get(cookie)
        assert again == name  # given anew while it is still good
    await asyncio.sleep(2.1)
    names = {(await app.get(cookie))[0] for _ in range(2)}
    assert names == {"0", "1"}  # by the policy
    longer = await web(site, 2, cookie=replace(KEYED, ttl_s=3600))
    assert (await longer.get((await longer.get())[1]))[1] == ""


@pytest.mark.parametrize("why", ["down", "maintenance", "removed"])
async def test_another_endpoint_when_its_own_is_gone(site: Site, why: str) -> None:
    app = await web(site)
    name, cookie = await app.get()
    slot = app.slot(name)
    if why == "down":
        app.gate.segment.set_health(slot, False, 1)
    elif why == "maintenance":
        app.gate.segment.set_admin(slot, MAINTENANCE)
    else:
        (pool,) = app.gate.plan.pools
        site.reload_pool(app.gate, endpoints=tuple(e for e in pool.endpoints if e.slot != slot))
    other, new = await app.get(cookie)
    assert other != name
    assert new
    for _ in range(3):
        assert await app.get(new) == (other, "")
    if why == "down":
        app.gate.segment.set_health(slot, True, 2)
        assert await app.get(cookie) == (name, "")  # the old one is as good as ever


async def test_a_drained_endpoint_keeps_those_that_it_has(site: Site) -> None:
    app = await web(site)
    name, cookie = await app.get()
    app.gate.segment.set_admin(app.slot(name), DRAIN)
    for _ in range(4):
        assert await app.get(cookie) == (name, "")
        assert (await app.get())[0] != name


async def test_a_retry_goes_elsewhere_and_is_named(site: Site) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n0")
        writer.close()

    addresses = [await site.endpoint(once), await site.endpoint(named("1"))]
    app = Web(await site.gate(addresses, pool={"cookie": KEYED}), [])
    name, cookie = await app.get()
    if name == "1":
        name, cookie = await app.get()
    assert name == "0"
    site.servers[0].close()
    await site.servers[0].wait_closed()
    for _ in range(4):
        name, new = await app.get(cookie)
        assert (name, bool(new)) == ("1", True)
        assert await app.get(new) == ("1", "")
    assert app.gate.in_flight() == 0


async def test_a_hedge_that_wins_is_named(site: Site) -> None:
    hold = asyncio.Event()
    app = await web(site, 2, hold=hold, route={"hedge": HedgePlan(0, 50_000_000, 1, 100, 10)})
    name, cookie = await app.get()
    free = asyncio.Event()
    other = await site.endpoint(named("x", None, free))
    pool = app.gate.plan.pools[0]
    mine = next(e for e in pool.endpoints if e.slot == app.slot(name))
    quick = next(e for e in pool.endpoints if e is not mine)
    free.set()
    site.reload_pool(app.gate, endpoints=(mine, replace(quick, address=other)))
    answered, new = await app.get(cookie, "/hold")
    assert (answered, bool(new)) == ("x", True)
    hold.set()


async def test_a_full_endpoint_lends_its_clients_out(site: Site) -> None:
    hold = asyncio.Event()
    app = await web(site, 2, cap=1, hold=hold)
    name, cookie = await app.get()
    held = asyncio.create_task(app.get(cookie, "/hold"))
    await settle(lambda: app.gate.in_flight() == 1, "nothing is held")
    for _ in range(2):
        other, new = await app.get(cookie)
        assert (other != name, new) == (True, "")  # it keeps its cookie
    hold.set()
    assert await held == (name, "")
    assert await app.get(cookie) == (name, "")


async def test_it_waits_in_line_like_others(site: Site) -> None:
    hold = asyncio.Event()
    app = await web(site, 2, cap=1, hold=hold, pool={"queue": QUEUE})
    name, cookie = await app.get()
    held = [asyncio.create_task(app.get("", "/hold")) for _ in range(2)]
    await settle(lambda: app.gate.in_flight() == 2, "nothing is held")
    waiting = asyncio.create_task(app.get(cookie))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    hold.set()
    assert (await waiting)[1] == ""
    await asyncio.gather(*held)
    assert await app.get(cookie) == (name, "")


async def test_http2_in_front(site: Site) -> None:
    app = await web(site)
    async with h2_client(app.gate.port) as client:
        answer = await client.fetch("/")
        name = answer.body.decode()
        cookie = (answer.field_of("set-cookie") or "").partition(";")[0]
        assert cookie.startswith("STAY=")
        assert answer.field_of("cache-control") == "private"
        for _ in range(4):  # cookies come in crumbs (RFC 9113 section 8.2.3)
            again = await client.fetch("/", fields=[("cookie", "a=1"), ("cookie", cookie), ("cookie", "b=2")])
            assert (again.body.decode(), again.field_of("set-cookie")) == (name, None)
            assert "a=1; b=2" in app.seen[int(name)][-1]
            assert "STAY" not in app.seen[int(name)][-1]


async def test_http2_behind(site: Site, tmp_path: Any) -> None:
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "file").write_text(str(i))
    async with nghttpd(tmp_path / "0") as a, nghttpd(tmp_path / "1") as b:
        app = Web(await site.gate([a, b], pool={"protocol": "http2", "cookie": COOKIE}), [])
        name, cookie = await app.get(path="/file")
        assert cookie
        for _ in range(4):
            assert await app.get(cookie, "/file") == (name, "")
        async with h2_client(app.gate.port) as client:
            for _ in range(4):
                answer = await client.fetch("/file", fields=[("cookie", cookie)])
                assert (answer.body.decode(), answer.field_of("set-cookie")) == (name, None)


async def test_inference_over_rest_and_the_cache(site: Site) -> None:
    models = [ModelServer(), ModelServer()]
    addresses = [await site.model(model) for model in models]
    gate = await site.gate(addresses, pool={**OIP, "cookie": COOKIE}, cache_size=8 << 20)

    first = await ask(gate, plain(tensor([1.0])))
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert first.headers["cache-control"] == "private"
    hit = await ask(gate, plain(tensor([1.0])))
    assert "hit" in (hit.cache or "")
    assert "set-cookie" not in hit.headers  # what is kept is the result, and nothing of whoever asked first
    assert (hit.status, hit.json) == (first.status, first.json)
    kept = next(model for model in models if model.requests)
    for i in range(4):
        answer = await ask(gate, plain(tensor([2.0 + i])), headers={"Cookie": cookie})
        assert "set-cookie" not in answer.headers
    assert len(kept.requests) == 5


async def test_collapsed_requests_get_no_cookie_of_another(site: Site) -> None:
    release = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        await release.wait()
        return await echo(request, context)

    model = ModelServer(slow)
    gate = await site.gate([await site.model(model)], pool={**OIP, "cookie": COOKIE}, cache_size=8 << 20)
    asks = [asyncio.create_task(ask(gate, plain())) for _ in range(4)]
    await settle(lambda: len(model.requests) == 1, "nobody asked")
    await asyncio.sleep(0.2)
    release.set()
    answers = await asyncio.gather(*asks)
    assert len(model.requests) == 1
    assert sum("set-cookie" in answer.headers for answer in answers) == 1


async def test_a_pool_without_it_gives_and_takes_none(site: Site) -> None:
    seen: list[str] = []
    gate = await site.gate([await site.endpoint(named("0", seen))])
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: STAY=1; a=2\r\nConnection: close\r\n\r\n")
    assert b"set-cookie" not in answer.lower()
    assert "Cookie: STAY=1; a=2\r\n" in seen[0]
