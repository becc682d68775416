"""Http2Session against RFC 9113, by frames: what ends a connection, what ends a stream, what is put up with."""

from __future__ import annotations

import pytest
from compiled.http2_sessions import Http2Echo, Http2Probe
from h2_frames import (
    ACK,
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
    frame,
    head,
    reset,
    setting,
    window,
)
from http2_exchange import ACKED, HAS, START, drained, of, serve

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


# Closed streams (section 5.1): who has ended one sends no more on it; what crosses a reset of ours is put up with.

ONE_ANSWERED = START + head(1, GET, HAS)
CLOSED = {
    "data after both ends": (ONE_ANSWERED, frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
    "empty data after both ends": (ONE_ANSWERED, frame(DATA, END_STREAM, 1), STREAM_CLOSED),
    "a head after both ends": (ONE_ANSWERED, head(1, GET, HAS), STREAM_CLOSED),
    "trailers after both ends": (
        START + head(1, POST) + frame(DATA, END_STREAM, 1, b"x"), head(1, [(b"a", b"b")], HAS), STREAM_CLOSED,
    ),
    "a head with a lower number": (START + head(5, GET, HAS), head(3, GET, HAS), PROTOCOL_ERROR),
    "data on a number that was passed over": (START + head(5, GET, HAS), frame(DATA, 0, 3, b"x"), PROTOCOL_ERROR),
    "a head with an even number below": (START + head(5, GET, HAS), frame(DATA, 0, 2, b"x"), PROTOCOL_ERROR),
    "more data after a refusal than its window": (
        ACKED + b"".join(head(n, POST) for n in (1, 3)), frame(DATA, 0, 3, bytes(1501)), FLOW_CONTROL_ERROR,
    ),
    "data after the end of a refused one": (
        START + head(1, POST) + head(3, POST, HAS), frame(DATA, 0, 3, b"x"), STREAM_CLOSED,
    ),
    "data after the end that crossed a refusal": (
        START + head(1, POST) + head(3, POST) + frame(DATA, END_STREAM, 3, b"x"), frame(DATA, 0, 3, b"x"),
        STREAM_CLOSED,
    ),
    "trailers that end nothing, after a refusal": (
        START + head(1, POST) + head(3, POST), head(3, [(b"a", b"b")]), PROTOCOL_ERROR,
    ),
    "data after the end that made us reset": (
        START + head(1, GET, HAS) + window(1, 0), frame(DATA, 0, 1, b"x"), STREAM_CLOSED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("case", CLOSED)
def test_frames_on_a_closed_stream_end_the_connection(case: str, step: int) -> None:
    before, late, code = CLOSED[case]
    echo, said = serve(before, step, window=1500, max_streams=1)
    assert of(GOAWAY, said) == []
    assert echo.receive(late) == 0
    (goodbye,) = of(GOAWAY, drained(echo))
    assert goodbye.code == code
    assert echo.is_ended()


RACES = {
    "data": frame(DATA, 0, 3, bytes(1500)),
    "data and the end": frame(DATA, 0, 3, bytes(700)) + frame(DATA, END_STREAM, 3, bytes(800)),
    "trailers": head(3, [(b"a", b"b")], HAS),
    "a window": window(3, 5),
    "a window that opens by nothing": window(3, 0),
    "a reset": reset(3, 8),
    "a priority": frame(PRIORITY, 0, 3, bytes(5)),
}


@pytest.mark.parametrize("race", RACES)
def test_frames_that_cross_a_reset_of_ours_are_put_up_with(race: str) -> None:
    echo, said = serve(ACKED + head(1, POST) + head(3, POST), window=1500, max_streams=1)
    assert [(f.stream, f.number) for f in of(RST_STREAM, said)] == [(3, REFUSED_STREAM)]
    assert echo.receive(RACES[race] + frame(DATA, END_STREAM, 1, b"x")) == 0
    said = drained(echo)
    assert of(GOAWAY, said) == of(RST_STREAM, said) == []
    assert b"".join(f.payload for f in of(DATA, said) if f.stream == 1) == b"x"


@pytest.mark.parametrize("late", [frame(DATA, 0, 1, b"x"), head(1, GET, HAS)])
def test_frames_behind_the_peers_own_reset_are_errors_of_the_stream(late: bytes) -> None:
    echo, _ = serve(START + head(1, POST) + reset(1, 8))
    for _ in range(2):
        assert echo.receive(late) == 0
        assert [(f.stream, f.number) for f in drained(echo)] == [(1, STREAM_CLOSED)]
    assert echo.events[-1] == ("control", "fault")
    assert echo.receive(head(3, GET, HAS)) == 0
    assert [f.stream for f in of(HEADERS, drained(echo))] == [3]


@pytest.mark.parametrize("late", [window(1, 5), reset(1, 8), frame(PRIORITY, 0, 1, bytes(5))])
@pytest.mark.parametrize("before", [ONE_ANSWERED, START + head(1, POST) + reset(1, 8)])
def test_windows_and_resets_of_closed_streams_are_put_up_with(before: bytes, late: bytes) -> None:
    echo, _ = serve(before)
    assert echo.receive(late * 2) == 0
    assert drained(echo) == []


def test_streams_that_were_reset_long_ago_are_forgotten() -> None:
    """None of the many that were reset since displaces the rule for those that ended."""
    many = b"".join(head(n, POST) + reset(n, 8) for n in range(1, 401, 2))
    echo, said = serve(START + many + head(401, GET, HAS))
    assert of(GOAWAY, said) == []
    assert echo.receive(frame(DATA, 0, 1, b"x")) == 0
    assert drained(echo) == []
    assert echo.receive(frame(DATA, 0, 399, b"x")) == 0
    assert [(f.stream, f.number) for f in drained(echo)] == [(399, STREAM_CLOSED)]
    assert echo.receive(frame(DATA, 0, 401, b"x")) == 0
    assert [f.code for f in drained(echo)] == [STREAM_CLOSED]


def test_streams_beyond_our_last_word_are_ignored() -> None:
    echo, _ = serve(START + head(1, POST))
    echo.stop()
    assert echo.receive(head(3, POST) + frame(DATA, 0, 3, b"x") + head(3, [(b"a", b"b")], HAS)) == 0
    assert [f.kind for f in drained(echo)] == [GOAWAY]
    assert echo.receive(frame(DATA, END_STREAM, 1, b"x")) == 0
    assert of(RST_STREAM, drained(echo)) == []


# What a peer makes us do (CVE-2025-8671) and say (CVE-2019-9512, CVE-2019-9515).


@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_what_makes_us_reset_a_stream_is_counted(case: str) -> None:
    data, _ = STREAM_ERRORS[case]
    echo, _ = serve(data, window=1500)
    assert ("control", "fault") in echo.events


MANY = 1200
CALLED_FORTH = {
    "pings": frame(PING, 0, 0, bytes(8)) * MANY,
    "settings": frame(SETTINGS, 0, 0) * MANY,
    "refused streams": b"".join(head(n, POST) for n in range(3, 2 * MANY + 3, 2)),
    "streams that fail": b"".join(frame(DATA, 0, 1, b"x") + head(n, GET, HAS) for n in range(3, 2 * MANY + 3, 2)),
    "streams reset before": reset(1, 8) + frame(DATA, 0, 1, b"x") * MANY,
}


@pytest.mark.parametrize("case", [case for case in CALLED_FORTH if case != "streams that fail"])
def test_who_does_not_read_is_not_answered_for_ever(case: str) -> None:
    echo = Http2Echo(max_streams=1)
    assert echo.receive(START + head(1, POST)) == 0
    drained(echo)
    assert echo.receive(CALLED_FORTH[case]) < 0
    assert echo.drowned
    assert len(drained(echo)) <= 1000


@pytest.mark.parametrize("case", CALLED_FORTH)
def test_who_reads_is_answered(case: str) -> None:
    echo = Http2Echo(max_streams=1)
    assert echo.receive(START + head(1, POST)) == 0
    data = CALLED_FORTH[case]
    for i in range(0, len(data), 4096):
        assert echo.receive(data[i : i + 4096]) == 0
        drained(echo)
    assert not echo.drowned


def test_a_client_bounds_what_it_answers_too() -> None:
    probe = Http2Probe()
    assert probe.start() == 0
    drained(probe)
    assert probe.receive(frame(SETTINGS, 0, 0) + frame(PING, 0, 0, bytes(8)) * MANY) < 0
    assert probe.drowned


def test_settings_without_end_are_not_read() -> None:
    _, said = serve(START + frame(SETTINGS, 0, 0, setting(4, 1)[9:] * 33))
    assert [f.code for f in of(GOAWAY, said)] == [ENHANCE_YOUR_CALM]
    _, said = serve(START + frame(SETTINGS, 0, 0, setting(4, 1)[9:] * 32))
    assert of(GOAWAY, said) == []


@pytest.mark.parametrize("step", [1, 10, 100, 100_000])
@pytest.mark.parametrize("work", [1, 7, 50])
def test_a_turn_ends_when_its_work_is_done(work: int, step: int) -> None:
    """And the next goes on where it stopped, wherever that is: nothing is lost, nothing comes twice."""
    data = START + b"".join(
        head(n, POST) + frame(DATA, 0, n, b"%d" % n * 3000) + frame(PING, 0, 0, bytes(8)) + frame(DATA, END_STREAM, n)
        for n in range(1, 21, 2)
    )
    echo = Http2Echo(window=1 << 20)
    said = []
    turns = 0
    for i in range(0, len(data), step):
        piece = data[i : i + step]
        while piece:
            echo.allow(work)
            assert echo.receive(piece) == 0
            said += drained(echo)
            piece = piece[len(piece) - echo.waits :]
            turns += 1
    assert turns > 40 // work
    whole, at_once = serve(data, window=1 << 20)
    for side in (echo, whole):  # a stream closes when its answer is written
        side.events[:] = [e for e in side.events if e[0] not in ("control", "close")]
    assert echo.events == whole.events
    for n in range(1, 21, 2):
        assert b"".join(f.payload for f in said if f.kind == DATA and f.stream == n) == b"%d" % n * 3000
    assert len(of(PING, said)) == len(of(PING, at_once)) == 10
