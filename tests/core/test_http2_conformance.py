"""Http2Session against RFC 9113, by frames: what ends a connection, what ends a stream, what is put up with."""

from __future__ import annotations

import pytest
from h2_frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Field,
    Frame,
    block,
    frame,
    frames,
    head,
    reset,
    setting,
    window,
)

from lb.core.http2_probe import Http2Echo, Http2Probe

START = PREFACE + frame(SETTINGS, 0, 0)
ACKED = START + frame(SETTINGS, ACK, 0)
HAS = END_HEADERS | END_STREAM
LAST = b"\x7f\xff\xff\xff"


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


CONNECTION_ERRORS = {
    "no settings first": (PREFACE + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "an acknowledgement first": (PREFACE + frame(SETTINGS, ACK, 0), PROTOCOL_ERROR),
    "data first": (PREFACE + frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    "a frame that is too large": (START + frame(0x55, 0, 0, bytes(16385)), FRAME_SIZE_ERROR),
    "data that is too large": (START + head(1, POST) + frame(DATA, 0, 1, bytes(16385)), FRAME_SIZE_ERROR),
    "a head that is too large": (START + frame(HEADERS, END_HEADERS, 1, bytes(16385)), FRAME_SIZE_ERROR),
    "data on no stream": (START + frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    "data on an idle stream": (START + frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    "empty data on an idle stream": (START + frame(DATA, END_STREAM, 1), PROTOCOL_ERROR),
    "data with more padding than it has": (START + head(1, POST) + frame(DATA, PADDED, 1, b"\x03xx"), PROTOCOL_ERROR),
    "padded data without a length": (START + head(1, POST) + frame(DATA, PADDED, 1), PROTOCOL_ERROR),
    "a head on no stream": (START + head(0, GET), PROTOCOL_ERROR),
    "a head on a stream of ours": (START + head(2, GET), PROTOCOL_ERROR),
    "a head with too much padding": (START + frame(HEADERS, HAS | PADDED, 1, b"\x06" + bytes(5)), PROTOCOL_ERROR),
    "a head with half a priority": (START + frame(HEADERS, HAS | HAS_PRIORITY, 1, bytes(4)), FRAME_SIZE_ERROR),
    "a block that is interrupted": (START + head(1, GET, END_STREAM) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "a block interrupted by data": (START + head(1, GET, 0) + frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    "a block interrupted by an unknown frame": (START + head(1, GET, END_STREAM) + frame(0x55, 0, 0), PROTOCOL_ERROR),
    "a block that goes on elsewhere": (START + head(1, GET, 0) + frame(CONTINUATION, END_HEADERS, 3), PROTOCOL_ERROR),
    "a continuation of nothing": (START + frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
    "a block without an end": (START + head(1, GET, 0) + frame(CONTINUATION, 0, 1) * 9, ENHANCE_YOUR_CALM),
    "an index that does not exist": (START + frame(HEADERS, HAS, 1, b"\xfe"), COMPRESSION_ERROR),
    "half a field": (START + frame(HEADERS, HAS, 1, b"\x40\x05ab"), COMPRESSION_ERROR),
    "a reset of no stream": (START + reset(0, 8), PROTOCOL_ERROR),
    "a reset of an idle stream": (START + reset(1, 8), PROTOCOL_ERROR),
    "half a reset": (START + head(1, POST) + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "settings of a stream": (START + frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "settings in an acknowledgement": (START + frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "half a setting": (START + frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "a window that is too large": (START + setting(4, 1 << 31), FLOW_CONTROL_ERROR),
    "frames that are too small": (START + setting(5, 16383), PROTOCOL_ERROR),
    "frames that are too large": (START + setting(5, 1 << 24), PROTOCOL_ERROR),
    "pushes that are neither": (START + setting(2, 2), PROTOCOL_ERROR),
    "an extended connect that is neither": (START + setting(8, 2), PROTOCOL_ERROR),
    "a ping of a stream": (START + frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "half a ping": (START + frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "a goodbye of a stream": (START + frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "half a goodbye": (START + frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "half a window": (START + frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "a window that opens by nothing": (START + window(0, 0), PROTOCOL_ERROR),
    "a window that overflows": (START + window(0, (1 << 31) - 1), FLOW_CONTROL_ERROR),
    "a window of an idle stream": (START + window(1, 5), PROTOCOL_ERROR),
    "an initial window that overflows a stream's": (
        START + head(1, POST) + window(1, (1 << 31) - 1 - 65535) + setting(4, 65536), FLOW_CONTROL_ERROR,
    ),
    "a push to a server": (START + head(1, POST) + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
    "a priority of no stream": (START + frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "half a priority": (START + frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("case", CONNECTION_ERRORS)
def test_a_connection_error_says_goodbye(case: str, step: int) -> None:
    data, code = CONNECTION_ERRORS[case]
    echo, said = serve(data, step)
    (goodbye,) = of(GOAWAY, said)
    assert goodbye.code == code
    assert said[-1] is goodbye
    assert echo.is_ended()
    events = len(echo.events)
    assert echo.receive(head(101, GET, HAS)) == 0
    assert drained(echo) == []
    assert len(echo.events) == events


def test_another_protocol_is_not_answered() -> None:
    echo = Http2Echo()
    assert echo.receive(PREFACE[:10]) == 0
    assert echo.receive(b"GET / HTTP/1.1\r\n\r\n") < 0


def request(*fields: Field, without: bytes = b"") -> bytes:
    return START + head(1, [f for f in GET if f[0] != without] + list(fields), HAS)


STREAM_ERRORS = {
    "a window that opens by nothing": (START + head(1, POST) + window(1, 0), PROTOCOL_ERROR),
    "a window that overflows": (START + head(1, POST) + window(1, (1 << 31) - 1), FLOW_CONTROL_ERROR),
    "data after the end": (START + head(1, GET, HAS) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
    "a head after the end": (START + head(1, GET, HAS) + head(1, GET, HAS), STREAM_CLOSED),
    "more data than there is window": (
        ACKED + head(1, POST) + frame(DATA, 0, 1, bytes(1501)), FLOW_CONTROL_ERROR,
    ),
    "trailers that do not end": (START + head(1, POST) + head(1, [(b"x", b"y")]), PROTOCOL_ERROR),
    "trailers with a pseudo-header field": (START + head(1, POST) + head(1, [(b":path", b"/")], HAS), PROTOCOL_ERROR),
    "trailers with a field of the connection": (
        START + head(1, POST) + head(1, [(b"connection", b"x")], HAS), PROTOCOL_ERROR,
    ),
    "less data than said": (
        START + head(1, [*POST, (b"content-length", b"2")]) + frame(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR,
    ),
    "more data than said": (
        START + head(1, [*POST, (b"content-length", b"2")]) + frame(DATA, 0, 1, b"xyz"), PROTOCOL_ERROR,
    ),
    "no data where some was said": (request((b"content-length", b"2")), PROTOCOL_ERROR),
    "two lengths": (request((b"content-length", b"0"), (b"content-length", b"0")), PROTOCOL_ERROR),
    "a length that is none": (request((b"content-length", b"0x0")), PROTOCOL_ERROR),
    "a length with a sign": (request((b"content-length", b"+0")), PROTOCOL_ERROR),
    "an empty length": (request((b"content-length", b"")), PROTOCOL_ERROR),
    "a length beyond all numbers": (request((b"content-length", b"9" * 20)), PROTOCOL_ERROR),
    "upper case": (request((b"X-Up", b"y")), PROTOCOL_ERROR),
    "an empty name": (request((b"", b"y")), PROTOCOL_ERROR),
    "a name with a blank": (request((b"a b", b"y")), PROTOCOL_ERROR),
    "a name with a colon": (request((b"a:b", b"y")), PROTOCOL_ERROR),
    "a name beyond ASCII": (request((b"a\xe4", b"y")), PROTOCOL_ERROR),
    "a name that ends a line": (request((b"a\r\nb", b"y")), PROTOCOL_ERROR),
    "a value with NUL": (request((b"x", b"a\0b")), PROTOCOL_ERROR),
    "a value with CR": (request((b"x", b"12345678a\rb")), PROTOCOL_ERROR),
    "a value with LF": (request((b"x", b"a\nb4567890123")), PROTOCOL_ERROR),
    "a value with DEL": (request((b"x", b"\x7f")), PROTOCOL_ERROR),
    "a value that begins with a blank": (request((b"x", b" y")), PROTOCOL_ERROR),
    "a value that ends with a tab": (request((b"x", b"y\t")), PROTOCOL_ERROR),
    "an unknown pseudo-header field": (request((b":x", b"y")), PROTOCOL_ERROR),
    "a response's pseudo-header field": (request((b":status", b"200")), PROTOCOL_ERROR),
    "a pseudo-header field after others": (request((b"x", b"y"), (b":path", b"/"), without=b":path"), PROTOCOL_ERROR),
    "two paths": (request((b":path", b"/")), PROTOCOL_ERROR),
    "two methods": (request((b":method", b"GET")), PROTOCOL_ERROR),
    "two authorities": (request((b":authority", b"a")), PROTOCOL_ERROR),
    "two hosts": (request((b"host", b"a"), (b"host", b"a")), PROTOCOL_ERROR),
    "no path": (request(without=b":path"), PROTOCOL_ERROR),
    "no method": (request(without=b":method"), PROTOCOL_ERROR),
    "no scheme": (request(without=b":scheme"), PROTOCOL_ERROR),
    "no authority": (request(without=b":authority"), PROTOCOL_ERROR),
    "an empty path": (request((b":path", b""), without=b":path"), PROTOCOL_ERROR),
    "a path that is none": (request((b":path", b"x"), without=b":path"), PROTOCOL_ERROR),
    "a star for a path": (request((b":path", b"*"), without=b":path"), PROTOCOL_ERROR),
    "a path with a blank": (request((b":path", b"/a b"), without=b":path"), PROTOCOL_ERROR),
    "a path with a line": (request((b":path", b"/a HTTP/1.1\r\nx: y"), without=b":path"), PROTOCOL_ERROR),
    "a method that is none": (request((b":method", b"G T"), without=b":method"), PROTOCOL_ERROR),
    "an empty method": (request((b":method", b""), without=b":method"), PROTOCOL_ERROR),
    "a scheme that is none": (request((b":scheme", b"1"), without=b":scheme"), PROTOCOL_ERROR),
    "an authority that is none": (request((b":authority", b"a b"), without=b":authority"), PROTOCOL_ERROR),
    "an empty authority": (request((b":authority", b""), without=b":authority"), PROTOCOL_ERROR),
    "connection": (request((b"connection", b"close")), PROTOCOL_ERROR),
    "keep-alive": (request((b"keep-alive", b"5")), PROTOCOL_ERROR),
    "proxy-connection": (request((b"proxy-connection", b"close")), PROTOCOL_ERROR),
    "transfer-encoding": (request((b"transfer-encoding", b"chunked")), PROTOCOL_ERROR),
    "upgrade": (request((b"upgrade", b"x")), PROTOCOL_ERROR),
    "te": (request((b"te", b"gzip")), PROTOCOL_ERROR),
    "a protocol where none is served": (
        START + head(1, [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")]), PROTOCOL_ERROR,
    ),
    "connect with a path": (START + head(1, [(b":method", b"CONNECT"), *GET[1:]]), PROTOCOL_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_a_stream_error_ends_the_stream_alone(case: str, step: int) -> None:
    data, code = STREAM_ERRORS[case]
    echo, said = serve(data, step, window=1500)
    assert [(f.stream, f.number) for f in of(RST_STREAM, said)] == [(1, code)]
    assert of(GOAWAY, said) == []
    assert [e for e in echo.events if e[0] == "close"] == [("close", 1, code, False)]
    assert echo.receive(head(3, GET, HAS)) == 0
    assert [(f.stream, f.flags & END_STREAM) for f in of(DATA, drained(echo))] == [(3, END_STREAM)]
    assert echo.streams == 0


FINE = {
    "an unknown frame": frame(0x55, 0xFF, 12345, b"x"),
    "an unknown setting": setting(0x55, 5),
    "no settings": frame(SETTINGS, 0, 0),
    "a priority": frame(PRIORITY, 0, 99, bytes(5)),
    "an answer to no ping": frame(PING, ACK, 0, bytes(8)),
    "flags of no meaning": frame(PING, 0xFE, 0, bytes(8)),
    "a goodbye": frame(GOAWAY, 0, 0, bytes(8) + b"why"),
    "a window": window(0, 5),
    "a reserved bit": frame(WINDOW_UPDATE, 0, 1 << 31, b"\x80\0\0\5"),
}


@pytest.mark.parametrize("case", FINE)
def test_what_is_put_up_with(case: str) -> None:
    echo, said = serve(START + FINE[case] + head(1, GET, HAS))
    assert of(GOAWAY, said) == of(RST_STREAM, said) == []
    assert [f.stream for f in of(HEADERS, said)] == [1]
    assert ("end", 1) in echo.events


FIELDS = {
    "blanks within a value": (b"x", b"a b\tc"),
    "octets beyond ASCII": (b"x", b"\xc3\xa4\xff"),
    "an empty value": (b"x", b""),
    "all that a name may have": (b"!#$%&'*+-.^_`|~09az", b"y"),
    "te for trailers": (b"te", b"Trailers"),
    "a host": (b"host", b"a"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_are_fine(case: str) -> None:
    _, said = serve(request(FIELDS[case]))
    assert of(RST_STREAM, said) == []


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"OPTIONS"), (b":scheme", b"http"), (b":path", b"*"), (b":authority", b"a")],
        [(b":method", b"CONNECT"), (b":authority", b"a:1")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"a")],
        [(b":method", b"GET"), (b":scheme", b"ftp+x"), (b":path", b"x"), (b":authority", b"a")],
        [(b":path", b"/\xc3\xa4?b#c"), (b":method", b"get!"), (b":authority", b"[::1]:80"), (b":scheme", b"HTTPS")],
    ],
)
def test_heads_that_are_fine(fields: list[Field]) -> None:
    _, said = serve(START + head(1, fields, HAS))
    assert of(RST_STREAM, said) == []
    assert [f.stream for f in of(HEADERS, said)] == [1]


def test_a_ping_is_answered_with_its_payload() -> None:
    _, said = serve(START + frame(PING, 0, 0, b"12345678"))
    assert [(f.flags, f.payload) for f in of(PING, said)] == [(ACK, b"12345678")]


def test_settings_are_acknowledged_one_by_one() -> None:
    _, said = serve(START + setting(3, 5) + setting(3, 6))
    assert [f.flags for f in of(SETTINGS, said)] == [0, ACK, ACK, ACK]


def test_padding_and_priority_are_no_part_of_a_message() -> None:
    padded = b"\x04" + bytes(5) + block(POST) + bytes(4)
    data = frame(DATA, PADDED | END_STREAM, 1, b"\x03body" + bytes(3))
    echo, said = serve(START + frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, padded) + data)
    assert b"".join(f.payload for f in of(DATA, said)) == b"body"
    assert ("end", 1) in echo.events


def test_padding_counts_in_windows_and_is_given_back() -> None:
    only_padding = frame(DATA, PADDED, 1, b"\xff" + bytes(255))
    echo, said = serve(ACKED + head(1, POST) + only_padding * 5, window=2048)
    assert [(f.stream, f.number) for f in of(WINDOW_UPDATE, said) if f.stream] == [(1, 1024)]
    assert [e for e in echo.events if e == ("control", "empty")] == [("control", "empty")] * 5


def test_windows_are_given_back_when_half_is_gone() -> None:
    echo, said = serve(ACKED + head(1, POST) + frame(DATA, 0, 1, bytes(1000)), window=2048)
    assert [f for f in of(WINDOW_UPDATE, said) if f.stream] == []
    assert echo.receive(frame(DATA, 0, 1, bytes(100))) == 0
    assert [(f.stream, f.number) for f in of(WINDOW_UPDATE, drained(echo))] == [(1, 1100)]


def test_the_connections_window_is_held_and_given_back() -> None:
    data = b"".join(head(n, POST) + frame(DATA, 0, n, bytes(16384)) * 64 for n in range(1, 16, 2))
    _, said = serve(ACKED + data, window=1 << 20)
    assert of(GOAWAY, said) == []
    assert [f.number for f in of(WINDOW_UPDATE, said) if not f.stream] == [(16 << 20) - 65535, 8 << 20]


def test_a_window_that_our_settings_make_smaller_holds_from_their_acknowledgement_on() -> None:
    body = frame(DATA, 0, 1, bytes(2000))
    echo, said = serve(START + head(1, POST) + body, window=1000)
    assert of(RST_STREAM, said) == []
    assert echo.receive(frame(SETTINGS, ACK, 0) + head(3, POST) + frame(DATA, 0, 3, bytes(2000))) == 0
    assert [(f.stream, f.number) for f in of(RST_STREAM, drained(echo))] == [(3, FLOW_CONTROL_ERROR)]


def test_the_peers_windows_are_kept_to() -> None:
    """A stream's, the connection's, and one that a setting has made negative."""
    body = b"".join(frame(DATA, 0, 1, bytes(16000)) for _ in range(5))
    echo, said = serve(ACKED + setting(4, 1000) + head(1, POST) + body, window=1 << 20)
    assert sum(len(f.payload) for f in of(DATA, said)) == 1000
    assert echo.receive(setting(4, 500)) == 0
    assert of(DATA, drained(echo)) == []
    assert echo.receive(window(1, 500)) == 0
    assert of(DATA, drained(echo)) == []
    assert echo.receive(window(1, 1)) == 0
    assert [len(f.payload) for f in of(DATA, drained(echo))] == [1]
    assert echo.receive(setting(4, 70000)) == 0
    assert sum(len(f.payload) for f in of(DATA, drained(echo))) == 65535 - 1001
    assert echo.receive(window(0, 10000)) == 0
    assert sum(len(f.payload) for f in of(DATA, drained(echo))) == (70000 - 500) + 1001 - 65535


def test_streams_take_turns() -> None:
    data = b"".join(head(n, POST) + frame(DATA, END_STREAM, n, bytes(16384)) * 1 for n in (1, 3, 5))
    big = b"".join(
        head(n, POST) + frame(DATA, 0, n, bytes(16384)) + frame(DATA, END_STREAM, n, bytes(4000)) for n in (7, 9)
    )
    _, said = serve(START + window(0, 1 << 20) + data + big, window=1 << 20)
    assert [f.stream for f in of(DATA, said)] == [1, 3, 5, 7, 9, 7, 9]


def test_a_stream_that_waits_for_the_connections_window_holds_up_no_end() -> None:
    """An answer without a body ends although no body may be sent."""
    data = head(1, POST) + b"".join(frame(DATA, 0, 1, bytes(16000)) for _ in range(5))
    echo, said = serve(ACKED + data, window=1 << 20)
    assert sum(len(f.payload) for f in of(DATA, said)) == 65535
    assert echo.receive(head(3, GET, HAS)) == 0
    assert [(f.stream, f.flags, f.payload) for f in of(DATA, drained(echo))] == [(3, END_STREAM, b"")]


def test_too_many_streams_are_refused_and_their_blocks_decoded() -> None:
    kept = [*POST, (b"x-kept", b"v" * 30)]
    import hpack

    encoder = hpack.Encoder()
    blocks = [encoder.encode(kept) for _ in range(3)]
    data = b"".join(frame(HEADERS, END_HEADERS, 1 + 2 * i, part) for i, part in enumerate(blocks))
    echo, said = serve(START + data, max_streams=1)
    assert [(f.stream, f.number) for f in of(RST_STREAM, said)] == [(3, REFUSED_STREAM), (5, REFUSED_STREAM)]
    assert of(GOAWAY, said) == []
    assert echo.receive(reset(1, CANCEL) + frame(HEADERS, END_HEADERS, 7, encoder.encode(kept))) == 0
    assert ("fields", 7, 5, False, False) in echo.events
    assert echo.streams == 1


def test_what_was_on_its_way_when_a_stream_was_reset_is_dropped() -> None:
    echo, _ = serve(START + head(1, [*POST, (b"content-length", b"1")]) + frame(DATA, 0, 1, b"xy"))
    late = frame(DATA, 0, 1, b"z") + head(1, [(b"t", b"u")], HAS) + window(1, 5) + reset(1, CANCEL)
    assert echo.receive(late) == 0
    assert drained(echo) == []
    assert [e[0] for e in echo.events].count("close") == 1


def test_streams_behind_the_last_word_are_not_taken() -> None:
    echo, _ = serve(START + head(1, POST))
    echo.stop()
    assert echo.receive(head(3, GET, HAS)) == 0
    (goodbye,) = of(GOAWAY, drained(echo))
    assert (goodbye.number, goodbye.code) == (1, NO_ERROR)
    assert not echo.is_ended()
    assert echo.receive(frame(DATA, END_STREAM, 1, b"x")) == 0
    assert [f.stream for f in of(DATA, drained(echo))] == [1]
    assert echo.is_ended()


def test_a_warning_takes_streams_still() -> None:
    echo, _ = serve(START)
    echo.leave()
    assert echo.receive(head(1, GET, HAS)) == 0
    said = drained(echo)
    assert [f.payload[:4] for f in of(GOAWAY, said)] == [LAST]
    assert [f.stream for f in of(DATA, said)] == [1]
    assert not echo.is_ended()


def test_an_answer_before_the_end_of_its_request_stops_it() -> None:
    echo = Http2Echo()
    echo.hasty = True
    assert echo.receive(START + head(1, POST)) == 0
    said = drained(echo)
    assert [f.flags for f in of(HEADERS, said)] == [END_HEADERS | END_STREAM]
    assert [(f.stream, f.number) for f in of(RST_STREAM, said)] == [(1, NO_ERROR)]
    assert echo.events[-1] == ("close", 1, NO_ERROR, False)


def test_trailers_follow_the_last_of_the_body() -> None:
    echo = Http2Echo()
    echo.with_trailers = True
    assert echo.receive(START + head(1, POST) + frame(DATA, 0, 1, b"body") + head(1, [(b"t", b"u")], HAS)) == 0
    said = [f for f in drained(echo) if f.stream == 1]
    assert [(f.kind, f.flags & END_STREAM) for f in said] == [(HEADERS, 0), (DATA, 0), (HEADERS, END_STREAM)]


# A client.


def answered(*answer: bytes, fields: list[Field] | None = None) -> tuple[Http2Probe, list[Frame]]:
    probe = Http2Probe()
    assert probe.start() == 0
    probe.request(fields or GET, b"", [])
    drained(probe)
    assert probe.receive(frame(SETTINGS, 0, 0) + b"".join(answer)) == 0
    return probe, drained(probe)


def status(code: bytes, *fields: Field, flags: int = END_HEADERS) -> bytes:
    return head(1, [(b":status", code), *fields], flags)


HEAD_REQUEST: list[Field] = [(b":method", b"HEAD"), *GET[1:]]
LENGTH = (b"content-length", b"5")
GOOD_ANSWERS = {
    "an answer": (None, status(b"200", LENGTH), frame(DATA, END_STREAM, 1, b"12345")),
    "one without a body": (None, status(b"204", flags=HAS)),
    "one that says so": (None, status(b"204", (b"content-length", b"0"), flags=HAS)),
    "one of what did not change": (None, status(b"304", LENGTH, flags=HAS)),
    "one to HEAD": (HEAD_REQUEST, status(b"200", LENGTH, flags=HAS)),
    "hints before it": (None, status(b"103", (b"link", b"x")), status(b"100"), status(b"200", flags=HAS)),
    "trailers": (None, status(b"200"), frame(DATA, 0, 1, b"1"), head(1, [(b"t", b"u")], HAS)),
    "a length in trailers": (None, status(b"200"), head(1, [LENGTH], HAS)),
    "a tunnel": ([(b":method", b"CONNECT"), (b":authority", b"a")], status(b"200", LENGTH), frame(DATA, END_STREAM, 1)),
}


@pytest.mark.parametrize("case", GOOD_ANSWERS)
def test_a_good_answer(case: str) -> None:
    fields, *answer = GOOD_ANSWERS[case]
    probe, said = answered(*answer, fields=fields)
    assert of(RST_STREAM, said) == of(GOAWAY, said) == []
    assert probe.events[-2:] == [("end", 1), ("close", 1, 0, False)]


BAD_ANSWERS = {
    "data first": (None, frame(DATA, 0, 1, b"x")),
    "data after hints": (None, status(b"103"), frame(DATA, 0, 1, b"x")),
    "no status": (None, head(1, [(b"x", b"y")])),
    "two": (None, head(1, [(b":status", b"200"), (b":status", b"200")])),
    "a request's field": (None, head(1, [(b":status", b"200"), (b":path", b"/")])),
    "a status of two digits": (None, status(b"20")),
    "a status of four": (None, status(b"2000")),
    "a status below all": (None, status(b"099")),
    "a status that is none": (None, status(b"2x0")),
    "a switch of protocols": (None, status(b"101")),
    "hints that end": (None, status(b"103", flags=HAS)),
    "hints with a length": (None, status(b"103", LENGTH)),
    "a length of nothing": (None, status(b"204", LENGTH, flags=HAS)),
    "a body of nothing": (None, status(b"204"), frame(DATA, 0, 1, b"x")),
    "a body of what did not change": (None, status(b"304"), frame(DATA, 0, 1, b"x")),
    "a body for HEAD": (HEAD_REQUEST, status(b"200"), frame(DATA, 0, 1, b"x")),
    "less than said": (None, status(b"200", LENGTH), frame(DATA, END_STREAM, 1, b"1234")),
    "less than said, and trailers": (None, status(b"200", LENGTH), head(1, [(b"t", b"u")], HAS)),
    "a field of the connection": (None, status(b"200", (b"connection", b"close"))),
    "chunks": (None, status(b"200", (b"transfer-encoding", b"chunked"))),
    "trailers that do not end": (None, status(b"200"), head(1, [(b"t", b"u")])),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_resets_its_stream(case: str) -> None:
    fields, *answer = BAD_ANSWERS[case]
    probe, said = answered(*answer, fields=fields)
    assert [(f.stream, f.number) for f in of(RST_STREAM, said)] == [(1, PROTOCOL_ERROR)]
    assert of(GOAWAY, said) == []
    assert probe.events[-1] == ("close", 1, PROTOCOL_ERROR, False)


SERVER_ERRORS = {
    "a push": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
    "a wish to be pushed to": setting(2, 1),
    "a head on an idle stream": head(3, [(b":status", b"200")]),
    "a head on a stream of its own": head(2, [(b":status", b"200")]),
    "data on an idle stream": frame(DATA, 0, 3, b"x"),
    "a reset of an idle stream": reset(3, 8),
}


@pytest.mark.parametrize("case", SERVER_ERRORS)
def test_what_a_server_may_not_do(case: str) -> None:
    probe, said = answered(SERVER_ERRORS[case])
    assert [f.code for f in of(GOAWAY, said)] == [PROTOCOL_ERROR]
    assert probe.is_ended()


def test_no_stream_is_opened_after_the_last_number() -> None:
    probe = Http2Probe()
    assert probe.start() == 0
    probe.skip_to((1 << 31) - 1)
    probe.request(GET, b"", [])
    with pytest.raises(RuntimeError, match="submit: -2"):
        probe.request(GET, b"", [])
