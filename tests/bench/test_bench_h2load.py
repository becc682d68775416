"""h2load: what is made of its output, and against the stub server, which counts too."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.h2load import H2load
from bench.marked import result_line
from bench.wrk import Request

OUTPUT = """starting benchmark...
spawning thread #0: 4 total client(s). Timing-based test with 0s of warm-up time and 0.5s of main duration.
Application protocol: h2c
Stopped all clients for thread #0

finished in 500.84ms, 186288.00 req/s, 6.22MB/s
requests: 93144 total, 93176 started, 93144 done, 93100 succeeded, 44 failed, 3 errored, 0 timeout
status codes: 93100 2xx, 0 3xx, 20 4xx, 19 5xx
traffic: 3.11MB (3260304) total, 272.97KB (279524) headers (space savings 94.00%), 454.80KB (465720) data
                     min         max         mean         sd        +/- sd
time for request:       39us      8.21ms       115us       117us    99.60%
time for connect:       52us        95us        76us        18us    75.00%
time to 1st byte:      532us      1.50s       551us        14us    50.00%
req/s           :   46016.71    47327.06    46557.32      631.16    75.00%
"""
GET = H2load(Request("/"))
INFER = Request("/inference.GRPCInferenceService/ModelInfer", "POST", body=b"\x0a\x01m")


def test_parse() -> None:
    counted = H2load(Request("/"), 4).parse(OUTPUT)
    assert (counted.operations, counted.duration_ns, counted.bytes) == (93100, 500_840_000, 3260304)
    assert counted.errors == {"4xx": 20, "5xx": 19, "errored": 3, "reset": 2}
    lost = OUTPUT.replace("500.84ms, 186288.00 req/s", "1.00s, 93144.00 req/s")  # half of the time of all four
    assert H2load(Request("/"), 4).parse(lost).errors["connections closed"] in (1, 2)
    raw = counted.raw["h2load"]
    assert raw["requests"]["started"] == 93176
    assert raw["bytes"] == {"total": 3260304, "headers": 279524, "data": 465720}
    assert raw["times_us"]["for request"] == pytest.approx({"min": 39, "max": 8210, "mean": 115, "sd": 117})
    assert raw["times_us"]["to 1st byte"]["max"] == 1_500_000
    assert raw["protocol"] == ["Application protocol: h2c"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "it printed nothing"),
        ("client could not connect to host\n", "could not connect"),
        (OUTPUT.replace("succeeded", "won"), "no result"),
        (OUTPUT.replace("status codes", "codes"), "no result"),
        (OUTPUT.replace(" total, 272", " sum, 272"), "no result"),
        (OUTPUT.replace("req/s   ", "rps"), "no result"),
        (OUTPUT.replace("93100 succeeded", "0 succeeded"), r"no answer in 0.5 s \(errors: .*errored"),
    ],
)
def test_parse_refuses_what_is_no_result(output: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        GET.parse(output)


def test_command_line(tmp_path: Path) -> None:
    words = H2load(INFER, 3, 5, grpc=True).command(Target(443, 8, tmp_path, authority=tmp_path), 1.5)
    text = " ".join(words[1:])
    assert text.startswith("-D 1500ms --warm-up-time 0 -t 3 -c 3 -m 5 ")
    assert "-H content-type: application/grpc -H te: trailers" in text
    assert text.endswith(f"-d {tmp_path}/h2load.body https://127.0.0.1:443{INFER.path}")
    assert (tmp_path / "h2load.body").read_bytes() == b"\0\0\0\0\3\x0a\x01m"
    assert "--h1" in H2load(Request("/"), 1, 1, http1=True).command(Target(80, 1, tmp_path), 1)


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GET.version() is None
    with pytest.raises(BenchError, match="apt-get install nghttp2-client"):
        GET.command(Target(80, 1, tmp_path), 1)


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (Request("/"), {"connections": 0}),
        (Request("/"), {"streams": 2, "http1": True}),
        (Request("/", "PUT", body=b"x"), {}),
        (Request("/", "POST"), {}),
        (Request("/"), {"grpc": True}),
    ],
)
def test_nonsense_is_refused(request_: Request, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"h2load|HTTP/1.1"):
        H2load(request_, **options)  # type: ignore[arg-type]


class Stub:
    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "bench.stub_grpc", "--listen", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        self.requests = 0

    def end(self) -> None:
        self.process.terminate()
        output, _none = self.process.communicate(timeout=20)
        self.requests = result_line("stub", output)["requests"]


@contextmanager
def stub(*options: str) -> Iterator[Stub]:
    running = Stub(*options)
    try:
        yield running
    finally:
        running.end()


def run(generator: H2load, port: int, directory: Path) -> Counted:
    command = generator.command(Target(port, 1, directory), 0.3)
    return generator.parse(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)


@pytest.mark.parametrize(
    ("generator", "options", "answer"),
    [
        (H2load(INFER, 4, 8, grpc=True), ["--answer", "64"], 5 + 116),
        (H2load(Request("/x"), 2, 1), ["--http-answer", "hello"], 5),
        (H2load(Request("/x", "POST", {"X-Y": "z"}, bytes(100_000)), 2, 3), ["--http-answer", "hello"], 5),
    ],
)
def test_both_sides_count_the_same(generator: H2load, options: list[str], answer: int, tmp_path: Path) -> None:
    with stub(*options) as server:
        counted = run(generator, server.port, tmp_path)
    assert not counted.errors
    assert counted.operations > 50
    # Those in flight at the end were answered and not counted.
    assert 0 <= server.requests - counted.operations <= 2 * generator.connections * generator.streams
    assert counted.raw["h2load"]["bytes"]["data"] >= counted.operations * min(answer, 5)
    assert re.search("h2c", counted.raw["h2load"]["protocol"][0])


def test_a_stream_of_messages(tmp_path: Path) -> None:
    request = Request("/inference.GRPCInferenceService/ModelStreamInfer", "POST", body=b"\x0a\x01m")
    with stub("--answer", "1000", "--stream-messages", "100") as server:
        counted = run(H2load(request, 2, 2, grpc=True), server.port, tmp_path)
    assert not counted.errors
    assert counted.bytes > counted.operations * 100 * 1000


def test_failures_are_told_from_answers(tmp_path: Path) -> None:
    with stub() as server, pytest.raises(BenchError, match=r"no answer in .*4xx"):
        run(H2load(Request("/x"), 2, 2), server.port, tmp_path)  # 415
    with stub() as server:
        # As its docstring says: a failed call has the status 200.
        counted = run(H2load(Request("/x.Y/Z", "POST", body=b"a"), 2, 2, grpc=True), server.port, tmp_path)
    assert not counted.errors
    with pytest.raises(BenchError, match="no answer"):
        run(H2load(Request("/"), 2, 2), server.port, tmp_path)  # nobody is there any more


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with stub("--http-answer", "hello") as server:
        generator = H2load(Request("/x"), 2, 4)
        command = generator.command(Target(server.port, 1, tmp_path), 1)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            used = sum(psutil.Process(server.process.pid).cpu_times()[:2])
            limit = time.monotonic() + 10
            while sum(psutil.Process(server.process.pid).cpu_times()[:2]) < used + 0.1:  # it is under load
                assert time.monotonic() < limit
                time.sleep(0.01)
            server.process.terminate()
            output, _none = load.communicate(timeout=20)
    counted = generator.parse(output)
    assert counted.operations > 100
    assert counted.errors["connections closed"] in (1, 2)
