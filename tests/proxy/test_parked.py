"""Requests that wait before they have an endpoint, for their turn by a rate limit or for the check of a credential.

They reach the endpoint whole, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import re
from typing import Any

import bcrypt
import grpc
from datapath import SECOND, Gate, Site, listening_socket
from h2_client import h2_client
from msgspec.structs import replace
from test_grpc import GRPC_POOL, Service
from test_http1 import Recorder
from test_rate import ask, status
from waiting import until

from lb.config.plan.access import AccessPlan, ProviderPlan
from lb.config.plan.routes import AnswerPlan, RatePlan

# One request goes on at once, each further one 100 ms behind the one before.
SMOOTH = RatePlan(
    interval_ns=SECOND // 10, burst=20, key="source", key_name="", fields="standard", delay_after=0
)  # fmt: skip
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = bytes(i * 7 % 251 for i in range(300_000))


def post(size: int, *fields: str) -> bytes:
    lines = ["POST /p HTTP/1.1", "Host: a", f"Content-Length: {size}", *fields, "", ""]
    return "\r\n".join(lines).encode()


async def smoothed(site: Site, endpoint: Any, **route: Any) -> Gate:
    """A gate whose next request waits."""
    gate = await site.gate([await site.endpoint(endpoint)], route={"rate_limit": SMOOTH, **route})
    assert status(await ask(gate)) == 200
    return gate


def delayed(gate: Gate) -> int:
    return int(gate.proxy.stats()["rate_delayed"])


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return status(head), await reader.readexactly(length)


async def test_bodies_in_every_form_and_what_follows_on_the_connection(site: Site) -> None:
    endpoint = Recorder()
    gate = await smoothed(site, endpoint)
    ok = (200, b"ok")

    reader, writer = await gate.connect()
    # More than is kept, with requests behind it; then one whose body ends long after its turn; then one in chunks.
    writer.write(post(len(BODY)) + BODY + GET + GET)
    assert [await answer_of(reader) for _ in range(3)] == [ok] * 3
    writer.write(post(6) + b"abc")
    await until(lambda: delayed(gate) == 1)
    await until(lambda: delayed(gate) == 0)
    writer.write(b"def")
    assert await answer_of(reader) == ok
    writer.write(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await until(lambda: delayed(gate) == 1)
    writer.write(b"3\r\ndef\r\n0\r\n\r\n")
    assert await answer_of(reader) == ok
    writer.close()

    sent = [request.partition(b"\r\n\r\n") for request in endpoint.requests[1:]]
    assert [head.split()[0] for head, _, _ in sent] == [b"POST", b"GET", b"GET", b"POST", b"POST"]
    assert [body for _, _, body in sent[:4]] == [BODY, b"", b"", b"abcdef"]
    assert re.sub(rb"[0-9]\r\n|\r\n", b"", sent[4][2]) == b"abcdef"
    assert gate.proxy.busy() == gate.in_flight() == 0


async def test_trailers_that_come_meanwhile_are_passed_on(site: Site) -> None:
    seen: list[bytes] = []

    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"chunked" in head.lower():
                seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gate = await smoothed(site, endpoint)
    reader, writer = await gate.connect()
    writer.write(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert await answer_of(reader) == (200, b"ok")
    writer.close()
    assert seen == [b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"]


async def test_http2_and_grpc(site: Site) -> None:
    endpoint = Recorder()
    gate = await smoothed(site, endpoint)
    async with h2_client(gate.port) as client:
        whole = client.request(method="POST", fields=[("content-length", str(len(BODY)))], end=False)
        late = client.request(method="POST", fields=[("content-length", "3")], end=False)
        gone, plain = client.request(method="POST", end=False), client.request()
        await until(lambda: delayed(gate) == 4)
        client.h2.reset_stream(gone)
        client.flush()
        await client.send(whole, BODY)
        assert [(await client.answer(stream)).status for stream in (whole, plain)] == [200, 200]
        await client.send(late, b"abc")
        assert (await client.answer(late)).status == 200
    # The connection is gone, and what its heads were read from with it.
    gc.collect()
    assert status(await ask(gate)) == 200
    bodies = sorted(request.partition(b"\r\n\r\n")[2] for request in endpoint.requests[1:])
    assert bodies == sorted([BODY, b"abc", b"", b""])
    assert delayed(gate) == gate.proxy.busy() == gate.in_flight() == 0

    service = Service()
    await service.start()
    gate = await site.gate([service.address], pool=GRPC_POOL, route={"rate_limit": SMOOTH})
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
            unary, both = channel.unary_unary("/test.Kinds/Unary"), channel.stream_stream("/test.Kinds/Both")
            messages = [b"m" * size for size in (1, 70_000, 5)]
            assert await asyncio.gather(*(unary(message) for message in messages)) == messages
            assert [answer async for answer in both(iter(messages))] == [m.upper() for m in messages]
        assert delayed(gate) == gate.proxy.busy() == gate.in_flight() == 0
    finally:
        await service.server.stop(None)


async def test_the_deadline_of_a_call_holds_meanwhile(site: Site) -> None:
    """The clients here have no clock of their own: what they are told is the gate's."""
    service = Service()
    await service.start()
    slow = replace(SMOOTH, interval_ns=60 * SECOND)
    gate = await site.gate([service.address], pool=GRPC_POOL, route={"rate_limit": slow})
    fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "150m")]
    body = b"\0\0\0\0\1x"
    web = (
        f"POST /test.Kinds/Unary HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web\r\nX-Grpc-Web: 1\r\n"
        f"Grpc-Timeout: 150m\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )

    async def told(client: Any, whole: bool = True) -> str | None:
        stream = client.request("/test.Kinds/Unary", method="POST", fields=fields, end=False)
        if whole:
            await client.send(stream, body)
        answer = await asyncio.wait_for(client.answer(stream), 10)
        return dict(answer.fields).get("grpc-status") or dict(answer.trailers).get("grpc-status")

    async def told_by_web(code: int = 4) -> bool:
        return b"grpc-status: %d\r\n" % code in (await gate.exchange(web.encode() + body)).lower()

    try:
        async with h2_client(gate.port) as client:
            assert await told(client) == "0"
            # Their turn comes behind their deadline: they are refused at once.
            assert await asyncio.gather(told(client), told(client, whole=False)) == ["14", "14"]
        assert await told_by_web(14)
        assert delayed(gate) == gate.proxy.busy() == gate.in_flight() == 0

        content = b"bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(13)) + b"\n"  # checked for half a second
        provider = ProviderPlan(name="people", type="basic", header="authorization", content=content)
        access = AccessPlan(providers=("people",), digests=(provider.digest,))
        (listener,) = gate.plan.listeners
        route = replace(listener.routes[0], rate_limit=None, access=access)
        site.reload(gate, generation=2, providers=(provider,), listeners=(replace(listener, routes=(route,)),))
        credential = f"Basic {base64.b64encode(b'bob:secret').decode()}"
        fields.append(("authorization", credential))
        web = web.replace("Host: a", f"Host: a\r\nAuthorization: {credential}")
        async with h2_client(gate.port) as client:
            assert await asyncio.gather(told(client), told_by_web()) == ["4", True]
        await until(lambda: gate.proxy.busy() == 0)
    finally:
        await service.server.stop(None)


async def test_a_reload_and_a_drain_meanwhile(site: Site) -> None:
    old, new = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold"), Recorder()
    gate = await smoothed(site, old)
    connections = [await gate.connect() for _ in range(4)]
    for i, (_, writer) in enumerate(connections):
        writer.write(post(3) + (b"abc" if i % 2 else b"a"))
    await until(lambda: delayed(gate) == 4)
    connections[0][1].transport.abort()
    # The route and its limit are gone, and all that nobody refers to any more with them.
    (listener,), (pool,) = gate.plan.listeners, gate.plan.pools
    address = await site.endpoint(new)
    (replaced,) = pool.endpoints
    site.reload(
        gate,
        listeners=(replace(listener, routes=(replace(listener.routes[0], rate_limit=None),)),),
        pools=(replace(pool, endpoints=(replace(replaced, address=address, slot=1),)),),
    )
    gate.segment.set_key(1, address)
    gate.segment.set_health(1, True, 0)
    gate.segment.set_weight(1, 1)
    await asyncio.sleep(0)
    gc.collect()
    connections[2][1].write(b"bc")
    assert [(await answer_of(reader))[0] for reader, _ in connections[1:]] == [200] * 3
    assert len(new.requests) + len(old.requests) == 4
    await until(lambda: gate.proxy.busy() == 0)
    assert delayed(gate) == 0
    for _, writer in connections:
        writer.close()

    gate = await smoothed(site, Recorder())
    reader, writer = await gate.connect()
    writer.write(post(3) + b"abc")
    await until(lambda: delayed(gate) == 1)
    gate.proxy.drain()
    answer = await asyncio.wait_for(reader.read(), 20)
    assert status(answer) == 200
    assert b"Connection: close" in answer
    assert gate.proxy.busy() == 0
    writer.close()


async def test_it_is_answered_here_behind_its_turn(site: Site) -> None:
    fd, port = listening_socket()
    os.close(fd)
    gate = await site.gate([f"127.0.0.1:{port}"], route={"rate_limit": SMOOTH})
    assert status(await ask(gate)) == 502
    reader, writer = await gate.connect()
    for _ in range(2):  # the connection goes on: all of the request has come
        writer.write(post(6) + b"abc")
        await until(lambda: delayed(gate) == 1)
        writer.write(b"def")
        assert (await answer_of(reader))[0] == 502
    writer.close()
    assert delayed(gate) == gate.proxy.busy() == 0

    # So it does where the route answers itself.
    gate = await site.gate([], route={"rate_limit": SMOOTH, "answer": AnswerPlan(200, body=b"own"), "pool": -1})
    assert status(await ask(gate)) == 200
    reader, writer = await gate.connect()
    for _ in range(2):
        writer.write(post(6) + b"abc")
        await until(lambda: delayed(gate) == 1)
        writer.write(b"def")
        assert await answer_of(reader) == (200, b"own")
    writer.close()
    assert gate.total(2)["received_bytes"] == 12

    # The time that the route allows passes behind the turn, and the body is not here.
    gate = await smoothed(site, Recorder(), timeout_ns=SECOND // 2)
    reader, writer = await gate.connect()
    writer.write(post(6) + b"abc")
    assert (await answer_of(reader))[0] == 408
    writer.close()
    assert delayed(gate) == gate.proxy.busy() == 0


async def test_a_check_behind_the_turn_and_a_turn_behind_the_check(site: Site) -> None:
    endpoint = Recorder()
    gate = await smoothed(site, endpoint)
    content = b"bob:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(10)) + b"\n"
    provider = ProviderPlan(name="people", type="basic", header="authorization", content=content)
    access = AccessPlan(providers=("people",), digests=(provider.digest,))
    (listener,) = gate.plan.listeners

    def credential(word: bytes) -> str:
        return f"Authorization: Basic {base64.b64encode(b'bob:' + word).decode()}"

    async def in_pieces(word: bytes) -> int:
        """On a connection that goes on whatever the answer is: all of the request has come by then."""
        writer.write(post(len(BODY) if word == b"secret" else 6, credential(word)) + b"abc")
        await asyncio.sleep(0.01)
        writer.write(BODY[3:] if word == b"secret" else b"def")
        code, _ = await answer_of(reader)
        return code

    by_identity = replace(SMOOTH, key="header", key_name="x-tidegate-identity", burst=2)
    for generation, limit in ((2, SMOOTH), (3, by_identity)):
        route = replace(listener.routes[0], rate_limit=limit, access=access)
        site.reload(
            gate, generation=generation, providers=(provider,), listeners=(replace(listener, routes=(route,)),)
        )  # fmt: skip
        reader, writer = await gate.connect()
        codes = [await in_pieces(word) for word in (b"wrong", b"secret", b"other", b"secret")]
        assert codes == [401, 200, 401, 200]
        writer.close()
    told = await asyncio.gather(*(gate.exchange(post(3, credential(b"secret"), "Connection: close") + b"abc")
                                  for _ in range(5)))  # fmt: skip
    assert sorted(map(status, told))[-2:] == [429, 429]
    leaving = [await gate.connect() for _ in range(4)]
    for i, (_, writer) in enumerate(leaving):
        writer.write(post(6, credential(b"new %d" % i)) + b"abc")
    await asyncio.sleep(0)
    for _, writer in leaving:
        writer.transport.abort()
    await until(lambda: gate.proxy.busy() == 0)
    assert delayed(gate) == gate.in_flight() == 0
