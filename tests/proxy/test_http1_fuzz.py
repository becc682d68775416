"""Random HTTP/1.1 through the gate: valid exchanges arrive as they were sent, damaged ones do no harm.

Runs for TIDEGATE_FUZZ_SECONDS (default 2) per test; TIDEGATE_FUZZ_SEED repeats a run. The endpoint is h11, an
independent implementation that refuses what is not a valid request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from dataclasses import dataclass

import h11
import pytest
from datapath import SECOND, Gate, Site, settle

SECONDS = float(os.environ.get("TIDEGATE_FUZZ_SECONDS", "2"))
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("TIDEGATE_FUZZ_SEED", time.time_ns() % 1_000_000_000))
    print(f"TIDEGATE_FUZZ_SEED={seed}")  # pytest shows it when the test fails
    return random.Random(seed)


@dataclass
class Answer:
    """What the endpoint answers to the request whose target ends in `number`: a function of the number alone."""

    status: int
    body: bytes
    raw: bytes
    closes: bool


def answer_of(number: int, method: bytes) -> Answer:
    dice = random.Random(number)
    status = dice.choice([200, 200, 200, 201, 204, 304, 404, 500])
    size = dice.choice([0, 1, 20, 3000, 20_000, 150_000])
    body = dice.randbytes(size)
    interim = dice.choice(
        [b""] * 6 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
    )
    head = interim + b"HTTP/1.1 %d R\r\nX-Number: %d\r\n" % (status, number)
    if method == b"HEAD" or status in (204, 304):
        length = b"" if status == 204 else b"Content-Length: %d\r\n" % size
        return Answer(status, b"", head + length + b"\r\n", False)
    way = dice.choice(["length", "chunked", "close"])
    if way == "length":
        return Answer(status, body, head + b"Content-Length: %d\r\n\r\n" % size + body, False)
    if way == "close":
        return Answer(status, body, head + b"\r\n" + body, True)
    return Answer(status, body, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(dice, body), False)


def chunked(dice: random.Random, body: bytes) -> bytes:
    out = []
    largest = dice.choice([30, 700, 30_000])
    while body:
        n = dice.randint(1, largest)
        extension = dice.choice([b"", b"", b";a=b", b';c="d"'])
        out.append(b"%x%s\r\n%s\r\n" % (len(body[:n]), extension, body[:n]))
        body = body[n:]
    trailers = dice.choice([b"", b"", b"X-Trailer: 1\r\n"])
    return b"".join(out) + b"0\r\n" + trailers + b"\r\n"


class Endpoint:
    """Takes only what h11 takes, keeps what came, and answers in random pieces."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.seen: dict[int, tuple[bytes, bytes]] = {}  # number -> method, body
        self.violations: list[str] = []

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        state = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        method, number, body = b"", 0, b""
        try:
            while True:
                event = state.next_event()
                if event is h11.NEED_DATA:
                    data = await reader.read(65536)
                    if not data:
                        return  # the gate left: an exchange may break off, but never turn into another
                    state.receive_data(data)
                elif isinstance(event, h11.Request):
                    method, body = event.method, b""
                    found = re.search(rb"n=(\d+)", event.target)
                    number = int(found[1]) % (1 << 62) if found else 0
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.seen[number] = (method, body)
                    answer = answer_of(number, method)
                    await write_split(self.dice, writer, answer.raw)
                    if answer.closes:
                        return
                    state.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    state.send(h11.EndOfMessage())
                    if state.our_state is not h11.DONE:
                        return
                    state.start_next_cycle()
        except h11.RemoteProtocolError as failure:
            self.violations.append(f"{failure}: {state.trailing_data[0][:500]!r}")
        finally:
            writer.close()


async def write_split(dice: random.Random, writer: Writer, data: bytes) -> None:
    pieces = dice.choice([1, 1, 2, 5, 20])
    cuts = sorted(dice.randint(0, len(data)) for _ in range(pieces - 1))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        writer.write(data[start:end])
        await writer.drain()
        if pieces > 1:
            await asyncio.sleep(0 if dice.random() < 0.8 else 0.001)


@dataclass
class Request:
    number: int
    method: bytes
    body: bytes
    raw: bytes


def request(dice: random.Random, number: int, last: bool, methods: list[bytes]) -> Request:
    method = dice.choice(methods)
    target = b"/%s?n=%d" % (dice.choice([b"", b"a/b", b"%41", b"x" * 300]), number)
    if dice.random() < 0.1:
        target = b"http://example.org" + target
    fields = [b"Host: example.org"]
    others = (b"X-A: b", b"Cookie: c=d", b"X-Forwarded-For: 10.0.0.1", b"Accept:", b"X-Long: " + b"y" * 2000)
    fields += [field for field in others if dice.random() < 0.3]
    if dice.random() < 0.2:
        fields += [b"Connection: X-Hop", b"X-Hop: 1", b"TE: trailers"]
    if last:
        fields.append(b"Connection: close")
    body, framed = b"", b""
    if method in (b"POST", b"PUT"):
        body = dice.randbytes(dice.choice([0, 1, 50, 5000, 70_000, 200_000]))
        if dice.random() < 0.5:
            fields.append(b"Transfer-Encoding: chunked")
            framed = chunked(dice, body)
        else:
            fields.append(b"Content-Length: %d" % len(body))
            framed = body
    dice.shuffle(fields)
    return Request(
        number, method, body, method + b" " + target + b" HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + framed
    )


async def read_answer(reader: Reader, state: h11.Connection, method: bytes) -> tuple[int, bytes]:
    state.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    state.send(h11.EndOfMessage())
    status, body = 0, b""
    while True:
        event = state.next_event()
        if event is h11.NEED_DATA:
            state.receive_data(await asyncio.wait_for(reader.read(65536), 20))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        else:
            assert isinstance(event, h11.InformationalResponse), event


async def rest(gate: Gate) -> None:
    await settle(lambda: gate.proxy.busy() == 0 and gate.in_flight() == 0, "something is still in flight")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection is left")
    for series in (2, 10):
        counts = gate.total(series)
        assert counts["started"] == counts["finished"], "begun and finished do not agree"


async def test_random_exchanges_arrive_as_they_were_sent(site: Site, dice: random.Random) -> None:
    endpoint = Endpoint(dice)
    gate = await site.gate([await site.endpoint(endpoint)])
    numbers = iter(range(1, 1 << 60))

    async def client() -> None:
        requests = [request(dice, next(numbers), False, [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
                    for _ in range(dice.randint(1, 4))]  # fmt: skip
        reader, writer = await gate.connect()
        state = h11.Connection(h11.CLIENT)
        pipelined = dice.random() < 0.3
        sender = (
            asyncio.ensure_future(write_split(dice, writer, b"".join(r.raw for r in requests))) if pipelined else None
        )
        for sent in requests:
            if not pipelined:
                sender = asyncio.ensure_future(write_split(dice, writer, sent.raw))
            status, body = await read_answer(reader, state, sent.method)
            expected = answer_of(sent.number, sent.method)
            assert (status, body) == (expected.status, expected.body), sent.raw[:400]
            assert endpoint.seen.pop(sent.number) == (sent.method, sent.body)
            state.start_next_cycle()
            if sender is not None and not pipelined:
                await sender
        if sender is not None:
            await sender
        writer.close()

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        await asyncio.gather(*(client() for _ in range(20)))
    assert endpoint.violations == []
    await rest(gate)


TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x80", b"\xff", b",", b";", b"0", b"-1",
    b"ffffffffffffffff", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: identity\r\n", b"transfer-encoding:\tchunked\r\n",
    b"Host: b\r\n", b"Connection: host\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b" folded\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"HTTP/0.9", b"CONNECT a:1", b"GET /?n=7 HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"http://",
    b"*", b"/../", b"%00", b"#", b"@", b"\x0b", b"\x0c", b"chunked, chunked", b"Trailer: X\r\n", b"TRACE",
    b"ICE/1.0", b"RTSP/1.0",
]  # fmt: skip


def damage(dice: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    head = max(1, raw.find(b"\r\n\r\n"))
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, min(len(data), head if dice.random() < 0.8 else len(data)))
        kind = dice.randint(0, 5)
        if kind == 0:
            data[at:at] = dice.choice(TOKENS)
        elif kind == 1:
            data[at : at + dice.randint(1, 20)] = b""
        elif kind == 2 and at < len(data):
            data[at] = dice.randint(0, 255)
        elif kind == 3:
            data[at : at + dice.randint(1, 8)] = dice.choice(TOKENS)
        elif kind == 4:
            lines = bytes(data).split(b"\r\n")
            lines.insert(dice.randint(1, len(lines)), dice.choice(TOKENS).rstrip(b"\r\n"))
            data = bytearray(b"\r\n".join(lines))
        else:
            start = dice.randint(0, at)
            data[at:at] = data[start:at][:200]
    return bytes(data)


def check_answers(data: bytes) -> None:
    """`data` is a row of whole answers; only the last may break off, with the connection."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 [1-5]\d\d [^\r\n]*(\r\n[!-9;-~]+: ?[^\r\n]*)*$", head), head
        if not end:
            return
        status = int(head[9:12])
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if status < 200 or status in (204, 304):
            continue
        if length:
            assert b"transfer-encoding" not in head.lower()
            data = data[int(length[1]) :]
        elif b"chunked" in head:
            while data:
                line, _, data = data.partition(b"\r\n")
                n = int(line, 16)
                if n:
                    data = data[n + 2 :]
                    continue
                while line:  # the trailers
                    line, _, data = data.partition(b"\r\n")
                break
        else:
            assert re.search(rb"(?i)connection: close", head)
            return


async def test_damaged_requests_do_no_harm(site: Site, dice: random.Random) -> None:
    endpoint = Endpoint(dice)
    short = SECOND // 5
    gate = await site.gate(
        [await site.endpoint(endpoint)],
        listener={"header_timeout_ns": short, "body_timeout_ns": short, "idle_timeout_ns": short},
        pool={"response_timeout_ns": SECOND},
    )

    async def client() -> None:
        parts = [request(dice, dice.randint(1, 1 << 60), False, [b"GET", b"POST", b"PUT"]).raw
                 for _ in range(dice.randint(1, 3))]  # fmt: skip
        hit = dice.randrange(len(parts))
        parts[hit] = damage(dice, parts[hit])
        reader, writer = await gate.connect()
        got = b""
        with contextlib.suppress(ConnectionError):
            sender = asyncio.ensure_future(write_split(dice, writer, b"".join(parts)))
            try:
                if dice.random() < 0.1:
                    await asyncio.sleep(dice.random() * 0.01)
                    writer.transport.abort()
                while data := await asyncio.wait_for(reader.read(65536), 20):
                    got += data
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sender
        writer.close()
        if b"HEAD" not in b"".join(parts)[:-1]:
            check_answers(got)

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        await asyncio.gather(*(client() for _ in range(40)))
        assert endpoint.violations == []
    await rest(gate)
    fine = request(dice, 1, True, [b"GET"])
    assert b"X-Number: 1\r\n" in await gate.exchange(fine.raw)
