"""HTTP/2 as a client: what answers are good, and what a server may not do."""

from __future__ import annotations

import pytest
from compiled.http2_sessions import Http2Probe
from h2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    Field,
    Frame,
    frame,
    head,
    reset,
    setting,
)
from http2_exchange import HAS, drained, of


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
