"""Random exchanges that HTTP/1.1 and HTTP/2 can both carry, and what either makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from exchanges import ADDED, Answer, Fields, Seen, data, own, targets, values
from exchanges import names as any_names
from hypothesis import strategies as st

Few = tuple[tuple[bytes, bytes], ...]

MARK = b"x-exchange"  # tells the server which of the exchanges under way it has before it
JOINED = {b"cookie", b"host", b"content-length"}  # compared on their own


@dataclass(frozen=True)
class Message:
    """The content of a request or an answer. `said`: its length stands in a Content-Length field."""

    data: bytes = b""
    said: bool = False
    trailers: Few = ()


@dataclass(frozen=True)
class Call:
    """`host` is a Host field in HTTP/2, too: beside :authority, in its place, or not at all."""

    method: bytes
    target: bytes
    authority: bytes
    host: str
    fields: Few
    cookies: tuple[bytes, ...]
    content: Message | None
    pieces: int
    padding: int | None
    status: int
    interim: tuple[tuple[int, Few], ...]
    answer_fields: Few
    answer: Message
    number: int = field(default=0, compare=False)

    @property
    def bodiless(self) -> bool:
        return self.method == b"HEAD" or self.status in (204, 304)

    @property
    def answer_length(self) -> bool:
        return self.answer.said and self.status not in (204, 304)

    # As HTTP/2 (RFC 9113 section 8.3).

    def head(self) -> Fields:
        head = [(b":method", self.method), (b":scheme", b"http"), (b":path", self.target)]
        if self.host != "instead":
            head.append((b":authority", self.authority))
        if self.host != "none":
            head.append((b"host", self.authority))
        head += [(MARK, b"%d" % self.number), *self.fields]
        head += [(b"cookie", crumb) for crumb in self.cookies]
        if self.content is not None and self.content.said:
            head.append((b"content-length", b"%d" % len(self.content.data)))
        return head

    def answer_head(self) -> Fields:
        head = [(b":status", b"%d" % self.status), *self.answer_fields]
        if self.answer_length:
            head.append((b"content-length", b"%d" % len(self.answer.data)))
        return head

    # As HTTP/1.1: names in another case, cookies in one field, and no trailers where there are no chunks.

    def request(self) -> bytes:
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target), b"Host: " + self.authority]
        lines += [b"%s: %d" % (MARK, self.number), *_lines(self.fields)]
        if self.cookies:
            lines.append(b"Cookie: " + b"; ".join(self.cookies))
        return _message(lines, self.content)

    def response(self) -> tuple[bytes, bool]:
        head = b"".join(
            b"\r\n".join([b"HTTP/1.1 %d Before" % status, *_lines(fields)]) + b"\r\n\r\n"
            for status, fields in self.interim
        )
        lines = [b"HTTP/1.1 %d Reason" % self.status, *_lines(self.answer_fields)]
        if not self.bodiless:
            return head + _message(lines, self.answer), False
        if self.answer_length:
            lines.append(b"Content-Length: %d" % len(self.answer.data))
        return head + b"\r\n".join(lines) + b"\r\n\r\n", False


def _lines(fields: Few) -> list[bytes]:
    return [name.title() + b": " + value for name, value in fields]


def _message(lines: list[bytes], content: Message | None) -> bytes:
    if content is None:
        return b"\r\n".join(lines) + b"\r\n\r\n"
    if content.said:
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(content.data)]) + b"\r\n\r\n" + content.data
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(content.data), content.data) if content.data else b""
    return head + chunk + b"0\r\n" + b"".join(line + b"\r\n" for line in _lines(content.trailers)) + b"\r\n"


# What Tidegate, or HTTP, knows something of and passes on all the same.
KNOWN = [
    b"accept", b"accept-encoding", b"age", b"authorization", b"cache-control", b"content-encoding", b"content-type",
    b"etag", b"grpc-timeout", b"if-none-match", b"location", b"max-forwards", b"origin", b"range", b"retry-after",
    b"server", b"set-cookie", b"traceparent", b"tracestate", b"user-agent", b"vary", b"x-request-id",
]  # fmt: skip
lower = any_names.map(bytes.lower).filter(lambda name: name not in (b"cookie", MARK))
field_lists = st.lists(
    st.tuples(st.sampled_from(KNOWN) | lower, values | st.sampled_from([b"0", b"x" * 5000])), max_size=6
).map(tuple)
many = st.integers(30, 90).map(lambda n: tuple((b"x-%d" % (i % 40), b"%d" % i * 20) for i in range(n)))
trailers = st.lists(
    st.tuples(st.sampled_from([b"x-checksum", b"grpc-status", b"server-timing"]) | lower, values), max_size=3
).map(tuple)
crumbs = st.lists(st.sampled_from([b"a=1", b"b=", b"c=x y", b"d", b'e="="', b"f=\xe9"]), max_size=4).map(tuple)
# Also what is exactly a window (RFC 9113 section 6.9.2), a frame, and one byte off.
bodies = data | st.sampled_from([16384, 16385, 65535, 65536, 300_000]).map(lambda n: bytes(i % 253 for i in range(n)))
messages = st.builds(Message, bodies, st.booleans(), trailers)
interims = st.lists(st.tuples(st.sampled_from([102, 103, 103, 199]), field_lists), max_size=2).map(tuple)
METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"REPORT", b"QUERY"]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    method = draw(st.sampled_from(METHODS))
    return Call(
        method,
        b"*" if method == b"OPTIONS" and draw(st.booleans()) else draw(targets),
        draw(st.sampled_from([b"example.org", b"example.org:8080", b"EXAMPLE.org", b"[::1]:80", b"127.0.0.1"])),
        draw(st.sampled_from(["none", "none", "beside", "instead"])),
        draw(field_lists | many),
        draw(crumbs),
        draw(st.none() | messages) if method != b"HEAD" else None,
        draw(st.sampled_from([1 << 24, 16000, 1000])),
        draw(st.sampled_from([None, None, 0, 1, 255])),
        draw(st.sampled_from([200, 200, 200, 201, 202, 204, 206, 301, 304, 400, 404, 429, 500, 503, 599, 999])),
        draw(interims),
        draw(field_lists),
        draw(messages),
    )


# One form for what came, whatever carried it.


def asked(seen: Seen) -> tuple[object, ...]:
    """A request but for its trailers and its length."""
    cookies = b"; ".join(value for name, value in seen.fields if name == b"cookie")
    host = next(value for name, value in seen.fields if name == b"host")
    return seen.method, seen.target, host, own(seen.fields, ADDED | JOINED), cookies, seen.body


def answered(answer: Answer) -> tuple[object, ...]:
    """An answer but for its trailers and its length."""
    return answer.status, own(answer.fields, {b"content-length"}), answer.body, answer.interim
