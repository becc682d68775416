"""Redirects and cookies of endpoints behind a rewrite: what clients get is where they can follow."""

from __future__ import annotations

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from datapath import Gate, Site
from h2_client import h2_client
from http_cache_site import Asked, Origin, Reply, ask
from pydantic import ValidationError
from routing_site import Numbers, plan_of, routing_gate

NAMES = ("Location", "Content-Location", "Refresh", "Set-Cookie")


def told(asked: Asked) -> Reply:
    """The fields that the request names by X-Location and the like."""
    fields = [(name, value) for name in NAMES for key, value in asked.fields if key.lower() == f"x-{name.lower()}"]
    return Reply(302, fields, b"moved")


async def telling(site: Site, route: dict[str, Any], **listener: Any) -> tuple[Gate, str]:
    """A gate whose endpoint says what clients have it say, and the endpoint's address."""
    address = await site.endpoint(Origin(told).serve)
    return await routing_gate(site, [{"pool": "a", **route}], {"a": [address]}, **listener), address


async def rewritten(gate: Gate, name: str, said: str, path: str = "/", host: str = "shop.example:8443") -> str | None:
    got = await ask(gate, path, Host=host, **{f"X-{name}": said})
    assert (got.status, got.body) == (302, b"moved")
    return got.get(name)


UNDONE = [
    ("/two/x?y=/two/#z", "/one/x?y=/two/#z"),
    ("/two/", "/one/"),
    ("http://shop.example:8443/two/x", "http://shop.example:8443/one/x"),
    ("HTTPS://Shop.Example:8443/two/x", "HTTPS://Shop.Example:8443/one/x"),
    ("//shop.example:8443/two/x", "//shop.example:8443/one/x"),
    ("http://{address}/two/x", "/one/x"),
    ("http://{address}/two/", "/one/"),
    # Not of this route: another path, host, port, or an address that only looks like it.
    ("/three/x", "/three/x"),
    ("/two", "/two"),
    ("http://shop.example/two/x", "http://shop.example/two/x"),
    ("http://other.example:8443/two/x", "http://other.example:8443/two/x"),
    ("http://{address}.evil.example/two/x", "http://{address}.evil.example/two/x"),
    ("http://{address}@evil.example/two/x", "http://{address}@evil.example/two/x"),
    ("http://{address}/three/x", "http://{address}/three/x"),
    # The client resolves these by its own URL.
    ("x/y", "x/y"),
    ("?page=2", "?page=2"),
    ("ftp://{address}/two/x", "ftp://{address}/two/x"),
    ("http:", "http:"),
]


async def test_the_prefix_is_undone_by_default(site: Site) -> None:
    route = {"match": {"path": {"prefix": "/one/"}}, "rewrite": {"prefix": "/two/"}}
    gate, address = await telling(site, route)
    for said, wanted in UNDONE:
        for name in ("Location", "Content-Location"):
            got = await rewritten(gate, name, said.format(address=address), "/one/a")
            assert got == wanted.format(address=address), said
    assert await rewritten(gate, "Refresh", "5; URL=/two/x", "/one/a") == "5; URL=/one/x"
    assert await rewritten(gate, "Refresh", "5", "/one/a") == "5"
    assert await rewritten(gate, "Set-Cookie", "a=b; Path=/two/", "/one/a") == "a=b; Path=/two/"


async def test_a_prefix_that_goes_comes_back_once(site: Site) -> None:
    """An endpoint that knows its place by X-Forwarded-Prefix or its settings says the client's path itself."""
    gate, address = await telling(site, {"match": {"path": {"prefix": "/api/"}}, "rewrite": {"prefix": "/"}})
    for said, wanted in [
        ("/login", "/api/login"),
        ("/api/login", "/api/login"),
        ("http://shop.example:8443/api/login", "http://shop.example:8443/api/login"),
        ("http://shop.example:8443", "http://shop.example:8443/api/"),
        (f"http://{address}?next", "/api/?next"),
        (f"http://{address}", "/api/"),
    ]:
        assert await rewritten(gate, "Location", said, "/api/x") == wanted, said


async def test_no_redirect_leads_to_another_host(site: Site) -> None:
    """`//evil.example` is a host; browsers take backslashes for slashes."""
    gate, address = await telling(site, {"match": {"path": {"prefix": "/"}}, "rewrite": {"prefix": "/two/"}})
    for said in (
        f"http://{address}/two//evil.example", "/two//evil.example", f"http://{address}/two/\\evil.example",
        f"http://{address}/two///\\/evil.example",
    ):  # fmt: skip
        assert await rewritten(gate, "Location", said) == "/evil.example", said
    inner, address = await telling(site, {"rewrite": {"host": "inside.example"}})
    for said in (f"http://{address}//evil.example", "http://inside.example/\\evil.example"):
        assert await rewritten(inner, "Location", said) == "/evil.example", said
    assert await rewritten(inner, "Location", f"http://{address}\\evil.example/") == "/evil.example/"


async def test_the_host_of_the_endpoint_is_undone(site: Site) -> None:
    gate, _ = await telling(site, {"rewrite": {"host": "inside.example"}})
    for said, wanted in [
        ("http://inside.example/x", "/x"),
        ("https://INSIDE.example:443/x?y", "/x?y"),
        ("http://inside.example:443/x", "http://inside.example:443/x"),
        ("http://inside.example", "/"),
        ("//inside.example/x", "/x"),
        ("/x", "/x"),
        ("http://shop.example:8443/x", "http://shop.example:8443/x"),
    ]:
        assert await rewritten(gate, "Location", said) == wanted, said


async def test_pairs_cookies_and_off(site: Site) -> None:
    route = {
        "match": {"path": {"prefix": "/one/"}},
        "rewrite": {"prefix": "/two/"},
        "response_rewrite": {
            "locations": {"http://old.example/": "https://new.example/", "http://shop.example": "https://shop.example"},
            "cookie_path": {"/two/": "/one/", "/": "/one/"},
            "cookie_domain": {"inside.example": "example.org", "Local.example": ""},
        },
        "response_headers": {"set": {"X-From": "${endpoint.address}"}},
        "log_fields": {"who": "${header.x-who:-nobody}"},
    }
    gate, address = await telling(site, route)
    assert await rewritten(gate, "Location", "http://old.example/x", "/one/") == "https://new.example/x"
    assert await rewritten(gate, "Location", "http://shop.example:8443/one/", "/one/") == (
        "https://shop.example:8443/one/"
    )
    assert await rewritten(gate, "Location", "https://shop.example:8443/two/", "/one/") == (
        "https://shop.example:8443/one/"
    )
    for said, wanted in [
        ("a=/two/; Path=/two/x; HttpOnly", "a=/two/; Path=/one/x; HttpOnly"),
        ("a=b;path=/;Domain=.INSIDE.example", "a=b; path=/one/; Domain=example.org"),
        ("a=b; Domain=local.example; Secure", "a=b; Secure"),
        ("a=b ;Path = /two/x ; Secure", "a=b ; Path=/one/x; Secure"),  # as browsers read it
        ("a=b; domain\t=\t.inside.example\t", "a=b; domain=example.org"),
        ("a=b; Path =; Pathx=/two/; Domain", "a=b; Path =; Pathx=/two/; Domain"),
        ("a=b; Domain=other.example;Path=two", "a=b; Domain=other.example;Path=two"),
        ("Path=/two/", "Path=/two/"),  # a cookie of that name
        ("a=b;", "a=b;"),
        # A browser keeps these with Path=/ alone, and with no Domain.
        ("__Host-a=b; Secure; Path=/", "__Host-a=b; Secure; Path=/"),
        (" __HOST-a=b; Path=/; Secure", "__HOST-a=b; Path=/; Secure"),
        ("__Secure-a=b; Secure; Path=/", "__Secure-a=b; Secure; Path=/one/"),
        ("a__Host-=b; Path=/", "a__Host-=b; Path=/one/"),
    ]:
        assert await rewritten(gate, "Set-Cookie", said, "/one/") == wanted, said
    got = await ask(gate, "/one/", Host="shop.example", **{"X-Set-Cookie": "a=b; Path=/two/", "X-Location": "/two/"})
    assert [got.get(name) for name in ("set-cookie", "location", "x-from")] == ["a=b; Path=/one/", "/one/", address]
    off = {**route, "response_rewrite": {"location": "off"}}
    gate, _ = await telling(site, off)
    for name, said in (("Location", "/two/x"), ("Set-Cookie", "a=b; Path=/two/")):
        assert await rewritten(gate, name, said, "/one/") == said


async def test_what_an_endpoint_can_make_of_it_is_bounded(site: Site) -> None:
    """Each `Path` grows by a kilobyte: the answer is refused before its head is beyond all measure."""
    route = {"response_rewrite": {"cookie_path": {"/": "/" + "x" * 1000}}}
    gate, _ = await telling(site, route)
    got = await ask(gate, "/", **{"X-Set-Cookie": "a=b" + "; Path=/" * 200})
    assert got.status == 502
    assert await rewritten(gate, "Set-Cookie", "a=b; Path=/") == "a=b; Path=/" + "x" * 1000


async def moved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that speaks HTTP/2 and redirects by the host that it is asked for."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    while True:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                asked = dict(event.headers)
                fields = [(":status", "307"), ("location", f"https://{asked[':authority']}{asked[':path']}x/")]
                connection.send_headers(event.stream_id, fields, end_stream=True)


async def test_http2_on_both_sides(site: Site) -> None:
    pools = {"a": {"protocol": "http2", "endpoints": [await site.endpoint(moved)]}}
    routes = [{"pool": "a", "match": {"path": {"prefix": "/one/"}}, "rewrite": {"prefix": "/two/"}}]
    gate = await routing_gate(site, routes, pools)
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/one/", authority="shop.example")
    assert answer.field_of("location") == "https://shop.example/one/x/"


@pytest.mark.parametrize(
    "given",
    [
        {"location": "on"},
        {"locations": {"inside.example": "/"}},
        {"locations": {"http://a\r\nb": "/"}},
        {"cookie_path": {"two": "/"}},
        {"cookie_path": {"/": "/; Secure"}},
        {"cookie_domain": {"a b": "c"}},
    ],
)
def test_what_is_no_rewrite_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="response_rewrite"):
        plan_of([{"pool": "a", "response_rewrite": given}], {"a": ["127.0.0.1:1"]}, Numbers())


def test_only_a_rewrite_that_has_an_inverse_is_undone() -> None:
    rewrites: list[tuple[dict[str, Any], bool]] = [
        ({"match": {"path": {"prefix": "/a"}}, "rewrite": {"prefix": "/b"}}, True),
        ({"rewrite": {"host": "inside.example"}}, True),
        ({"match": {"path": {"prefix": "/a"}}, "rewrite": {"prefix": "/${request.host}/"}}, False),
        ({"rewrite": {"regex": {"pattern": "a", "substitution": "b"}}}, False),
        ({"rewrite": {"path": "/b"}}, False),
        ({}, False),
    ]
    for route, undone in rewrites:
        plan = plan_of([{"pool": "a", **route}], {"a": ["127.0.0.1:1"]}, Numbers())
        assert (plan.listeners[0].routes[0].response_rewrite is not None) == undone, route


FLAGS = {
    "session": {"secure": True, "http_only": True, "same_site": "lax"},
    "open": {"secure": False, "http_only": False, "same_site": "off"},
    "*": {"secure": True},
}

FLAGGED = [
    ("session=1", "session=1; Secure; HttpOnly; SameSite=Lax"),
    (" session =1; Path=/", " session =1; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ("session=a=b;secure ; SAMESITE = None;HttpOnly; P", "session=a=b; P; Secure; HttpOnly; SameSite=Lax"),
    ("open=1; Secure; HttpOnly; SameSite=Strict; Path=/", "open=1; Path=/"),
    ("open=1; Secure=yes; HttpOnly=1; Secured; x-secure", "open=1; Secured; x-secure"),
    ("open=1", "open=1"),
    ("open=Secure; Path=/in", "open=Secure; Path=/out"),
    ("Session=1; HttpOnly", "Session=1; HttpOnly; Secure"),  # names have a case (RFC 6265 section 5.3)
    ("other; Secure", "other; Secure"),
    ("=none", "=none; Secure"),
]  # fmt: skip


async def test_flags_of_cookies(site: Site) -> None:
    gate, _ = await telling(site, {"response_rewrite": {"cookie_flags": FLAGS, "cookie_path": {"/in": "/out"}}})
    for said, wanted in FLAGGED:
        assert (await rewritten(gate, "Set-Cookie", said) or "").strip() == wanted.strip(), said
    # Two fields of one answer.
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Set-Cookie: session=1\r\nX-Set-Cookie: open=1; Secure\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Set-Cookie: session=1; Secure; HttpOnly; SameSite=Lax\r\nSet-Cookie: open=1\r\n" in head
    writer.close()
    gate, _ = await telling(site, {"response_rewrite": {"cookie_flags": {"a": {"secure": True}}}})
    assert await rewritten(gate, "Set-Cookie", "b=1; HttpOnly") == "b=1; HttpOnly"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"a": {}}, "says nothing"),
        ({"a": {"same_site": "none"}}, "needs secure: true"),
        ({"a": {"same_site": "none", "secure": False}}, "needs secure: true"),
        ({"a": {"same_site": "Loose"}}, "same_site"),
        ({"__Host-a": {"secure": False}}, "browsers refuse __Host-a without Secure"),
        ({"__secure-a": {"secure": False}}, "browsers refuse __secure-a without Secure"),
        ({"a b": {"secure": True}}, "is not a cookie's name"),
    ],
)
def test_flags_that_are_none(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan_of([{"pool": "a", "response_rewrite": {"cookie_flags": flags}}], {"a": ["127.0.0.1:1"]}, Numbers())
