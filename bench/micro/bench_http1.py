"""Parsing HTTP/1.1 with llhttp, through the parser's door for Python."""

from __future__ import annotations

from compiled.bytes_to_values import parse_http1 as _parse
from pytest_benchmark.fixture import BenchmarkFixture

from bench.guard.clients import http1_request
from bench.guard.inference import json_body, json_request


def test_get(benchmark: BenchmarkFixture) -> None:
    request = http1_request("GET", "/", {}, b"")
    fields, body, complete, consumed = benchmark(_parse, request)
    assert (len(fields), body, complete, consumed) == (3, b"", True, len(request))


def test_post(benchmark: BenchmarkFixture) -> None:
    request = json_request(700)
    fields, body, complete, consumed = benchmark(_parse, request)
    assert (len(fields), body, complete, consumed) == (5, json_body(700), True, len(request))
