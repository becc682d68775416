"""wrk: its script, what is made of its output, and what a server gets from it."""

from __future__ import annotations

import collections
import contextlib
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.wrk import SEQUENCE, Request, Wrk, quote

OUTPUT = """Running 2s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   543.21us  120.05us   6.78ms   91.12%
    Req/Sec    58.91k     2.01k   61.20k    75.00%
  117812 requests in 2.00s, 20.45MB read
Requests/sec:  58884.31
Transfer/sec:     10.22MB
bench-result {"requests":117812,"duration_us":2000738,"bytes":21443021,"connect":0,"read":0,"write":0,"status":3,\
"timeout":0,"p50":531,"p90":640,"p99":912,"p999":2044,"max":6780,"mean":543.2}
"""
GET = Wrk(Request("/"))


def test_parse() -> None:
    counted = GET.parse(OUTPUT)
    assert (counted.operations, counted.duration_ns, counted.bytes) == (117809, 2_000_738_000, 21443021)
    assert counted.rate == pytest.approx(58882.8, abs=0.1)
    assert counted.errors == {"status": 3}
    assert [counted.raw["wrk"][key] for key in ("requests", "p50", "p99", "max")] == [117812, 531, 912, 6780]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("unable to connect to 127.0.0.1:1 Connection refused\n", "Connection refused"),
        ("", "it printed nothing"),
        (OUTPUT * 2, "no result"),
        (OUTPUT.replace('"p50":531,', ""), "cannot be read"),
        (OUTPUT.replace("117812,", "117812"), "cannot be read"),
        (OUTPUT.replace('"requests":117812', '"requests":0'), "got no answer"),
        (OUTPUT.replace('"requests":117812', '"requests":3'), "got no answer"),  # three, and all of them failures
        ("bench-result 7\n", "cannot be read"),
    ],
)
def test_parse_refuses_what_is_no_result(output: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        GET.parse(output)


def test_command_line(tmp_path: Path) -> None:
    words = Wrk(Request("/a"), 7).command(Target(80, 3, tmp_path), 3.5)
    script = str(tmp_path / "wrk.lua")
    assert words[1:] == ["-t", "3", "-c", "7", "-d", "4s", "-s", script, "http://127.0.0.1:80/a"]
    few = Wrk(Request("/a"), 2).command(Target(443, 3, tmp_path, authority=tmp_path / "ca.pem"), 1)
    assert (few[2], few[-1]) == ("2", "https://127.0.0.1:443/a")


def test_new_connections_with_tls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="resumes TLS sessions"):
        Wrk(Request("/"), close=True).command(Target(443, 1, tmp_path, authority=tmp_path / "ca.pem"), 1)


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GET.version() is None
    with pytest.raises(BenchError, match="apt-get install wrk"):
        GET.command(Target(80, 1, tmp_path), 1)


@pytest.mark.parametrize("options", [{"popularity": "zipf"}, {"popularity": "pareto:1"}, {"connections": 0}])
def test_nonsense_is_refused(options: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=r"popularity|connection"):
        Wrk(Request("/"), **options)  # type: ignore[arg-type]


def test_every_byte_survives_quoting() -> None:
    everything = bytes(range(256))
    text = quote(everything)
    assert text.isascii()
    assert text.isprintable()
    luajit = shutil.which("luajit") or shutil.which("lua") or shutil.which("texlua")
    if luajit is not None:
        code = f"io.write({text})".encode()
        done = subprocess.run([luajit, "-"], input=code, capture_output=True, check=True)
        assert done.stdout == everything


def test_script_names_method_headers_and_body() -> None:
    text = Wrk(Request("/x", "POST", {"Content-Type": "a/b"}, b"\x00\"'\\1")).script()
    assert 'wrk.method = "POST"' in text
    assert 'wrk.headers["Content-Type"] = "a/b"' in text
    assert r'wrk.body = "\000\034' + r"'\0921" in text
    assert "request =" not in text  # that would build each request anew


def test_zipf_draws_as_zipf_says() -> None:
    wrk = Wrk([Request(f"/{i}") for i in range(100)], popularity="zipf:1")
    drawn = collections.Counter(wrk.sequence())
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert sum(drawn.values()) == SEQUENCE
    for rank in (1, 2, 5, 20):
        assert drawn[rank - 1] == pytest.approx(SEQUENCE / harmonic / rank, rel=0.15)
    assert wrk.sequence() == wrk.sequence()


class Recorder(socketserver.ThreadingTCPServer):
    """An HTTP/1.1 server that notes of each request its first line, headers and body, and counts connections."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.lock = threading.Lock()


class Recording(socketserver.StreamRequestHandler):
    server: Recorder

    def handle(self) -> None:
        with self.server.lock:
            self.server.connections += 1
        with contextlib.suppress(ConnectionError):  # at its end wrk goes without a word
            self.answer()

    def answer(self) -> None:
        while line := self.rfile.readline().decode().strip():
            pairs = iter(lambda: self.rfile.readline().decode().strip(), "")
            headers = {name.lower(): value.strip() for name, _, value in (pair.partition(":") for pair in pairs)}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            with self.server.lock:
                self.server.seen.append((line, headers, body))
            close = headers.get("connection") == "close"
            failed = "HTTP/1.1 404 No\r\n" if "/none" in line else "HTTP/1.1 200 OK\r\n"
            extra = "Connection: close\r\n" if close else ""
            self.wfile.write(f"{failed}{extra}Content-Length: 2\r\n\r\nok".encode())
            if close:
                return


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(wrk: Wrk, server: Recorder, directory: Path) -> Counted:
    command = wrk.command(Target(server.server_address[1], 1, directory), 1)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return wrk.parse(done.stdout)


def test_one_request_over_and_over(recorder: Recorder, tmp_path: Path) -> None:
    body = bytes(range(256))
    counted = run(Wrk(Request("/a", "POST", {"X-Y": "z"}, body), 3), recorder, tmp_path)
    assert not counted.errors
    # Those in flight at the end are answered and not counted; one connection asks whether anybody is there.
    assert 0 <= len(recorder.seen) - counted.operations <= 3
    assert recorder.connections <= 4
    lines = {(line, headers["x-y"], body) for line, headers, body in recorder.seen}
    assert lines == {("POST /a HTTP/1.1", "z", body)}


def test_many_requests_round_robin(recorder: Recorder, tmp_path: Path) -> None:
    requests = [Request("/a"), Request("/b", "POST", {"X-Y": "z"}, b"\x00\\"), Request("/none")]
    counted = run(Wrk(requests, 1), recorder, tmp_path)
    seen = collections.Counter((line, headers.get("x-y"), body) for line, headers, body in recorder.seen)
    assert set(seen) == {
        ("GET /a HTTP/1.1", None, b""),
        ("POST /b HTTP/1.1", "z", b"\x00\\"),
        ("GET /none HTTP/1.1", None, b""),
    }
    assert max(seen.values()) - min(seen.values()) <= 1
    assert counted.errors == {"status": pytest.approx(counted.operations / 2, abs=1)}


def test_a_thousand_requests_by_popularity(recorder: Recorder, tmp_path: Path) -> None:
    wrk = Wrk([Request(f"/{i}", body=bytes(300)) for i in range(1000)], 4, popularity="zipf:0.9")
    counted = run(wrk, recorder, tmp_path)
    seen = collections.Counter(line.split()[1] for line, _, _ in recorder.seen)
    assert counted.operations > 500
    assert seen.most_common(1)[0][0] == "/0"
    assert len(seen) > 100


def test_a_new_connection_for_each_request(recorder: Recorder, tmp_path: Path) -> None:
    counted = run(Wrk(Request("/a"), 4, close=True), recorder, tmp_path)
    assert recorder.connections >= counted.operations > 10
    assert {headers["connection"] for _, headers, _ in recorder.seen} == {"close"}
