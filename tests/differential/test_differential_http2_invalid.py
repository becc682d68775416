"""A request of HTTP/2 with one mistake is refused and never arrives; the others on its connection are answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import hpack
import pytest
from exchanges import EXAMPLES, Fields, Seen, often
from h2_client import frame
from http2_exchanges import Call, Message, calls
from http2_rig import Rig, running
from hypothesis import given
from hypothesis import strategies as st

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
DATA, HEADERS, RST_STREAM, PUSH_PROMISE, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 5, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
FULL = 16384  # bytes in a frame (RFC 9113 section 4.2)
BAD = b"/never"

# Regular fields, each wrong on its own or beside what a request has (RFC 9113 sections 8.2 and 8.3).
FIELDS = {
    "an upper-case name": [(b"X-Upper", b"a")],
    "an upper-case letter": [(b"x-uppeR", b"a")],
    "no name": [(b"", b"a")],
    "a space in a name": [(b"x a", b"b")],
    "a space behind a name": [(b"x-a ", b"b")],
    "a colon in a name": [(b"x:a", b"b")],
    "a control in a name": [(b"x\x01a", b"b")],
    "a line in a name": [(b"x: y\r\nz", b"b")],
    "DEL in a name": [(b"x\x7f", b"b")],
    "obs-text in a name": [(b"x\xe9", b"b")],
    "a name that is no token": [(b"x(a)", b"b")],
    "a NUL in a value": [(b"x-a", b"b\0c")],
    "a CR in a value": [(b"x-a", b"b\rc")],
    "an LF in a value": [(b"x-a", b"b\nc")],
    "a line in a value": [(b"x-a", b"b\r\nhost: evil")],
    "a request in a value": [(b"x-a", b"b\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n")],
    "a control in a value": [(b"x-a", b"b\x01c")],
    "DEL in a value": [(b"x-a", b"b\x7fc")],
    "a space before a value": [(b"x-a", b" b")],
    "a tab behind a value": [(b"x-a", b"b\t")],
    "connection": [(b"connection", b"close")],
    "a connection option": [(b"connection", b"x-a"), (b"x-a", b"b")],
    "keep-alive": [(b"keep-alive", b"timeout=5")],
    "proxy-connection": [(b"proxy-connection", b"keep-alive")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "upgrade": [(b"upgrade", b"websocket")],
    "te": [(b"te", b"gzip")],
    "te beside trailers": [(b"te", b"trailers, gzip")],
    "another host": [(b"host", b"other.example")],
    "two hosts": [(b"host", b"example.org"), (b"host", b"example.org")],
    "a late :path": [(b":path", BAD)],
    "a late :method": [(b":method", b"POST")],
    "an unknown pseudo-header field": [(b":foo", b"a")],
    "a :status": [(b":status", b"200")],
    "a :protocol without CONNECT": [(b":protocol", b"websocket")],
    "an empty length": [(b"content-length", b"")],
    "a length that is no number": [(b"content-length", b"3x")],
    "a negative length": [(b"content-length", b"-3")],
    "a length with a sign": [(b"content-length", b"+3")],
    "a length with a blank": [(b"content-length", b"3 3")],
    "a length beyond 64 bits": [(b"content-length", b"99999999999999999999999")],
    "two lengths": [(b"content-length", b"3"), (b"content-length", b"4")],
    "two lengths in one": [(b"content-length", b"3, 4")],
}
# What takes the place of a pseudo-header field; None leaves it out.
PSEUDO: dict[str, dict[bytes, bytes | None]] = {
    "no :method": {b":method": None},
    "no :scheme": {b":scheme": None},
    "no :path": {b":path": None},
    "no :authority": {b":authority": None},
    "an empty :method": {b":method": b""},
    "an empty :scheme": {b":scheme": b""},
    "an empty :path": {b":path": b""},
    "an empty :authority": {b":authority": b""},
    "a space in :method": {b":method": b"G T"},
    "a line in :method": {b":method": b"GET /never HTTP/1.1\r\nHost: a\r\n\r\nGET"},
    "a separator in :method": {b":method": b"GET,"},
    "PRI for a method": {b":method": b"PRI"},
    "CONNECT with a path": {b":method": b"CONNECT"},
    "CONNECT": {b":method": b"CONNECT", b":scheme": None, b":path": None},
    "a space in :path": {b":path": BAD + b" HTTP/1.1"},
    "a line in :path": {b":path": BAD + b"\r\nx: y"},
    "a control in :path": {b":path": BAD + b"\x01"},
    "a NUL in :path": {b":path": BAD + b"\0"},
    "DEL in :path": {b":path": BAD + b"\x7f"},
    "a :path without a slash": {b":path": b"never"},
    "an absolute :path": {b":path": b"http://example.org/never"},
    "an asterisk for another method": {b":method": b"GET", b":path": b"*"},
    "a space in :scheme": {b":scheme": b"ht tp"},
    "a user in :authority": {b":authority": b"u@example.org"},
    "a space in :authority": {b":authority": b"example .org"},
    "a slash in :authority": {b":authority": b"example.org/a"},
    "a line in :authority": {b":authority": b"a\r\nx: y"},
    "a control in :authority": {b":authority": b"a\x01"},
}
TWICE = [b":method", b":scheme", b":path", b":authority"]


@dataclass
class Stream:
    status: int = 0
    ended: bool = False
    reset: int | None = None


@dataclass
class Raw:
    """A connection of HTTP/2 that sends whatever it is told to, and takes frames apart."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    huffman: bool = False
    encoder: hpack.Encoder = field(default_factory=hpack.Encoder)
    decoder: hpack.Decoder = field(default_factory=hpack.Decoder)
    streams: dict[int, Stream] = field(default_factory=lambda: {n: Stream() for n in (1, 3, 5)})
    goaway: int | None = None
    closed: bool = False

    def head(self, stream: int, fields: Fields, last: bool, cut: int = 0) -> bytes:
        """HEADERS; `cut` is where CONTINUATION goes on, 0 = where the frame is full."""
        block = self.encoder.encode(fields, huffman=self.huffman)
        out, kind, flags, size = b"", HEADERS, END_STREAM * last, cut or FULL
        while len(block) > size:
            out += frame(kind, flags, stream, block[:size])
            block, kind, flags, size = block[size:], CONTINUATION, 0, FULL
        return out + frame(kind, flags | END_HEADERS, stream, block)

    async def read_frame(self) -> None:
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return
        stream = self.streams.setdefault(int.from_bytes(head[5:], "big"), Stream())
        if head[3] == HEADERS:
            stream.status = int(dict(self.decoder.decode(payload, raw=True))[b":status"])
        elif head[3] == RST_STREAM:
            stream.reset = int.from_bytes(payload, "big")
        elif head[3] == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        if head[3] in (HEADERS, DATA) and head[4] & END_STREAM:
            stream.ended = True

    async def read_until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not self.closed and not done():
                await self.read_frame()

    def over(self, number: int) -> bool:
        stream = self.streams[number]
        return stream.ended or stream.reset is not None


# What is sent for a stream 3 that has a mistake.
Mistake = Callable[[Raw], bytes]
GOOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"example.org"), (b":path", b"/good")]


async def offer(port: int, mistake: Mistake, huffman: bool) -> Raw:
    """Begins a valid request, makes the mistake, begins another, and ends the first."""
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port), huffman)
    try:
        raw.writer.write(PREFACE + raw.head(1, GOOD, False))
        raw.writer.write(mistake(raw))
        raw.writer.write(raw.head(5, GOOD, False) + frame(DATA, END_STREAM, 5, b"abc"))
        raw.writer.write(frame(DATA, END_STREAM, 1, b"abc"))
        await raw.read_until(lambda: all(map(raw.over, (1, 3, 5))))
    finally:
        with contextlib.suppress(ConnectionError):
            raw.writer.close()
    return raw


ANSWER = Call(b"POST", b"/", b"a", "none", (), (), None, 1 << 24, None, 200, (), (), Message(b"ok", True))


def refused(
    rig: Rig,
    mistake: Mistake,
    huffman: bool = False,
    *,
    body: bool = False,
    stream: bool = True,
    beyond: bytes | None = None,
) -> None:
    """`body`: the mistake comes behind the head, which may arrive. `stream`: it is the stream's own and ends no more.
    `beyond`: the mistake is more than the body that was announced, which ends an HTTP/1.1 request before it shows."""

    def pick(seen: Seen) -> Call:
        return ANSWER

    rig.http1.pick = rig.http2.pick = pick
    for server, gate in ((rig.http1, rig.to_http1), (rig.http2, rig.to_http2)):
        server.seen.clear()
        rig.http2.begun.clear()
        raw = rig.runner.run(offer(gate.port, mistake, huffman))
        arrived = [seen for seen in server.seen if seen.target != b"/good"]
        assert [seen for seen in arrived if server is rig.http2 or seen.body != beyond] == []
        assert body or [target for target in rig.http2.begun if target != b"/good"] == []
        assert server.violations == []
        bad = raw.streams[3]
        ended = raw.goaway is not None and raw.goaway != 0
        assert ended or bad.reset or 400 <= bad.status < 600, bad
        assert not (stream and ended), f"the connection was ended: {raw.goaway}"
        if not ended:
            assert not raw.closed
            assert {raw.streams[n].status for n in (1, 5)} == {200}
            assert len(server.seen) - len(arrived) == 2


@pytest.fixture
def rig() -> Iterator[Rig]:
    with running() as made:
        yield made


def head_of(call: Call) -> tuple[Fields, Fields]:
    """Pseudo-header fields and others of a valid request to a path that none other has, with a body of three bytes."""
    method = b"POST" if call.method in (b"HEAD", b"OPTIONS") else call.method
    head = replace(call, method=method, target=BAD, authority=b"example.org", host="none", content=None).head()
    return [pair for pair in head if pair[0][:1] == b":"], [pair for pair in head if pair[0][:1] != b":"]


def sending(head: Fields, cut: int = 0) -> Mistake:
    return lambda raw: raw.head(3, head, False, cut) + frame(DATA, END_STREAM, 3, b"abc")


FEW = max(2, EXAMPLES // 50)
cuts = st.sampled_from([0, 0, 1, 10])


@pytest.mark.parametrize("what", FIELDS)
def test_a_bad_field_never_arrives(rig: Rig, what: str) -> None:
    @often(FEW)
    @given(calls(), st.integers(0, 8), st.booleans(), cuts)
    def check(call: Call, place: int, huffman: bool, cut: int) -> None:
        pseudo, fields = head_of(call)
        refused(rig, sending(pseudo + fields[:place] + FIELDS[what] + fields[place:], cut), huffman)

    check()


@pytest.mark.parametrize("what", PSEUDO)
def test_a_bad_pseudo_header_field_never_arrives(rig: Rig, what: str) -> None:
    @often(FEW)
    @given(calls(), st.randoms(use_true_random=False), st.booleans(), cuts)
    def check(call: Call, random: object, huffman: bool, cut: int) -> None:
        pseudo, fields = head_of(call)
        changed = {**dict(pseudo), **PSEUDO[what]}
        head = [(name, value) for name, value in changed.items() if value is not None]
        random.shuffle(head)  # type: ignore[attr-defined]
        refused(rig, sending(head + fields, cut), huffman)

    check()


@pytest.mark.parametrize("name", TWICE)
def test_a_pseudo_header_field_that_comes_twice_never_arrives(rig: Rig, name: bytes) -> None:
    @often(FEW)
    @given(calls(), st.integers(0, 4), st.booleans())
    def check(call: Call, place: int, huffman: bool) -> None:
        pseudo, fields = head_of(call)
        again = [(name, dict(pseudo)[name])]
        refused(rig, sending(pseudo[:place] + again + pseudo[place:] + fields), huffman)

    check()


POST: Fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"example.org"), (b":path", BAD)]


def posting(said: bytes | None, *pieces: bytes, trailers: Fields | None = None, last: bool = True) -> Mistake:
    """A request with a body in `pieces`; where there are none, its head is all."""
    head = POST + ([(b"content-length", said)] if said is not None else [])

    def send(raw: Raw) -> bytes:
        out = raw.head(3, head, not pieces and trailers is None)
        for i, piece in enumerate(pieces):
            out += frame(DATA, END_STREAM * (trailers is None and i == len(pieces) - 1), 3, piece)
        return out + (raw.head(3, trailers, last) if trailers is not None else b"")

    return send


BODIES = {
    "a length and no body": posting(b"3"),
    "a length and an empty body": posting(b"3", b""),
    "a body that is too short": posting(b"4", b"ab", b"c"),
    "a body that is too long at once": posting(b"2", b"abc"),
    "a body that is too short before trailers": posting(b"4", b"abc", trailers=[(b"x-a", b"b")]),
    "trailers with a pseudo-header field": posting(None, b"abc", trailers=[(b":path", b"/")]),
    "trailers with an upper-case name": posting(None, b"abc", trailers=[(b"X-A", b"b")]),
    "trailers with a line": posting(None, b"abc", trailers=[(b"x-a", b"b\r\nc: d")]),
    "trailers with connection": posting(None, b"abc", trailers=[(b"connection", b"close")]),
    "trailers with transfer-encoding": posting(None, b"abc", trailers=[(b"transfer-encoding", b"chunked")]),
    "trailers that end nothing": posting(None, b"abc", trailers=[(b"x-a", b"b")], last=False),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_bad_body_never_ends_a_request(rig: Rig, what: str) -> None:
    for huffman in (False, True):
        refused(rig, BODIES[what], huffman, body=True)


@pytest.mark.parametrize("said", [b"", b"ab"], ids=["where there is none", "that is too long"])
def test_what_is_beyond_a_body_never_arrives(rig: Rig, said: bytes) -> None:
    pieces = [piece for piece in (said, b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n") if piece]
    for huffman in (False, True):
        refused(rig, posting(b"%d" % len(said), *pieces), huffman, body=True, beyond=said)


# Mistakes in the framing or in HPACK, after which a connection cannot be gone on with (RFC 9113 section 5.4.1).
FRAMES: dict[str, Mistake] = {
    "DATA on no stream": lambda raw: frame(DATA, 0, 0, b"abc"),
    "HEADERS on no stream": lambda raw: raw.head(0, POST, True),
    "HEADERS on a server's stream": lambda raw: raw.head(2, POST, True),
    "DATA on a stream that is idle": lambda raw: frame(DATA, END_STREAM, 3, b"abc"),
    "a PUSH_PROMISE": lambda raw: frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + raw.encoder.encode(POST)),
    "a CONTINUATION of nothing": lambda raw: frame(CONTINUATION, END_HEADERS, 3, raw.encoder.encode(POST)),
    "a frame in a header block": lambda raw: (
        frame(HEADERS, END_STREAM, 3, raw.encoder.encode(POST)) + frame(DATA, 0, 1, b"a") + frame(CONTINUATION, 4, 3)
    ),
    "an index of HPACK that is none": lambda raw: frame(HEADERS, 5, 3, raw.encoder.encode(POST) + b"\x80"),
    "an index of HPACK beyond the table": lambda raw: frame(HEADERS, 5, 3, raw.encoder.encode(POST) + b"\xff\x7f"),
    "a header block that is cut off": lambda raw: frame(HEADERS, 5, 3, raw.encoder.encode(POST) + b"\x40\x05ab"),
    "padding beyond the frame": lambda raw: frame(HEADERS, 5 | PADDED, 3, b"\xff" + raw.encoder.encode(POST)),
    "a frame that is too large": lambda raw: raw.head(3, POST, False) + frame(DATA, END_STREAM, 3, bytes(16385)),
    "a window of nothing": lambda raw: raw.head(3, POST, False) + frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window that is too large": lambda raw: raw.head(3, POST, False) + frame(WINDOW_UPDATE, 0, 0, b"\x7f" * 4),
    "RST_STREAM on a stream that is idle": lambda raw: frame(RST_STREAM, 0, 3, bytes(4)),
}


@pytest.mark.parametrize("what", FRAMES)
def test_a_bad_frame_ends_the_connection(rig: Rig, what: str) -> None:
    for huffman in (False, True):
        refused(rig, FRAMES[what], huffman, body=True, stream=False)
