"""Error pages: in place of errors of ours, and of the endpoints' where they are asked for."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from datapath import Site
from h2_client import h2_client
from http_cache_site import Got, Origin, Reply, ask, cached_gate, read_answer
from ports import free_port
from pydantic import ValidationError
from routing_site import Numbers, marked, plan_of, routing_gate

from lb.config.checks.file import check_config
from lb.config.plan.routes import ErrorPagePlan
from lb.config.schema.file import Config
from lb.config.values import CLOSE, OPEN

PAGES: list[dict[str, Any]] = [
    {"on": [404], "body": "<h1>${error.status}</h1>${error.message}", "headers": {"X-Page": "${client.address}"}},
    {
        "on": [429, "5xx"],
        "body": '{"error": "${error.message}", "route": "${route.name}", "id": "${request.id:-none}"}',
        "headers": {"Content-Type": "application/json"},
    },
]


async def test_errors_of_ours_have_the_page_of_the_listener(site: Site) -> None:
    routes = [
        {"name": "down", "match": {"path": {"prefix": "/down"}}, "pool": "down"},
        {"name": "rare", "match": {"path": {"prefix": "/rare"}}, "pool": "down", "rate_limit": {"rate": "1/h"}},
        {
            "match": {"path": {"prefix": "/small"}},
            "pool": "down",
            "max_body": 10,
            "error_pages": [
                {"on": ["4xx"], "body": "too much", "headers": {"content-type": "text/plain"}, "status": 400},
                {"on": ["502"], "body": "down\n"},
            ],
        },
        {"match": {"path": {"exact": "/own"}}, "respond": {"status": 404, "body": "own"}},
    ]
    down = {"down": [f"127.0.0.1:{free_port()}"]}
    gate = await routing_gate(site, routes, down, error_pages=marked(PAGES), request_id=True)
    got = await ask(gate, "/nowhere")
    assert (got.status, got.body) == (404, b"<h1>404</h1>Not Found")
    assert [got.get(name) for name in ("content-type", "x-page")] == ["text/html; charset=utf-8", "127.0.0.1"]
    assert await headers_alone(gate, "/nowhere") == (404, str(len(got.body)))

    got = await ask(gate, "/down")
    assert (got.status, got.get("content-type")) == (502, "application/json")
    said = rb'{"error": "could not connect to the endpoint", "route": "down", "id": "[0-9a-f]{32}"}'
    assert re.fullmatch(said, got.body)

    assert (await ask(gate, "/rare")).status == 502
    rare = await ask(gate, "/rare")
    assert rare.status == 429
    assert int(rare.get("retry-after") or "") > 0
    assert b"too many requests" in rare.body

    small = await ask(gate, "/small", "POST", b"x" * 11)
    assert (small.status, small.body, small.get("content-type")) == (400, b"too much", "text/plain")
    assert (await ask(gate, "/small")).body == b"down\n"  # its own goes before the listener's
    own = await ask(gate, "/own")
    assert (own.status, own.body) == (404, b"own")

    async with h2_client(gate.port) as client:
        answer = await client.fetch("/nowhere")
        assert (answer.status, answer.body) == (404, b"<h1>404</h1>Not Found")
        answer = await client.fetch("/down")
        assert re.fullmatch(said, answer.body)


async def headers_alone(gate: Any, target: str) -> tuple[int, str | None]:
    got = await ask(gate, target, "HEAD")
    assert got.body == b""
    return got.status, got.get("content-length")


async def test_a_grpc_call_has_its_own_errors(site: Site) -> None:
    pools = {"a": {"protocol": "grpc", "endpoints": [f"127.0.0.1:{free_port()}"]}}
    pages = [{"on": ["4xx", "5xx"], "body": "page", "intercept": True}]
    gate = await routing_gate(site, [{"pool": "a"}], pools, error_pages=pages)
    async with h2_client(gate.port) as client:
        call = await client.fetch("/s/m", body=b"\0\0\0\0\0", fields=[("content-type", "application/grpc")])
    assert (call.status, call.body, call.field_of("grpc-status")) == (200, b"", "14")


async def test_errors_of_endpoints_where_a_page_intercepts(site: Site) -> None:
    held, stalled = asyncio.Event(), asyncio.Event()
    told: dict[str, Reply] = {
        "/404": Reply(404, [("Content-Encoding", "gzip"), ("ETag", '"a"'), ("Set-Cookie", "a=b")], b"\x1f\x8b"),
        "/503": Reply(503, [("Retry-After", "7"), ("Content-Type", "text/css")], b"x" * 2000, chunked=True),
        "/500": Reply(500, [], b"the endpoint's own"),
        "/large": Reply(404, [], b"x" * (1 << 20)),
        "/held": Reply(404, [], b"xx", gate=held),
        "/cut": Reply(404, [], b"xx", cut=1),
        "/stalled": Reply(404, [], b"xx", gate=stalled),
        "/200": Reply(200, [], b"good"),
    }
    origin = Origin(lambda asked: told[asked.target])
    pages = [
        {"on": ["5xx"], "body": "ours"},
        {"on": [404, 503], "body": "page of ${error.status} ${error.message}", "intercept": True, "status": 200},
    ]
    address = await site.endpoint(origin.serve)
    gate = await routing_gate(site, [{"pool": "a", "retry": "off", "error_pages": pages}], {"a": [address]})
    reader, writer = await gate.connect()  # one connection for all of them

    async def asked(target: str, method: str = "GET") -> Got:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return await read_answer(reader, method == "HEAD")

    for target in ("/404", "/large", "/cut", "/held", "/stalled"):
        got = await asked(target)
        held.set()
        assert (got.status, got.body) == (200, b"page of 404 Not Found"), target
        assert got.get("content-encoding") is None
        assert got.get("etag") is None
        assert got.get("content-length") == "21"
        assert got.get("cache-control") == "no-store"  # it is of this request alone
        assert (await asked("/200")).body == b"good"
    assert (await asked("/404")).get("set-cookie") == "a=b"
    got = await asked("/503")
    assert (got.body, got.get("retry-after")) == (b"page of 503 Service Unavailable", "7")
    assert got.get("content-type") == "text/html; charset=utf-8"
    got = await asked("/404", "HEAD")
    assert (got.body, got.get("content-length")) == (b"", "21")
    assert (await asked("/500")).body == b"the endpoint's own"
    # What an endpoint says is its status, whatever the client is told.
    answered = gate.total(gate.plan.listeners[0].routes[0].series).values("requests")
    assert answered["4xx"] == 6, answered
    assert answered["5xx"] == 3, answered  # with the one that was cut off
    stalled.set()
    writer.close()


async def test_a_cache_keeps_the_page_under_its_own_description(site: Site) -> None:
    fields = [("Cache-Control", "max-age=600"), ("Content-Type", "image/png"), ("ETag", '"a"')]
    origin = Origin(lambda asked: Reply(404, fields, b"png"))
    described = (("Content-Type", "text/html"),)
    for page, again in (
        (ErrorPagePlan((404,), described, b"same", intercept=True), 1),
        (ErrorPagePlan((404,), described, b"", f"{OPEN}client.port{CLOSE}", intercept=True), 2),
    ):
        gate = await cached_gate(site, origin, route={"error_pages": (page,)})
        origin.asked.clear()
        found = [await ask(gate, "/x") for _ in range(2)]
        assert len(origin.asked) == again
        for got in found:
            assert (got.status, got.get("content-type"), got.get("etag")) == (404, "text/html", None)
        assert (found[0].body == found[1].body) == (again == 1)


async def test_a_page_with_a_status_of_its_own_makes_no_error_worth_keeping(site: Site) -> None:
    """Whether a cache keeps an answer, and whether an old one may stand in for it, is said by the endpoint's status."""
    good = [("Cache-Control", "max-age=0, stale-if-error=600"), ("ETag", '"a"')]
    failing: set[str] = set()

    def told(asked: Any) -> Reply:
        if asked.target in failing or asked.target == "/503":
            return Reply(503, [], b"down")
        if asked.target == "/404":
            return Reply(404, [("Last-Modified", "Tue, 01 Dec 2020 07:23:12 GMT"), ("ETag", '"a"')], b"no")
        return Reply(200, good, b"good")

    origin = Origin(told)
    page = ErrorPagePlan((404, 503), (), b"page", intercept=True, status=200)
    rules = {"ttl_s": 60, "stale_if_error_s": 600}
    gate = await cached_gate(site, origin, rules=rules, route={"error_pages": (page,)})
    for target, asked, said in (
        ("/503", 2, "tidegate; fwd=uri-miss; fwd-status=503"),
        ("/404", 1, "tidegate; fwd=uri-miss; fwd-status=404; stored"),  # it may be kept without a word
    ):
        origin.asked.clear()
        found = [await ask(gate, target) for _ in range(2)]
        assert [(got.status, got.body) for got in found] == [(200, b"page")] * 2
        assert found[0].get("cache-status") == said
        assert len(origin.asked) == asked, target
    # Logs and metrics have the endpoint's error, also of a page from the cache.
    assert {name: n for name, n in gate.total(2).values("requests").items() if n} == {"5xx": 2, "4xx": 2}
    for condition in ({"If_Modified_Since": "Tue, 01 Dec 2026 07:23:12 GMT"}, {"If_None_Match": '"a"'}):
        assert (await ask(gate, "/404", **condition)).status == 200  # what the endpoint dates is not the page
    assert (await ask(gate, "/x")).body == b"good"
    failing.add("/x")
    for _ in range(2):
        got = await ask(gate, "/x")
        assert (got.status, got.body) == (200, b"good"), got
        assert "stale-if-error" in (got.get("cache-status") or "")
    # A change that failed has changed nothing.
    await ask(gate, "/y")
    failing.add("/y")
    assert (await ask(gate, "/y", "POST", b"x")).body == b"page"
    assert (await ask(gate, "/y")).body == b"good"


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that speaks HTTP/2 and answers with 500, and a body without end to /endless."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    while True:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                connection.send_headers(event.stream_id, [(":status", "500"), ("content-type", "text/css")])
                endless = dict(event.headers)[":path"] == "/endless"
                for _ in range(3 if endless else 1):
                    connection.send_data(event.stream_id, b"x" * 16000, end_stream=not endless)


async def test_http2_on_both_sides(site: Site) -> None:
    pools = {"a": {"protocol": "http2", "endpoints": [await site.endpoint(refusing)]}}
    pages = [{"on": ["5xx"], "body": "page", "intercept": True}]
    gate = await routing_gate(site, [{"pool": "a"}], pools, error_pages=pages)
    async with h2_client(gate.port) as client:
        for _ in range(2):
            answer = await client.fetch("/", body=b"")
            assert (answer.status, answer.body, answer.field_of("content-type")) == (
                500, b"page", "text/html; charset=utf-8",
            )  # fmt: skip
            assert answer.field_of("content-length") == "4"
        stream = client.request("/endless", method="POST")
        await asyncio.wait_for(client.answers[stream].begun.wait(), 10)
        while client.answers[stream].body != b"page":
            await asyncio.sleep(0.01)
        assert (await client.fetch("/", body=b"")).body == b"page"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"on": [200], "body": "x"}, "is not the status of an error"),
        ({"on": ["3xx"], "body": "x"}, "is not the status of an error"),
        ({"on": [], "body": "x"}, "at least 1 item"),
        ({"on": [404], "body": "${request.host}"}, "request.host} is not known of errors"),
        ({"on": [404], "body": "${error.statu}"}, "did you mean error.status"),
        ({"on": [404], "headers": {"Content-Length": "1"}}, "Content-Length is set by Tidegate itself"),
        ({"on": [404], "status": 204}, "has no body"),
        ({"on": [404], "body": "x", "file": "/x"}, "one of them is enough"),
    ],
)
def test_what_is_no_page_is_refused(page: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        plan_of([{"pool": "a", "error_pages": [page]}], {"a": ["127.0.0.1:1"]}, Numbers())


def test_values_of_errors_are_for_their_pages() -> None:
    with pytest.raises(ValidationError, match="is for error_pages only"):
        plan_of([{"respond": {"body": "${error.status}"}}], {}, Numbers())
    web: dict[str, Any] = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"respond": {}}]}
    web["error_pages"] = marked([{"on": [404], "body": "${request.id}"}])
    said = "${request.id} needs request_id: true of the listener"
    assert check_config(Config.model_validate({"listeners": {"web": web}})) == [
        ("listeners.web.error_pages[0].body", said)
    ]
