"""What a run is told: requests, their encoding and choice, and the JSON of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from bench.errors import BenchError
from bench.load import Constant, Poisson, Request, Spec, Steps, Tls, Trace, frame
from bench.load.grpc import headers
from bench.load.http1 import encode
from bench.load.request import choices, unframe
from bench.load.spec import target

BINARY = bytes(range(256))


def spec(**changes: Any) -> Spec:
    given = {"protocol": "http", "address": "127.0.0.1:80", "requests": (Request(),), "arrivals": Constant(1)}
    return Spec(**(given | changes))


@pytest.mark.parametrize(
    "arrivals", [Constant(5), Poisson(7.5), Steps(((1, 2.5), (3, 4)), False), Trace("a.csv", where="a=b", speed=60)]
)
def test_json_and_back(arrivals: Any) -> None:
    requests = (Request("/a?b", "POST", {"X-A": "b"}, BINARY, 201, answer=b"\xff\xfe"), Request(answer_length=3))
    one = spec(requests=requests, arrivals=arrivals, zipf=0.9, tls=Tls(verify=False), duration_s=3.0)
    assert Spec.from_json(one.to_json()) == one
    assert json.loads(one.to_json())["arrivals"]["kind"] == arrivals.kind


def test_bodies_are_base64_of_either_alphabet() -> None:
    data = json.loads(spec().to_json())
    for text in ("+/8=", "-_8="):
        data["requests"][0]["body"] = text
        assert Spec.from_json(json.dumps(data)).requests[0].body == b"\xfb\xff"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conections": 3}, "conections"),
        ({"connections": "many"}, "connections"),
        ({"connections": 0}, "1 or more"),
        ({"protocol": "ftp"}, "protocol"),
        ({"arrivals": {"kind": "burst", "rate": 1}}, "arrivals"),
        ({"arrivals": {"kind": "poisson", "rate": 1, "steps": []}}, "steps"),
        ({"requests": []}, "at least one request"),
        ({"requests": [{"body": "***"}]}, "requests.0.body"),
        ({"timeout_s": 0}, "above 0"),
        ({"address": "nowhere"}, "HOST:PORT or unix:PATH"),
    ],
)
def test_wrong_json(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        Spec.from_json(json.dumps(json.loads(spec().to_json()) | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "request_", "message"),
    [
        ("http", Request("/a\r\nb"), "line ends"),
        ("http", Request(headers={"a": "b\nc: d"}), "line ends"),
        ("http", Request("a"), "begins with /"),
        ("http", Request(method="HEAD"), "cannot send HEAD"),
        ("http", Request(answer=b"a", answer_length=2), "contradict"),
        ("grpc", Request("/a.B/C", body=b"unframed"), "one framed message"),
        ("grpc", Request("/a.B/C"), "one framed message"),
        ("tcp", Request(body=b"a"), "length of its answer"),
        ("tcp", Request(answer=b"a"), "length of its answer"),
    ],
)
def test_requests_that_cannot_be(protocol: str, request_: Request, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        spec(protocol=protocol, requests=(request_,))


def test_targets() -> None:
    assert target("127.0.0.1:80") == ("127.0.0.1", 80)
    assert target("[::1]:80") == ("::1", 80)
    assert target("unix:/run/s") == ("/run/s", 0)
    for wrong in ("unix:", ":80", "a:0", "a:65536", "a:b", "a", ""):
        with pytest.raises(BenchError, match="an address is"):
            target(wrong)


def test_http_encoding() -> None:
    assert encode(Request("/x"), "h:1", close=False) == b"GET /x HTTP/1.1\r\nhost: h:1\r\n\r\n"
    request = Request("/x", "POST", {"Host": "other", "X-A": "1"}, b"body")
    assert encode(request, "h:1", close=True) == (
        b"POST /x HTTP/1.1\r\nhost: other\r\ncontent-length: 4\r\nconnection: close\r\nx-a: 1\r\n\r\nbody"
    )
    assert b"content-length: 0\r\n" in encode(Request(method="POST"), "h:1", close=False)


def test_grpc_encoding() -> None:
    found = headers(Request("/a.B/C", headers={"X-Key": "k"}), "h:1", "http")
    assert [name for name, _ in found[:4]] == [b":method", b":scheme", b":path", b":authority"]
    assert (b"x-key", b"k") in found
    assert frame(b"abc") == b"\0\0\0\0\3abc"
    assert unframe(frame(b"abc")) == b"abc"
    for wrong in (b"", b"\0\0\0\0", b"\0\0\0\0\3ab", b"\0\0\0\0\3abcd", b"\1\0\0\0\3abc"):
        assert unframe(wrong) is None


def test_popularity() -> None:
    assert choices(4, 10, None, 1) is None
    found = choices(4, 100_000, 1.0, 1)
    assert found is not None
    assert found == choices(4, 100_000, 1.0, 1)
    assert found != choices(4, 100_000, 1.0, 2)
    shares = Counter(found)
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    for rank in range(4):
        assert shares[rank] / 100_000 == pytest.approx(1 / (rank + 1) / total, abs=0.01)
    with pytest.raises(BenchError, match="Zipf"):
        choices(4, 10, -1, 1)
