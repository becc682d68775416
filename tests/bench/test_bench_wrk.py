"""wrk: its script, and what is made of its output."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.wrk import Load, command, parse, quote, script

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


def test_parse() -> None:
    result = parse(OUTPUT)
    assert (result.requests, result.p50, result.p99, result.max) == (117812, 531, 912, 6780)
    assert result.rate == pytest.approx(58884.3, abs=0.1)
    assert result.errors == {"status": 3}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("unable to connect to 127.0.0.1:1 Connection refused\n", "Connection refused"),
        ("", "it printed nothing"),
        (OUTPUT * 2, "no result"),
        (OUTPUT.replace('"p50":531,', ""), "cannot be read"),
        (OUTPUT.replace("117812,", "117812"), "cannot be read"),
        (OUTPUT.replace('"requests":117812', '"requests":0'), "got no answer"),
    ],
)
def test_parse_refuses_what_is_no_result(output: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse(output)


def test_command_line() -> None:
    words = command(Load("/a", connections=7), Path("/s.lua"), "127.0.0.1:80", 3, 4)
    assert words == ["wrk", "-t", "3", "-c", "7", "-d", "4s", "-s", "/s.lua", "http://127.0.0.1:80/a"]


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
    text = script(Load("/x", "POST", {"Content-Type": "a/b"}, b"\x00\"'\\1"))
    assert 'wrk.method = "POST"' in text
    assert 'wrk.headers["Content-Type"] = "a/b"' in text
    assert r'wrk.body = "\000\034' + r"'\0921" in text
    assert "function request" not in text  # that would build each request anew
