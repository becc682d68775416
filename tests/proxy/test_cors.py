"""Cross-origin requests: preflights are answered here, answers say what the route says, as browsers check it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from datapath import Gate, Site
from h2_client import h2_client
from http2_front import read_request
from oip_site import INFER, OIP, ModelServer
from test_grpc import GRPC_POOL, service
from test_grpc_web_exchange import BINARY, message
from test_http2_lengths import Http2Endpoint

from lb.config.schema.routes.cors import CorsConfig, cors_plan

APP = "https://app.example.org"
INFERENCE = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}).encode()


def cors(**settings: Any) -> dict[str, Any]:
    return {"cors": cors_plan(CorsConfig(**settings))}


async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Has an opinion of its own on other origins."""
    while True:
        first, _, _ = await read_request(reader)
        writer.write(
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://own.example\r\nVary: Accept\r\n"
            b"access-control-expose-headers: x-own\r\nContent-Length: %d\r\n\r\n%s" % (len(first), first.encode())
        )


class Answer:
    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.fields, self.body = status, fields, body

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def cors(self) -> dict[str, list[str]]:
        names = {key.lower() for key, _ in self.fields if key.lower().startswith("access-control-")}
        return {name.removeprefix("access-control-"): self.all(name) for name in sorted(names)}


async def ask(
    gate: Gate, http: str, method: str, fields: dict[str, str], path: str = "/", body: bytes | None = None
) -> Answer:
    if http == "2":
        async with h2_client(gate.port) as client:
            lower = [(name.lower(), value) for name, value in fields.items()]
            got = await client.fetch(path, method=method, fields=lower, body=body)
            return Answer(got.status, got.fields, got.body)
    head = {"Host": "a", "Connection": "close", **fields}
    if body is not None:
        head["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    raw = await gate.exchange(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b""))
    top, _, rest = raw.partition(b"\r\n\r\n")
    first, *others = top.decode().split("\r\n")
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in others)]
    return Answer(int(first.split()[1]), pairs, rest)


def preflight(origin: str, method: str = "POST", **more: str) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, **more}


both = pytest.mark.parametrize("http", ["1.1", "2"])


@both
async def test_a_preflight_is_answered_here(site: Site, http: str) -> None:
    asked = []

    async def never(*_: object) -> None:
        asked.append(1)

    gate = await site.gate([await site.endpoint(never)], route=cors(allow_origins=[APP], allow_credentials=True))
    answer = await ask(gate, http, "OPTIONS", preflight(APP, **{"Access-Control-Request-Headers": "x-grpc-web"}))
    assert (answer.status, answer.body, asked) == (204, b"", [])
    assert answer.all("vary") == ["Origin"]
    said = answer.cors()
    assert said["allow-origin"] == [APP]
    assert said["allow-credentials"] == ["true"]
    assert said["allow-methods"] == ["GET, HEAD, POST, PUT, PATCH, DELETE"]
    assert {"x-grpc-web", "x-api-key", "prefer"} <= set(said["allow-headers"][0].split(", "))
    assert said["max-age"] == ["7200"]
    assert "expose-headers" not in said
    other = await ask(gate, http, "OPTIONS", preflight("https://evil.example"))
    assert (other.status, other.cors(), other.all("vary"), asked) == (204, {}, ["Origin"], [])
    assert gate.total(2)["requests.2xx"] == 2  # counted as any answer
    assert gate.in_flight() == 0


@both
async def test_answers_say_what_the_route_says(site: Site, http: str) -> None:
    gate = await site.gate([await site.endpoint(endpoint)], route=cors(allow_origins=[APP], expose_headers=["x-a"]))
    answer = await ask(gate, http, "GET", {"Origin": APP})
    assert answer.status == 200
    assert answer.cors() == {"allow-origin": [APP], "expose-headers": ["x-a"]}
    assert answer.all("vary") == ["Accept", "Origin"]
    for fields in ({"Origin": "https://evil.example"}, {}):
        other = await ask(gate, http, "GET", fields)
        assert (other.status, other.cors(), other.all("vary")) == (200, {}, ["Accept", "Origin"])


@both
async def test_every_origin(site: Site, http: str) -> None:
    gate = await site.gate([await site.endpoint(endpoint)], route=cors(allow_origins=["*"], allow_headers=["*"]))
    for fields in ({"Origin": "https://any.example"}, {"Origin": "null"}, {}):
        answer = await ask(gate, http, "GET", fields)
        assert (answer.cors()["allow-origin"], answer.all("vary")) == (["*"], ["Accept"])
    asked = (await ask(gate, http, "OPTIONS", preflight("null"))).cors()
    assert (asked["allow-origin"], asked["allow-headers"]) == (["*"], ["*"])


ALLOWED = {
    "https://app.example.org": True,
    "https://app.example.org:8443": False,
    "http://app.example.org": False,
    "https://APP.example.org": False,
    "https://app.example.org.evil.example": False,
    "https://xapp.example.org": False,
    "https://a.below.example": True,
    "https://a.b.below.example": True,
    "https://below.example": False,
    "https://.below.example": False,
    "https://evil.example/.below.example": False,
    "https://evil.example:1.below.example": False,
    "https://evilbelow.example": False,
    "https://a.below.example.evil.example": False,
    "http://dev.example:3000": True,
    "http://dev.example:30000": False,
    "xhttp://dev.example:3000": False,
    "null": False,
    "*": False,
    "": False,
    "https://" + "a" * 600 + ".below.example": False,
}


@pytest.mark.parametrize("origin", ALLOWED, ids=lambda origin: origin[:40] or "empty")
async def test_origins(site: Site, origin: str) -> None:
    route = cors(
        allow_origins=["https://app.example.org", "https://*.below.example"],
        allow_origin_regexes=[r"http://dev\.example:\d{4}"],
    )
    gate = await site.gate([await site.endpoint(endpoint)], route=route)
    answer = await ask(gate, "1.1", "GET", {"Origin": origin})
    assert answer.all("access-control-allow-origin") == ([origin] if ALLOWED[origin] else [])


@both
async def test_a_preflight_finds_the_route_of_what_it_asks_for(site: Site, http: str) -> None:
    """Routes tell methods apart, and a preflight has a method of its own."""
    route = {**cors(allow_origins=[APP]), "methods": ("POST", "BREW")}
    gate = await site.gate([await site.endpoint(endpoint)], route=route)
    for method, status in (("POST", 204), ("BREW", 204), ("PUT", 405), ("WHEN", 405), ("A B", 405)):
        assert (await ask(gate, http, "OPTIONS", preflight(APP, method))).status == status
    assert (await ask(gate, http, "OPTIONS", {"Origin": APP})).status == 405
    assert (await ask(gate, http, "OPTIONS", {"Access-Control-Request-Method": "POST"})).status == 405


@both
async def test_other_options_go_to_the_endpoint(site: Site, http: str) -> None:
    gate = await site.gate([await site.endpoint(endpoint)], route=cors(allow_origins=[APP]))
    for fields in ({"Origin": APP}, {"Access-Control-Request-Method": "POST"}):
        answer = await ask(gate, http, "OPTIONS", fields)
        assert (answer.status, answer.body) == (200, b"OPTIONS / HTTP/1.1")
    plain = await site.gate([await site.endpoint(endpoint)])
    answer = await ask(plain, http, "OPTIONS", preflight(APP))  # no CORS here
    assert (answer.body, answer.all("access-control-allow-origin")) == (b"OPTIONS / HTTP/1.1", ["https://own.example"])


@both
async def test_pages_can_read_our_refusals(site: Site, http: str) -> None:
    gate = await site.gate([], route=cors(allow_origins=[APP]))
    answer = await ask(gate, http, "GET", {"Origin": APP})
    assert (answer.status, answer.all("access-control-allow-origin"), answer.all("vary")) == (503, [APP], ["Origin"])


@both
async def test_an_http2_pool(site: Site, http: str) -> None:
    own = [(":status", "200"), ("access-control-allow-origin", "https://own.example"), ("x-a", "1")]
    server = Http2Endpoint([(own, True)])
    pool = {"protocol": "http2"}
    gate = await site.gate([await site.endpoint(server.handle)], pool=pool, route=cors(allow_origins=[APP]))
    answer = await ask(gate, http, "GET", {"Origin": APP})
    assert (answer.status, answer.all("access-control-allow-origin"), answer.all("x-a")) == (200, [APP], ["1"])
    assert (await ask(gate, http, "OPTIONS", preflight(APP, "GET"))).status == 204
    assert server.methods == ["GET"]


@both
async def test_inference(site: Site, http: str) -> None:
    gate = await site.gate([await site.model(ModelServer())], pool=OIP, route=cors(allow_origins=[APP]))
    right = await ask(gate, http, "POST", {"Origin": APP}, INFER, INFERENCE)
    wrong = await ask(gate, http, "POST", {"Origin": APP}, INFER, b"{")
    assert (right.status, wrong.status) == (200, 400)
    assert right.all("access-control-allow-origin") == wrong.all("access-control-allow-origin") == [APP]
    assert (await ask(gate, http, "OPTIONS", preflight(APP), INFER)).status == 204


@both
async def test_grpc_web(site: Site, http: str) -> None:
    """What a page does with gRPC-Web: a preflight for its headers, then a call whose status it may read."""
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, route=cors(allow_origins=[APP]))
        path = "/test.Kinds/Unary"
        wanted = {"Access-Control-Request-Headers": "content-type,x-grpc-web"}
        asked = (await ask(gate, http, "OPTIONS", preflight(APP, **wanted), path)).cors()
        assert {"content-type", "x-grpc-web"} <= set(asked["allow-headers"][0].split(", "))
        fields = {"Content-Type": BINARY, "X-Grpc-Web": "1", "Origin": APP}
        answer = await ask(gate, http, "POST", fields, path, message(b"a"))
        assert (answer.status, answer.cors()["allow-origin"]) == (200, [APP])
        assert "grpc-status" in answer.cors()["expose-headers"][0].split(", ")
        missing = await ask(gate, http, "POST", fields, "/test.Kinds/None", message(b"a"))
        assert (missing.all("grpc-status"), missing.cors()["allow-origin"]) == (["12"], [APP])
