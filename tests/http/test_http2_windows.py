"""HTTP/2: windows, turns of streams, and streams that end early."""

from __future__ import annotations

import pytest
from compiled.http2_sessions import Http2Echo
from h2_frames import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    GET,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    POST,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    frame,
    head,
    reset,
    setting,
    window,
)
from http2_exchange import ACKED, HAS, START, drained, of, serve

LAST = b"\x7f\xff\xff\xff"


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


@pytest.mark.parametrize("body", [b"", b"four"])
def test_a_request_of_which_only_its_end_is_to_come_may_say_that(body: bytes) -> None:
    echo = Http2Echo(max_streams=1)
    echo.hasty = True
    sized = [*POST, (b"content-length", b"%d" % len(body))]
    assert echo.receive(START + head(1, sized) + (frame(DATA, 0, 1, body) if body else b"")) == 0
    said = drained(echo)
    assert of(HEADERS, said)
    assert not of(RST_STREAM, said)
    assert echo.events[-1] == ("close", 1, NO_ERROR, False)
    assert echo.receive(head(3, GET, HAS)) == 0
    assert [f.number for f in of(RST_STREAM, drained(echo))] == [REFUSED_STREAM]  # it is one of its streams until then
    assert echo.receive(frame(DATA, END_STREAM, 1) + head(5, GET, HAS)) == 0
    said = drained(echo)
    assert [f.stream for f in of(HEADERS, said)] == [5]
    assert not of(RST_STREAM, said)


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        (frame(DATA, END_STREAM, 1, b"fifth"), [PROTOCOL_ERROR]),
        (reset(1, CANCEL), []),
        (head(1, [(b"x-sum", b"1")], HAS), []),
    ],
    ids=["too long", "reset", "trailers"],
)
def test_what_comes_instead_of_its_end(more: bytes, answer: list[int]) -> None:
    echo = Http2Echo(max_streams=1)
    echo.hasty = True
    assert echo.receive(START + head(1, [*POST, (b"content-length", b"4")]) + frame(DATA, 0, 1, b"four")) == 0
    drained(echo)
    assert echo.receive(more) == 0
    assert [f.number for f in of(RST_STREAM, drained(echo))] == answer
    assert echo.receive(head(3, GET, HAS)) == 0
    assert [f.stream for f in of(HEADERS, drained(echo))] == [3]
    assert ("control", "reset") not in echo.events


def test_trailers_follow_the_last_of_the_body() -> None:
    echo = Http2Echo()
    echo.with_trailers = True
    assert echo.receive(START + head(1, POST) + frame(DATA, 0, 1, b"body") + head(1, [(b"t", b"u")], HAS)) == 0
    said = [f for f in drained(echo) if f.stream == 1]
    assert [(f.kind, f.flags & END_STREAM) for f in said] == [(HEADERS, 0), (DATA, 0), (HEADERS, END_STREAM)]
