"""HTTP caching on the data path: what is kept, what is given, and who is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from http_cache_site import MIB, Asked, Fields, Origin, Reply, ask, cached_gate, counted, read_answer
from infer_site import idle
from test_http2_lengths import Http2Endpoint

from lb.cache.store import ResultCache
from lb.config.plan.routes import HedgePlan, HttpCachePlan

FRESH = ("Cache-Control", "max-age=600")
NAMED = ("ETag", '"one"')


def always(*fields: tuple[str, str], body: bytes = b"", **more: Any) -> Origin:
    """Answers every request with `body`, or with how many there were."""
    origin: Origin

    def behave(asked: Asked) -> Reply:
        return Reply(fields=list(fields), body=body or b"%d" % len(origin.asked), **more)

    origin = Origin(behave)
    return origin


def validating(first: Fields, then: Fields, tag: str = '"one"') -> Origin:
    """Has one answer, and says 304 to who has it."""

    def behave(asked: Asked) -> Reply:
        if asked.get("if-none-match") == tag:
            return Reply(304, then)
        return Reply(fields=[("ETag", tag), *first], body=b"the body")

    return Origin(behave)


async def test_a_fresh_answer_is_given_again(site: Site) -> None:
    origin = always(FRESH, ("X-Own", "yes"), ("Content-Type", "text/plain"))
    gate = await cached_gate(site, origin)
    first = await ask(gate, "/a?b")
    assert (first.body, first.cache) == (b"1", "fwd=uri-miss; fwd-status=200; stored")
    again = await ask(gate, "/a?b")
    assert (again.status, again.body) == (200, b"1")
    assert again.cache.startswith("hit; ttl=")
    assert again.get("x-own") == "yes"
    assert again.get("content-type") == "text/plain"
    assert again.get("age") is not None
    assert again.get("date") == first.get("date")
    other = await ask(gate, "/a?c")
    assert other.body == b"2"
    assert len(origin.asked) == 2
    await idle(gate)
    assert counted(gate) == {"hit": 1, "miss": 2, "stored": 2}


async def test_head_is_answered_from_a_stored_get(site: Site) -> None:
    origin = always(FRESH, body=b"x" * 1000)
    gate = await cached_gate(site, origin)
    missed = await ask(gate, method="HEAD")
    assert missed.cache == "fwd=uri-miss; fwd-status=200"
    await ask(gate)
    got = await ask(gate, method="HEAD")
    assert (got.body, got.get("content-length")) == (b"", "1000")
    assert got.cache.startswith("hit")
    assert [asked.method for asked in origin.asked] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, [("Cache-Control", "no-store")]),
        (200, [("Cache-Control", "max-age=600, private")]),
        (200, [("Cache-Control", "max-age=600"), ("Vary", "*")]),
        (200, [("Cache-Control", "max-age=600"), ("Set-Cookie", "a=b")]),
        (200, [("Cache-Control", "max-age=600"), ("Age", "700")]),
        (200, []),
        (500, [("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")]),
        (599, [("Cache-Control", "max-age=600, must-understand")]),
    ],
)
async def test_what_is_not_kept(site: Site, status: int, fields: Fields) -> None:
    origin = Origin(lambda asked: Reply(status, fields, b"x"))
    gate = await cached_gate(site, origin)
    for _ in range(2):
        got = await ask(gate)
        assert (got.status, got.cache) == (status, f"fwd=uri-miss; fwd-status={status}")
    assert len(origin.asked) == 2


@pytest.mark.parametrize("status", [200, 204, 301, 404, 410, 500, 599])
async def test_any_status_is_kept_that_says_how_long(site: Site, status: int) -> None:
    origin = Origin(lambda asked: Reply(status, [FRESH], b"" if status == 204 else b"x"))
    gate = await cached_gate(site, origin)
    for _ in range(2):
        got = await ask(gate)
        assert got.status == status
    assert got.cache.startswith("hit")
    assert got.body == (b"" if status == 204 else b"x")


async def test_authorized_answers_are_shared_only_where_they_say_so(site: Site) -> None:
    own = always(FRESH)
    gate = await cached_gate(site, own)
    await ask(gate, Authorization="Basic x")
    assert (await ask(gate, Authorization="Basic y")).body == b"2"
    public = always(("Cache-Control", "max-age=600, public"))
    gate = await cached_gate(site, public)
    await ask(gate, Authorization="Basic x")
    assert (await ask(gate)).body == b"1"


@pytest.mark.parametrize("first", [b"question", b""])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_to_a_body_is_nobody_elses(site: Site, first: bytes, framing: str) -> None:
    """As searches are asked for by GET; and nobody can have a body's answer kept for those who send none."""

    def framed(body: bytes) -> dict[str, Any]:
        if framing == "length" or not body:
            return {"body": body}
        return {"body": b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), "framing": "chunked"}

    origin = always(FRESH)
    gate = await cached_gate(site, origin)
    await ask(gate, **framed(first))
    assert (await ask(gate, **framed(b"other"))).body == b"2"
    assert (await ask(gate)).body == (b"3" if first else b"1")
    assert counted(gate)["bypass"] == (2 if first else 1)


async def test_what_the_endpoint_does_not_see_is_no_variant(site: Site) -> None:
    """A header that Connection names goes no further (RFC 9110 section 7.6.1)."""
    origin = always(FRESH, ("Vary", "X-Kind"))
    gate = await cached_gate(site, origin)
    assert (await ask(gate, Connection="x-kind", X_Kind="a")).body == b"1"
    assert origin.asked[0].get("x-kind") is None
    assert (await ask(gate, X_Kind="a")).body == b"2"
    assert (await ask(gate)).body == b"1"
    assert (await ask(gate, Connection="x-kind, close", X_Kind="b")).body == b"1"


async def test_variants(site: Site) -> None:
    origin = Origin(
        lambda asked: Reply(
            fields=[FRESH, ("Vary", "Accept-Language, X-Other")], body=(asked.get("accept-language") or "none").encode()
        )
    )
    gate = await cached_gate(site, origin)
    assert (await ask(gate, Accept_Language="de")).cache == "fwd=uri-miss; fwd-status=200; stored"
    assert (await ask(gate, Accept_Language="en")).cache == "fwd=vary-miss; fwd-status=200; stored"
    assert (await ask(gate)).body == b"none"
    for language in ("de", "en"):
        got = await ask(gate, Accept_Language=language)
        assert (got.body, got.cache.split(";")[0]) == (language.encode(), "hit")
    assert (await ask(gate, Accept_Language="de", X_Other="1")).cache.startswith("fwd=vary-miss")
    assert len(origin.asked) == 4
    await ask(gate, method="POST", body=b"x")
    for language in ("de", "en"):
        assert (await ask(gate, Accept_Language=language)).cache.startswith("fwd=")
    assert len(origin.asked) == 7


async def test_conditions_are_answered_here(site: Site) -> None:
    origin = always(FRESH, NAMED, ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT"), ("Content-Type", "text/plain"))
    gate = await cached_gate(site, origin)
    await ask(gate)
    got = await ask(gate, If_None_Match='"zero", W/"one"')
    assert (got.status, got.get("etag"), got.get("content-type")) == (304, '"one"', None)
    assert got.cache.startswith("hit")
    assert (await ask(gate, If_None_Match='"two"')).status == 200
    assert (await ask(gate, If_Modified_Since="Wed, 01 Jan 2020 00:00:00 GMT")).status == 304
    assert (await ask(gate, If_Modified_Since="Tue, 31 Dec 2019 00:00:00 GMT")).status == 200
    both = await ask(gate, If_None_Match='"two"', If_Modified_Since="Wed, 01 Jan 2020 00:00:00 GMT")
    assert both.status == 200
    assert len(origin.asked) == 1


@pytest.mark.parametrize(
    ("wanted", "status", "body", "where"),
    [
        ("bytes=0-1", 206, b"01", "bytes 0-1/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=4-2", 200, b"0123456789", None),
    ],
)
async def test_parts_of_a_stored_answer(site: Site, wanted: str, status: int, body: bytes, where: str | None) -> None:
    origin = always(FRESH, NAMED, body=b"0123456789")
    gate = await cached_gate(site, origin)
    await ask(gate)
    got = await ask(gate, Range=wanted)
    assert (got.status, got.body, got.get("content-range")) == (status, body, where)
    held = await ask(gate, Range=wanted, If_Range='"one"')
    assert held.status == status
    changed = await ask(gate, Range=wanted, If_Range='"two"')
    assert (changed.status, changed.body) == (200, b"0123456789")
    assert len(origin.asked) == 1


async def test_a_part_of_what_is_not_stored_is_the_endpoints(site: Site) -> None:
    origin = Origin(lambda asked: Reply(206, [FRESH, ("Content-Range", "bytes 0-1/9")], b"ab"))
    gate = await cached_gate(site, origin)
    for _ in range(2):
        got = await ask(gate, Range="bytes=0-1")
        assert (got.status, got.body) == (206, b"ab")
    assert len(origin.asked) == 2
    assert origin.asked[0].get("range") == "bytes=0-1"


async def test_a_stale_answer_is_validated(site: Site) -> None:
    origin = validating(
        [("Cache-Control", "max-age=10"), ("Age", "20"), ("X-State", "old"), ("X-Kept", "kept")],
        [("Cache-Control", "max-age=600"), ("X-State", "new")],
    )
    gate = await cached_gate(site, origin)
    await ask(gate)
    got = await ask(gate, If_None_Match='"other"')
    assert (got.status, got.body, got.cache) == (200, b"the body", "fwd=stale; fwd-status=304")
    assert (got.get("x-state"), got.get("x-kept"), got.get("etag")) == ("new", "kept", '"one"')
    assert origin.asked[1].get("if-none-match") == '"one"'
    again = await ask(gate)
    assert (again.body, again.cache.split(";")[0], again.get("x-state")) == (b"the body", "hit", "new")
    assert (await ask(gate, If_None_Match='"one"')).status == 304
    assert len(origin.asked) == 2
    await idle(gate)
    assert counted(gate) == {"hit": 2, "miss": 1, "revalidated": 1, "stored": 2}


async def test_a_changed_answer_replaces_the_stale_one(site: Site) -> None:
    number = 0

    def behave(asked: Asked) -> Reply:
        nonlocal number
        number += 1
        age = "700" if number == 1 else "0"
        return Reply(fields=[("ETag", f'"{number}"'), FRESH, ("Age", age)], body=b"%d" % number)

    gate = await cached_gate(site, Origin(behave))
    await ask(gate)
    assert (await ask(gate)).body == b"2"
    assert (await ask(gate)).cache.startswith("hit")
    assert (await ask(gate, If_None_Match='"2"')).status == 304


async def test_what_requests_want_of_the_cache(site: Site) -> None:
    origin = always(("Cache-Control", "max-age=600"), ("Age", "100"))
    gate = await cached_gate(site, origin)
    await ask(gate)
    for told in ("no-cache", "max-age=50", "min-fresh=550", "no-store"):
        before = len(origin.asked)
        got = await ask(gate, Cache_Control=told)
        assert got.cache.startswith("fwd=request"), told
        assert len(origin.asked) == before + 1
    for told in ("max-age=200", "min-fresh=400", "only-if-cached", "max-stale"):
        assert (await ask(gate, Cache_Control=told)).cache.startswith("hit"), told
    assert (await ask(gate, Pragma="no-cache")).cache.startswith("fwd=request")
    absent = await ask(gate, "/other", Cache_Control="only-if-cached")
    assert absent.status == 504
    await idle(gate)


async def test_requests_have_no_say_where_the_route_says_so(site: Site) -> None:
    origin = always(FRESH)
    gate = await cached_gate(site, origin, rules={"request_directives": False})
    await ask(gate)
    assert (await ask(gate, Cache_Control="no-cache", Pragma="no-cache")).cache.startswith("hit")


async def test_max_stale_takes_a_stale_answer(site: Site) -> None:
    origin = always(("Cache-Control", "max-age=60"), ("Age", "100"), NAMED)
    gate = await cached_gate(site, origin)
    await ask(gate)
    got = await ask(gate, Cache_Control="max-stale=50")
    assert got.cache == "hit; ttl=-40"
    assert (await ask(gate, Cache_Control="max-stale=30")).cache.startswith("fwd=stale")


async def test_a_stale_answer_is_given_while_it_is_made_anew(site: Site) -> None:
    origin = always(("Cache-Control", "max-age=10, stale-while-revalidate=600"), ("Age", "20"))
    gate = await cached_gate(site, origin)
    await ask(gate)
    got = await ask(gate)
    assert (got.body, got.cache) == (b"1", "hit; ttl=-10")
    await settle(lambda: len(origin.asked) == 2, "the answer was not made anew")
    await idle(gate)
    assert (await ask(gate)).body == b"2"
    await idle(gate)
    found = counted(gate)
    assert (found["stale"], found["miss"]) == (2, 1)
    assert found["refreshed"] == 2
    assert gate.total(2)["started"] == 3  # those that nobody waits for are no requests of the route


async def test_a_stale_answer_in_the_place_of_an_error(site: Site) -> None:
    failing = False

    def behave(asked: Asked) -> Reply:
        if failing:
            return Reply(503, body=b"sorry")
        return Reply(fields=[("Cache-Control", "max-age=10, stale-if-error=600"), ("Age", "20")], body=b"good")

    origin = Origin(behave)
    gate = await cached_gate(site, origin, pool={"retries": 0})
    await ask(gate)
    failing = True
    got = await ask(gate)
    assert (got.status, got.body, got.get("age")) == (200, b"good", "20")
    assert got.cache == "fwd=stale; detail=stale-if-error; ttl=-10"
    site.servers[0].close()
    origin.behave = lambda asked: Reply(silent=True)
    got = await ask(gate)
    assert (got.status, got.body) == (200, b"good")
    await idle(gate)
    assert counted(gate)["stale"] == 2


async def test_an_error_is_told_where_the_answer_has_to_be_validated(site: Site) -> None:
    told = ("Cache-Control", "max-age=10, must-revalidate, stale-if-error=600")
    replies = [Reply(fields=[told, ("Age", "20"), NAMED], body=b"good"), Reply(503, body=b"sorry")]
    gate = await cached_gate(site, Origin(lambda asked: replies.pop(0)), pool={"retries": 0})
    await ask(gate)
    assert (await ask(gate)).body == b"sorry"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_change_takes_what_is_stored(site: Site, method: str) -> None:
    status = 500

    def behave(asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(fields=[FRESH], body=b"x")
        return Reply(status, [("Location", "http://example.org/made"), ("Content-Location", "other")], b"done")

    origin = Origin(behave)
    gate = await cached_gate(site, origin)
    targets = ("/a/b", "/made", "/a/other", "/a/kept")
    for target in targets:
        await ask(gate, target)
    await ask(gate, "/a/b", method=method, body=b"x")
    for target in targets:
        assert (await ask(gate, target)).cache.startswith("hit")  # it has failed
    status = 201
    await ask(gate, "/a/b", method=method, body=b"x")
    found = {target: (await ask(gate, target)).cache.split(";")[0] for target in targets}
    assert found == {"/a/b": "fwd=uri-miss", "/made": "fwd=uri-miss", "/a/other": "fwd=uri-miss", "/a/kept": "hit"}
    await idle(gate)


async def test_other_hosts_are_not_changed(site: Site) -> None:
    def behave(asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(fields=[FRESH], body=b"x")
        return Reply(fields=[("Location", "http://example.com/made"), ("Content-Location", "//example.orgs/made")])

    gate = await cached_gate(site, Origin(behave))
    await ask(gate, "/made")
    await ask(gate, "/", method="POST", body=b"x")
    assert (await ask(gate, "/made")).cache.startswith("hit")


async def test_fields_that_are_not_kept(site: Site) -> None:
    origin = always(
        ("Cache-Control", 'max-age=600, no-cache="x-secret"'),
        ("Connection", "x-hop"),
        ("X-Hop", "1"),
        ("X-Secret", "s"),
        ("Tidegate-Cache-Control", "max-age=60"),
        ("X-Own", "1"),
    )
    gate = await cached_gate(site, origin)
    first = await ask(gate)
    assert (first.get("x-secret"), first.get("tidegate-cache-control")) == ("s", None)
    again = await ask(gate)
    assert again.cache.startswith("hit; ttl=60")
    for name in ("x-hop", "tidegate-cache-control", "connection"):
        assert again.get(name) is None
    assert again.get("x-own") == "1"


async def test_cookies_are_left_out_where_the_route_says_so(site: Site) -> None:
    origin = always(FRESH, ("Set-Cookie", "a=b"))
    gate = await cached_gate(site, origin, rules={"ignore_set_cookie": True})
    assert (await ask(gate)).get("set-cookie") == "a=b"
    again = await ask(gate)
    assert again.cache.startswith("hit")
    assert again.get("set-cookie") is None


async def test_a_default_lifetime_is_for_answers_that_say_nothing(site: Site) -> None:
    origin = always()
    gate = await cached_gate(site, origin, rules={"ttl_s": 60})
    await ask(gate)
    assert (await ask(gate)).cache.startswith("hit; ttl=")
    await ask(gate, "/own", Cookie="session=1")
    assert (await ask(gate, "/own", Cookie="session=2")).cache.startswith("fwd=")


async def test_parts_of_the_key(site: Site) -> None:
    origin = always(FRESH)
    gate = await cached_gate(site, origin, rules={"query": False, "headers": ("x-tenant",)})
    await ask(gate, "/a?b", X_Tenant="1")
    assert (await ask(gate, "/a?c", X_Tenant="1")).cache.startswith("hit")
    assert (await ask(gate, "/a?b", X_Tenant="2")).cache.startswith("fwd=uri-miss")


async def test_large_answers_pass(site: Site) -> None:
    sizes = {"/large": 5000, "/chunks": 5000, "/small": 1000}
    origin = Origin(
        lambda asked: Reply(fields=[FRESH], body=b"x" * sizes[asked.target], chunked=asked.target == "/chunks")
    )
    gate = await cached_gate(site, origin, rules={"max_object": 4096})
    for target, size in sizes.items():
        for _ in range(2):
            got = await ask(gate, target)
            assert len(got.body) == size
        assert got.cache.startswith("hit") == (target == "/small")


async def test_an_answer_that_breaks_off_is_not_kept(site: Site) -> None:
    replies = [Reply(fields=[FRESH], body=b"0123456789", cut=5), Reply(fields=[FRESH], body=b"whole")]
    gate = await cached_gate(site, Origin(lambda asked: replies.pop(0)), pool={"retries": 0})
    with pytest.raises(asyncio.IncompleteReadError):
        await ask(gate)
    assert (await ask(gate)).body == b"whole"
    await idle(gate)


async def waiting(gate: Gate, count: int) -> None:
    await settle(lambda: gate.proxy.busy() == count, f"{count} requests are not under way")
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("chunked", [False, True])
async def test_like_requests_wait_for_the_first(site: Site, chunked: bool) -> None:
    held = asyncio.Event()
    origin = always(FRESH, body=b"x" * 10_000, before=held, chunked=chunked)
    gate = await cached_gate(site, origin)
    tasks = [asyncio.create_task(ask(gate)) for _ in range(20)]
    await waiting(gate, 20)
    held.set()
    got = await asyncio.gather(*tasks)
    assert {answer.body for answer in got} == {b"x" * 10_000}
    assert len(origin.asked) == 1
    caches = sorted(answer.cache for answer in got)
    assert caches == ["fwd=uri-miss; collapsed"] * 19 + ["fwd=uri-miss; fwd-status=200; stored"]
    await idle(gate)
    assert counted(gate) == {"collapsed": 19, "miss": 1, "stored": 1}


async def test_who_waits_gets_the_body_as_it_comes(site: Site) -> None:
    rest = asyncio.Event()
    origin = always(FRESH, body=b"firstrest!", gate=rest)
    gate = await cached_gate(site, origin)
    leader = asyncio.create_task(ask(gate))
    await waiting(gate, 1)
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(5) == b"first"  # although the rest is still to come
    late = asyncio.create_task(ask(gate, Range="bytes=5-8"))
    await waiting(gate, 3)
    rest.set()
    assert await reader.readexactly(5) == b"rest!"
    assert (await leader).body == b"firstrest!"
    assert (await late).body == b"rest"
    writer.close()
    await idle(gate)


async def test_who_waits_in_vain_asks_for_itself(site: Site) -> None:
    held = asyncio.Event()
    origin = always(("Cache-Control", "no-store"), before=held)
    gate = await cached_gate(site, origin)
    tasks = [asyncio.create_task(ask(gate)) for _ in range(5)]
    await waiting(gate, 5)
    assert len(origin.asked) == 1
    held.set()
    got = await asyncio.gather(*tasks)
    assert len({answer.body for answer in got}) == 5
    assert len(origin.asked) == 5
    held.clear()
    tasks = [asyncio.create_task(ask(gate)) for _ in range(5)]
    await settle(lambda: len(origin.asked) == 10, "they wait for each other although that is in vain")
    held.set()
    await asyncio.gather(*tasks)
    await idle(gate)


async def test_a_leader_that_leaves_takes_nobody_with_it(site: Site) -> None:
    held = asyncio.Event()
    origin = always(FRESH, body=b"x" * 1_000_000, before=held)
    gate = await cached_gate(site, origin)
    _, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await waiting(gate, 1)
    tasks = [asyncio.create_task(ask(gate)) for _ in range(3)]
    await waiting(gate, 4)
    writer.close()
    await waiting(gate, 3)
    held.set()
    for answer in await asyncio.gather(*tasks):
        assert len(answer.body) == 1_000_000
    assert len(origin.asked) == 1
    await idle(gate)


@pytest.mark.parametrize(("size", "kept"), [(10_000, True), (900_000, False)])
async def test_a_client_that_leaves_in_the_middle(site: Site, size: int, kept: bool) -> None:
    rest = asyncio.Event()
    origin = always(FRESH, body=b"x" * size, gate=rest)
    gate = await cached_gate(site, origin)
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await settle(lambda: gate.proxy.busy() == 0, "the client has not left")
    rest.set()
    await idle(gate)
    assert (await ask(gate)).cache.startswith("hit") == kept


async def test_a_follower_that_leaves(site: Site) -> None:
    held = asyncio.Event()
    origin = always(FRESH, before=held)
    gate = await cached_gate(site, origin)
    leader = asyncio.create_task(ask(gate))
    await waiting(gate, 1)
    _, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await waiting(gate, 2)
    writer.close()
    await waiting(gate, 1)
    held.set()
    assert (await leader).body == b"1"
    await idle(gate)


async def test_the_next_leads_when_the_first_has_failed(site: Site) -> None:
    held = asyncio.Event()
    replies = [Reply(before=held, silent=True), Reply(before=held, fields=[FRESH], body=b"good")]
    origin = Origin(lambda asked: replies.pop(0))
    gate = await cached_gate(site, origin, pool={"retries": 0})
    tasks = [asyncio.create_task(ask(gate)) for _ in range(4)]
    await waiting(gate, 4)
    held.set()
    got = sorted((answer.status, answer.body) for answer in await asyncio.gather(*tasks))
    assert [status for status, _ in got] == [200, 200, 200, 502]
    assert {body for status, body in got if status == 200} == {b"good"}
    assert len(origin.asked) == 2
    await idle(gate)


async def test_who_waits_does_not_wait_for_one_failure_after_the_other(site: Site) -> None:
    first, rest = asyncio.Event(), asyncio.Event()
    replies = [Reply(before=first, silent=True), Reply(silent=True)]
    origin = Origin(lambda asked: replies.pop(0) if replies else Reply(before=rest, silent=True))
    gate = await cached_gate(site, origin, pool={"retries": 0})
    tasks = [asyncio.create_task(ask(gate)) for _ in range(8)]
    await waiting(gate, 8)
    first.set()
    await settle(lambda: len(origin.asked) == 8, "they did not all ask")
    rest.set()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {502}
    await idle(gate)


async def test_an_answer_that_breaks_off_does_for_all_who_have_some_of_it(site: Site) -> None:
    rest = asyncio.Event()
    replies = [Reply(fields=[FRESH], body=b"0123456789", cut=6, gate=rest), Reply(fields=[FRESH], body=b"whole")]
    gate = await cached_gate(site, Origin(lambda asked: replies.pop(0)), pool={"retries": 0})
    tasks = [asyncio.create_task(ask(gate)) for _ in range(3)]
    await waiting(gate, 3)
    part = asyncio.create_task(ask(gate, Range="bytes=0-1"))
    await waiting(gate, 4)
    rest.set()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, asyncio.IncompleteReadError)
    assert (await part).body == b"whole"  # none of it was there: it asked for itself
    await idle(gate)


async def test_variants_do_not_wait_for_each_others_answer(site: Site) -> None:
    held = asyncio.Event()
    origin = Origin(
        lambda asked: Reply(before=held, fields=[FRESH, ("Vary", "X-Kind")], body=(asked.get("x-kind") or "").encode())
    )
    gate = await cached_gate(site, origin)
    tasks = [asyncio.create_task(ask(gate, X_Kind=kind)) for kind in ("a", "b", "a", "b")]
    await waiting(gate, 4)
    held.set()
    assert [answer.body for answer in await asyncio.gather(*tasks)] == [b"a", b"b", b"a", b"b"]
    await idle(gate)


async def test_clients_of_http2(site: Site) -> None:
    origin = always(FRESH, NAMED, body=b"0123456789")
    gate = await cached_gate(site, origin)
    async with h2_client(gate.port) as client:
        first = await client.fetch("/")
        again = await client.fetch("/")
        assert (first.body, again.body) == (b"0123456789", b"0123456789")
        assert (again.field_of("cache-status") or "").startswith("tidegate; hit")
        assert again.field_of("content-length") == "10"
        part = await client.fetch("/", fields=[("range", "bytes=2-3")])
        assert (part.status, part.body) == (206, b"23")
        unchanged = await client.fetch("/", fields=[("if-none-match", '"one"')])
        assert (unchanged.status, unchanged.body) == (304, b"")
    assert len(origin.asked) == 1
    await idle(gate)


async def test_tags_are_purged(site: Site) -> None:
    origin = always(FRESH, ("Surrogate-Key", "shop item-1"), ("Cache-Tag", "red, very blue"))
    gate = await cached_gate(site, origin)
    cache = ResultCache(gate.segment, 1 << 20)
    for number, tag in enumerate((b"item-1", b"very blue", b"red")):
        assert (await ask(gate)).body == b"%d" % (number + 1)
        assert (await ask(gate)).cache.startswith("hit")
        cache.purge(tag)
    cache.purge(b"other")
    assert (await ask(gate)).cache.startswith("fwd=")


async def test_a_purge_during_the_making_wins(site: Site) -> None:
    held = asyncio.Event()
    origin = always(FRESH, ("Cache-Tag", "a"), before=held)
    gate = await cached_gate(site, origin)
    cache = ResultCache(gate.segment, 1 << 20)
    task = asyncio.create_task(ask(gate))
    await waiting(gate, 1)
    cache.purge(b"a")
    held.set()
    await task
    assert (await ask(gate)).cache.startswith("fwd=")


@pytest.mark.parametrize("tag", ["url:example.org/a?b", "pool:pool"])
async def test_a_url_and_a_pool_are_purged_with_all_variants(site: Site, tag: str) -> None:
    held = asyncio.Event()
    held.set()
    origin = Origin(
        lambda asked: Reply(fields=[FRESH, ("Vary", "X-Kind")], body=(asked.get("x-kind") or "").encode(), before=held)
    )
    gate = await cached_gate(site, origin)
    cache = ResultCache(gate.segment, 1 << 20)
    for kind in ("1", "2", "1", "2"):
        got = await ask(gate, "/a?b", X_Kind=kind)
    assert got.cache.startswith("hit")
    await ask(gate, "/a?c")
    cache.purge(tag.encode())
    for kind in ("1", "2"):
        assert (await ask(gate, "/a?b", X_Kind=kind)).cache.startswith("fwd=vary-miss")
    assert (await ask(gate, "/a?c")).cache.startswith("hit") == tag.startswith("url:")
    # What is being made when it is purged is neither kept, nor given to who asks later.
    held.clear()
    before = asyncio.create_task(ask(gate, "/a?b", X_Kind="3"))
    await waiting(gate, 1)
    cache.purge(tag.encode())
    asked = len(origin.asked)
    after = [asyncio.create_task(ask(gate, "/a?b", X_Kind="3")) for _ in range(2)]
    await waiting(gate, 3)
    assert len(origin.asked) == asked + 1
    held.set()
    await asyncio.gather(before, *after)
    assert (await ask(gate, "/a?b", X_Kind="3")).cache.startswith("hit")
    assert len(origin.asked) == asked + 1
    await idle(gate)


async def test_who_comes_after_a_change_does_not_get_the_answer_from_before(site: Site) -> None:
    held = asyncio.Event()
    origin = Origin(lambda asked: Reply(fields=[FRESH], body=b"x", before=held if asked.method == "GET" else None))
    gate = await cached_gate(site, origin)
    before = asyncio.create_task(ask(gate))
    await waiting(gate, 1)
    await ask(gate, method="PUT", body=b"y")
    after = asyncio.create_task(ask(gate))
    await settle(lambda: len(origin.asked) == 3, "the answer from before the change is waited for")
    held.set()
    await before
    assert (await after).cache.startswith("fwd=uri-miss; fwd-status=200; stored")
    assert (await ask(gate)).cache.startswith("hit")
    await idle(gate)


@pytest.mark.parametrize("names", [8, 9])
async def test_answers_name_eight_tags_at_most(site: Site, names: int) -> None:
    gate = await cached_gate(site, always(FRESH, ("Cache-Tag", ",".join(map(str, range(names))))))
    await ask(gate)
    assert (await ask(gate)).cache.startswith("hit") == (names == 8)


async def test_a_change_during_the_making_wins(site: Site) -> None:
    held = asyncio.Event()
    origin = Origin(lambda asked: Reply(fields=[FRESH], body=b"x", before=held if asked.method == "GET" else None))
    gate = await cached_gate(site, origin)
    task = asyncio.create_task(ask(gate))
    await waiting(gate, 1)
    await ask(gate, method="PUT", body=b"y")
    held.set()
    await task
    assert (await ask(gate)).cache.startswith("fwd=")


async def test_pipelined_hits(site: Site) -> None:
    origin = always(FRESH)
    gate = await cached_gate(site, origin)
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" * 50)
    for _ in range(50):
        assert (await read_answer(reader)).body == b"1"
    writer.close()
    assert len(origin.asked) == 1
    await idle(gate)


async def test_endpoints_of_http2(site: Site) -> None:
    fields = [(":status", "200"), ("cache-control", "max-age=600"), ("etag", '"one"'), ("content-length", "10")]
    endpoint = Http2Endpoint([(fields, False), (b"0123456789", True)])
    rules = {"http_cache": HttpCachePlan()}
    gate = await site.gate(
        [await site.endpoint(endpoint.handle)], route=rules, cache_size=8 * MIB, pool={"protocol": "http2"}
    )
    assert (await ask(gate)).cache == "fwd=uri-miss; fwd-status=200; stored"
    tasks = [asyncio.create_task(ask(gate, "/other")) for _ in range(5)]
    assert {answer.body for answer in await asyncio.gather(*tasks)} == {b"0123456789"}
    assert (await ask(gate, Range="bytes=2-3")).body == b"23"
    async with h2_client(gate.port) as client:
        assert (await client.fetch("/")).body == b"0123456789"
    assert len(endpoint.methods) == 2
    await idle(gate)


async def test_an_upload_passes_on_a_cached_route(site: Site) -> None:
    origin = Origin(lambda asked: Reply(fields=[FRESH], body=b"%d" % len(asked.body)))
    gate = await cached_gate(site, origin)
    body = b"x" * 3_000_000
    for method in ("POST", "GET"):
        assert (await ask(gate, method=method, body=body)).body == b"3000000"
    assert counted(gate) == {"bypass": 2}
    await idle(gate)


async def test_a_hedge_may_bring_the_answer(site: Site) -> None:
    held = asyncio.Event()
    slow = always(FRESH, body=b"slow", before=held)
    quick = always(FRESH, body=b"quick")
    hedge = HedgePlan(0, 50_000_000, 0, 100, 100)
    gate = await site.gate(
        [await site.endpoint(slow.serve), await site.endpoint(quick.serve)],
        route={"http_cache": HttpCachePlan(), "hedge": hedge},
        cache_size=8 * MIB,
    )
    tasks = [asyncio.create_task(ask(gate)) for _ in range(4)]
    got = [answer.body for answer in await asyncio.gather(*tasks)]
    assert got == [b"quick"] * 4
    assert (await ask(gate)).cache.startswith("hit")
    assert len(slow.asked) + len(quick.asked) <= 2
    held.set()
    await idle(gate)


async def test_a_retry_may_bring_the_answer(site: Site) -> None:
    replies = [Reply(silent=True), Reply(fields=[FRESH], body=b"good")]
    gate = await cached_gate(site, Origin(lambda asked: replies.pop(0)))
    assert (await ask(gate)).body == b"good"
    assert (await ask(gate)).cache.startswith("hit")
    await idle(gate)


async def test_a_plan_without_a_cache_passes_all(site: Site) -> None:
    origin = always(FRESH)
    gate = await cached_gate(site, origin)
    await ask(gate)
    site.reload(gate, cache=None)
    for _ in range(2):
        assert (await ask(gate)).get("cache-status") is None
    await idle(gate)


async def test_a_request_that_is_too_late(site: Site) -> None:
    """Who waits has a deadline of its own."""
    held = asyncio.Event()
    origin = always(FRESH, before=held)
    gate = await cached_gate(site, origin, route={"timeout_ns": SECOND // 5})
    tasks = [asyncio.create_task(ask(gate)) for _ in range(3)]
    assert [answer.status for answer in await asyncio.gather(*tasks)] == [504] * 3
    held.set()
    await idle(gate)


async def test_a_reload_takes_the_cache_away_in_the_middle(site: Site) -> None:
    rest = asyncio.Event()
    origin = always(FRESH, body=b"x" * 100_000, gate=rest)
    gate = await cached_gate(site, origin)
    tasks = [asyncio.create_task(ask(gate)) for _ in range(3)]
    await waiting(gate, 3)
    site.reload(gate, cache=None)
    rest.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(outcomes[0].body) == 100_000 if not isinstance(outcomes[0], BaseException) else False
    await idle(gate)


async def test_like_variants_wait_for_one_of_them(site: Site) -> None:
    held = asyncio.Event()
    origin = Origin(
        lambda asked: Reply(before=held, fields=[FRESH, ("Vary", "X-Kind")], body=(asked.get("x-kind") or "").encode())
    )
    gate = await cached_gate(site, origin)
    tasks = [asyncio.create_task(ask(gate, X_Kind=kind)) for kind in "abababab"]
    await waiting(gate, 8)
    held.set()
    assert [answer.body for answer in await asyncio.gather(*tasks)] == [b"a", b"b"] * 4
    assert len(origin.asked) == 2
    await idle(gate)


async def test_upgrades_pass_a_cached_route(site: Site) -> None:
    async def upgrading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
        writer.write(await reader.readexactly(4))
        writer.close()

    gate = await site.gate(
        [await site.endpoint(upgrading)],
        route={"http_cache": HttpCachePlan()},
        listener={"upgrades": ("raw",)},
        cache_size=8 * MIB,
    )
    for method in (b"GET", b"PUT"):
        reader, writer = await gate.connect()
        writer.write(method + b" / HTTP/1.1\r\nHost: a\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.close()
    await idle(gate)
