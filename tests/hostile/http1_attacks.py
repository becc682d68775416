"""Attacks over HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import os

from hostile_site import BIG, MEDIUM, MIB, Attack, Cut, Hostile

PIPELINED = 300  # far more than the kernel's buffers hold


async def trickle(hostile: Hostile, first: bytes, piece: bytes, pause: float) -> None:
    """Sends `piece` again and again, for as long as the server puts up with it."""
    await hostile.send(first)
    while await hostile.hear(pause):
        await hostile.send(piece)
    raise Cut


async def slow_headers(hostile: Hostile) -> None:
    """Slowloris: a head that never ends."""
    await trickle(hostile, b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-Slow: 1\r\n", 0.1)


async def slow_header_bytes(hostile: Hostile) -> None:
    """The same in the middle of a line."""
    await trickle(hostile, b"GET /", b"a", 0.1)


async def silent_body(hostile: Hostile) -> None:
    """A body that stops half-way."""
    await hostile.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
    while await hostile.hear(10):
        pass
    raise Cut


async def slow_body(hostile: Hostile) -> None:
    """R-U-Dead-Yet: a body that comes byte by byte."""
    await trickle(hostile, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x", 0.1)


async def slow_reader(hostile: Hostile) -> None:
    """Asks for much and takes nothing, then looks at what there is."""
    await hostile.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(2.5)
    if await hostile.hear_out() < BIG:
        raise Cut


async def pipeliner(hostile: Hostile) -> None:
    """Asks and asks and takes no answer, then looks at what there is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2.5):
            await hostile.send(b"GET /medium HTTP/1.1\r\nHost: x\r\n\r\n" * PIPELINED)
    await asyncio.sleep(2.5)
    if await hostile.hear_out() < PIPELINED * MEDIUM:
        raise Cut


async def connection_flood(hostile: Hostile) -> None:
    """Holds a connection and says nothing."""
    while await hostile.hear(10):
        pass
    raise Cut


async def churn(hostile: Hostile) -> None:
    """Comes and goes."""


async def half_request(hostile: Hostile) -> None:
    """Leaves in the middle of a head."""
    await hostile.send(b"GET / HTTP/1.1\r\nHost:")


async def leaver(hostile: Hostile) -> None:
    """Leaves when the answer begins."""
    await hostile.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    await hostile.hear(5)


async def header_bomb(hostile: Hostile) -> None:
    """A head of a MiB."""
    await hostile.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: %s\r\n" % (b"x" * 1000) * 1000)
    await hostile.hear_out()
    raise Cut


async def many_headers(hostile: Hostile) -> None:
    """A head of very many small fields."""
    await hostile.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A:b\r\n" * 3000 + b"\r\n")
    await hostile.hear_out()
    raise Cut


async def long_line(hostile: Hostile) -> None:
    """A request line without an end."""
    await hostile.send(b"GET /" + b"a" * MIB)
    await hostile.hear_out()
    raise Cut


async def garbage(hostile: Hostile) -> None:
    """What is no HTTP."""
    await hostile.send(os.urandom(4096))
    await hostile.hear_out()
    raise Cut


async def chunk_extensions(hostile: Hostile) -> None:
    """Chunks of one byte with much beside them."""
    chunk = b"1;" + b"e" * 1000 + b"\r\nx\r\n"
    await hostile.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        await hostile.send(chunk * 10)
    await hostile.send(b"0\r\n\r\n")
    await hostile.hear(5)


async def tiny_requests(hostile: Hostile) -> None:
    """Requests that are answered here at once, as many as fit, by one who reads all that comes."""
    piece = b"GET /nowhere HTTP/1.1\r\nHost:x\r\n\r\n"

    async def read() -> None:
        while await hostile.hear(5):
            pass

    reading = asyncio.create_task(read())
    try:
        for _ in range(40):
            await hostile.send(piece * 2000)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)  # its end alone: a cancellation of ours goes on


async def tiny_chunks(hostile: Hostile) -> None:
    """A body in chunks of one byte."""
    await hostile.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        await hostile.send(b"1\r\nx\r\n" * 10_000)
    await hostile.send(b"0\r\n\r\n")
    await hostile.hear(5)


SHORT = {"header_timeout": "1s", "body_timeout": "1s", "send_timeout": "1s", "idle_timeout": "15s"}

ATTACKS = [
    Attack("slow-headers", slow_headers, 300, SHORT, cut=300),
    Attack("slow-header-bytes", slow_header_bytes, 300, SHORT, cut=300),
    Attack("silent-body", silent_body, 100, SHORT, cut=100),
    # Each byte comes in time; nothing but the limit of connections ends them. They must not cost more than that.
    Attack("slow-body", slow_body, 300, SHORT),
    Attack("slow-reader", slow_reader, 40, SHORT, cut=40, memory=48 * MIB, receive_buffer=4096),
    Attack("pipeliner", pipeliner, 8, SHORT, cut=8, receive_buffer=4096),
    Attack(
        "connection-flood",
        connection_flood,
        1000,
        {**SHORT, "idle_timeout": "4s", "max_connections": 300},
        cut=300,
        memory=32 * MIB,
    ),
    Attack("churn", churn, 50, SHORT),
    Attack("half-request", half_request, 50, SHORT),
    Attack("leaver", leaver, 10, SHORT, memory=48 * MIB),
    Attack("header-bomb", header_bomb, 20, SHORT, cut=20),
    Attack("many-headers", many_headers, 20, SHORT, cut=20),
    Attack("long-line", long_line, 20, SHORT, cut=20),
    Attack("garbage", garbage, 20, SHORT, cut=20),
    Attack("chunk-extensions", chunk_extensions, 20, SHORT),
    # Answers that wait for a reader on a busy machine, and what was read ahead of them.
    Attack("tiny-requests", tiny_requests, 10, SHORT, memory=48 * MIB),
    Attack("tiny-chunks", tiny_chunks, 10, SHORT),
]
