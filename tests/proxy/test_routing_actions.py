"""What routes do to requests and answers: rewrite, redirect, respond, change headers, split, limit."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from datapath import Gate, Site, settle
from hedge_site import ENDPOINTS
from oip_site import INFER, ModelServer, echo
from ports import free_port
from routing_site import curl, routing_gate, shown

from lb.proxy.exchange.explain.described import Described

H = "-H"


async def first_line(site: Site, route: dict[str, Any], target: str) -> bytes:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a", **route}], pools)
    assert (await curl(gate, target)).body == "a"
    return made["a"].last.partition(b"\r\n")[0]


REWRITES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"prefix": "/api/"}, {"prefix": "/"}, "/api/x?q=1", "/x?q=1"),
    ({"prefix": "/api/"}, {"prefix": "/v2/api/"}, "/api/", "/v2/api/"),
    ({"exact": "/old"}, {"path": "/new"}, "/old?q", "/new?q"),
    ({"template": "/m/{model}/{verb}"}, {"path": "/v2/models/{model}/{verb}"}, "/m/a%20b/x", "/v2/models/a%20b/x"),
    ({"template": "/{a}/{rest...}"}, {"path": "/{rest}/{a}"}, "/x/y/z", "/y/z/x"),
    ({"prefix": "/"}, {"regex": {"pattern": "^/u/([^/]+)/(.*)$", "substitution": r"/\2/\1"}}, "/u/a/x/y?z", "/x/y/a?z"),
    ({"prefix": "/"}, {"regex": {"pattern": "a", "substitution": "bb"}}, "/banana", "/bbbnbbnbb"),
    ({"prefix": "/"}, {"regex": {"pattern": "^/", "substitution": ""}}, "/x", "/x"),
    ({"prefix": "/"}, {"regex": {"pattern": "x*", "substitution": "-"}}, "/axb", "/-/-a-b-"),
    ({"prefix": "/"}, {"regex": {"pattern": "no", "substitution": "yes"}}, "/x", "/x"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "rewrite", "sent", "got"), REWRITES)
async def test_rewrite_of_the_path(
    site: Site, path: dict[str, Any], rewrite: dict[str, Any], sent: str, got: str
) -> None:
    line = await first_line(site, {"match": {"path": path}, "rewrite": rewrite}, sent)
    assert line == f"GET {got} HTTP/1.1".encode()


async def test_a_substitution_may_not_grow_without_end(site: Site) -> None:
    made, pools = await shown(site, "a")
    rewrite = {"regex": {"pattern": "a", "substitution": "b" * 4000}}
    gate = await routing_gate(site, [{"pool": "a", "rewrite": rewrite}], pools)
    assert (await curl(gate, "/" + "a" * 1000)).status == 414
    assert made["a"].requests == []


async def test_rewrite_of_the_host(site: Site) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a", "rewrite": {"host": "in.side:8080"}}], pools)
    await curl(gate, "/", H, "Host: out.side")
    assert b"Host: in.side:8080\r\n" in made["a"].last
    assert b"X-Forwarded-Host: out.side\r\n" in made["a"].last
    assert made["a"].last.lower().count(b"\nhost:") == 1
    await curl(gate, "/", "-0", H, "Host:")
    assert made["a"].last.lower().count(b"\nhost: in.side:8080\r\n") == 1


async def test_changes_to_request_headers(site: Site) -> None:
    made, pools = await shown(site, "a")
    changes = {"set": {"X-Set": "1"}, "add": {"X-Add": "2"}, "remove": ["X-Gone", "User-Agent"]}
    gate = await routing_gate(site, [{"pool": "a", "request_headers": changes}], pools)
    await curl(gate, "/", H, "x-set: 0", H, "X-SET: 00", H, "x-add: 0", H, "x-gone: 0", H, "X-Other: 3")
    head = made["a"].last.lower()
    assert head.count(b"x-set:") == 1
    assert b"\r\nx-set: 1\r\n" in head
    assert b"\r\nx-add: 0\r\n" in head
    assert b"\r\nx-add: 2\r\n" in head
    assert b"x-gone" not in head
    assert b"user-agent" not in head
    assert b"x-other: 3" in head


async def test_a_client_cannot_take_away_what_a_route_sets(site: Site) -> None:
    made, pools = await shown(site, "a")
    changes = {"set": {"X-User": "nobody"}}
    gate = await routing_gate(site, [{"pool": "a", "request_headers": changes}], pools)
    await curl(gate, "/", H, "X-User: root", H, "Connection: x-user, X-Mine", H, "X-Mine: 1")
    assert b"X-User: nobody\r\n" in made["a"].last
    assert b"root" not in made["a"].last
    assert b"X-Mine" not in made["a"].last


async def test_changes_to_the_answers_headers(site: Site) -> None:
    made, pools = await shown(site, "a")
    made["a"].answers = [b"HTTP/1.1 200 OK\r\nServer: x\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n"]
    changes = {"set": {"Strict-Transport-Security": "max-age=1"}, "add": {"x-a": "2"}, "remove": ["server"]}
    gate = await routing_gate(site, [{"pool": "a", "response_headers": changes}], pools)
    for _ in range(2):
        reply = await curl(gate, "/")
        assert reply.status == 200
        assert reply.fields["strict-transport-security"] == "max-age=1"
        assert reply.fields["x-a"] == "2"  # the later of the two lines
        assert "server" not in reply.fields


REDIRECTS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {"scheme": "https"}, "/x?y=1", "https://a.org/x?y=1"),
    ({}, {"scheme": "https", "host": "b.org:8443"}, "/x", "https://b.org:8443/x"),
    ({}, {"host": "b.org"}, "/x", "http://b.org/x"),
    ({}, {"path": "/new", "drop_query": True}, "/x?y", "/new"),
    ({"path": {"prefix": "/a/"}}, {"prefix": "/b/"}, "/a/x?y", "/b/x?y"),
    ({"path": {"template": "/u/{n}"}}, {"path": "/users/{n}"}, "/u/7", "/users/7"),
    ({}, {"regex": {"pattern": "^/+", "substitution": "//y/"}}, "/x", "/y/x"),
    ({}, {"location": "/new"}, "/x?y", "/new"),
    ({}, {"location": "https://b.org/new?z"}, "/x?y", "https://b.org/new?z"),
    ({"path": {"prefix": "/go/"}}, {"prefix": "/"}, "/go//evil.example", "/evil.example"),
    ({"path": {"prefix": "/go/"}}, {"prefix": "/"}, "/go/\\evil.example", "/evil.example"),
]


@pytest.mark.parametrize(("match", "redirect", "sent", "location"), REDIRECTS)
async def test_redirect(site: Site, match: dict[str, Any], redirect: dict[str, Any], sent: str, location: str) -> None:
    gate = await routing_gate(site, [{"match": match, "redirect": redirect}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, sent, H, f"Host: a.org:{gate.port}")
    assert reply.status == 302
    assert reply.fields["location"] == location
    assert reply.body == ""


@pytest.mark.parametrize(
    ("more", "sent", "host", "location"),
    [
        ({}, "/old/x?q", "a.org", "/new/x?q"),
        ({}, "/other?q", "a.org", None),  # else a client would follow it for ever
        ({}, "/", "a.org", None),
        ({"drop_query": True}, "/other?q", "a.org", "/other"),
        ({"drop_query": True}, "/other", "a.org", None),
        ({"host": "b.org"}, "/other", "a.org", "http://b.org/other"),
        ({"scheme": "https"}, "/other", "a.org:81", "https://a.org/other"),
        ({"scheme": "http"}, "/other", "a.org:81", "http://a.org/other"),
        ({"scheme": "http"}, "/other", "a.org", None),
        ({"host": "${request.host}.example"}, "/other", "a.org", "http://a.org.example/other"),
        ({"regex": {"pattern": "o", "substitution": "o"}}, "/other", "a.org", None),
        ({"regex": {"pattern": "^/", "substitution": "//"}}, "/other", "a.org", None),
    ],
)
async def test_a_redirect_never_leads_back(
    site: Site, more: dict[str, Any], sent: str, host: str, location: str | None
) -> None:
    redirect = {"regex": {"pattern": "^/old/", "substitution": "/new/"}, **more}
    gate = await routing_gate(site, [{"redirect": redirect}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, sent, H, f"Host: {host}")
    assert (reply.status, reply.fields.get("location")) == ((404, None) if location is None else (302, location))
    if location is None:
        assert "changes nothing" in reply.body
    assert gate.proxy.busy() == 0


SAYS_HTTPS = "X-Forwarded-Proto: https"


@pytest.mark.parametrize(
    ("trusted", "said", "redirect", "location"),
    [
        (["127.0.0.0/8"], [SAYS_HTTPS], {"host": "b.org"}, "https://b.org/x"),
        (["127.0.0.0/8"], ["X-Forwarded-Proto: HTTPS"], {"host": "${request.host}.example"}, "https://a.org.example/x"),
        (["127.0.0.0/8"], [SAYS_HTTPS], {"scheme": "http", "host": "b.org"}, "http://b.org/x"),
        (["127.0.0.0/8"], ["X-Forwarded-Proto: gopher"], {"host": "b.org"}, "http://b.org/x"),
        (["127.0.0.0/8"], ["X-Forwarded-Proto:"], {"host": "b.org"}, "http://b.org/x"),
        (["127.0.0.0/8"], [], {"host": "b.org"}, "http://b.org/x"),
        (["10.0.0.0/8"], [SAYS_HTTPS], {"host": "b.org"}, "http://b.org/x"),
        ([], [SAYS_HTTPS], {"host": "b.org"}, "http://b.org/x"),
        # Where the client is already, by the word of the proxy.
        (["127.0.0.0/8"], [SAYS_HTTPS], {"scheme": "https", "regex": {"pattern": "z", "substitution": "y"}}, None),
    ],
)
async def test_a_redirect_to_a_host_has_the_scheme_that_the_client_uses(
    site: Site, trusted: list[str], said: list[str], redirect: dict[str, Any], location: str | None
) -> None:
    gate = await routing_gate(site, [{"redirect": redirect}], {"a": ["127.0.0.1:1"]}, trusted_proxies=trusted)
    reply = await curl(gate, "/x", H, "Host: a.org", *(part for line in said for part in (H, line)))
    assert (reply.status, reply.fields.get("location")) == (404 if location is None else 302, location)


@pytest.mark.parametrize("head", ["HTTP/1.0", "HTTP/1.0\r\nHost:", "HTTP/1.1\r\nHost:"])
async def test_a_redirect_to_another_scheme_needs_a_host(site: Site, head: str) -> None:
    gate = await routing_gate(site, [{"redirect": {"scheme": "https"}}], {"a": ["127.0.0.1:1"]})
    answer = await gate.exchange(f"GET /x {head}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"names no host" in answer
    assert b"location" not in answer.lower()
    assert gate.proxy.busy() == 0


@pytest.mark.parametrize("redirect", [{"scheme": "https", "host": "b.org"}, {"scheme": "http", "path": "/y"}])
async def test_other_redirects_need_no_host(site: Site, redirect: dict[str, Any]) -> None:
    gate = await routing_gate(site, [{"redirect": redirect}], {"a": ["127.0.0.1:1"]})
    answer = await gate.exchange(b"GET /x HTTP/1.0\r\n\r\n")
    assert b"\r\nLocation: " + (b"https://b.org/x" if "host" in redirect else b"/y") + b"\r\n" in answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_has_its_status(site: Site, status: int) -> None:
    gate = await routing_gate(site, [{"redirect": {"status": status, "path": "/"}}], {"a": ["127.0.0.1:1"]})
    assert (await curl(gate, "/x", "-d", "body")).status == status


async def test_fixed_answer(site: Site) -> None:
    respond = {"status": 503, "headers": {"Content-Type": "text/plain", "Retry-After": "60"}, "body": "bäck soon\n"}
    gate = await routing_gate(site, [{"respond": respond, "name": "sorry"}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, "/x")
    assert (reply.status, reply.body) == (503, "bäck soon\n")
    assert reply.fields["content-type"] == "text/plain"
    assert reply.fields["retry-after"] == "60"
    assert "date" in reply.fields
    series = gate.total(gate.plan.listeners[0].routes[0].series)
    assert series["requests.5xx"] == 1
    assert series["started"] == series["finished"] == 1
    assert gate.proxy.busy() == 0


async def test_an_answer_keeps_the_connection(site: Site) -> None:
    gate = await routing_gate(site, [{"respond": {"body": "ok"}}], {"a": ["127.0.0.1:1"]})
    reader, writer = await gate.connect()
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await reader.read(-1)).endswith(b"\r\n\r\n")


async def test_an_answer_without_content_has_no_length(site: Site) -> None:
    gate = await routing_gate(site, [{"respond": {"status": 204}}], {"a": ["127.0.0.1:1"]})
    reply = await curl(gate, "/")
    assert reply.status == 204
    assert "content-length" not in reply.fields


# Splits.


async def counts(gate: Gate, requests: int, *options: bytes) -> dict[bytes, int]:
    """How often each endpoint answered `requests` requests on one connection."""
    reader, writer = await gate.connect()
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(options) + b"\r\n"
    writer.write(head * requests)
    found: dict[bytes, int] = {}
    for _ in range(requests):
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        name = answer.partition(b"X-From: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(len(name))
        found[name] = found.get(name, 0) + 1
    writer.close()
    return found


async def test_shares_are_as_weighted(site: Site) -> None:
    """The canary's part of n requests is binomial: within 5 standard deviations but once in 1.7 million runs."""
    _, pools = await shown(site, "stable", "canary", "off")
    split = [{"pool": "stable", "weight": 90}, {"pool": "canary", "weight": 10}, {"pool": "off", "weight": 0}]
    gate = await routing_gate(site, [{"pools": split}], pools)
    requests = 4000
    found = await counts(gate, requests)
    assert set(found) == {b"stable", b"canary"}
    assert abs(found[b"canary"] - requests * 0.1) < 5 * math.sqrt(requests * 0.1 * 0.9)


async def test_a_key_keeps_its_share_and_moves_only_towards_what_grows(site: Site) -> None:
    _, pools = await shown(site, "stable", "canary")

    async def chosen(canary: int) -> dict[int, bytes]:
        split = [{"pool": "canary", "weight": canary}, {"pool": "stable", "weight": 100 - canary}]
        gate = await routing_gate(site, [{"pools": split, "sticky": {"header": "x-user"}}], pools)
        found = {}
        for user in range(300):
            (name,) = await counts(gate, 2, b"X-User: u%d\r\n" % user)
            found[user] = name
        return found

    some, more = await chosen(20), await chosen(50)
    assert all(more[user] == b"canary" for user, name in some.items() if name == b"canary")
    for found, share in ((some, 0.2), (more, 0.5)):
        got = sum(name == b"canary" for name in found.values())
        assert abs(got - 300 * share) < 5 * math.sqrt(300 * share * (1 - share))


# Limits, timeouts, retries.


async def test_no_more_in_flight_than_the_route_allows(site: Site) -> None:
    made, pools = await shown(site, "a")
    made["a"].delay = 2
    gate = await routing_gate(site, [{"pool": "a", "max_in_flight": 2}], pools)
    replies = await asyncio.gather(*(curl(gate, "/") for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 200, 503, 503, 503]
    assert all("retry-after" in reply.fields for reply in replies if reply.status == 503)
    assert (await curl(gate, "/")).status == 200


async def test_the_routes_own_response_timeout(site: Site) -> None:
    made, pools = await shown(site, "a")
    made["a"].delay = 5
    gate = await routing_gate(site, [{"pool": "a", "response_timeout": 100_000_000}], pools)
    assert (await curl(gate, "/")).status == 504


BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_retry_after_503(site: Site) -> None:
    made, pools = await shown(site, "a")
    made["a"].answers = [BAD, BAD, GOOD]
    retry = {"attempts": 2, "on": ["5xx"], "budget": 100}
    gate = await routing_gate(site, [{"pool": "a", "retry": retry}], pools)
    assert (await curl(gate, "/")).body == "ok"
    assert len(made["a"].requests) == 3
    made["a"].answers = [BAD]
    assert (await curl(gate, "/")).body == "bad"
    assert len(made["a"].requests) == 6
    assert (await curl(gate, "/", "-d", "x")).body == "bad"  # POST is not repeated
    assert len(made["a"].requests) == 7
    await settle(lambda: gate.in_flight() == 0, "in-flight goes back to nothing")


async def test_retry_after_a_try_that_took_too_long(site: Site) -> None:
    made, pools = await shown(site, "slow", "fast")
    made["slow"].delay = 5
    both = {"endpoints": pools["slow"] + pools["fast"], "policy": "round_robin"}
    retry = {"attempts": 1, "on": ["timeout"], "per_attempt_timeout": 100_000_000, "budget": 100}
    gate = await routing_gate(site, [{"pool": "both", "retry": retry}], {"both": both})
    for _ in range(4):
        assert (await curl(gate, "/")).body == "fast"
    assert made["slow"].requests
    await settle(lambda: gate.in_flight() == 0, "in-flight goes back to nothing")


async def test_no_retry_that_the_route_does_not_name(site: Site) -> None:
    _, pools = await shown(site, "a")
    addresses = [f"127.0.0.1:{free_port()}", *pools["a"]]
    both = {"endpoints": addresses, "policy": "round_robin", "avoid_failing": False}
    gate = await routing_gate(site, [{"pool": "both", "retry": {"on": ["5xx"]}}], {"both": both})
    statuses = [(await curl(gate, "/")).status for _ in range(4)]
    assert sorted(statuses) == [200, 200, 502, 502]
    gate = await routing_gate(site, [{"pool": "both", "retry": {"on": ["connect"]}}], {"both": both})
    assert [(await curl(gate, "/")).status for _ in range(4)] == [200] * 4


BODY = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}'


@pytest.mark.parametrize(("on", "status"), [(["timeout"], 200), (["connect"], 504)])
async def test_an_inference_that_takes_too_long_goes_elsewhere(site: Site, on: list[str], status: int) -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(3)
        return await echo(request, context)

    servers = ModelServer(slow), ModelServer()
    addresses = [await site.model(server) for server in servers]
    pools = {"models": {"protocol": "oip", "endpoints": addresses, "policy": "round_robin"}}
    retry = {"on": on, "per_attempt_timeout": 200_000_000, "budget": 100}
    gate = await routing_gate(site, [{"pool": "models", "retry": retry}], pools)
    statuses = [(await curl(gate, INFER, "-d", BODY)).status for _ in range(2)]
    assert status in statuses
    assert 200 in statuses
    assert servers[0].requests
    await settle(lambda: gate.in_flight() == 0, "in-flight goes back to nothing")


async def test_headers_of_an_inference_answer(site: Site) -> None:
    pools = {"models": {"protocol": "oip", "endpoints": [await site.model(ModelServer())]}}
    route = {"pool": "models", "match": {"model": "m"}, "response_headers": {"set": {"X-Model": "yes"}}}
    gate = await routing_gate(site, [route], pools)
    reply = await curl(gate, INFER, "-d", BODY)
    assert (reply.status, reply.fields["x-model"]) == (200, "yes")


TOLD = (
    "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "Via", "X-Request-Id",
)  # fmt: skip
TELLS_ALL = {"request_id": True, "forwarded_header": True, "bind": "127.0.0.1:8080"}


def names_of(head: bytes) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line)
    return {name.lower(): value for name, value in pairs}


@pytest.mark.parametrize("protocol", ["http", "http2"])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"])
@pytest.mark.parametrize("sent", [True, False])
async def test_what_is_removed_is_not_told_by_us_either(site: Site, protocol: str, name: str, sent: bool) -> None:
    endpoint = ENDPOINTS[protocol]("a", ["answer"])
    pools = {"a": {"protocol": protocol, "endpoints": [await site.endpoint(endpoint)]}}
    routes = [
        {"match": {"path": {"prefix": "/all"}}, "pool": "a"},
        {"pool": "a", "request_headers": {"remove": [name.lower()]}},
    ]
    gate = await routing_gate(site, routes, pools)
    reader, writer = await gate.connect()
    heads = []
    own = f"{name}: 1.1 client\r\n".encode() if sent else b""
    for path in (b"/x", b"/all", b"/x"):
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + own + b"\r\n")
        await reader.readuntil(b"\r\n\r\na")
        heads.append(names_of(endpoint.seen[-1]) if protocol == "http" else endpoint.fields[-1])
    writer.close()
    assert [name.lower() in head for head in heads] == [False, True, False]
    others = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via"} - {name.lower()}
    assert all(others <= head.keys() for head in heads)


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_what_is_set_is_told_instead_of_ours(site: Site, protocol: str) -> None:
    endpoint = ENDPOINTS[protocol]("a", ["answer"])
    pools = {"a": {"protocol": protocol, "endpoints": [await site.endpoint(endpoint)]}}
    gate = await routing_gate(site, [{"pool": "a", "request_headers": {"set": {"Via": "1.1 front"}}}], pools)
    assert (await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).endswith(b"a")
    if protocol == "http":
        lines = [line.lower() for line in endpoint.seen[0].split(b"\r\n")]
        assert [line for line in lines if line.startswith(b"via")] == [b"via: 1.1 front"]
    else:
        assert endpoint.fields[0]["via"] == "1.1 front"


@pytest.mark.parametrize("name", TOLD)
async def test_every_field_that_we_tell_can_be_removed(site: Site, name: str) -> None:
    made, pools = await shown(site, "a")
    routes = [
        {"match": {"path": {"prefix": "/all"}}, "pool": "a"},
        {"pool": "a", "request_headers": {"remove": [name]}},
    ]
    gate = await routing_gate(site, routes, pools, **TELLS_ALL)
    await curl(gate, "/all")
    everything = names_of(made["a"].last)
    await curl(gate, "/x")
    assert everything.keys() - names_of(made["a"].last).keys() == {name.lower()}


async def test_a_source_condition_goes_by_the_word_of_trusted_proxies(site: Site) -> None:
    _, pools = await shown(site, "inside", "outside")
    routes = [{"match": {"source": ["10.0.0.0/8"]}, "pool": "inside"}, {"pool": "outside"}]
    gate = await routing_gate(site, routes, pools, trusted_proxies=["127.0.0.0/8"])
    assert (await curl(gate, "/", H, "X-Forwarded-For: 10.1.2.3")).body == "inside"
    assert (await curl(gate, "/", H, "X-Forwarded-For: 10.1.2.3, 192.0.2.1")).body == "outside"
    assert (await curl(gate, "/")).body == "outside"
    explained = gate.proxy.explain(Described("web", headers=(("X-Forwarded-For", "10.1.2.3"),), source="127.0.0.1"))
    assert explained["pool"]["name"] == "inside"
    untrusted = await routing_gate(site, routes, pools)
    assert (await curl(untrusted, "/", H, "X-Forwarded-For: 10.1.2.3")).body == "outside"


@pytest.mark.parametrize("host", ["a.test", "A.TEST", "a.test.", "A.test.:8080", "a.test:", "a.test:80"])
async def test_an_explanation_takes_the_host_as_a_request_does(site: Site, host: str) -> None:
    _, pools = await shown(site, "right", "other")
    gate = await routing_gate(site, [{"match": {"host": "a.test"}, "pool": "right"}, {"pool": "other"}], pools)
    answer = await gate.exchange(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    served = answer.rpartition(b"\r\n\r\n")[2].decode()
    for asked in (
        Described("web", host=host),
        Described("web", headers=(("Host", host),)),
        Described("web", host="else", target=f"http://{host}/x"),
    ):
        found = gate.proxy.explain(asked)
        assert (found["pool"] or {"name": ""})["name"] == (served if answer.startswith(b"HTTP/1.1 200") else "")


async def test_an_explanation_says_400_where_a_request_gets_it(site: Site) -> None:
    _, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a"}], pools)
    for host in ("a/b", "a@b", 'a"b#c'):
        assert (
            await gate.exchange(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        ).startswith(b"HTTP/1.1 400 ")
        found = gate.proxy.explain(Described("web", host=host))
        assert found["pool"] is None
        assert "400" in found["reason"]
