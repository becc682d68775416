"""The words of HAProxy's agent-check protocol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.health.agent import MAX_LIMIT, Answer, parse


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"", Answer()),
        (b" \t,, ", Answer()),
        (b"up", Answer(health="up")),
        (b"down", Answer(health="down")),
        (b"fail#disk full", Answer(health="fail", description="disk full")),
        (b"stopped # for the night, up again at 6", Answer("stopped", "for the night, up again at 6")),
        (b"drain", Answer(admin="drain")),
        (b"maint", Answer(admin="maint")),
        (b"ready", Answer(admin="ready")),
        (b"0%", Answer(percent=0)),
        (b"075%", Answer(percent=75)),
        (b"256%", Answer(percent=256)),
        (b"maxconn:30", Answer(maxconn=30)),
        (b"maxconn:0", Answer(maxconn=0)),
        (b"maxconn:999999999", Answer(maxconn=MAX_LIMIT)),
        (b"ready,75% up\tmaxconn:30", Answer("up", "", "ready", 75, 30)),
        (b"UP Ready MaxConn:3", Answer("up", "", "ready", None, 3)),
        (b"up down 10% 20% ready drain", Answer("down", "", "drain", 20)),
        (b"-5% 5 % 5%% 1.5% maxconn: maxconn:-1 maxconn:x", Answer(unknown=(
            "-5%", "5", "%", "5%%", "1.5%", "maxconn:", "maxconn:-1", "maxconn:x"))),
        (b"5000000000%", Answer(unknown=("5000000000%",))),
        (b"up \xff\x00\x1b[2J", Answer(health="up", unknown=("\ufffd??[2J",))),
        ("٣%".encode(), Answer(unknown=("\ufffd\ufffd%",))),
    ],
)  # fmt: skip
def test_words(line: bytes, answer: Answer) -> None:
    assert parse(line) == answer


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_line_and_what_is_shown_of_them_is_printable_and_short(line: bytes) -> None:
    answer = parse(line)
    for text in (answer.description, *answer.unknown):
        assert len(text) <= 200
        assert text.isprintable()
    assert answer.percent is None or answer.percent >= 0
    assert answer.maxconn is None or 0 <= answer.maxconn <= MAX_LIMIT
