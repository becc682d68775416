"""The same exchange directly and through Tidegate gives the same result; what is no exchange never arrives."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from datapath import SECOND, Gate, Site
from exchanges import ADDED, EXAMPLES, Exchange, Server, ask, exchanges, often, own, same_length
from hypothesis import given
from hypothesis import strategies as st

from lb.config.plan.plan import HopPlan


@dataclass
class Rig:
    """A server, and Tidegate in front of it, on a loop that runs whenever a test asks it to."""

    runner: asyncio.Runner
    server: Server
    gate: Gate
    direct: int

    def both(self, exchange: Exchange) -> None:
        self.server.pick = lambda seen: exchange
        self.server.seen.clear()
        plain = self.runner.run(ask(self.direct, exchange.method, exchange.request()))
        gated = self.runner.run(ask(self.gate.port, exchange.method, exchange.request()))
        assert self.server.violations == []
        sent, passed = self.server.seen
        assert (passed.method, passed.target, passed.body) == (sent.method, sent.target, sent.body)
        assert own(passed.fields, ADDED) == own(sent.fields, ADDED)
        assert passed.trailers == sent.trailers
        assert {name for name, _ in passed.fields} >= ADDED - {b"x-forwarded-port"}
        assert (gated.status, gated.reason, gated.body) == (plain.status, plain.reason, plain.body)
        assert own(gated.fields, {b"content-length"}) == own(plain.fields, {b"content-length"})
        assert same_length(gated.fields, plain.fields, plain.body)
        assert (gated.trailers, gated.interim) == (plain.trailers, plain.interim)


@pytest.fixture
def rig() -> Iterator[Rig]:
    server, site = Server(), Site()
    short = SECOND // 2

    async def start() -> tuple[Gate, int]:
        address = await site.endpoint(server)
        gate = await site.gate(
            [address],
            listener={
                "hop": HopPlan(via="gate"), "max_header_bytes": 65536, "max_headers": 200, "header_timeout_ns": short,
                "body_timeout_ns": short,
            },
            pool={"retries": 0},
        )  # fmt: skip
        return gate, int(address.rpartition(":")[2])

    async def stop() -> None:
        for gate in site.gates:
            gate.proxy.close()
        for listening in site.servers:
            listening.close()
        await asyncio.sleep(0)

    with asyncio.Runner() as runner:
        gate, direct = runner.run(start())
        yield Rig(runner, server, gate, direct)
        assert gate.in_flight() == 0
        runner.run(stop())


def test_valid_exchanges_give_the_same_result(rig: Rig) -> None:
    @often(EXAMPLES)
    @given(exchanges())
    def check(exchange: Exchange) -> None:
        rig.both(exchange)

    check()


# One mistake each. A request with it must not arrive, not even its first byte where the mistake is in the head.

HEAD = [
    ("no colon", "X-A b\r\n"),
    ("a space before the colon", "X-A : b\r\n"),
    ("a line that goes on", "X-A: b\r\n c\r\n"),
    ("a NUL", "X-A: b\0c\r\n"),
    ("a bare CR", "X-A: b\rc\r\n"),
    ("a bare LF", "X-A: b\nX-B: c\r\n"),
    ("a name that is no token", "X(A): b\r\n"),
    ("no name", ": b\r\n"),
    ("two hosts", "Host: other.example\r\n"),
    ("a host that ends an authority", "Host: a/b\r\n"),
    ("two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n"),
    ("two lengths in one", "Content-Length: 3, 4\r\n"),
    ("a length that is no number", "Content-Length: 3x\r\n"),
    ("a negative length", "Content-Length: -3\r\n"),
    ("a length with a sign", "Content-Length: +3\r\n"),
    ("a length beyond 64 bits", "Content-Length: 99999999999999999999999\r\n"),
    ("a length and chunks", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
    ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
    ("a coding that is not understood", "Transfer-Encoding: gzip\r\n"),
    ("chunks that are not last", "Transfer-Encoding: chunked, gzip\r\n"),
    ("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    ("a coding that looks like chunks", "Transfer-Encoding: xchunked\r\n"),
    ("a coding behind a vertical tab", "Transfer-Encoding:\x0bchunked\r\n"),
]
LINES = [
    ("no version", "GET /\r\n"),
    ("version 2.0", "GET / HTTP/2.0\r\n"),
    ("version 1.10", "GET / HTTP/1.10\r\n"),
    ("version 0.9", "GET / HTTP/0.9\r\n"),
    ("a lower-case protocol", "GET / http/1.1\r\n"),
    ("a method that is none", "G(T / HTTP/1.1\r\n"),
    ("a space in the target", "GET /a b HTTP/1.1\r\n"),
    ("a control in the target", "GET /a\x01 HTTP/1.1\r\n"),
    ("a target without a slash", "GET a HTTP/1.1\r\n"),
    ("a bare LF", "GET / HTTP/1.1\n"),
    ("another scheme", "GET ftp://a/ HTTP/1.1\r\n"),
    ("a user in the target", "GET http://u@a/ HTTP/1.1\r\n"),
    ("CONNECT", "CONNECT a:1 HTTP/1.1\r\n"),
]
CHUNKS = [
    ("a size that is no number", "g\r\nabc\r\n0\r\n\r\n"),
    ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a size in C's way", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a size that is too small", "2\r\nabc\r\n0\r\n\r\n"),
    ("a size that is too large", "4\r\nabc\r\n0\r\n\r\n"),
    ("a bare LF behind the size", "3\nabc\r\n0\r\n\r\n"),
    ("a bare LF behind the data", "3\r\nabc\n0\r\n\r\n"),
    ("a control in an extension", "3;a=\0\r\nabc\r\n0\r\n\r\n"),
    ("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
]
splits = st.lists(st.integers(1, 400), max_size=5)


async def offer(gate: Gate, raw: bytes, cuts: list[int]) -> bytes:
    """Sends `raw` in pieces and reads until the gate closes, or has answered and waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    got = b""
    try:
        with contextlib.suppress(ConnectionError):
            for cut in cuts:
                writer.write(raw[:cut])
                await writer.drain()
                await asyncio.sleep(0)
                raw = raw[cut:]
            writer.write(raw)
            writer.write_eof()
            got = await asyncio.wait_for(reader.read(-1), 20)
    finally:
        writer.close()
    return got


def refused(rig: Rig, raw: bytes, cuts: list[int], body: bool = False) -> None:
    rig.server.seen.clear()
    rig.server.begun = 0
    answer = rig.runner.run(offer(rig.gate, raw, cuts))
    assert rig.server.seen == []
    if not body:
        assert rig.server.begun == 0
        assert answer == b"" or re.match(rb"HTTP/1\.1 (400|405|408|414|431|501|505) ", answer), answer[:100]
    assert b" 200 " not in answer[:20]
    assert len(re.findall(rb"(?m)^HTTP/1\.1 ", answer)) <= 1  # and nothing behind it was taken for another request


TAIL = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("what", "line"), HEAD, ids=[what for what, _ in HEAD])
def test_a_bad_field_never_arrives(rig: Rig, what: str, line: str) -> None:
    @often(max(5, EXAMPLES // 15))
    @given(exchanges(), st.integers(0, 10), splits)
    def check(exchange: Exchange, place: int, cuts: list[int]) -> None:
        lines = ["Host: example.org\r\n", *(f"{n.decode()}: {v.decode('latin-1')}\r\n" for n, v in exchange.fields)]
        lines.insert(min(place, len(lines)), line)
        # A line that "goes on" at the very beginning goes on from nothing; it is as bad.
        head = f"POST {exchange.target.decode()} HTTP/1.1\r\n{''.join(lines)}\r\n"
        refused(rig, (head + "abc" + TAIL).encode("latin-1"), cuts)

    check()


@pytest.mark.parametrize(("what", "line"), LINES, ids=[what for what, _ in LINES])
def test_a_bad_request_line_never_arrives(rig: Rig, what: str, line: str) -> None:
    for cuts in ([], [1, 2, 3], [10]):
        refused(rig, f"{line}Host: a\r\n\r\n{TAIL}".encode("latin-1"), cuts)


@pytest.mark.parametrize(("what", "chunks"), CHUNKS, ids=[what for what, _ in CHUNKS])
def test_a_bad_chunk_never_ends_a_request(rig: Rig, what: str, chunks: str) -> None:
    head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    for cuts in ([], [len(head) - 10], [20, 30, 40]):
        refused(rig, (head + chunks + TAIL).encode("latin-1"), cuts, body=True)
    assert rig.server.violations == []


def test_a_request_without_a_host_never_arrives(rig: Rig) -> None:
    refused(rig, b"GET / HTTP/1.1\r\n\r\n" + TAIL.encode(), [])
