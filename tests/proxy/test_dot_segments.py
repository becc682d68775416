"""Segments of dots: no rewrite and no value of the request makes one, which would lead out of what the route says."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Site
from routing_site import routing_gate, shown

DOTTED: list[dict[str, Any]] = [
    {"prefix": "/new/"},
    {"regex": {"pattern": "^/p(.*)$", "substitution": "/new/\\1"}},
    {"regex": {"pattern": "^/p", "substitution": ""}},
    {"prefix": "/${request.method}/"},
]
LEADS_OUT = ("/p../secret", "/p%2e%2e/secret", "/p./secret", "/p..", "/p..;a=b/secret", "/p%252e%252E/secret",
             "/p..%252Fsecret", "/p..%5Csecret", "/p..%2Fsecret", "/p..%2f;/../p..%2F")  # fmt: skip


@pytest.mark.parametrize("new", DOTTED)
async def test_no_rewrite_leads_out_of_what_it_says(site: Site, new: dict[str, Any]) -> None:
    """Of `/p..` the prefix `/p` replaced by `/new/` is `/new/..`: nginx's alias has been attacked in this way."""
    made, pools = await shown(site, "a")
    redirects = "${" not in str(new)
    routes = [
        {"match": {"path": {"prefix": "/p"}, "headers": {"x-go": "1"}}, "redirect": new},
        {"match": {"path": {"prefix": "/p"}}, "pool": "a", "rewrite": new},
    ][not redirects :]
    gate = await routing_gate(site, routes, pools)
    for path in LEADS_OUT:
        for field in ("X-Go: 1", "X-Stay: 1")[not redirects :]:
            head = f"GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\nConnection: close\r\n\r\n"
            answer = await gate.exchange(head.encode())
            assert answer.startswith(b"HTTP/1.1 400 "), (path, answer)
    assert not made["a"].requests
    for path in ("/px..", "/p...", "/p.a/x", "/p/..a", "/pa/b.;c"):
        answer = await gate.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 "), (path, answer)


async def test_paths_that_are_passed_on_as_they_came_keep_their_dots(site: Site) -> None:
    made, pools = await shown(site, "a")
    route = {"match": {"path": {"prefix": "/p/"}}, "pool": "a", "rewrite": {"prefix": "/new/"}}
    gate = await routing_gate(site, [route], pools, normalize_path=False)
    answer = await gate.exchange(b"GET /p/x/../y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert made["a"].last.startswith(b"GET /new/x/../y ")


@pytest.mark.parametrize("value", [".", ".."])
async def test_no_value_of_a_location_is_a_segment_of_dots(site: Site, value: str) -> None:
    routes = [
        {"match": {"path": {"prefix": "/middle"}}, "redirect": {"location": "https://a.org/x/${header.x-t}/y"}},
        {"match": {"path": {"prefix": "/end"}}, "redirect": {"location": "/x/${query.q}"}},
        {"match": {"path": {"prefix": "/two"}}, "redirect": {"location": "/x/${header.x-dot}${header.x-dot}"}},
        {"match": {"path": {"prefix": "/fixed"}}, "redirect": {"location": "/a/${header.x-name}"}},
    ]
    gate = await routing_gate(site, routes, {"a": ["127.0.0.1:1"]})
    for path, status in ((f"/end?q={value}", 400), ("/middle", 400), ("/two", 400), ("/fixed", 302)):
        fields = f"Host: a\r\nX-T: {value}\r\nX-Dot: .\r\nX-Name: a..b\r\nConnection: close"
        answer = await gate.exchange(f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (path, answer)
