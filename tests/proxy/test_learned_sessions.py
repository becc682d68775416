"""Sessions that endpoints make and a pool learns: by cookie and by header, over both fronts, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from affinity_site import DRAIN, HEADER, LEARN, MAINTENANCE, QUEUE, ROUND, SERIES, App, web
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from msgspec.structs import replace

from lb.config.plan.plan import LearnPlan
from lb.config.plan.routes import FieldsPlan, HedgePlan, RetryPlan
from lb.shared.affinity_table import AffinityTable


@pytest.mark.parametrize("learn", [LEARN, HEADER])
async def test_a_session_stays_where_it_was_made(site: Site, learn: LearnPlan) -> None:
    app = await web(site, learn=learn)
    made = [await app.login() for _ in range(5)]
    assert {name for name, _ in made} == {"0", "1", "2"}
    for name, session in made:
        await app.stays(session, name)
    assert app.counted() == (30, 0, 0, 5, 0)
    assert app.known == 5
    assert app.gate.in_flight() == 0


async def test_endpoints_see_their_cookie(site: Site) -> None:
    app = await web(site, 1)
    _, session = await app.login()
    await app.get(session)
    assert f"Cookie: a=1; SID={session}\r\n" in app.apps[0].seen[-1]


async def test_what_clients_make_up_is_not_kept(site: Site) -> None:
    app = await web(site)
    for i in range(9):
        await app.get(f"made-up-{i}")
    for odd in (" ", '"', "x" * 10_000, "\xff"):
        await app.get(odd)
    assert app.known == 0
    assert app.counted()[1] == 12  # " " is no value
    assert app.counted()[3] == 0


@pytest.mark.parametrize("learn", [LEARN, HEADER])
async def test_a_session_that_its_endpoint_ends_is_forgotten(site: Site, learn: LearnPlan) -> None:
    app = await web(site, learn=learn)
    name, session = await app.login()
    assert (await app.get(session, "/logout"))[0] == f"{name}!"
    assert app.known == 0
    assert {(await app.get(session))[0].rstrip("!") for _ in range(3)} == {"0", "1", "2"}
    assert app.counted()[1:] == (3, 0, 1, 1)


async def test_expired_cookies_end_and_others_do_not(site: Site) -> None:
    app = await web(site, 2)
    for field, known in [
        ("Set-Cookie: SID=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Set-Cookie: SID=x; Max-Age=600", 1),
        ("Set-Cookie: SID=x; Max-Age=-1", 0),
        ("set-cookie: SID=y; Secure\r\nSet-Cookie: SID=x", 1),  # the last counts
        ("SET-COOKIE: SID=", 0),
        ("Set-Cookie: sid=x", 0),
    ]:
        for one in app.apps:
            one.answer = field
        await app.get("x", "/login")
        assert app.known == known, field


async def test_it_ends_when_it_is_idle(site: Site) -> None:
    app = await web(site, learn=replace(LEARN, idle_ns=SECOND // 2))
    name, session = await app.login()
    for _ in range(8):
        await asyncio.sleep(0.1)
        assert (await app.get(session))[0] == f"{name}!"
    hit = app.counted()[0]
    await asyncio.sleep(0.7)
    await app.get(session)
    assert app.counted()[:2] == (hit, 1)


async def test_a_request_that_takes_long_keeps_it(site: Site) -> None:
    app = await web(site, learn=replace(LEARN, idle_ns=SECOND // 2))
    name, session = await app.login()
    held = asyncio.create_task(app.get(session, "/hold"))
    await asyncio.sleep(0.7)
    app.apps[int(name)].hold.set()
    await held
    assert (await app.get(session))[0] == f"{name}!"


@pytest.mark.parametrize("why", ["down", "maintenance", "removed"])
async def test_another_endpoint_when_its_own_is_gone(site: Site, why: str) -> None:
    app = await web(site)
    name, session = await app.login()
    slot = app.slot(name)
    if why == "down":
        app.gate.segment.set_health(slot, False, 1)
    elif why == "maintenance":
        app.gate.segment.set_admin(slot, MAINTENANCE)
    else:
        left = tuple(e for e in app.gate.plan.pools[0].endpoints if e.slot != slot)
        site.reload_pool(app.gate, endpoints=left)
    # Whoever does not know it and says so does not get it.
    assert (await app.get(session, "/status/401", 401))[0] != name
    assert app.counted()[2] == 1
    if why == "down":
        app.gate.segment.set_health(slot, True, 2)
        await app.stays(session, name)
        app.gate.segment.set_health(slot, False, 3)
    # Who answers well has it from then on.
    other = (await app.get(session))[0]
    assert other != name
    assert app.counted()[2] == 2
    for _ in range(4):
        assert (await app.get(session))[0] == other
    # And a new one is learned anew.
    again, second = await app.get(session, "/login")
    assert again == other
    await app.stays(second, again)


async def test_a_drained_endpoint_keeps_those_that_it_has(site: Site) -> None:
    app = await web(site)
    name, session = await app.login()
    app.gate.segment.set_admin(app.slot(name), DRAIN)
    await app.stays(session, name)
    assert all([(await app.login())[0] != name for _ in range(4)])


async def test_a_retry_goes_elsewhere_and_has_it(site: Site) -> None:
    app = await web(site, 2)
    for one in app.apps:
        one.close = True
    _, session = await app.login("0")
    site.servers[0].close()
    await site.servers[0].wait_closed()
    for _ in range(4):
        assert (await app.get(session))[0] == "1"
    assert app.counted()[:3] == (3, 0, 1)
    assert app.gate.in_flight() == 0


async def test_answers_that_are_not_taken_teach_nothing(site: Site) -> None:
    """A 503 with a cookie, which the route tries again elsewhere: its client never sees it."""
    app = await web(site, 2, route={"retry": RetryPlan(2, ("5xx",), 0, 100, 10)})
    app.apps[0].fails = True
    for _ in range(4):
        assert (await app.get("", "/login"))[0] == "1"
    assert len(app.apps[0].sessions) >= 1
    assert app.known == len(app.apps[1].sessions) == 4


async def test_a_hedge_that_wins_has_it(site: Site) -> None:
    app = await web(site, 2, route={"hedge": HedgePlan(0, 50_000_000, 1, 100, 10)})
    name, session = await app.login()
    other = app.apps[1 - int(name)]
    other.hold.set()
    assert (await app.get(session, "/hold"))[0] == other.name
    assert app.counted()[2] == 1
    assert (await app.get(session))[0] == other.name
    app.apps[int(name)].hold.set()


async def test_a_full_endpoint_lends_its_sessions_out(site: Site) -> None:
    app = await web(site, 2, cap=1)
    name, session = await app.login()
    held = asyncio.create_task(app.get(session, "/hold"))
    await settle(lambda: app.gate.in_flight() == 1, "nothing is held")
    for _ in range(2):
        assert (await app.get(session))[0] not in (name, f"{name}!")
    app.apps[int(name)].hold.set()
    assert (await held)[0] == f"{name}!"
    await app.stays(session, name)
    assert app.counted()[2] == 2


async def test_it_waits_in_line_like_others(site: Site) -> None:
    app = await web(site, 2, cap=1, pool={"queue": QUEUE})
    name, session = await app.login()
    held = [asyncio.create_task(app.get("", "/hold")) for _ in range(2)]
    await settle(lambda: app.gate.in_flight() == 2, "nothing is held")
    waiting = asyncio.create_task(app.get(session))
    await settle(lambda: app.gate.total(300)["started"] == 1, "nobody waits")
    for one in app.apps:
        one.hold.set()
    await waiting
    await asyncio.gather(*held)
    await app.stays(session, name)


async def test_a_reload_keeps_it_and_moves_those_who_wait(site: Site) -> None:
    app = await web(site, 2, cap=1, pool={"queue": QUEUE})
    name, session = await app.login()
    held = [asyncio.create_task(app.get("", "/hold")) for _ in range(2)]
    await settle(lambda: app.gate.in_flight() == 2, "nothing is held")
    waiting = asyncio.create_task(app.get(session))
    await settle(lambda: app.gate.total(300)["started"] == 1, "nobody waits")
    site.reload_pool(app.gate, endpoints=app.gate.plan.pools[0].endpoints[::-1])
    for one in app.apps:
        one.hold.set()
    await waiting
    await asyncio.gather(*held)
    await app.stays(session, name)
    site.reload_pool(app.gate, learn=None)
    assert {(await app.get(session))[0].rstrip("!") for _ in range(2)} == {"0", "1"}


async def test_a_pool_finds_only_its_own(site: Site) -> None:
    """The same endpoints, and the same cookie, under another name, or of another cookie."""
    app = await web(site, 2)
    name, session = await app.login()
    site.reload_pool(app.gate, name="another")
    assert {(await app.get(session))[0].rstrip("!") for _ in range(2)} == {"0", "1"}
    site.reload_pool(app.gate, learn=replace(LEARN, name="OTHER"))
    assert {(await app.get(session))[0].rstrip("!") for _ in range(2)} == {"0", "1"}
    site.reload_pool(app.gate)
    await app.stays(session, name)


async def test_a_cookie_that_the_route_takes_out_is_learned(site: Site) -> None:
    fields = FieldsPlan(remove=("set-cookie",))
    app = await web(site, 2, route={"response_fields": fields})
    assert (await app.get("", "/login"))[1] == ""
    assert app.known == 1


async def test_an_upgrade_gives_one(site: Site) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nSet-Cookie: SID=up\r\n\r\n"
        )
        writer.close()

    addresses = [await site.endpoint(serve)]
    gate = await site.gate(addresses, pool={"learn": LEARN}, listener={"upgrades": ("echo",)})
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert sum(AffinityTable(gate.segment, True).open(0).values()) == 1


async def test_http2_in_front(site: Site) -> None:
    app = await web(site)
    async with h2_client(app.gate.port) as client:
        made = await client.fetch("/login")
        cookie = next(value for key, value in made.fields if key == "set-cookie" and value.startswith("SID="))
        name = made.body.decode()
        for _ in range(4):  # cookies come in crumbs (RFC 9113 section 8.2.3)
            again = await client.fetch("/", fields=[("cookie", "a=1"), ("cookie", cookie.partition(";")[0])])
            assert again.body.decode() == f"{name}!"


Say = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Any]


@contextlib.asynccontextmanager
async def chats(site: Site, count: int, say: Callable[[str], Say], protocol: str) -> AsyncIterator[tuple[Gate, Any]]:
    """A gate in front of `count` gRPC servers, and a call of their only method, which is `say` of the server's name."""
    servers, addresses = [], []
    for i in range(count):
        server = grpc.aio.server()
        one = grpc.unary_unary_rpc_method_handler(say(str(i)))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("app.Chat", {"Say": one}),))
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    learn = replace(HEADER, name="x-session")
    gate = await site.gate(addresses, pool={"protocol": protocol, "learn": learn, "policy": ROUND})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        yield gate, channel.unary_unary("/app.Chat/Say")
    for server in servers:
        await server.stop(None)


@pytest.mark.parametrize("protocol", ["grpc", "oip"])
async def test_grpc(site: Site, protocol: str) -> None:
    """A session's id in the initial metadata."""

    def handler(name: str) -> Say:
        async def method(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            if message == b"login":
                await context.send_initial_metadata((("x-session", f"{name}-secret"),))
            return name.encode()

        return method

    async with chats(site, 3, handler, protocol) as (gate, say):
        for _ in range(3):
            call = say(b"login")
            session = dict(await call.initial_metadata())["x-session"]
            name = await call
            for _ in range(5):
                assert await say(b"hello", metadata=(("x-session", session),)) == name
        assert gate.total(SERIES)["requests.hit"] == 15


async def test_grpc_errors_move_no_session(site: Site) -> None:
    """Of who does not know it; an answer does."""
    status = [grpc.StatusCode.UNAUTHENTICATED]

    def handler(name: str) -> Say:
        async def method(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            known = dict(context.invocation_metadata() or ()).get("x-session", f"{name}-secret")
            if message == b"login":
                await context.send_initial_metadata((("x-session", f"{name}-secret"),))
            elif not known.startswith(name) and status[0] is not grpc.StatusCode.OK:
                await context.abort(status[0], "who are you")
            return name.encode()

        return method

    async with chats(site, 2, handler, "grpc") as (gate, say):
        call = say(b"login")
        session = (("x-session", dict(await call.initial_metadata())["x-session"]),)
        home = int(await call)
        slot = gate.plan.pools[0].endpoints[home].slot
        gate.segment.set_health(slot, False, 1)
        with pytest.raises(grpc.aio.AioRpcError, match="who are you"):
            await say(b"hello", metadata=session)
        gate.segment.set_health(slot, True, 2)
        for _ in range(3):
            assert int(await say(b"hello", metadata=session)) == home
        gate.segment.set_health(slot, False, 3)
        status[0] = grpc.StatusCode.OK
        assert int(await say(b"hello", metadata=session)) == 1 - home
        gate.segment.set_health(slot, True, 4)
        for _ in range(3):
            assert int(await say(b"hello", metadata=session)) == 1 - home


async def test_a_pool_without_it_learns_nothing(site: Site) -> None:
    app = App("0")
    gate = await site.gate([await site.endpoint(app.serve)])
    await gate.exchange(b"GET /login HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert AffinityTable(gate.segment, True).opened == 0
