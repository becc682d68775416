"""Unary gRPC load against grpcio's own server."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from load_servers import Grpc, Refusing, Stream, Timing
from test_load_http import longer, whole

from bench.load import Constant, Poisson, Request, Spec, frame, run

ECHO = Request("/t.T/Echo", body=frame(b"hello"), answer=b"hello")


def spec(address: str, rate: float = 1000, **changes: Any) -> Spec:
    given: dict[str, Any] = {
        "protocol": "grpc",
        "address": address,
        "requests": (ECHO,),
        "arrivals": Constant(rate),
        "connections": 2,
        "warmup_s": 0.0,
        "duration_s": 0.1,
        "timeout_s": 5.0,
    }
    return Spec(**(given | changes))


def test_a_constant_delay() -> None:
    with Grpc(Timing(delay=0.02)) as server:
        report = run(spec(server.address, arrivals=Poisson(400), duration_s=0.5))
    whole(report)
    assert report.sent == report.completed == server.calls == server.answers == pytest.approx(200, abs=71)
    assert report.percentile(50) > 19_000


def test_a_stall_is_seen_by_all_whom_it_met() -> None:
    """250 calls/s for 1 s, and none answered for 200 ms: 50 of 250 wait from 200 ms down to nothing."""
    with Grpc(Timing(stall=(100, 0.2))) as server:
        report = run(spec(server.address, 250, duration_s=1.0))
    whole(report)
    assert report.completed == server.answers == 250
    assert report.percentile(90) > 90_000
    assert report.percentile(100) > 195_000
    for low in range(20_000, 180_000, 40_000):
        assert longer(report, low) >= (200_000 - low) / 4_000 - 5, low


def test_the_servers_limit_of_streams_holds_and_the_wait_counts() -> None:
    """Twice 4 calls of 50 ms are 160/s; 300/s wait.

    grpcio counts a stream a little longer than its last frame shows, and may refuse the next one that comes at once.
    """
    with Grpc(Timing(delay=0.05), streams=4) as server:
        report = run(spec(server.address, 300, duration_s=0.5))
    whole(report)
    assert report.completed == server.answers >= 130
    assert set(report.failed) <= {"stream_refused_stream"}
    assert server.most_running <= 8
    assert report.percentile(50) > 100_000
    assert report.percentile(50, "service") < report.percentile(50)


@pytest.mark.parametrize(
    ("request_", "failure"),
    [
        (Request("/t.T/Fail", body=frame(b"")), "grpc_14"),
        (Request("/t.T/None", body=frame(b"")), "grpc_12"),
        (Request("/t.T/Echo", body=frame(b"hello"), answer=b"other"), "wrong_answer"),
        (Request("/t.T/Echo", body=frame(b"hello"), answer_length=4), "wrong_answer"),
    ],
)
def test_faults_are_counted_by_kind(request_: Request, failure: str) -> None:
    with Grpc() as server:
        report = run(spec(server.address, requests=(request_,)))
    whole(report)
    assert report.failed == {failure: 100}


def test_a_megabyte_each_way() -> None:
    body = bytes(1 << 20)
    with Grpc() as server:
        report = run(spec(server.address, 100, requests=(Request("/t.T/Echo", body=frame(body), answer=body),)))
    assert report.completed == 10
    assert report.bytes_in > 10 << 20
    assert report.bytes_out > 10 << 20


def test_a_server_that_closes_old_connections_loses_no_call() -> None:
    """GOAWAY (RFC 9113, 6.8): what the server has begun ends there, and all others go to a new connection."""
    with Grpc(Timing(delay=0.02), age_ms=150) as server:
        report = run(spec(server.address, 400, duration_s=0.6, connections=1))
    whole(report)
    assert report.completed == server.answers == 240
    assert server.peers > 2


def test_a_refused_stream_is_repeated_once() -> None:
    """REFUSED_STREAM says that the server has not looked at it (RFC 9113, 8.7)."""
    with Refusing(times=1) as server:
        report = run(spec(server.address, connections=1))
    whole(report)
    assert (report.completed, report.retried, server.calls) == (100, 100, 200)
    with Refusing(times=2) as server:
        report = run(spec(server.address, connections=1))
    whole(report)
    assert report.failed["stream_refused_stream"] == 100 - report.completed


def test_calls_that_take_too_long_are_reset() -> None:
    with Grpc(Timing(delay=30)) as server:
        report = run(spec(server.address, 400, duration_s=0.25, timeout_s=0.1))
    whole(report)
    assert report.failed == {"timeout": 100}
    assert server.answers == 0
    assert server.most_running < 100  # those that were given up ended at the server too


def test_servers_that_do_not_speak_it() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        report = run(spec(f"127.0.0.1:{bound.getsockname()[1]}"))
        whole(report)
        assert report.failed == {"connect": 100}
    with Stream() as server:  # HTTP/1.1
        report = run(spec(server.address))
        whole(report)
        assert report.completed == 0
    with Stream(mode="hangup") as server:
        report = run(spec(server.address))
        whole(report)
        assert set(report.failed) <= {"closed", "reset"}
