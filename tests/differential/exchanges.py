"""Random exchanges of HTTP/1.1, the server that answers them, and the client that reads the answers.

The server and the client are h11, which takes what RFC 9112 allows and nothing else: both sides of Tidegate are judged
by the same independent reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import h11
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("TIDEGATE_DIFFERENTIAL_EXAMPLES", "75"))

Fields = list[tuple[bytes, bytes]]

# Of one connection, or made by whoever sends it: not the message's own (RFC 9110 section 7.6.1, 9112 section 6).
HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"date",
    b"expect", b"proxy-authenticate", b"proxy-authorization", b"http2-settings",
}  # fmt: skip
# What Tidegate tells the endpoint of the way.
ADDED = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"via"}
NEVER = HOP | ADDED | {b"host", b"content-length", b"forwarded"}
LARGEST_HEAD = 1 << 17  # h11's own limit is below what a head may have here


@dataclass(frozen=True)
class Body:
    """How a body is framed: `chunks` None is by length, or by the connection's end where `until_close`."""

    data: bytes = b""
    chunks: tuple[int, ...] | None = None
    extension: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    until_close: bool = False

    def framing(self) -> list[bytes]:
        if self.chunks is not None:
            return [b"Transfer-Encoding: chunked"]
        return [] if self.until_close else [b"Content-Length: %d" % len(self.data)]

    def wire(self) -> bytes:
        if self.chunks is None:
            return self.data
        out, rest, sizes = [], self.data, list(self.chunks)
        while rest:
            size = min(len(rest), sizes.pop() if sizes else len(rest))
            out.append(b"%x%s\r\n%s\r\n" % (size, self.extension, rest[:size]))
            rest = rest[size:]
        trailers = b"".join(name + b": " + value + b"\r\n" for name, value in self.trailers)
        return b"".join(out) + b"0\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Exchange:
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: Body | None
    status: int
    reason: bytes
    answer_fields: tuple[tuple[bytes, bytes], ...]
    answer: Body
    interim: bool

    def request(self) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target), b"Host: example.org"]
        lines += [name + b": " + value for name, value in self.fields]
        if self.body is not None:
            lines += self.body.framing()
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.body.wire() if self.body is not None else b"")

    def response(self) -> tuple[bytes, bool]:
        """The answer's bytes, and whether the connection ends behind it."""
        bodiless = self.method == b"HEAD" or self.status in (204, 304)
        lines = [b"HTTP/1.1 %d %s" % (self.status, self.reason)]
        lines += [name + b": " + value for name, value in self.answer_fields]
        if self.status != 204:
            lines += self.answer.framing()
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.interim:
            head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + head
        if bodiless:
            return head, False
        return head + self.answer.wire(), self.answer.until_close


tchar = st.sampled_from(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
names = st.lists(tchar, min_size=1, max_size=12).map(bytes).filter(lambda name: name.lower() not in NEVER)
# Field content: visible characters, obs-text, and blanks inside (RFC 9110 section 5.5).
values = st.lists(st.sampled_from([*range(33, 127), *range(128, 256), 32, 9]), max_size=20).map(
    lambda chars: bytes(chars).strip(b" \t")
)
field_lists = st.lists(st.tuples(names, values), max_size=6).map(tuple)
targets = st.builds(
    lambda path, query: b"/" + path + query,
    st.lists(st.sampled_from(b"abcXYZ019-._~!$&'()*+,;=:@/%"), max_size=15).map(bytes),
    st.just(b"") | st.lists(st.sampled_from(b"abc019-._~!$&'()*+,;=:@/?%"), max_size=15).map(lambda q: b"?" + bytes(q)),
)
data = st.binary(max_size=100) | st.integers(1000, 100_000).map(lambda n: bytes(i % 251 for i in range(n)))
sizes = st.lists(st.integers(1, 3000), max_size=8).map(tuple)
trailers = st.lists(st.tuples(names, values), max_size=2).map(tuple)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b c"'])
by_length = st.builds(Body, data)
by_chunks = st.builds(Body, data, sizes, extensions, trailers)
until_close = st.builds(Body, data, until_close=st.just(True))


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    methods = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"BREW", b"GETX", b"PLAY"]
    method = draw(st.sampled_from(methods))
    with_body = st.none() | by_length | by_chunks if method not in (b"GET", b"HEAD") else st.none()
    return Exchange(
        method,
        draw(targets),
        draw(field_lists),
        draw(with_body),
        draw(st.sampled_from([200, 200, 201, 202, 204, 206, 301, 304, 400, 404, 429, 500, 503, 599])),
        draw(st.sampled_from([b"OK", b"", b"Some Reason", b"\xe9"])),
        draw(field_lists),
        draw(by_length | by_chunks | until_close),
        draw(st.booleans()),
    )


@dataclass
class Seen:
    """A request as the server had it."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)


class Answering(Protocol):
    def response(self) -> tuple[bytes, bool]: ...


@dataclass
class Server:
    """Answers each request with what `pick` says for it; keeps what came. `violations` are what h11 refused."""

    pick: Callable[[Seen], Answering] | None = None
    seen: list[Seen] = field(default_factory=list)
    begun: int = 0  # connections on which a byte came
    violations: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = h11.Connection(h11.SERVER, LARGEST_HEAD)
        current: Seen | None = None
        try:
            while True:
                event = state.next_event()
                if event is h11.NEED_DATA:
                    chunk = await reader.read(65536)
                    self.begun += bool(chunk) and current is None
                    if not chunk:
                        return
                    state.receive_data(chunk)
                elif isinstance(event, h11.Request):
                    current = Seen(event.method, event.target, list(event.headers))
                elif isinstance(event, h11.Data):
                    assert current is not None
                    current.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert current is not None
                    assert self.pick is not None
                    current.trailers = list(event.headers)
                    self.seen.append(current)
                    raw, closes = self.pick(current).response()
                    current = None
                    writer.write(raw)
                    await writer.drain()
                    if closes:
                        return
                    state.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    state.send(h11.EndOfMessage())
                    if state.our_state is not h11.DONE:
                        return
                    state.start_next_cycle()
                else:
                    return
        except h11.RemoteProtocolError as failure:
            self.violations.append(f"{failure}: {state.trailing_data[0][:300]!r}")
        except ConnectionError:
            pass
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()


@dataclass
class Answer:
    """An answer as the client had it."""

    status: int = 0
    reason: bytes = b""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[tuple[int, Fields]] = field(default_factory=list)


async def ask(port: int, method: bytes, request: bytes) -> Answer:
    """The answer to one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        state = h11.Connection(h11.CLIENT, LARGEST_HEAD)
        state.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        state.send(h11.EndOfMessage())
        answer = Answer()
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(await asyncio.wait_for(reader.read(65536), 20))
            elif isinstance(event, h11.Response):
                answer.status, answer.reason = event.status_code, bytes(event.reason)
                answer.fields = list(event.headers)
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.trailers = list(event.headers)
                return answer
            else:
                assert isinstance(event, h11.InformationalResponse), event
                answer.interim.append((event.status_code, list(event.headers)))
    finally:
        writer.close()


def often(examples: int) -> settings:
    return settings(
        deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck), print_blob=True, database=None
    )


def own(fields: Fields, but: set[bytes]) -> Fields:
    """The fields that belong to the message itself, in their order."""
    return [(name, value) for name, value in fields if name not in HOP and name not in but]


def length(fields: Fields) -> int | None:
    """Said once, or not at all."""
    (said,) = [int(value) for name, value in fields if name == b"content-length"] or [None]
    return said


def same_length(fields: Fields, other: Fields, body: bytes) -> bool:
    """Where one has none, the other may say that there is no body, as Tidegate does when it knows that in time."""
    a, b = length(fields), length(other)
    return a == b or (not body and not a and not b)
