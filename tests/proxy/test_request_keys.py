"""Keys of a request as it came: its path, its URI and texts with its values, for policies, splits and rate limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from datapath import Gate, Site
from routing_site import Numbers, plan_of, routing_gate

from lb.proxy.exchange.explain.described import Described

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# Over five endpoints they come to three at least, but for once in 300 million runs.
PATHS = [f"/a/{i}/x" for i in range(24)]


def named(name: str) -> Handler:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name.encode()))

    return serve


async def ask(gate: Gate, target: str = "/", *fields: str) -> str:
    """The endpoint that answers; "429" where it is refused."""
    lines = [f"GET {target} HTTP/1.1", "Host: a.org:8080", "Connection: close", *fields, "", ""]
    head, _, body = (await gate.exchange("\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return body.decode() if head.startswith(b"HTTP/1.1 200 ") else head.split()[1].decode()


async def keyed(site: Site, key: dict[str, Any], route: dict[str, Any] | None = None, **listener: Any) -> Gate:
    endpoints = [await site.endpoint(named(f"e{i}")) for i in range(5)]
    pool = {"endpoints": endpoints, "policy": {"type": "maglev", "key": key}}
    return await routing_gate(site, [{"pool": "p", **(route or {})}], {"p": pool}, **listener)


async def places(gate: Gate, targets: list[str], *fields: str) -> list[str]:
    return [await ask(gate, target, *fields) for target in targets]


async def test_a_path_has_its_endpoint_whatever_its_query(site: Site) -> None:
    gate = await keyed(site, {"path": True})
    first = await places(gate, PATHS)
    assert len(set(first)) > 2
    assert await places(gate, [f"{path}?q={i}" for i, path in enumerate(PATHS)]) == first
    assert await places(gate, [path.replace("/a/", "/b/../a/./") for path in PATHS]) == first
    explained = [gate.proxy.explain(Described("web", target=f"{path}?q=1"))["pool"] for path in PATHS]
    assert [found["key"] for found in explained] == [{"from": "path", "value": path} for path in PATHS]
    addresses = [endpoint.address for endpoint in gate.plan.pools[0].endpoints]
    assert [f"e{addresses.index(found['choice']['address'])}" for found in explained] == first


async def test_a_uri_has_one_with_its_query(site: Site) -> None:
    gate = await keyed(site, {"uri": True})
    targets = [f"/x?q={i}" for i in range(24)]
    first = await places(gate, targets)
    assert len(set(first)) > 2
    assert await places(gate, targets) == first


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ({"path": {"depth": 1}}, ["/a", "/a/b", "/a/b/c?d"], ["/b", "/c", "/d", "/e", "/f", "/g", "/ab", "/ac"]),
        ({"path": {"depth": 2}}, ["/a/b", "/a/b/c", "/a/b/"], [f"/a/{i}/c" for i in range(8)]),
        ({"uri": {"depth": 1}}, ["/a/b?c", "/a/d"], [f"/a?{i}" for i in range(8)]),
        ({"path": {"length": 3}}, ["/ab", "/abc", "/abd?e"], [f"/{i}b" for i in range(10, 18)]),
        ({"uri": {"length": 4}}, ["/a?b", "/a?bc"], [f"/{i}?c" for i in range(8)]),
    ],
)
async def test_the_beginning_that_counts(site: Site, key: dict[str, Any], same: list[str], other: list[str]) -> None:
    gate = await keyed(site, key)
    assert len(set(await places(gate, same))) == 1
    assert len(set(await places(gate, other))) > 1


async def test_a_rewrite_and_a_header_of_the_route_do_not_matter(site: Site) -> None:
    route = {
        "rewrite": {"path": "/one"},
        "request_headers": {"set": {"X-User": "nobody"}, "remove": ["X-Tenant"]},
    }
    paths = await keyed(site, {"path": True}, route)
    assert len(set(await places(paths, PATHS))) > 2
    tenants = await keyed(site, {"text": "${header.x-tenant}/${header.x-user}"}, route)
    found = [await ask(tenants, "/", f"X-Tenant: {i}", "X-User: u") for i in range(24)]
    assert len(set(found)) > 2
    assert [await ask(tenants, "/x", f"X-Tenant: {i}", "X-User: u") for i in range(24)] == found


async def test_a_text_and_what_counts_without_it(site: Site) -> None:
    gate = await keyed(site, {"text": "${header.x-user:-${cookie.user}}"})
    first = [await ask(gate, "/", f"X-User: u{i}") for i in range(24)]
    assert len(set(first)) > 2
    assert [await ask(gate, f"/{i}", f"Cookie: a=b; user=u{i}") for i in range(24)] == first
    # Without a text, and with one that is longer than any, a request counts by its source.
    nobody = {await ask(gate, f"/{i}", f"X-Other: {i}") for i in range(6)}
    assert len(nobody) == 1
    long = await keyed(site, {"text": "${header.x-user}" * 3})
    assert len({await ask(long, "/", f"X-User: {'x' * 5000}{i}") for i in range(24)}) > 2
    assert len({await ask(long, "/", f"X-User: {'x' * 8000}{i}") for i in range(24)}) == 1
    host = await keyed(site, {"text": "${request.host}${request.path}"})
    found = await places(host, PATHS)
    assert len(set(found)) > 2
    addresses = [endpoint.address for endpoint in host.plan.pools[0].endpoints]
    for path, name in zip(PATHS, found, strict=True):
        explained = host.proxy.explain(Described("web", target=f"{path}?q=1", host="a.org:8080"))["pool"]
        assert explained["key"]["value"] == f"a.org{path}"
        assert explained["choice"]["address"] == addresses[int(name[1:])]


async def test_a_split_keeps_like_requests_together(site: Site) -> None:
    one, two = await site.endpoint(named("one")), await site.endpoint(named("two"))
    shares = [{"pool": "one", "weight": 1}, {"pool": "two", "weight": 1}]
    for key in ({"path": True}, {"uri": {"depth": 2}}, {"text": "${request.host}${request.path}"}):
        gate = await routing_gate(site, [{"pools": shares, "sticky": key}], {"one": [one], "two": [two]})
        first = await places(gate, PATHS)
        assert set(first) == {"one", "two"}
        for _ in range(2):
            assert await places(gate, PATHS) == first


async def test_rates_by_path_uri_and_text(site: Site) -> None:
    pools = {"p": [await site.endpoint(named("e"))]}

    async def limited(key: dict[str, Any], **match: Any) -> Gate:
        limit = {"rate": "1/h", "burst": 1, "key": key}
        return await routing_gate(site, [{"pool": "p", "rate_limit": limit, "match": match}], pools)

    gate = await limited({"path": True})
    assert await places(gate, ["/a", "/a?b", "/b", "/./b"]) == ["e", "429", "e", "429"]
    gate = await limited({"uri": True})
    assert await places(gate, ["/a", "/a?b", "/a", "/a?b"]) == ["e", "e", "429", "429"]
    gate = await limited({"text": "${client.address}${request.path}"})
    assert await places(gate, ["/a", "/b", "/a?c"]) == ["e", "e", "429"]
    gate = await limited({"text": "${capture.tenant}"}, path={"regex": "^/t/(?P<tenant>[a-z]+)/"})
    assert await places(gate, ["/t/ann/1", "/t/bob/1", "/t/ann/2"]) == ["e", "e", "429"]
    gate = await limited({"text": "${header.x-user}"})
    assert await ask(gate, "/", "X-User: a") == "e"
    assert [await ask(gate) for _ in range(2)] == ["e", "429"]  # by its source
    assert await ask(gate, "/", "X-User: a") == "429"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"path": True, "uri": True}, "path and uri"),
        ({"path": {"depht": 1}}, r"key\.path\.depht"),
        ({"path": {"depth": 0}}, "greater than or equal to 1|at least 1"),
        ({"text": "${map.x}"}, "a key cannot have"),
        ({"text": "${capture.1}"}, "a key cannot have"),
        ({"text": "${endpoint.address}"}, "a key cannot have"),
        ({"text": "${request.hots}"}, "did you mean request.host"),
        ({"text": ""}, "at least 1 character"),
    ],
)
def test_keys_that_there_are_not(key: dict[str, Any], said: str) -> None:
    pool = {"endpoints": ["127.0.0.1:1"], "policy": {"type": "maglev", "key": key}}
    with pytest.raises(ValueError, match=said):
        plan_of([{"pool": "p"}], {"p": pool}, Numbers())


def test_a_split_knows_no_values_of_its_route() -> None:
    route = {"pools": [{"pool": "p"}], "sticky": {"text": "${auth.identity}"}}
    with pytest.raises(ValueError, match=r"sticky.text: \$\{auth.identity\} is known once the route is chosen"):
        plan_of([route], {"p": ["127.0.0.1:1"]}, Numbers())
