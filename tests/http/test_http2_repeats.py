"""Header blocks that come again, byte for byte, against an encoder that indexes all it can."""

from __future__ import annotations

import hpack
import pytest
from compiled.http2_sessions import Http2Echo, Http2Probe
from h2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    POST,
    PREFACE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    Field,
    frame,
    frames,
)
from hypothesis import given
from hypothesis import strategies as st
from property import examples

HAS = END_HEADERS | END_STREAM
START = PREFACE + frame(SETTINGS, 0, 0)
EXTRA = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"x-b", b"accept", b"te"]), st.sampled_from([b"1", b"2", b"trailers", b"v" * 700])
    ),
    max_size=4,
).map(lambda fields: [(name, b"trailers" if name == b"te" else value) for name, value in fields])


def heads(echo: Http2Echo) -> list[list[Field]]:
    """What was read, without Host, which stands for the authority."""
    return [[f for f in event[4] if f[0] != b"Host"] for event in echo.events if event[0] == "head"]


def trailers(echo: Http2Echo) -> list[list[Field]]:
    return [event[4] for event in echo.events if event[0] == "trailers"]


@pytest.mark.slow
@examples(200)
@given(
    kinds=st.lists(EXTRA, min_size=1, max_size=6),
    order=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40),
    cut=st.sampled_from([0, 1, 5]),
)
def test_a_server_reads_what_was_sent(kinds: list[list[Field]], order: list[tuple[int, bool]], cut: int) -> None:
    encoder = hpack.Encoder()
    echo = Http2Echo()
    echo.reads = True
    assert echo.receive(START) == 0
    sent, sent_trailers = [], []
    for number, (kind, with_trailers) in enumerate(order):
        stream = 2 * number + 1
        extra = kinds[kind % len(kinds)]
        block = encoder.encode([*(POST if with_trailers else GET), *extra])
        data = frame(HEADERS, END_HEADERS if with_trailers else HAS, stream, block)
        sent.append(extra)
        if with_trailers:
            # The same fields mean something else behind a body.
            data += frame(DATA, 0, stream, b"body") + frame(HEADERS, HAS, stream, encoder.encode(extra))
            sent_trailers.append(extra)
        for i in range(0, len(data), cut or len(data)):
            assert echo.receive(data[i : i + (cut or len(data))]) == 0
        assert echo.gather(1 << 20)[0] == 1
    assert heads(echo) == sent
    assert trailers(echo) == sent_trailers
    assert all(event[2] == 0 for event in echo.events if event[0] == "close")


@examples(100)
@given(kinds=st.lists(EXTRA, min_size=1, max_size=6), order=st.lists(st.integers(0, 5), max_size=40))
def test_a_client_reads_what_was_sent(kinds: list[list[Field]], order: list[int]) -> None:
    encoder = hpack.Encoder()
    probe = Http2Probe()
    assert probe.start() == 0
    assert probe.receive(frame(SETTINGS, 0, 0)) == 0
    for number, kind in enumerate(order):
        stream = 2 * number + 1
        extra = kinds[kind % len(kinds)]
        probe.request(GET, b"", [])
        probe.gather(1 << 20)
        probe.events.clear()
        head = encoder.encode([(b":status", b"200"), *extra])
        last = encoder.encode([(b"grpc-status", b"0")])
        assert probe.receive(frame(HEADERS, END_HEADERS, stream, head) + frame(HEADERS, HAS, stream, last)) == 0
        assert probe.events == [
            ("field", stream, b":status", b"200"),
            *[("field", stream, name, value) for name, value in extra],
            ("fields_end", stream, False),
            ("field", stream, b"grpc-status", b"0"),
            ("fields_end", stream, True),
            ("end", stream),
            ("close", stream, 0, False),
        ]


def test_the_same_indices_mean_another_thing_once_the_table_has_changed() -> None:
    echo = Http2Echo()
    echo.reads = True
    keep_one, keep_two = b"\x40\x01a\x011", b"\x40\x01a\x012"
    plain = b"\x82\x86\x84\x41\x01x"
    newest = b"\x82\x86\x84\xbf\xbe"  # authority and the newest entry
    assert echo.receive(START + frame(HEADERS, HAS, 1, plain + keep_one)) == 0
    for stream in (3, 5):
        assert echo.receive(frame(HEADERS, HAS, stream, newest)) == 0
    assert echo.receive(frame(HEADERS, HAS, 7, plain + keep_two)) == 0
    assert echo.receive(frame(HEADERS, HAS, 9, b"\x82\x86\x84\xbf\xbe")) == 0
    assert heads(echo)[1:] == [[(b"a", b"1")], [(b"a", b"1")], [(b"a", b"2")], [(b"a", b"2")]]


def test_a_bad_block_is_bad_each_time() -> None:
    """Indices of fields that do not make a request."""
    echo = Http2Echo()
    data = b"".join(frame(HEADERS, HAS, stream, b"\x82\x86") for stream in (1, 3, 5))
    assert echo.receive(START + data) == 0
    said = frames(echo.gather(1 << 20)[1])
    assert [(f.stream, f.number) for f in said if f.kind == RST_STREAM] == [(n, PROTOCOL_ERROR) for n in (1, 3, 5)]


def test_a_block_beyond_the_limits_is_so_each_time() -> None:
    echo = Http2Echo(header_list=300)
    assert echo.receive(START + frame(HEADERS, HAS, 1, b"\x82\x86\x84\x41\x01x\x40\x01a\x64" + b"v" * 100)) == 0
    for stream in (3, 5, 7):
        assert echo.receive(frame(HEADERS, HAS, stream, b"\x82\x86\x84\xbf" + b"\xbe" * 3)) == 0
    over = [(event[1], event[3]) for event in echo.events if event[0] == "fields"]
    assert over == [(1, False), (3, True), (5, True), (7, True)]


@pytest.mark.parametrize("more", [0, 40])
def test_long_blocks_and_large_fields_are_read_anew(more: int) -> None:
    echo = Http2Echo(header_list=1 << 20)
    echo.reads = True
    field = (b"a", b"v" * 3000 if not more else b"v")
    encoder = hpack.Encoder()
    for stream in range(1, 13, 2):
        block = encoder.encode([*GET, *[field] * (more or 2)])
        assert echo.receive((START if stream == 1 else b"") + frame(HEADERS, HAS, stream, block)) == 0
    assert heads(echo) == [[field] * (more or 2)] * 6


def test_cookies_are_joined_each_time() -> None:
    echo = Http2Echo()
    echo.reads = True
    encoder = hpack.Encoder()
    for stream in range(1, 11, 2):
        block = encoder.encode([*GET, (b"cookie", b"a=1"), (b"accept", b"x"), (b"cookie", b"b=2")])
        assert echo.receive((START if stream == 1 else b"") + frame(HEADERS, HAS, stream, block)) == 0
    assert heads(echo) == [[(b"cookie", b"a=1; b=2"), (b"accept", b"x")]] * 5


def test_a_head_is_right_wherever_its_block_lies() -> None:
    """A longer block of indices alone moves the memory in which blocks are gathered."""
    echo = Http2Echo(header_list=1 << 20)
    echo.reads = True
    encoder = hpack.Encoder()
    small, large = (b"x-a", b"1"), (b"x-b", b"v" * 250)
    kinds = [[small], [large], *[[small]] * 4, [large] * 20, *[[small]] * 3]
    for number, extra in enumerate(kinds):
        block = encoder.encode([*GET, *extra])
        data = (b"" if number else START) + frame(HEADERS, HAS, 2 * number + 1, block)
        assert echo.receive(data) == 0
    assert heads(echo) == kinds
    assert {event[3] for event in echo.events if event[0] == "head"} == {dict(GET)[b":path"]}


def test_a_request_may_end_with_its_head_or_not() -> None:
    """The same block, with a body and without."""
    echo = Http2Echo()
    echo.reads = True
    encoder = hpack.Encoder()
    for stream in range(1, 17, 2):
        flags = HAS if stream % 4 == 1 else END_HEADERS
        data = (START if stream == 1 else b"") + frame(HEADERS, flags, stream, encoder.encode(POST))
        assert echo.receive(data + (b"" if flags == HAS else frame(DATA, END_STREAM, stream, b"body"))) == 0
    assert [event[4] for event in echo.events if event[0] == "fields"] == [True, False] * 4
