"""gRPC's textual parts: timeouts, status codes, percent encoding."""

from __future__ import annotations

import urllib.parse

import pytest
from compiled.bytes_to_values import decode_message, parse_status, status_of_http, timeout_text
from hypothesis import given
from hypothesis import strategies as st

UNITS = {b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1_000, b"n": 1}


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (1, b"1n"),
        (250_000_000, b"250m"),
        (1_000_000_000, b"1S"),
        (60_000_000_000, b"1M"),
        (7_200_000_000_000, b"2H"),
        (90_000_000_000, b"90S"),
        (99_999_999, b"99999999n"),
        (100_000_001, b"100001u"),
        (59_999_812_345, b"59999813u"),
        (1_234_567_890_123, b"1234568m"),
        (2**63, b"2562048H"),
    ],
)
def test_timeouts(ns: int, text: bytes) -> None:
    assert timeout_text(ns) == text


@given(st.integers(1, 2**63))
def test_a_timeout_is_never_too_short_and_at_most_one_unit_too_long(ns: int) -> None:
    text = timeout_text(ns)
    digits, unit = text[:-1], UNITS[text[-1:]]
    assert 1 <= len(digits) <= 8
    assert 0 <= int(digits) * unit - ns < unit
    if int(digits) * unit != ns:
        # Only where no finer unit holds it.
        assert -(-ns // (unit // {3600: 60, 60: 60}.get(unit // 10**9, 1000))) > 99_999_999


@given(st.text())
def test_messages_round_trip(text: str) -> None:
    assert decode_message(urllib.parse.quote(text, safe=" ").encode()) == text.encode()


@pytest.mark.parametrize("value", [b"%", b"%4", b"100%", b"%zz", b"a%2", b"%%%"])
def test_malformed_escapes_stay(value: bytes) -> None:
    assert decode_message(value) == value


@given(st.binary(max_size=50))
def test_any_message_decodes_to_no_more(value: bytes) -> None:
    assert decode_message(value) == urllib.parse.unquote_to_bytes(value)


@pytest.mark.parametrize(
    ("value", "code"), [(b"0", 0), (b"16", 16), (b"17", 2), (b"", 2), (b"-1", 2), (b"x", 2), (b"100", 2), (b"05", 5)]
)
def test_status_values(value: bytes, code: int) -> None:
    assert parse_status(value) == code


@pytest.mark.parametrize(
    ("http", "code"),
    [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (200, 2), (500, 2), (0, 2)],
)
def test_http_statuses(http: int, code: int) -> None:
    assert status_of_http(http) == code
