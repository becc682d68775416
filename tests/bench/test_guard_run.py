"""The guarded paths themselves, and one of them under callgrind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.guard import callgrind
from bench.guard.callgrind import Length, count
from bench.guard.clients import Http1Client, http1_request
from bench.guard.paths import PATHS, Run
from bench.guard.paths.base import http_config
from bench.guard.rig import Rig
from bench.guard.upstreams import GrpcServer, Http1Server

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PATHS)
def test_every_path_serves(name: str) -> None:
    run = PATHS[name].start()
    try:
        run.repeat(8)
        run.repeat(704)  # more than the codec remembers, and than one window of HTTP/2
        assert run.server.requests == (1 if run.cached else 712)
    finally:
        run.close()


def test_a_run_that_leaves_its_path_is_refused() -> None:
    run = PATHS["http1"].start()
    try:
        with pytest.raises(BenchError, match="of 5 requests 5 reached the server"):
            Run(run.rig, run.client, run.server, cached=True).repeat(5)
    finally:
        run.close()


def test_a_wrong_answer_is_refused() -> None:
    server = Http1Server(b"not this")
    rig = Rig(http_config(server.address), [server])
    client = Http1Client(rig, http1_request("GET", "/", {}, b""), lambda answer: answer.endswith(b"this one"))
    try:
        with pytest.raises(BenchError, match=r"wrong answer: b'HTTP/1\.1 200"):
            client.exchange()
    finally:
        client.close()
        rig.close()
        server.close()


def test_a_server_of_another_protocol_is_no_silent_wait() -> None:
    """The data path speaks HTTP/1.1 to a server of HTTP/2."""
    server = GrpcServer(b"")
    rig = Rig(http_config(server.address), [server])
    client = Http1Client(rig, http1_request("GET", "/", {}, b""), lambda _: True)
    try:
        with pytest.raises(BenchError, match="connection preface"):
            client.exchange()
    finally:
        client.close()
        rig.close()
        server.close()


def test_callgrind_counts_the_data_path_and_nothing_else() -> None:
    length = Length(warmup=4, requests=40)
    (found,) = count(["http1"], length, jobs=1).values()
    assert found.requests == 40
    # A parser, a route, a choice, two heads: not hundreds, and not the hundred thousands of an interpreted program.
    assert 3_000 < found.instructions < 50_000
    assert sum(found.functions.values()) == pytest.approx(found.instructions)
    assert found.functions["lb.net.poller.Poller.dispatch"] > 0
    assert found.functions["lb.proxy.client.connection.HttpConnection.begin"] > 0
    assert not [name for name in found.functions if "_PyEval_EvalFrameDefault" in name]
    # Each side received from and sent to, each of the two turns begun and ended by asking epoll.
    assert found.system_calls == 8


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callgrind, "DONE", "something else")
    monkeypatch.setattr(callgrind.sys, "executable", "/bin/false")
    with pytest.raises(BenchError, match="http1 failed under callgrind: ended with code 1"):
        count(["http1"], Length(1, 1), jobs=1)


def test_valgrind_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.processes.program", lambda name: name)
    with pytest.raises(BenchError, match="apt-get install valgrind"):
        count(["http1"], Length(1, 1), jobs=1)


def test_the_micro_benchmarks_run() -> None:
    command = [
        sys.executable, "-m", "pytest", "-q", "bench/micro", "-o", "python_files=bench_*.py", "--benchmark-disable",
        "-p", "no:cacheprovider",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
