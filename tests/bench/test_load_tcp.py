"""Open-loop messages over bare TCP."""

from __future__ import annotations

from typing import Any

import pytest
from load_servers import PING, PONG, Stream, Timing
from test_load_http import longer, whole

from bench.load import Constant, Request, Spec, run


def spec(server: Stream, rate: float = 1000, **changes: Any) -> Spec:
    given: dict[str, Any] = {
        "protocol": "tcp",
        "address": server.address,
        "requests": (Request(body=PING, answer=PONG),),
        "arrivals": Constant(rate),
        "warmup_s": 0.0,
        "duration_s": 0.1,
        "timeout_s": 5.0,
    }
    return Spec(**(given | changes))


def test_a_constant_delay() -> None:
    with Stream(PONG, PING, Timing(delay=0.02)) as server:
        report = run(spec(server, connections=64))
    whole(report)
    assert report.completed == server.answers == 100
    assert report.percentile(50) > 19_000
    assert report.bytes_in == 100 * len(PONG)
    assert report.bytes_out == 100 * len(PING)


def test_a_stall_is_seen_by_all_whom_it_met() -> None:
    with Stream(PONG, PING, Timing(stall=(100, 0.2))) as server:
        report = run(spec(server, 500, duration_s=1.0, connections=120))
    whole(report)
    assert report.completed == server.answers == 500
    assert report.percentile(90) > 90_000  # of 500, 100 met it: a fifth
    assert report.percentile(100) > 195_000
    for low in range(20_000, 180_000, 40_000):
        assert longer(report, low) >= (200_000 - low) / 2_000 - 5, low


@pytest.mark.parametrize(
    ("mode", "answer", "request_", "failure"),
    [
        ("answer", PONG + b"!", Request(body=PING, answer=PONG), "wrong_answer"),
        ("answer", PONG.upper(), Request(body=PING, answer=PONG), "wrong_answer"),
        ("answer", PONG + b"!", Request(body=PING, answer_length=len(PONG)), "wrong_answer"),
        ("close", PONG[:-1], Request(body=PING, answer=PONG), "closed"),
        ("reset", PONG, Request(body=PING, answer=PONG), "reset"),
    ],
)
def test_faults_are_counted_by_kind(mode: str, answer: bytes, request_: Request, failure: str) -> None:
    with Stream(answer, PING, mode=mode) as server:
        report = run(spec(server, requests=(request_,), connections=4))
    whole(report)
    assert report.failed == {failure: 100}


def test_closing_after_each_answer_and_new_connections() -> None:
    with Stream(PONG, PING, mode="close") as server:
        closed = run(spec(server))
    with Stream(PONG, PING) as other:
        fresh = run(spec(other, new_connections=True))
    whole(closed)
    assert closed.completed + closed.failed.get("closed", 0) + closed.failed.get("reset", 0) == 100
    assert fresh.completed == other.connections == 100


def test_silence() -> None:
    with Stream(PONG, PING, mode="silent") as server:
        report = run(spec(server, connections=200, timeout_s=0.2))
    whole(report)
    assert report.failed == {"timeout": 100}
    assert server.requests == 100
