"""HTTP/1.1 where parties leave, stall, or say odd things at odd moments: one test for each fault once found."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
from collections import Counter

import pytest
from datapath import SECOND, Gate, Site, settle

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.proxy.busy() == 0 and gate.in_flight() == 0, "something is still in flight")
    route = gate.total(2)
    assert route["started"] == route["finished"], "an exchange was begun and never recorded"


def answering(answer: bytes, requests: list[bytes] | None = None):
    """An endpoint that gives `answer` to whatever has a head, on connections that stay open."""

    async def handler(reader: Reader, writer: Writer) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if requests is not None:
                requests.append(head + body)
            writer.write(answer)

    return handler


async def test_a_client_that_leaves_during_the_connect(site: Site) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    full.setblocking(False)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
        fillers.append(filler)
    gate = await site.gate([f"127.0.0.1:{full.getsockname()[1]}"], pool={"connect_timeout_ns": 20 * SECOND})
    _, writer = await gate.connect()
    writer.write(GET)
    await settle(lambda: gate.in_flight() == 1, "the request did not arrive")
    writer.close()
    await idle(gate)
    assert gate.proxy.stats()["sources"] == 1  # the listener: the connect was given up too
    for made in (full, *fillers):
        made.close()


async def test_a_body_that_goes_bad_ends_the_exchange(site: Site) -> None:
    arrived = asyncio.Event()
    ended = asyncio.Event()

    async def endpoint(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        try:
            while await reader.read(1000):
                pass
        finally:
            ended.set()
        writer.write(OK)

    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await arrived.wait()
    writer.write(b"zz\r\n" + GET)
    answer = await asyncio.wait_for(reader.read(-1), 20)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1  # what follows is not taken for a request
    await asyncio.wait_for(ended.wait(), 20)
    writer.close()
    await idle(gate)


async def test_an_answer_of_our_own_to_head_has_no_body(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answering(OK))], route={"path_kind": "exact", "path": "/here"})
    answer = await gate.exchange(
        b"HEAD /none HTTP/1.1\r\nHost: a\r\n\r\nGET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    first, second = answer.split(b"\r\n\r\n", 1)
    assert first.startswith(b"HTTP/1.1 404 ")
    assert second.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "fields", [b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"]
)
async def test_other_transfer_codings_are_refused(site: Site, fields: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 501 ", b"HTTP/1.1 400 "))
    assert requests == []
    coded = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    gate = await site.gate([await site.endpoint(answering(coded))], pool={"retries": 0})
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 502 ")
    await idle(gate)


async def test_an_answer_in_many_small_chunks_goes_on(site: Site) -> None:
    count = 4000

    async def endpoint(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"64\r\n%s\r\n" % (b"x" * 100) * count)
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")

    gate = await site.gate([await site.endpoint(endpoint)], pool={"response_timeout_ns": 2 * SECOND})
    answer = await gate.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert len(answer.partition(b"\r\n\r\n")[2]) == 3 * count * 100
    await idle(gate)


@pytest.mark.parametrize("path", [b"/none", b"/here"])
async def test_requests_whose_answers_nobody_reads_are_not_taken_up(site: Site, path: bytes) -> None:
    limit = 48 << 20
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
    gate = await site.gate([await site.endpoint(answering(big))], route={"path_kind": "exact", "path": "/here"})
    client = socket.create_connection(("127.0.0.1", gate.port))
    client.setblocking(False)
    block = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path * 2000
    sent, still = 0, 0
    while sent < limit and still < 100:
        try:
            sent += client.send(block)
            still = 0
        except BlockingIOError:
            still += 1
        await asyncio.sleep(0 if still == 0 else 0.01)
    client.close()
    assert sent < limit, "the gate takes requests without end"
    await idle(gate)


async def test_a_client_that_only_sends_times_out(site: Site) -> None:
    gate = await site.gate(
        [await site.endpoint(answering(OK))],
        route={"path_kind": "exact", "path": "/here"},
        listener={"send_timeout_ns": SECOND // 2},
    )
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", gate.port))
    client.setblocking(False)
    block = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 2000
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 20
    size = len(block)
    while gate.proxy.stats()["connections"] or loop.time() < deadline - 19.5:
        assert loop.time() < deadline, "the connection is never given up"
        try:
            client.send(block[:size])
        except BlockingIOError:
            size = 1
        except ConnectionError:
            break
        await asyncio.sleep(0.01)
    client.close()
    await idle(gate)


async def test_an_endpoint_that_takes_no_more_of_the_body_gives_504(site: Site) -> None:
    async def endpoint(reader: Reader, writer: Writer) -> None:
        writer.transport.pause_reading()
        await asyncio.sleep(60)

    gate = await site.gate([await site.endpoint(endpoint)], pool={"response_timeout_ns": SECOND // 2})
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (60 << 20) + b"x" * (50 << 20))
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 504 ")
    writer.transport.abort()
    await idle(gate)


async def test_the_deadline_of_a_route_holds_while_the_body_comes(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answering(OK))], route={"timeout_ns": SECOND // 2})
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    answer = asyncio.ensure_future(reader.readline())
    for _ in range(500):
        writer.write(b"x")
        await asyncio.sleep(0.01)
        if answer.done():
            break
    assert answer.done()
    assert answer.result().startswith(b"HTTP/1.1 408 ")
    writer.transport.abort()
    await idle(gate)


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://user@a/ HTTP/1.1\r\nHost: a",
        b"GET http:///x HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a/b",
        b"GET / HTTP/1.1\r\nHost: a@b",
        b"GET / HTTP/1.1\r\nHost: a b",
    ],
)
async def test_odd_hosts_are_refused(site: Site, head: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    assert (await gate.exchange(head + b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert requests == []


@pytest.mark.parametrize("name", [b"host", b"content-length", b"transfer-encoding"])
async def test_connection_cannot_name_what_frames_or_routes(site: Site, name: bytes) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))])
    answer = await gate.exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close, " + name + b"\r\n\r\nab"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert requests[0].endswith(b"\r\n\r\nab")
    assert requests[0].lower().count(b"\r\nhost: a\r\n") == 1


async def test_limits_of_fields_are_each_sides_own(site: Site) -> None:
    many = b"".join(b"X-%d: y\r\n" % i for i in range(900))
    requests: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\n" + many + b"Content-Length: 2\r\n\r\nok"
    gate = await site.gate(
        [await site.endpoint(answering(answer, requests))], listener={"max_headers": 1000, "max_header_bytes": 65536}
    )
    got = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + many + b"\r\n")
    assert b"X-899: y\r\n" in got
    assert b"X-899: y\r\n" in requests[0]
    gate = await site.gate([await site.endpoint(answering(answer))], listener={"max_headers": 10})
    assert b"X-899: y\r\n" in await gate.exchange(GET)


async def test_an_old_client_can_tell_that_an_answer_broke_off(site: Site) -> None:
    async def endpoint(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        await go.wait()
        writer.close()

    go = asyncio.Event()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.readuntil(b"abc")).endswith(b"\r\n\r\nabc")
    go.set()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(-1), 20)
    writer.close()
    await idle(gate)


@pytest.mark.parametrize(
    ("interim", "passed"),
    [
        (b"100 Continue", b""),
        (b"103 Early Hints\r\nLink: </a>", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        (b"142 Whatever\r\nContent-Length: 5", b"HTTP/1.1 142 Whatever\r\n\r\n"),
    ],
)
async def test_interim_answers_are_passed_on(site: Site, interim: bytes, passed: bytes) -> None:
    """All but 100, which the gate says itself; without what only a final answer may have (RFC 9110 section 8.6)."""

    async def endpoint(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        whole = b"HTTP/1.1 " + interim + b"\r\n\r\n" + OK
        for i in range(0, len(whole), 13):
            writer.write(whole[i : i + 13])
            await asyncio.sleep(0.002)

    gate = await site.gate([await site.endpoint(endpoint)])
    answer = await gate.exchange(GET)
    assert answer.startswith(passed + b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nok")


async def test_trailers_pass_both_ways(site: Site) -> None:
    requests: list[bytes] = []

    async def endpoint(reader: Reader, writer: Writer) -> None:
        requests.append(await reader.readuntil(b"\r\n0\r\n") + await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-Down:  2 \r\nHost: b\r\nX-Empty:\r\n\r\n"
        )

    gate = await site.gate([await site.endpoint(endpoint)])
    answer = await gate.exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Up: 1\r\nHost: b\r\n\r\n"
    )
    assert requests[0].endswith(b"0\r\nX-Up: 1\r\n\r\n")
    assert b"TE: trailers\r\nConnection: TE\r\n" in requests[0]
    assert answer.endswith(b"1\r\na\r\n0\r\nX-Down: 2\r\nX-Empty: \r\n\r\n")


async def test_a_long_answer_leaves_time_for_others(site: Site) -> None:
    async def endpoint(reader: Reader, writer: Writer) -> None:
        while b"/quick" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * (1 << 20))
            await writer.drain()

    gate = await site.gate([await site.endpoint(endpoint)])
    greedy = [await asyncio.open_connection("127.0.0.1", gate.port) for _ in range(3)]

    async def swallow(reader: Reader) -> None:
        while await reader.read(1 << 20):
            pass

    tasks = []
    for reader, writer in greedy:
        writer.write(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        tasks.append(asyncio.ensure_future(swallow(reader)))
    for _ in range(20):
        answer = await gate.exchange(b"GET /quick HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nok")
    for task in tasks:
        task.cancel()
    for _, writer in greedy:
        writer.transport.abort()
    await idle(gate)


def live() -> Counter[str]:
    gc.collect()
    names = {"HttpConnection", "Exchange", "Http1Attempt", "Http1Upstream", "Parser"}
    return Counter(type(o).__name__ for o in gc.get_objects() if type(o).__name__ in names)


async def test_nothing_is_left_of_what_is_over(site: Site) -> None:
    rounds = int(os.environ.get("TIDEGATE_CHURN", "1000"))

    async def endpoint(reader: Reader, writer: Writer) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/slow" in head:
                await asyncio.sleep(0.01)
            if b"/cut" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
                writer.close()
                return
            writer.write(OK)

    gate = await site.gate([await site.endpoint(endpoint)])

    async def one(i: int) -> None:
        reader, writer = await gate.connect()
        kind = i % 5
        if kind == 0:
            writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            await writer.drain()
            writer.transport.abort()  # leaves at once
            return
        if kind == 1:
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
            await writer.drain()
            writer.close()  # leaves in the middle of its body
            return
        path = b"/cut" if kind == 2 else b"/"
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        try:
            await asyncio.wait_for(reader.read(-1), 20)
        except ConnectionError:
            assert kind == 2
        writer.close()

    for start in range(0, rounds, 50):
        await asyncio.gather(*(one(i) for i in range(start, min(start + 50, rounds))))
    await idle(gate)
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "connections are left")
    counts = live()
    assert counts["HttpConnection"] == counts["Exchange"] == counts["Http1Attempt"] == 0, counts
    assert counts["Http1Upstream"] <= 50, counts  # those who ask at once; idle ones are kept


async def test_a_head_of_more_than_what_is_read_ahead(site: Site) -> None:
    requests: list[bytes] = []
    gate = await site.gate([await site.endpoint(answering(OK, requests))], listener={"max_header_bytes": 1 << 20})
    value = b"x" * 50_000
    lines = b"".join(b"X-%d: %b\r\n" % (i, value) for i in range(20))
    for cut in (1, 300_000, 700_000):
        reader, writer = await gate.connect()
        head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n"
        writer.write(head[:cut])
        await asyncio.sleep(0.05)
        writer.write(head[cut:])
        assert (await asyncio.wait_for(reader.read(), 20)).endswith(b"\r\n\r\nok")
        writer.close()
    assert [request.count(value) for request in requests] == [20, 20, 20]
    await idle(gate)
