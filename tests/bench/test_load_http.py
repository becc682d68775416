"""Open-loop load over HTTP/1.1 against servers whose latencies and faults are known."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from load_servers import OK, Stream, Timing

from bench.errors import BenchError
from bench.load import Constant, Poisson, Report, Request, Spec, Steps, Tls, command, parse, run
from bench.load.cli import main
from bench.load.invoke import MEASURING, side_by_side


def spec(server: Stream | str, rate: float = 1000, **changes: Any) -> Spec:
    given: dict[str, Any] = {
        "protocol": "http",
        "address": server if isinstance(server, str) else server.address,
        "requests": (Request(answer=b"ok"),),
        "arrivals": Constant(rate),
        "warmup_s": 0.0,
        "duration_s": 0.1,
        "timeout_s": 5.0,
    }
    return Spec(**(given | changes))


def as_process(spec: Spec, directory: Path) -> Report:
    path = directory / "spec.json"
    path.write_text(spec.to_json())
    return parse(subprocess.run(command(path), capture_output=True, text=True, timeout=60, check=True).stdout)


def whole(report: Report) -> None:
    """Nothing is lost in the count, wherever it is counted."""
    assert report.sent == report.completed + sum(report.failed.values())
    assert report.histogram().get_total_count() == report.completed
    assert report.histogram("service").get_total_count() == report.completed
    assert report.histogram("failure").get_total_count() == sum(report.failed.values())
    assert report.histogram("lateness").get_total_count() == report.sent
    assert sum(report.series.sent) == report.sent
    assert sum(report.series.completed) == report.completed
    assert sum(report.series.failed) == sum(report.failed.values())


def longer(report: Report, low_us: int) -> int:
    """Completed requests whose latency is so long or longer."""
    found = report.histogram().get_recorded_iterator()
    return sum(item.count_added_in_this_iter_step for item in found if low_us <= item.value_iterated_to)


def test_a_constant_delay(tmp_path: Path) -> None:
    with Stream(timing=Timing(delay=0.02)) as server:
        report = as_process(spec(server, arrivals=Poisson(200), duration_s=1.0, connections=64), tmp_path)
    whole(report)
    assert report.sent == server.requests == server.answers == pytest.approx(200, abs=71)
    assert report.failed == {}
    assert report.percentile(50) > 19_000
    assert report.percentile(0, "service") >= 19_000
    assert report.bytes_in == server.answers * len(OK)
    assert max(report.series.max_us) == pytest.approx(report.percentile(100), rel=0.01)


@pytest.mark.parametrize("connections", [150, 1])
def test_a_stall_is_seen_by_all_whom_it_met(tmp_path: Path, connections: int) -> None:
    """500 requests/s for 2 s, and a server that answers none for 200 ms.

    The 100 that were meant to be sent meanwhile wait from 200 ms down to nothing: a tenth of all. So 5 % wait more than
    100 ms and 1 % more than 180 ms. A closed loop on one connection sees one slow request of a thousand.
    """
    with Stream(timing=Timing(stall=(400, 0.2))) as server:
        report = as_process(spec(server, 500, duration_s=2.0, connections=connections), tmp_path)
    whole(report)
    assert report.completed == server.answers == 1000
    assert report.percentile(95) > 90_000
    assert report.percentile(99) > 170_000
    assert report.percentile(100) > 195_000
    for low in range(20_000, 180_000, 40_000):  # 20 requests are meant to be sent in 40 ms
        assert longer(report, low) >= (200_000 - low) / 2_000 - 5, low
    if connections == 1:
        assert report.percentile(99, "service") < report.percentile(99)
        assert report.percentile(100, "service") > 195_000


def test_the_same_seed_asks_the_same() -> None:
    requests = tuple(Request(f"/{i}", answer=b"ok") for i in range(3))
    with Stream() as server:
        first, second = (
            run(spec(server, arrivals=Poisson(500), duration_s=0.3, requests=requests, zipf=1.0)) for _ in range(2)
        )
    assert first.sent == second.sent == server.answers / 2
    assert sum(first.series.sent) > 100
    assert first.series.sent[:3] == second.series.sent[:3]
    assert first.bytes_out == second.bytes_out


def test_warm_up_is_sent_and_not_recorded() -> None:
    with Stream(timing=Timing(stall=(10, 0.1))) as server:
        measured: list[int] = []
        report = run(
            spec(server, arrivals=Constant(100), warmup_s=0.3, duration_s=0.3), lambda: measured.append(server.answers)
        )
    whole(report)
    assert report.sent == 30
    assert server.answers == 60
    assert len(measured) == 1
    assert 20 <= measured[0] <= 60
    assert len(report.series.sent) >= 3
    assert report.series.sent[:3] == [10, 10, 10]


def test_a_cool_down_is_sent_and_not_recorded() -> None:
    with Stream(timing=Timing(stall=(10, 0.1))) as server:
        report = run(spec(server, arrivals=Constant(100), duration_s=0.3, cooldown_s=0.2))
    whole(report)
    assert (report.sent, server.answers) == (30, 50)


def test_labels_are_counted_apart() -> None:
    with Stream() as server:
        requests = (Request("/a", label="a"), Request("/b", label="b"), Request("/b", label="b"), Request("/c"))
        report = run(spec(server, arrivals=Constant(100), duration_s=0.4, requests=requests))
        wrong = run(spec(server, arrivals=Constant(100), duration_s=0.1, requests=(Request(status=500, label="a"),)))
    assert {name: (each.sent, each.completed, each.failed) for name, each in report.labels.items()} == {
        "a": (10, 10, 0),
        "b": (20, 20, 0),
    }
    assert report.labels["b"].histogram().get_total_count() == 20
    both = report.merge(wrong).labels
    assert (both["a"].sent, both["a"].completed, both["a"].failed) == (20, 10, 10)
    assert both["b"] == report.labels["b"]


def test_a_server_that_refuses() -> None:
    with socket.socket() as bound:  # bound and not listening
        bound.bind(("127.0.0.1", 0))
        report = run(spec(f"127.0.0.1:{bound.getsockname()[1]}"))
    whole(report)
    assert report.failed == {"connect": 100}


@pytest.mark.parametrize(
    ("mode", "answer", "failure"),
    [
        ("reset", OK, "reset"),
        ("hangup", OK, "closed"),
        ("answer", b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nok", "status_503"),
        ("answer", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", "wrong_answer"),
        ("answer", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok!", "wrong_answer"),
        ("answer", OK + OK, "wrong_answer"),
        ("answer", b"SSH-2.0-OpenSSH\r\n\r\n", "bad_answer"),
        ("close", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "closed"),
    ],
)
def test_faults_are_counted_by_kind(mode: str, answer: bytes, failure: str) -> None:
    with Stream(answer, mode=mode) as server:
        report = run(spec(server, connections=4))
    whole(report)
    assert report.failed == {failure: 100}
    assert server.requests == 100


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
    ],
)
def test_right_answers_of_other_shapes(answer: bytes) -> None:
    with Stream(answer) as server:
        report = run(spec(server))
    assert report.completed == 100


def test_a_server_that_never_answers() -> None:
    """Each fails after its timeout; 5 connections hold 5 requests, and most others wait for one in vain."""
    with Stream(mode="silent") as server:
        report = run(spec(server, timeout_s=0.3, connections=5))
    whole(report)
    assert report.completed == 0
    assert report.failed["timeout"] + report.failed.get("timeout_unsent", 0) == report.sent == 100
    assert 5 <= server.requests <= report.failed["timeout"]
    assert report.percentile(0, "failure") >= 299_000


def test_connections_that_close_after_each_answer_are_opened_again() -> None:
    with Stream(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", mode="close") as server:
        report = run(spec(server, connections=8))
    whole(report)
    assert report.completed == 100
    assert server.connections >= 100
    assert server.most_open <= 16  # a closed one may end at the server after the next has come


def test_a_new_connection_for_each_request() -> None:
    with Stream() as server:
        report = run(spec(server, connections=8, new_connections=True))
    whole(report)
    assert report.completed == server.connections == 100


def test_overload_shows_as_latency_and_loses_nothing() -> None:
    """200 requests in half a second for a server of 200/s: the last one waits for half a second."""
    with Stream(capacity=200) as server:
        report = run(spec(server, 400, duration_s=0.5, connections=4))
    whole(report)
    assert report.completed == server.answers == 200
    assert report.percentile(100) > 400_000
    assert report.percentile(50) > 150_000
    assert report.percentile(50, "service") < report.percentile(50)


def test_what_is_too_much_is_dropped_and_said() -> None:
    with Stream(mode="silent") as server:
        report = run(spec(server, max_outstanding=30, timeout_s=0.5))
    whole(report)
    assert (report.sent, report.dropped) == (30, 70)
    assert any("70 requests were dropped" in doubt for doubt in report.doubts())


def test_steps_show_in_the_series() -> None:
    with Stream() as server:
        report = run(spec(server, arrivals=Steps(((50, 0.3), (400, 0.3)), poisson=False), duration_s=None))
    assert report.series.sent[:6] == [5, 5, 5, 40, 40, 40]
    assert report.duration_ns == 600_000_000


def test_a_unix_socket(tmp_path: Path) -> None:
    with Stream(path=str(tmp_path / "s")) as server:
        assert run(spec(server)).completed == 100


def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key)]
    subprocess.run([*make, "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with Stream(tls=context) as server:
        trusted = run(spec(server, tls=Tls(ca=str(certificate))))
        unverified = run(spec(server, tls=Tls(verify=False)))
        strange = run(spec(server, tls=Tls()))
    assert (trusted.completed, unverified.completed) == (100, 100)
    assert strange.failed == {"tls": 100}
    with Stream() as plain:
        assert run(spec(plain, tls=Tls(verify=False), timeout_s=0.2)).completed == 0


def test_an_interrupt_ends_it_early_with_a_report(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    with Stream() as server:
        path.write_text(spec(server, duration_s=60.0).to_json())
        with subprocess.Popen(command(path), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == MEASURING
            process.send_signal(signal.SIGINT)
            output = process.stdout.read()
            assert process.wait(20) == 0
        report = parse(output)
    whole(report)
    assert report.interrupted
    assert report.duration_ns < 30e9
    assert report.sent == server.requests


def test_several_specs_run_side_by_side_and_make_one_report(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    with Stream() as first, Stream() as second:
        for path, server in zip(paths, (first, second), strict=True):
            path.write_text(spec(server, arrivals=Constant(100), duration_s=0.5, deadline_s=60).to_json())
        both = [*command(paths[0]), str(paths[1])]
        report = parse(subprocess.run(both, capture_output=True, text=True, timeout=60, check=True).stdout)
    whole(report)
    assert (report.completed, first.answers, second.answers) == (100, 50, 50)
    assert sum(report.series.in_time) == 100


def test_one_of_several_specs_that_fails_fails_them_all(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    with Stream() as server:
        paths[0].write_text(spec(server, duration_s=0.2).to_json())
        paths[1].write_text("{}")
        with pytest.raises(BenchError, match="specification is wrong"):
            side_by_side(paths)


def test_answers_in_time_are_counted_by_when_they_come() -> None:
    """Ten requests, of which those after the third wait until 0.5 s of the run are over."""
    with Stream(timing=Timing(stall=(3, 0.5))) as server:
        report = run(spec(server, arrivals=Constant(100), duration_s=0.1, connections=1, deadline_s=0.3))
        unlimited = run(spec(server, arrivals=Constant(100), duration_s=0.1))
    late = sum(report.series.completed[4:])
    assert late >= 6
    assert sum(report.series.in_time) == report.completed - late
    assert len(report.series.in_time) == len(report.series.completed)
    assert unlimited.series.in_time == []


def test_for_people() -> None:
    with Stream() as server:
        arguments = ["--rate", "200", "--duration", "0.5", "--warmup", "0", "--answer-length", "3"]
        done = subprocess.run(
            [sys.executable, "-m", "bench.load", "run", "http", server.address, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "p99.9" in done.stdout
    assert "lateness" in done.stdout
    assert f"{server.answers} wrong_answer" in done.stdout


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"protocol": "http"}))
    for arguments, message in [
        ([str(path)], "bench.load: the specification is wrong at address"),
        ([str(tmp_path / "none")], "No such file"),
        (["run", "http", "127.0.0.1:1"], "--rate"),
        (["run", "http", "nowhere", "--rate", "1"], "HOST:PORT"),
        (["run", "http", "127.0.0.1:1", "--step", "5"], "RATE:SECONDS"),
        (["run", "http", "127.0.0.1:1", "--rate", "1", "--header", "x"], "NAME: VALUE"),
        (["run", "tcp", "127.0.0.1:1", "--rate", "1"], "a TCP request needs a body"),
    ]:
        monkeypatch.setattr(sys, "argv", ["bench.load", *arguments])
        assert main() == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
