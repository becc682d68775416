"""Frames of HTTP/2 as they come to a check (RFC 9113 section 4.1).

h2 takes GOAWAY for the end of a connection, though answers to what was asked before still come behind it (section 6.8),
as from nginx with the last of its `keepalive_requests`. So checks read GOAWAY themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from lb.health.check import shown

_LARGEST = 16_384  # as we announce, by saying nothing of it
_HEAD = 9  # bytes
_GOAWAY = 7


class Goaway(Struct, frozen=True):
    """Streams behind `last_stream` have no answer; with a `code` none has. `said` is the server's own words."""

    last_stream: int
    code: int
    said: str

    def ends(self, stream: int) -> bool:
        return stream > self.last_stream or self.code != 0

    def __str__(self) -> str:
        return f"the server closed the connection with error {self.code}{': ' if self.said else ''}{self.said}"


class Frames:
    """Cuts what is received into frames. What it raises is a ValueError with the reason."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, came: bytes) -> Iterator[bytes | Goaway]:
        """Whole frames, one by one; a GOAWAY is read already."""
        self._received += came
        while len(self._received) >= _HEAD:
            size = int.from_bytes(self._received[:3])
            if size > _LARGEST:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._received) < _HEAD + size:
                return
            frame = bytes(self._received[: _HEAD + size])
            del self._received[: _HEAD + size]
            yield _goaway(frame) if frame[3] == _GOAWAY else frame


def _goaway(frame: bytes) -> Goaway:
    if len(frame) < _HEAD + 8:
        raise ValueError("a GOAWAY that is too short")
    last = int.from_bytes(frame[_HEAD : _HEAD + 4]) & 0x7FFF_FFFF
    code = int.from_bytes(frame[_HEAD + 4 : _HEAD + 8])
    return Goaway(last, code, shown(frame[_HEAD + 8 :].decode("utf-8", "replace")))
