"""Every kind of condition, asked by curl."""

from __future__ import annotations

from typing import Any

import pytest
from datapath import Site
from routing_site import curl, routing_gate, shown

H = "-H"

# What the route matches; requests that it takes; requests that go past it.
CASES: dict[str, tuple[dict[str, Any], list[tuple[str, ...]], list[tuple[str, ...]]]] = {
    "host": ({"host": "a.org"}, [("/", H, "Host: A.org:80")], [("/", H, "Host: b.a.org")]),
    "wildcard": ({"host": "*.a.org"}, [("/", H, "Host: c.b.a.org")], [("/", H, "Host: a.org")]),
    "host-regex": ({"host_regex": r"^a[0-9]+\.org$"}, [("/", H, "Host: A12.org")], [("/", H, "Host: a.org")]),
    "exact": ({"path": {"exact": "/x"}}, [("/x",), ("/x?y",)], [("/x/",), ("/X",)]),
    "prefix": ({"path": {"prefix": "/x/"}}, [("/x/",), ("/x/y?z",)], [("/x",), ("/xy",)]),
    "template": ({"path": {"template": "/m/{m}/i"}}, [("/m/a/i",)], [("/m/i",), ("/m/a/b/i",)]),
    "regex": ({"path": {"regex": "^/v[0-9]/"}}, [("/v1/",)], [("/v/",), ("/x/v1/",)]),
    "model": (
        {"model": "m"},
        [("/v2/models/m",), ("/v2/models/m/infer",), ("/v2/models/%6d/infer",)],
        [("/v2/models/mm",)],
    ),
    "model-escaped": (
        {"model": "a b+c"},
        [("/v2/models/a%20b+c/infer",), ("/v2/models/a%20b%2Bc",)],
        [("/v2/models/a",)],
    ),
    "model-prefix": ({"model": {"prefix": "llm-"}}, [("/v2/models/llm-x/infer",)], [("/v2/models/x",)]),
    "model-regex": ({"model": {"regex": "a|b+"}}, [("/v2/models/bb/infer",), ("/v2/models/a",)], [("/v2/models/ab",)]),
    "grpc": (
        {"grpc": {"service": "a.B"}},
        [
            ("/a.B/C", "-d", "", H, "Content-Type: application/grpc+proto"),
            ("/a.B/C", H, "Content-Type: application/grpc"),
        ],
        [
            ("/a.B/C",),
            ("/a.B/C", H, "Content-Type: application/grpcx"),
            ("/a.Bb/C", H, "Content-Type: application/grpc"),
        ],
    ),
    "grpc-method": (
        {"grpc": {"service": "a.B", "method": "C"}},
        [("/a.B/C", H, "Content-Type: application/grpc")],
        [("/a.B/D", H, "Content-Type: application/grpc")],
    ),
    "method": ({"method": ["PUT", "DELETE"]}, [("/", "-X", "PUT"), ("/", "-X", "DELETE")], [("/",)]),
    "header": (
        {"headers": {"X-A": "1"}},
        [("/", H, "x-a: 1"), ("/", H, "X-A: 2", H, "X-A: 1")],
        [("/",), ("/", H, "X-A: 11")],
    ),
    "header-empty": (
        {"headers": {"x-a": ""}},
        [("/", H, "X-A;"), ("/", H, "X-A: 1", H, "X-A;")],
        [("/",), ("/", H, "X-A: 1")],
    ),
    "header-one-of": (
        {"headers": {"x-a": {"one_of": ["1", "2", ""]}}},
        [("/", H, "X-A: 2"), ("/", H, "X-A;")],
        [("/", H, "X-A: 12"), ("/",)],
    ),
    "not-one-of": (
        {"headers": {"x-a": {"one_of": ["1", "2"], "invert": True}}},
        [("/", H, "X-A: 3"), ("/",)],
        [("/", H, "X-A: 1")],
    ),
    "any": (
        {"any": [{"headers": {"x-a": "1"}}, {"query": {"q": "2"}, "method": ["GET"]}, {"host": "A.org"}]},
        [("/", H, "X-A: 1"), ("/?q=2",), ("/", H, "Host: a.ORG.:80")],
        [("/",), ("/?q=2", "-X", "PUT"), ("/", H, "Host: b.a.org")],
    ),
    "none": (
        {"none": [{"headers": {"x-a": "1"}}, {"path": {"prefix": "/x/"}, "source": ["127.0.0.0/8"]}]},
        [("/",), ("/x",), ("/", H, "X-A: 2")],
        [("/", H, "X-A: 1"), ("/x/y",), ("/%78/y",)],
    ),
    "nested": (
        {
            "any": [
                {
                    "host": {"suffix": ".A.org"},
                    "any": [{"cookies": {"c": "1"}}, {"cookies": {"c": "2"}}],
                    "none": [{"path": "/no"}],
                }
            ]
        },
        [("/", H, "Host: b.a.ORG", H, "Cookie: c=2")],
        [("/", H, "Host: b.a.org"), ("/no", H, "Host: b.a.org", H, "Cookie: c=1"), ("/", H, "Cookie: c=1")],
    ),
    "header-prefix": ({"headers": {"x-a": {"prefix": "1"}}}, [("/", H, "X-A: 12")], [("/", H, "X-A: 21")]),
    "header-suffix": ({"headers": {"x-a": {"suffix": "2"}}}, [("/", H, "X-A: 12")], [("/", H, "X-A: 21")]),
    "header-contains": ({"headers": {"x-a": {"contains": "bc"}}}, [("/", H, "X-A: abcd")], [("/", H, "X-A: acbd")]),
    "header-regex": ({"headers": {"x-a": {"regex": "^a.c$"}}}, [("/", H, "X-A: abc")], [("/", H, "X-A: abcd")]),
    "header-present": ({"headers": {"x-a": {"present": True}}}, [("/", H, "X-A;")], [("/",)]),
    "header-absent": ({"headers": {"x-a": {"absent": True}}}, [("/",)], [("/", H, "X-A: b")]),
    "header-not": (
        {"headers": {"x-a": {"exact": "1", "invert": True}}},
        [("/",), ("/", H, "X-A: 2")],
        [("/", H, "X-A: 1")],
    ),
    "query": ({"query": {"a": "b c"}}, [("/?a=b+c",), ("/?x&%61=b%20c",)], [("/?a=b",), ("/?b=b+c",), ("/",)]),
    "query-present": ({"query": {"a": {"present": True}}}, [("/?a",), ("/?b&a=1",)], [("/?aa",), ("/a",)]),
    "cookie": (
        {"cookies": {"a": "1"}},
        [("/", "-b", "a=1"), ("/", "-b", "b=2; a=1")],
        [("/", "-b", "a=2"), ("/", "-b", "b=1")],
    ),
    "source": ({"source": "127.0.0.0/8"}, [("/",)], []),
    "other-source": ({"source": ["10.0.0.0/8", "::/0"]}, [], [("/",)]),
    "not-source": ({"not_source": ["10.0.0.0/8"]}, [("/",)], []),
    "all-at-once": (
        {"host": "a.org", "path": {"prefix": "/x"}, "method": "POST", "headers": {"x-a": "1"}, "query": {"q": "1"}},
        [("/x?q=1", "-d", "z", H, "Host: a.org", H, "X-A: 1")],
        [("/x?q=1", "-d", "z", H, "Host: a.org"), ("/x", "-d", "z", H, "Host: a.org", H, "X-A: 1")],
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_condition(site: Site, name: str) -> None:
    match, taken, passed = CASES[name]
    _, pools = await shown(site, "taken", "rest")
    gate = await routing_gate(site, [{"match": match, "pool": "taken"}, {"pool": "rest"}], pools)
    for request in taken:
        assert (await curl(gate, *request)).body == "taken", request
    for request in passed:
        assert (await curl(gate, *request)).body == "rest", request


async def test_nothing_matches(site: Site) -> None:
    _, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"match": {"path": {"exact": "/x"}, "method": "PUT"}, "pool": "a"}], pools)
    assert (await curl(gate, "/y")).status == 404
    assert (await curl(gate, "/x")).status == 405


NORMAL = [
    ("/v2/models", "/v2/models"),
    ("/v2//models", "/v2/models"),
    ("/./v2/x/../models", "/v2/models"),
    ("/%76%32/models?a=%41//", "/v2/models?a=%41//"),
    ("/v2/models/%2e%2E/a%2fb", "/v2/a%2Fb"),
    ("/../../etc", "/etc"),
    ("//", "/"),
]


@pytest.mark.parametrize(("sent", "got"), NORMAL)
async def test_paths_are_compared_and_passed_on_in_their_normal_form(site: Site, sent: str, got: str) -> None:
    made, pools = await shown(site, "a", "b")
    exact = got.partition("?")[0]
    routes = [{"match": {"path": {"exact": exact}}, "pool": "a"}, {"pool": "b"}]
    gate = await routing_gate(site, routes, pools)
    assert (await curl(gate, sent)).body == "a"
    assert made["a"].last.startswith(f"GET {got} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("sent", ["/a%00b", "/a%", "/a%4", "/%zz"])
async def test_a_path_without_normal_form_is_refused(site: Site, sent: str) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a"}], pools)
    assert (await curl(gate, sent)).status == 400
    assert made["a"].requests == []


async def test_normalisation_can_be_switched_off_and_slashes_be_refused(site: Site) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a"}], pools, normalize_path=False)
    assert (await curl(gate, "/a//%41/../%zz")).status == 200
    assert made["a"].last.startswith(b"GET /a//%41/../%zz HTTP/1.1\r\n")
    gate = await routing_gate(site, [{"pool": "a"}], pools, normalize_path={"escaped_slash": "reject"})
    assert (await curl(gate, "/a%2Fb")).status == 400
    gate = await routing_gate(site, [{"pool": "a"}], pools, normalize_path={"escaped_slash": "decode"})
    assert (await curl(gate, "/x/..%2f..%5cb")).status == 200
    assert made["a"].last.startswith(b"GET /b HTTP/1.1\r\n")


async def test_a_backslash_is_a_slash_where_an_escaped_one_is(site: Site) -> None:
    made, pools = await shown(site, "a")
    gate = await routing_gate(site, [{"pool": "a"}], pools, normalize_path={"escaped_slash": "decode"})
    assert (await curl(gate, "/x\\..\\y")).status == 200
    assert made["a"].last.startswith(b"GET /y HTTP/1.1\r\n")
    gate = await routing_gate(site, [{"pool": "a"}], pools, normalize_path={"escaped_slash": "reject"})
    assert (await curl(gate, "/x\\y")).status == 400
    gate = await routing_gate(site, [{"pool": "a"}], pools)
    assert (await curl(gate, "/x\\y")).status == 200
    assert made["a"].last.startswith(b"GET /x\\y HTTP/1.1\r\n")
