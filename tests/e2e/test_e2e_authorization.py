"""External authorization through real daemons and real servers, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from auth_servers import GrpcAuthServer, HttpAuthServer, RawServer, fields
from daemon import Daemon, http_listener
from echo import Echo, curl
from waiting import eventually, logged
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from lb.wire import external_auth_pb2 as wire

Start = Callable[..., Daemon]
NAME = "x-tidegate-identity"


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


def config(echo: Echo, server: str, *routes: dict[str, Any], protocol: str = "http", **settings: Any) -> dict[str, Any]:
    provider = {"type": protocol, "pool": "guards", **settings}
    if protocol == "http":
        provider["path"] = "/check?from=tidegate"
    return {
        "workers": 1,
        "auth": {"guard": provider},
        "listeners": {"web": http_listener(*(routes or ({"auth": "guard", "pool": "app"},)))},
        "pools": {
            "app": {"protocol": "http", "endpoints": [echo.address]},
            "guards": {"protocol": protocol, "endpoints": [server], "outlier": "off"},
        },
        "log": {"access": "access.log"},
    }


def stats(daemon: Daemon, *names: str) -> list[int]:
    """Of the worker, as it told them last."""
    return [daemon.status()["workers"][0]["stats"][name] for name in names]


def values(document: dict[str, Any], name: str) -> list[str]:
    return [value for field, value in document["fields"] if field.replace("_", "-") == name.lower()]


async def by_token(request: web.Request) -> web.Response:
    """Bearer tokens are names; /private is for root alone."""
    name = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not name:
        return web.Response(
            status=401,
            text='{"login": true}',
            content_type="application/json",
            headers={"WWW-Authenticate": 'Bearer realm="there"', "X-Inner": "secret"},
        )
    if name == "lost":
        raise web.HTTPFound("https://login.example.org/")
    if name == "broken":
        return web.Response(status=500)
    if request.headers["X-Original-URI"].startswith("/private") and name != "root":
        return web.Response(status=403, text="not for you")
    found = {"X-User": name, "X-Groups": "a,b", "X-Session": "renewed", "X-Inner": "secret"}
    return web.Response(text="fine", headers=found)


@pytest.fixture
async def guard() -> AsyncIterator[HttpAuthServer]:
    made = HttpAuthServer(by_token)
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_a_server_over_http_decides(start: Start, echo: Echo, guard: HttpAuthServer, version: str) -> None:
    taken = {
        "identity_header": "X-User",
        "set_request_headers": ["X-Groups", "X-Tenant"],
        "set_response_headers": ["X-Session"],
    }
    few = {"match": {"path": {"prefix": "/few"}}, "auth": {"providers": ["guard"], "allow": ["root"]}, "pool": "app"}
    daemon = start(config(echo, guard.address, few, {"auth": "guard", "pool": "app"}, **taken))
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(path: str, *options: str) -> tuple[int, str, str]:
        text = await curl(version, "-D", "-", "-w", "\n%{http_code}", *options, base + path)
        rest, _, status = text.rpartition("\n")
        head, _, body = rest.replace("\r\n", "\n").partition("\n\n")
        return int(status), head.lower(), body

    spoofed = ("-H", f"{NAME}: root", "-H", "X-Tenant: other", "-H", "X_Groups: admin", "-H", "X-Groups: admin")
    asked_with = ("-H", "Authorization: Bearer alice", "-H", "Cookie: a=1", "-H", "X-Other: 1")
    status, head, body = await ask("/a?b=c", *asked_with, *spoofed)
    document = json.loads(body)
    assert status == 200
    assert values(document, NAME) == ["alice"]
    assert values(document, "x-groups") == ["a,b"]
    assert values(document, "x-tenant") == []
    assert values(document, "authorization") == ["Bearer alice"]
    assert "x-session: renewed" in head
    assert "secret" not in head
    told = guard.asked[-1]
    assert (told.method, told.raw_path) == ("GET", "/check?from=tidegate")
    assert dict(told.headers) == {
        "Host": guard.address,
        "X-Forwarded-Method": "GET",
        "X-Original-Method": "GET",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": base.removeprefix("http://"),
        "X-Forwarded-Uri": "/a?b=c",
        "X-Original-URI": "/a?b=c",
        "X-Forwarded-For": "127.0.0.1",
        "Authorization": "Bearer alice",
        "Cookie": "a=1",
    }

    status, head, body = await ask("/a")
    assert (status, body) == (401, '{"login": true}')
    assert 'www-authenticate: bearer realm="there"' in head
    assert "content-type: application/json" in head
    assert "secret" not in head
    assert (await ask("/private", "-H", "Authorization: Bearer alice"))[0::2] == (403, "not for you")
    assert (await ask("/private", "-H", "Authorization: Bearer root"))[0] == 200
    status, head, _ = await ask("/", "-H", "Authorization: Bearer lost")
    assert (status, "location: https://login.example.org/" in head) == (302, True)
    assert (await ask("/few", "-H", "Authorization: Bearer alice"))[0] == 403
    assert (await ask("/few", "-H", "Authorization: Bearer root"))[0] == 200
    # The server would look at the first, the endpoint perhaps at the second.
    count = len(guard.asked)
    twice = ("-H", "Authorization: Bearer alice", "-H", "authorization: Bearer root")
    assert (await ask("/private", *twice))[0] == 403
    assert len(guard.asked) == count
    assert (await ask("/", "-H", "Authorization: Bearer broken"))[0] == 503
    # A body that is longer than what is kept while the server is asked.
    big = ("-H", "Authorization: Bearer root", "--data-binary", "@-")
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--noproxy", "*", version, *big, base + "/up",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(b"x" * 1_000_000)
    assert json.loads(out)["body"] == 1_000_000

    lines = await asyncio.to_thread(logged, daemon.folder / "access.log", lambda lines: len(lines) >= 2)
    assert [line["identity"] for line in lines[:2]] == ["alice", ""]
    assert lines[1]["reason"] == "bad-credential"
    counts = [len(guard.asked), 1, 0]
    names = ("auth_asked", "auth_failed", "auth_let_through")
    if version == "--http1.1":
        await asyncio.to_thread(eventually, lambda: stats(daemon, *names) == counts)
    assert sum(daemon.requests_by_endpoint("guards").values()) == 5  # and an endpoint's own status, whatever it is
    assert "its answer is 500" in daemon.log


async def test_a_server_that_does_not_decide(start: Start, echo: Echo, client: aiohttp.ClientSession) -> None:
    raw = RawServer()
    await raw.start()
    made = config(echo, raw.address, timeout="250ms", set_request_headers=["X-User"], max_answer="1KiB")
    made["auth"]["open"] = {**made["auth"]["guard"], "failure_mode_allow": True}
    made["auth"]["patient"] = {**made["auth"]["guard"], "timeout": "60s"}
    made["listeners"]["web"]["routes"] += [
        {"match": {"path": {"prefix": "/open"}}, "auth": "open", "pool": "app"},
        {"match": {"path": {"prefix": "/patient"}}, "auth": "patient", "pool": "app"},
    ]
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(answer: bytes, path: str = "/", tail: bytes = b"", **options: Any) -> tuple[int, str]:
        raw.answer, raw.tail = answer, tail
        async with client.get(base + path, **options) as got:
            return got.status, await got.text()

    ok = b"HTTP/1.1 200 OK\r\n"
    for answer, tail in (
        (b"", b""),  # it never answers
        (ok, b""),  # nor to the end of its head
        (ok, b"X-A: b\r\n"),  # of which there is no end
        (ok + b"X-A: " + b"b" * 200_000 + b"\r\n\r\n", b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", b""),
        (ok + b"Content-Length: 100\r\n\r\nabc", b""),  # it stops within its body
        (b"not HTTP\r\n\r\n", b""),
    ):
        status, _ = await ask(answer, tail=tail)
        assert status == 503, answer[:60]
        assert (await ask(answer, "/open", tail=tail, headers={"X-User": "root"}))[0] == 200, answer[:60]
    status, text = await ask(b"", "/open", headers={"X-User": "root", NAME: "root"})
    assert (status, values(json.loads(text), "x-user"), values(json.loads(text), NAME)) == (200, [], [])
    # A body without an end: the status counts, without the body.
    chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    for status in (200, 403):
        head = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status
        got, text = await ask(head, tail=chunk)
        assert got == status
        assert status == 200 or text == ""
    # Bytes behind the answer are nobody's.
    two = ok + b"Content-Length: 0\r\n\r\n"
    assert (await ask(two + b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"))[0] == 200
    # Who leaves is waited for no longer.
    raw.wait, raw.left = 30, asyncio.Event()
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0)
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    writer.write(b"POST /patient HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.wait_for(raw.left.wait(), 10)
    raw.wait = 0
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0)
    # Nobody listens: at once.
    await raw.stop()
    daemon.reload({**made, "pools": {**made["pools"], "guards": {"protocol": "http", "endpoints": ["127.0.0.1:1"]}}})
    assert (await ask(b""))[0] == 503
    assert (await ask(b"", "/open"))[0] == 200
    log = daemon.log
    assert (
        "auth.guard: the authorization server did not decide: it did not answer in time; requests are answered" in log
    )
    assert "requests are let through until it does" in log
    assert log.count("auth.guard: the authorization server did not decide") < 8


async def test_decisions_are_remembered_for_what_was_asked(
    start: Start, echo: Echo, guard: HttpAuthServer, client: aiohttp.ClientSession
) -> None:
    made = config(echo, guard.address, cache="60s", identity_header="X-User", set_response_headers=["X-Session"])
    made["auth"]["loose"] = {**made["auth"]["guard"], "cache_by": "credentials"}
    made["listeners"]["web"]["routes"].insert(
        0, {"match": {"path": {"prefix": "/loose"}}, "auth": "loose", "pool": "app"}
    )
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(path: str, token: str, **options: Any) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with client.post(base + path, data=b"x" * 100_000, headers=headers, **options) as got:
            if got.status == 200:
                document = await got.json()
                assert values(document, NAME) == [token]
                assert (document["body"], got.headers["X-Session"]) == (100_000, "renewed")
            return got.status

    async def expect(path: str, token: str, status: int, asks: int) -> None:
        count = len(guard.asked)
        assert await ask(path, token, allow_redirects=False) == status
        assert len(guard.asked) - count == asks, (path, token)

    await expect("/a", "alice", 200, 1)
    await expect("/a", "alice", 200, 0)
    await expect("/private", "alice", 403, 1)
    await expect("/private", "alice", 403, 0)
    await expect("/private", "root", 200, 1)
    await expect("/a", "bob", 200, 1)
    await expect("/a", "broken", 503, 1)  # no decision
    await expect("/a", "broken", 503, 1)
    await expect("/loose/1", "alice", 200, 1)
    await expect("/loose/2", "alice", 200, 0)
    # Those that come together are asked about once.
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        entered.set()
        await go_on.wait()
        return await by_token(request)

    guard.decide = slowly
    count = len(guard.asked)
    asks = [asyncio.create_task(ask("/b", "carol")) for _ in range(20)]
    await asyncio.wait_for(entered.wait(), 10)
    await asyncio.to_thread(eventually, lambda: stats(daemon, "exchanges") == [20])
    asks[0].cancel()
    go_on.set()
    assert [await one for one in asks[1:]] == [200] * 19
    assert len(guard.asked) - count == 1


async def test_reloads_and_dead_servers_under_load(
    start: Start, echo: Echo, guard: HttpAuthServer, client: aiohttp.ClientSession
) -> None:
    other = HttpAuthServer(by_token)
    await other.start()
    made = config(echo, guard.address, identity_header="X-User", timeout="30s")
    made["pools"]["guards"]["max_in_flight"] = 2  # questions wait in the pool's queue, too
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"
    over = asyncio.Event()
    statuses: list[int] = []

    async def work() -> None:
        while not over.is_set():
            async with client.get(base, headers={"Authorization": "Bearer alice"}) as got:
                statuses.append(got.status)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    pools = made["pools"]
    for endpoints, path in ((2, "/a"), (1, "/a"), (2, "/b"), (1, "/b"), (2, "/b")):
        addresses = [other.address, guard.address][:endpoints]
        made["auth"]["guard"]["path"] = path
        changed = {**made, "pools": {**pools, "guards": {**pools["guards"], "endpoints": addresses}}}
        await asyncio.to_thread(daemon.reload, changed)
    await guard.stop()  # the other one is asked then
    await asyncio.sleep(0.3)
    over.set()
    await asyncio.gather(*workers)
    assert set(statuses) == {200}
    await other.stop()
    assert guard.asked
    assert other.asked
    await asyncio.to_thread(eventually, lambda: daemon.in_flight() == 0)


def by_envoy(attributes: Any) -> Any:
    """As `by_token`, over gRPC."""
    http = attributes.request.http
    name = http.headers.get("authorization", "").removeprefix("Bearer ")
    ok, denied = wire.OkHttpResponse, wire.DeniedHttpResponse
    if name == "alice":
        answer = ok(
            headers=[*fields(("X-User", name), ("X-Groups", "a"), ("X-Groups", "b"), ("X-Odd", "1"))],
            headers_to_remove=["Authorization"],
            response_headers_to_add=fields(("X-Session", "renewed")),
        )
        return wire.CheckResponse(status=wire.Status(), ok_response=answer)
    if name == "injecting":
        return wire.CheckResponse(ok_response=ok(headers=fields(("X-User", "a\r\nX-Admin: 1"))))
    if name == "framing":
        return wire.CheckResponse(ok_response=ok(headers=fields(("X-User", "a"), ("Content-Length", "0"))))
    if name == "nobody":
        return wire.CheckResponse(status=wire.Status())
    if name == "error":
        return wire.CheckResponse(status=wire.Status(code=13), error_response=denied())
    if name == "down":
        return grpc.StatusCode.INTERNAL
    if name == "endless":
        return wire.CheckResponse(status=wire.Status(code=7), denied_response=denied(body="x" * 1_000_000))
    if name == "304":
        body = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        told = denied(status=wire.HttpStatus(code=304), body=body)
        return wire.CheckResponse(status=wire.Status(code=7), denied_response=told)
    if name == "plain":
        return wire.CheckResponse(status=wire.Status(code=7))
    told = denied(
        status=wire.HttpStatus(code=401),
        headers=fields(("WWW-Authenticate", "Bearer"), ("X-Why", "no")),
        body="no token",
    )
    return wire.CheckResponse(status=wire.Status(code=16), denied_response=told)


async def test_a_server_over_grpc_decides(
    start: Start, echo: Echo, client: aiohttp.ClientSession, stub: Callable[[], str]
) -> None:
    guard = GrpcAuthServer(by_envoy)
    await guard.start()
    calls = {"match": {"grpc": {"service": "inference.GRPCInferenceService"}}, "auth": "guard", "pool": "models"}
    settings = {"identity_header": "X-User", "set_request_headers": ["X-Groups"]}
    made = config(echo, guard.address, calls, {"auth": "guard", "pool": "app"}, protocol="grpc", **settings)
    made["pools"]["models"] = {"protocol": "grpc", "endpoints": [stub()]}
    made["listeners"]["web"]["request_id"] = True
    daemon = start(made)
    base = f"http://127.0.0.1:{daemon.port()}"

    async def ask(token: str, path: str = "/a?b=c") -> tuple[int, Any, str]:
        headers = {"Authorization": f"Bearer {token}", NAME: "root", "X_Groups": "admin", "X-B": "1"}
        headers |= {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X-Groups": "admin", "X-User": "root"}
        async with client.post(base + path, headers=headers, data=b"xyz") as got:
            return got.status, got.headers, await got.text()

    status, headers, text = await ask("alice")
    document = json.loads(text)
    assert (status, headers["X-Session"]) == (200, "renewed")
    assert (values(document, NAME), values(document, "x-groups")) == (["alice"], ["b"])
    assert (values(document, "authorization"), values(document, "x-odd"), document["body"]) == ([], [], 3)
    assert "auth.guard: the server sets x-odd, which is not passed on" in daemon.log
    told = guard.asked[-1].request.http
    assert (told.method, told.path, told.scheme, told.protocol, told.size) == ("POST", "/a?b=c", "http", "HTTP/1.1", 3)
    assert (told.host, told.headers["x-b"], len(told.id)) == (base.removeprefix("http://"), "1", 32)
    assert (told.headers["x-forwarded-for"], told.headers["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert not {NAME, "x-groups", "x_groups", "x-user", "forwarded"} & set(told.headers)
    source = guard.asked[-1].source.address.socket_address
    assert (source.address, source.port_value > 0) == ("127.0.0.1", True)
    assert guard.asked[-1].request.time.seconds > 1_700_000_000

    status, headers, text = await ask("eve")
    assert (status, headers["WWW-Authenticate"], headers["X-Why"], text) == (401, "Bearer", "no", "no token")
    assert (await ask("plain"))[0] == 403
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    writer.write(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer 304\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 304 ")
    assert answer.partition(b"\r\n\r\n")[2] == b""  # what follows would be the next answer
    status, _, text = await ask("endless")
    assert (status, text) == (503, "") or status in (403, 503)
    for token, why in (
        ("injecting", "bytes in x-user that no header may have"),
        ("framing", "content-length"),
        ("nobody", "its answer names nobody in x-user"),
        ("error", "it met an error"),
        ("down", "gRPC status 13"),
    ):
        await ask("alice")  # what the log has told is told again after an answer
        assert (await ask(token))[0] == 503, token
        assert why in daemon.log.lower() or why in daemon.log, token

    method = "/inference.GRPCInferenceService/ServerLive"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{daemon.port()}") as channel:
        call = channel.unary_unary(method)
        await call(b"", metadata=[("authorization", "Bearer alice")], timeout=30)
        for token, code, details in (
            ("eve", grpc.StatusCode.UNAUTHENTICATED, "no token"),
            ("plain", grpc.StatusCode.PERMISSION_DENIED, "the authorization server has denied the request"),
            ("down", grpc.StatusCode.UNAVAILABLE, "the credential cannot be checked now"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(b"", metadata=[("authorization", f"Bearer {token}")], timeout=30)
            assert (failed.value.code(), failed.value.details()) == (code, details)
        assert guard.asked[-1].request.http.path == method
    await guard.stop()
    assert (await ask("alice"))[0] == 503


async def test_whatever_stands_behind_the_decision(
    start: Start, echo: Echo, guard: HttpAuthServer, client: aiohttp.ClientSession
) -> None:
    """WebSockets, an HTTP cache, jobs, and requests that wait in large numbers or behind one another."""

    async def chat(connection: ServerConnection) -> None:
        await connection.send(connection.request.headers["X-Tidegate-Identity"] if connection.request else "")
        async for message in connection:
            await connection.send(message)

    async with serve(chat, "127.0.0.1", 0) as chats:
        made = config(
            echo,
            guard.address,
            {"match": {"path": {"prefix": "/chat"}}, "pool": "chat"},
            {"match": {"path": {"prefix": "/kept"}}, "http_cache": {"ttl": "60s"}, "pool": "app"},
            {"match": {"path": {"prefix": "/later"}}, "jobs": True, "pool": "app"},
            {"match": {"path": {"prefix": "/moved"}}, "redirect": {"path": "/a"}},
            {"match": {"path": {"prefix": "/open"}}, "auth": "none", "pool": "app"},
            {"pool": "app"},
            identity_header="X-User",
        )
        made["listeners"]["web"]["auth"] = {"providers": ["guard"], "forward_identity": False}
        made["listeners"]["web"]["routes"][0]["auth"] = "guard"
        made["pools"]["chat"] = {
            "protocol": "http",
            "endpoints": [f"127.0.0.1:{next(iter(chats.sockets)).getsockname()[1]}"],
        }
        made |= {"cache": {}, "jobs": {"path": "jobs.db"}}
        daemon = start(made)
        base = f"127.0.0.1:{daemon.port()}"
        alice, root = ({"Authorization": f"Bearer {name}"} for name in ("alice", "root"))

        async with connect(f"ws://{base}/chat", additional_headers=alice, proxy=None) as connection:
            assert await connection.recv() == "alice"
            await connection.send("hello")
            assert await connection.recv() == "hello"
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{base}/chat", proxy=None)
        assert refused.value.response.status_code == 401

    async def ask(path: str, headers: dict[str, str], method: str = "GET") -> aiohttp.ClientResponse:
        async with client.request(
            method,
            f"http://{base}{path}",
            headers=headers,
            data=b"x" if method == "POST" else None,
            allow_redirects=False,
        ) as got:
            await got.read()
            return got

    assert (await ask("/open", {})).status == 200
    # What is cached is given to nobody who is not let in.
    for headers, status in ((alice, 200), ({}, 401), (alice, 200)):
        assert (await ask("/kept", headers)).status == status
    assert (await ask("/moved", {})).status == 401
    assert (await ask("/moved", alice)).headers["Location"] == "/a"
    # A job and its result are those of who submitted it.
    accepted = await ask("/later", {**alice, "Prefer": "respond-async"}, "POST")
    assert accepted.status == 202
    job = accepted.headers["Location"]

    async def done() -> bool:
        return (await ask(f"{job}/result", alice)).status == 200

    for _ in range(200):
        if await done():
            break
        await asyncio.sleep(0.05)
    assert await done()
    assert (await ask(job, {})).status == 401
    assert (await ask(job, root)).status == 404

    # Requests that were sent at once over one connection are decided one after another; a large body waits meanwhile.
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port())
    head = b"Host: a\r\nAuthorization: Bearer alice\r\n"
    writer.write((b"GET /a HTTP/1.1\r\n" + head + b"\r\n") * 3)
    writer.write(b"POST /b HTTP/1.1\r\n" + head + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000)
    writer.write(b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = (await asyncio.wait_for(reader.read(-1), 30)).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"200", b"200", b"401"]
    assert b'"body": 300000' in answers[3]
    writer.close()

    # More than wait from one source.
    entered, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        entered.release()
        await go_on.wait()
        return await by_token(request)

    made["auth"]["guard"]["timeout"] = "60s"
    made["pools"]["guards"]["policy"] = "least_request"  # which holds nothing back
    daemon.reload(made)
    guard.decide = slowly
    process = await asyncio.create_subprocess_exec(
        "h2load", "-n", "600", "-c", "6", "-m", "100", "-H", "authorization: Bearer alice", f"http://{base}/a",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    for _ in range(512):
        await asyncio.wait_for(entered.acquire(), 30)
    await asyncio.to_thread(eventually, lambda: stats(daemon, "exchanges") == [512])
    assert (await ask("/open", {})).status == 200
    daemon.reload({**made, "auth": {**made["auth"], "other": dict(made["auth"]["guard"])}})
    go_on.set()
    out, _ = await process.communicate()
    assert b"512 2xx, 0 3xx, 88 4xx, 0 5xx" in out, out
