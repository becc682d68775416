"""Frames in, frames out: sessions of HTTP/2 without sockets."""

from __future__ import annotations

from compiled.http2_sessions import Http2Echo, Http2Probe
from h2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    SETTINGS,
    Frame,
    frame,
    frames,
)

START = PREFACE + frame(SETTINGS, 0, 0)


ACKED = START + frame(SETTINGS, ACK, 0)


HAS = END_HEADERS | END_STREAM


def drained(side: Http2Echo | Http2Probe) -> list[Frame]:
    taken = b""
    while True:
        rc, *parts = side.gather(1 << 20)
        assert rc >= 0
        taken += parts[0] + (b"".join(data for _, data in parts[1]) if len(parts) > 1 else b"")
        if not rc:
            return frames(taken.removeprefix(PREFACE))


def serve(data: bytes, step: int = 0, **options: int) -> tuple[Http2Echo, list[Frame]]:
    """What a server that echoes says to this."""
    echo = Http2Echo(**options)
    step = step or len(data)
    for i in range(0, len(data), step):
        assert echo.receive(data[i : i + step]) == 0
    return echo, drained(echo)


def of(kind: int, said: list[Frame]) -> list[Frame]:
    return [f for f in said if f.kind == kind]
