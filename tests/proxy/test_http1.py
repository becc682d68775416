"""HTTP/1.1 through the gate: what passes, how, and what is refused."""

from __future__ import annotations

import asyncio
import re

import pytest
from datapath import SECOND, Site, settle
from hedge_site import series
from ports import free_port


class Recorder:
    """An endpoint that answers every request with `answer` and keeps the requests' bytes."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = b""
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if length:
                    body = await reader.readexactly(int(length[1]))
                elif b"chunked" in head.lower():
                    body = await reader.readuntil(b"0\r\n\r\n")
                self.requests.append(head + body)
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


GET = b"GET /x?y=1 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"


async def test_request_and_answer_pass(site: Site) -> None:
    endpoint = Recorder(b"HTTP/1.1 201 Made\r\nX-A: b\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc")
    gate = await site.gate([await site.endpoint(endpoint)])
    answer = await gate.exchange(GET)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 Made\r\n")
    assert b"X-A: b" in head
    assert b"Connection: close" in head
    assert b"keep-alive" not in head
    assert body == b"abc"
    request = endpoint.requests[0]
    assert request.startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert b"Host: example.org\r\n" in request
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in request
    assert b"X-Forwarded-Proto: http\r\n" in request
    assert b"X-Forwarded-Host: example.org\r\n" in request
    assert b"Connection" not in request
    assert gate.in_flight() == 0
    assert gate.proxy.busy() == 0


async def test_keep_alive_on_both_sides(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    for _ in range(5):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).endswith(b"\r\n\r\nok")
    writer.close()
    assert endpoint.connections == 1
    assert len(endpoint.requests) == 5


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    async def echo_path(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                writer.close()
                return
            path = head.split()[1]
            await asyncio.sleep(0.01 if path == b"/0" else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))

    gate = await site.gate([await site.endpoint(echo_path)])
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(50)]
    requests.append(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await gate.exchange(b"".join(requests))
    assert re.findall(rb"\r\n\r\n(/(?:last|\d+))", answer) == [b"/%d" % i for i in range(50)] + [b"/last"]


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 1_500_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_both_ways(site: Site, size: int, chunked: bool) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length:
            body = await reader.readexactly(int(length[1]))
        else:
            body = b""
            while True:
                n = int((await reader.readuntil(b"\r\n")).strip(), 16)
                body += await reader.readexactly(n)
                await reader.readexactly(2)
                if n == 0:
                    break
        if chunked:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(0, len(body), 9000):
                part = body[i : i + 9000]
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    gate = await site.gate([await site.endpoint(echo)])
    body = bytes(i % 251 for i in range(size))
    reader, writer = await gate.connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    if chunked:
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(0, size, 5000):
            part = body[i : i + 5000]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            if i % 50_000 == 0:
                await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:
        writer.write(head + b"Content-Length: %d\r\n\r\n" % size + body)
    answer = await asyncio.wait_for(reader.read(-1), 20)
    head, _, got = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        plain = b""
        while got:
            line, _, got = got.partition(b"\r\n")
            n = int(line, 16)
            plain, got = plain + got[:n], got[n + 2 :]
        got = plain
    assert got == body
    assert gate.in_flight() == 0


async def test_answer_delimited_by_close(site: Site) -> None:
    async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    gate = await site.gate([await site.endpoint(until_close)])
    modern = await gate.exchange(GET)
    assert b"Transfer-Encoding: chunked" in modern
    assert modern.endswith(b"9\r\nall of it\r\n0\r\n\r\n")
    old = await gate.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert b"chunked" not in old
    assert old.endswith(b"\r\n\r\nall of it")


async def test_head_and_bodiless_answers(site: Site) -> None:
    gate = await site.gate([await site.endpoint(Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"))])
    answer = await gate.exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 1000" in answer
    assert answer.endswith(b"\r\n\r\n")
    gate = await site.gate([await site.endpoint(Recorder(b"HTTP/1.1 204 No Content\r\n\r\n"))])
    answer = await gate.exchange(GET)
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_hop_by_hop_fields_stay_behind(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)])
    await gate.exchange(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n"
        b"Proxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nX-Kept: 2\r\n\r\n"
    )
    request = endpoint.requests[0].lower()
    for name in (
        b"x-secret",
        b"keep-alive",
        b"te:",
        b"proxy-connection",
        b"upgrade",
        b"http2-settings",
        b"\nconnection",
    ):
        assert name not in request
    assert b"x-kept: 2" in request


async def test_forwarded_for_is_appended(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)])
    await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\nConnection: close\r\n\r\n")
    assert b"X-Forwarded-For: 10.1.1.1, 127.0.0.1\r\n" in endpoint.requests[0]


async def test_expect_continue_is_answered(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.read(-1)).endswith(b"ok")
    assert b"Expect" not in endpoint.requests[0]


BAD = {
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "both lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
    "signed length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
    "bad chunk size": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "folded field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "not a path": (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.0 with chunks": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "unfinished coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "almost HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    "many fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    "large fields": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    "large fields, unfinished": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000, 431),
    "long target": (b"GET /" + b"y" * 40_000, 414),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_are_refused_and_never_forwarded(site: Site, name: str) -> None:
    request, status = BAD[name]
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)])
    answer = await gate.exchange(request)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"Connection: close" in answer
    assert b'{"error":' in answer
    assert endpoint.requests == []
    assert gate.in_flight() == 0


async def test_body_limit(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)], route={"max_body": 1000})
    answer = await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    assert answer.startswith(b"HTTP/1.1 413 ")
    chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
    answer = await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert endpoint.requests == []


async def test_slow_clients_time_out(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate(
        [await site.endpoint(endpoint)],
        listener={"header_timeout_ns": SECOND // 5, "body_timeout_ns": SECOND // 5, "idle_timeout_ns": SECOND // 5},
    )
    assert await gate.exchange(b"") == b""  # silent: closed without a word
    assert (await gate.exchange(b"GET / HT")).startswith(b"HTTP/1.1 408 ")
    assert (await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")).startswith(
        b"HTTP/1.1 408 "
    )
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "the slot is not free")


async def test_dead_endpoint_is_passed_over(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([f"127.0.0.1:{free_port()}", await site.endpoint(endpoint)])
    for _ in range(6):
        assert (await gate.exchange(GET)).endswith(b"ok")
    assert len(endpoint.requests) == 6


async def test_no_endpoint_answers_503(site: Site) -> None:
    gate = await site.gate([await site.endpoint(Recorder())])
    gate.segment.set_health(0, False, 0)
    answer = await gate.exchange(GET)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer


async def answer_with(data: bytes, close: bool) -> Recorder:
    class Broken(Recorder):
        held: list[asyncio.StreamWriter] = []

        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            self.requests.append(b"")
            writer.write(data)
            await writer.drain()
            if close:
                writer.close()
            self.held.append(writer)  # one that nobody holds is closed by asyncio

    return Broken()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000,
    ],
)
async def test_bad_answers_give_502(site: Site, data: bytes) -> None:
    endpoint = await answer_with(data, True)
    gate = await site.gate([await site.endpoint(endpoint)], pool={"retries": 0})
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 502 ")
    assert gate.in_flight() == 0


async def test_answer_that_breaks_off_cuts_the_client(site: Site) -> None:
    endpoint = await answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", True)
    gate = await site.gate([await site.endpoint(endpoint)])
    reader, writer = await gate.connect()
    writer.write(GET)
    answer = b""
    try:
        while data := await asyncio.wait_for(reader.read(1000), 10):
            answer += data
    except ConnectionResetError:
        pass
    assert answer == b"" or (b"Content-Length: 100" in answer and len(answer.partition(b"\r\n\r\n")[2]) < 100)
    assert gate.in_flight() == 0
    assert series(gate, gate.plan.pools[0].endpoints[0].series)["response_errors"] == 1


async def test_stalled_endpoint_gives_504(site: Site) -> None:
    endpoint = await answer_with(b"", False)
    gate = await site.gate([await site.endpoint(endpoint)], pool={"response_timeout_ns": SECOND // 5})
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 504 ")
    assert gate.in_flight() == 0
    assert len(endpoint.requests) == 1  # a timeout is not tried again


async def test_route_deadline_counts_from_the_request(site: Site) -> None:
    endpoint = await answer_with(b"", False)
    gate = await site.gate([await site.endpoint(endpoint)], route={"timeout_ns": SECOND // 5})
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 504 ")


async def test_idempotent_request_is_tried_again(site: Site) -> None:
    bad, good = await answer_with(b"", True), Recorder()
    gate = await site.gate([await site.endpoint(bad), await site.endpoint(good)])
    for _ in range(4):
        assert (await gate.exchange(GET)).endswith(b"ok")
    assert bad.requests
    answers = [
        await gate.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        for _ in range(4)
    ]
    assert any(a.startswith(b"HTTP/1.1 502 ") for a in answers)  # a POST may have been carried out


async def test_client_that_leaves_frees_the_slot(site: Site) -> None:
    endpoint = await answer_with(b"", False)
    gate = await site.gate([await site.endpoint(endpoint)])
    _, writer = await gate.connect()
    writer.write(GET)
    await settle(lambda: gate.in_flight() == 1, "the request did not arrive")
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the slot is not free")
    assert gate.proxy.busy() == 0
    route = gate.total(2)
    assert (route["client_aborts"], route["requests.other"], route["finished"]) == (1, 1, 1)


async def test_an_endpoints_own_499_is_no_client_that_left(site: Site) -> None:
    endpoint = await answer_with(b"HTTP/1.1 499 Gone\r\nContent-Length: 0\r\n\r\n", False)
    gate = await site.gate([await site.endpoint(endpoint)])
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 499 ")
    route = gate.total(2)
    assert (route["client_aborts"], route["finished"]) == (0, 1)


async def test_slow_reader_bounds_memory(site: Site) -> None:
    total = 256 << 20  # some kernels keep 32 MiB for each of the two connections (net.ipv4.tcp_rmem)
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        try:
            while sent < total:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            pass

    gate = await site.gate([await site.endpoint(flood)])
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=65536)
    writer.write(GET)
    before = -1
    while before != sent:  # until the endpoint is held up
        before = sent
        await asyncio.sleep(0.3)
    assert sent < total // 2
    got = 0
    while data := await reader.read(1 << 20):
        got += len(data)
    assert got > total


@pytest.mark.parametrize(
    ("route", "request_line", "host", "status"),
    [
        ({"path_kind": "exact", "path": "/a"}, b"GET /a?b", b"x", 200),
        ({"path_kind": "exact", "path": "/a"}, b"GET /a/b", b"x", 404),
        ({"path_kind": "prefix", "path": "/a/"}, b"GET /a/b", b"x", 200),
        ({"path_kind": "prefix", "path": "/a/"}, b"GET /b", b"x", 404),
        ({"path_kind": "regex", "path": "^/v[0-9]+/"}, b"GET /v12/x", b"x", 200),
        ({"path_kind": "regex", "path": "^/v[0-9]+/"}, b"GET /vx/x", b"x", 404),
        ({"host": "a.example.org"}, b"GET /", b"A.example.ORG:8080", 200),
        ({"host": "a.example.org"}, b"GET /", b"b.example.org", 404),
        ({"host": "*.example.org"}, b"GET /", b"b.example.org", 200),
        ({"host": "*.example.org"}, b"GET /", b"example.org", 404),
        ({"host": "a.example.org"}, b"GET http://a.example.org/z", b"other", 200),
        ({"methods": ("POST",)}, b"GET /", b"x", 405),
        ({"methods": ("GET", "HEAD")}, b"GET /", b"x", 200),
    ],
)
async def test_routes(site: Site, route: dict[str, object], request_line: bytes, host: bytes, status: int) -> None:
    gate = await site.gate([await site.endpoint(Recorder())], route=route)
    answer = await gate.exchange(request_line + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_counters_tell_what_happened(site: Site) -> None:
    gate = await site.gate([await site.endpoint(Recorder())])
    for _ in range(3):
        await gate.exchange(GET)
    route, endpoint = gate.total(2), gate.total(10)
    assert route["requests.2xx"] == endpoint["requests.2xx"] == 3
    assert route["started"] == route["finished"] == route["request_duration"] == 3
    assert gate.total(1)["connections"] == 3
