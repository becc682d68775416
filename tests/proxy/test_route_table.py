"""Which route takes a request: the compiled table agrees with a search through all routes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from route_reference import Request, find

from lb.config.plan.plan import RoutePlan
from lb.config.plan.routes import ConditionPlan
from lb.shared.segment import Segment

_route = import_module("lb.proxy.routing.route")
_paths = import_module("lb.proxy.routing.paths")

PLAIN = RoutePlan(
    name="", series=0, pool=-1, host="", path_kind="", path="", methods=(), cache=False, timeout_ns=0,
    max_body=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def segment() -> Segment:
    return Segment.attach(Segment.create(1).fd, 0)


def table(segment: Segment, plans: list[RoutePlan]) -> Any:
    return _route.RouteTable([_route.Route(plan, None, segment) for plan in plans])


def named(plans: list[RoutePlan]) -> list[RoutePlan]:
    return [replace(plan, name=f"r{i}") for i, plan in enumerate(plans)]


def ask(made: Any, request: Request) -> tuple[str | None, bool]:
    route, other_method = made.lookup(request.text(), request.ip.encode())
    return (route.name if route is not None else None), other_method


def route(host: str = "", kind: str = "", path: str = "", **others: Any) -> RoutePlan:
    return replace(PLAIN, host=host, path_kind=kind, path=path, **others)


# The order of precedence, one pair after the other.
ORDER = [
    route("a.b.org", "exact", "/v2/models"),
    route("a.b.org", "template", "/{x}/models"),
    route("a.b.org", "prefix", "/v2/mod"),
    route("a.b.org", "prefix", "/v2"),
    route("a.b.org", "template", "/{x}/{y}"),
    route("a.b.org", "regex", "models"),
    route("a.b.org", "regex", "^/v2"),
    route("a.b.org"),
    route("*.b.org", "exact", "/v2/models"),
    route("*.b.org"),
    route("*.org", "exact", "/v2/models"),
    route("*.org"),
    route(r"^a\.", "exact", "/v2/models", host_regex=True),
    route(r"^a\.", host_regex=True),
    route("org$", host_regex=True),
    route("", "exact", "/v2/models"),
    route("", "prefix", "/"),
    route("", "regex", "."),
    route(),
]


def test_precedence_is_as_documented(segment: Segment) -> None:
    plans = named(ORDER)
    asked = Request(host="A.b.org", path="/v2/models")
    while plans:
        for order in (plans, plans[::-1]):
            made = table(segment, order)
            assert ask(made, asked) == (find(order, asked)[0], False)
        # Reversed, the two host expressions and the two path expressions change places: only those look at the order.
        assert ask(table(segment, plans), asked) == (plans[0].name, False)
        plans = plans[1:]
    assert ask(table(segment, []), asked) == (None, False)


@pytest.mark.parametrize(
    ("host", "yes", "no"),
    [
        ("a.org", ["a.org", "A.ORG", "a.org."], ["b.a.org", "a.or", "xa.org", "a.org.."]),
        ("*.a.org", ["b.a.org", "c.b.a.org", "B.A.Org."], ["a.org", "ba.org", ".a.org"]),
        ("[::1]", ["[::1]"], ["[::2]"]),
    ],
)
def test_hosts(segment: Segment, host: str, yes: list[str], no: list[str]) -> None:
    made = table(segment, named([route(host)]))
    for name in yes:
        assert ask(made, Request(host=name)) == ("r0", False), name
    for name in no:
        assert ask(made, Request(host=name)) == (None, False), name


@pytest.mark.parametrize(
    ("template", "yes", "no"),
    [
        (
            "/v2/models/{m}/infer",
            ["/v2/models/a/infer"],
            ["/v2/models//infer", "/v2/models/a/b/infer", "/v2/models/a/infer/"],
        ),
        ("/{a}", ["/x"], ["/", "/x/", "/x/y"]),
        ("/{a}/", ["/x/"], ["//", "/x", "/x/y"]),
        ("/f/{rest...}", ["/f/", "/f/a", "/f/a/b//c", "/f/" + "a/" * 100], ["/f", "/g/a"]),
        ("/{a}/{rest...}", ["/x/", "/x/y/z"], ["//y", "/x"]),
        (
            "/" + "/".join(["{a}", *"b" * 62, "{c}"]),
            ["/1/" + "b/" * 62 + "2"],
            ["/1/" + "b/" * 62 + "2/3", "/1/" + "b/" * 63 + "2/3"],
        ),
    ],
)  # fmt: skip
def test_templates(segment: Segment, template: str, yes: list[str], no: list[str]) -> None:
    made = table(segment, named([route("", "template", template)]))
    for path in yes:
        assert ask(made, Request(path=path)) == ("r0", False), path
    for path in no:
        assert ask(made, Request(path=path)) == (None, False), path


def test_templates_that_differ_in_names_share_a_place(segment: Segment) -> None:
    plans = named([route("", "template", "/{a}/x", methods=("POST",)), route("", "template", "/{b}/x")])
    made = table(segment, plans)
    assert ask(made, Request(path="/1/x")) == ("r1", False)
    assert ask(made, Request(path="/1/x", method="POST")) == ("r0", False)


def test_a_model_is_itself_and_what_is_below_it(segment: Segment) -> None:
    made = table(segment, named([route("", "prefix", "/v2/"), route("", "model", "/v2/models/m")]))
    for path, name in [
        ("/v2/models/m", "r1"), ("/v2/models/m/", "r1"), ("/v2/models/m/infer", "r1"),
        ("/v2/models/m/versions/1/infer", "r1"), ("/v2/models/mm/infer", "r0"), ("/v2/models", "r0"),
    ]:  # fmt: skip
        assert ask(made, Request(path=path)) == (name, False), path


def test_a_model_that_the_body_names(segment: Segment) -> None:
    plans = [
        route("", "prefix", "/inference.GRPCInferenceService/"),
        route("", "model", "/v2/models/m"),
        route("", "prefix", "/v2/models/", conditions=(ConditionPlan("model", how="exact", value="a b/c"),)),
    ]
    made = table(segment, named(plans))
    request = Request("POST", path="/inference.GRPCInferenceService/ModelInfer").text()
    for model, name in [(None, "r0"), (b"m", "r1"), (b"a b/c", "r2")]:
        assert made.lookup(request, b"", model)[0].name == name
    assert made.lookup(request, b"", b"x") == (None, False)


def test_conditions_fall_through_to_the_next_route(segment: Segment) -> None:
    plans = named(
        [
            route("a.org", "exact", "/x", conditions=(ConditionPlan("header", "x-a", "exact", "1"),)),
            route("a.org", "exact", "/x", conditions=(ConditionPlan("header", "x-a", "exact", "2"),)),
            route("", "prefix", "/"),
        ]
    )
    made = table(segment, plans)
    for value, name in [("1", "r0"), ("2", "r1"), ("3", "r2")]:
        assert ask(made, Request(host="a.org", path="/x", fields=[("X-A", value)])) == (name, False)


def test_the_wrong_method_is_told_only_when_nothing_else_takes_it(segment: Segment) -> None:
    plans = named(
        [route("", "exact", "/x", methods=("POST",)), route("", "prefix", "/y"), route("b.org", "prefix", "/")]
    )
    made = table(segment, plans)
    assert ask(made, Request(path="/x")) == (None, True)
    assert ask(made, Request(path="/z")) == (None, False)
    assert ask(made, Request(host="b.org", path="/x")) == ("r2", False)


def test_ten_thousand_routes(segment: Segment) -> None:
    plans = [route("models.example.org", "prefix", f"/v2/models/m{i:05}/") for i in range(5000)]
    plans += [route(f"h{i}.example.org", "exact", "/") for i in range(4000)]
    plans += [route("t.example.org", "template", f"/t{i}/{{x}}/infer") for i in range(1000)]
    made = table(segment, named(plans))
    assert ask(made, Request(host="models.example.org", path="/v2/models/m04999/infer")) == ("r4999", False)
    assert ask(made, Request(host="models.example.org", path="/v2/models/m05000/infer")) == (None, False)
    assert ask(made, Request(host="h3999.example.org")) == ("r8999", False)
    assert ask(made, Request(host="t.example.org", path="/t999/a/infer")) == ("r9999", False)


def test_index_says_what_kind_is_none() -> None:
    with pytest.raises(ValueError, match="not a kind"):
        _paths.PathIndex([("suffix", "/x")])


# The same alphabet for tables and requests, small enough to collide.
SEGMENT = st.sampled_from(["a", "b", "ab", "", "%41"])
PATH = st.lists(SEGMENT, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
HOST = st.sampled_from(["a.org", "b.a.org", "c.b.a.org", "org", "x.net"])


def templates() -> st.SearchStrategy[str]:
    part = st.sampled_from(["a", "b", "ab", "{}"])

    def named_parts(parts: list[str], tail: bool) -> str:
        filled = [f"{{n{i}}}" if p == "{}" else p for i, p in enumerate(parts)]
        return "/" + "/".join([*filled, "{rest...}"] if tail else filled)

    return st.builds(named_parts, st.lists(part, min_size=1, max_size=5), st.booleans()).filter(lambda t: "{" in t)


PATHS = st.one_of(
    st.just(("", "")),
    st.tuples(st.just("exact"), PATH),
    st.tuples(st.just("prefix"), PATH),
    st.tuples(st.just("template"), templates()),
    st.tuples(st.just("regex"), st.sampled_from(["a/b", "^/a", "b$", "^/[ab]+/", "//"])),
    st.tuples(st.just("model"), st.sampled_from(["/v2/models/a", "/a/b"])),
)
HOSTS = st.one_of(
    st.just(("", False)),
    HOST.map(lambda h: (h, False)),
    HOST.map(lambda h: (f"*.{h}", False)),
    st.sampled_from([(r"^a\.", True), ("org$", True), ("net", True)]),
)
HOW = st.sampled_from(["present", "exact", "prefix", "suffix", "contains", "regex"])
VALUE = st.sampled_from(["a", "b", "ab", "ba", "a b"])
CONDITION = st.one_of(
    st.builds(ConditionPlan, st.just("header"), st.sampled_from(["x-a", "x-b"]), HOW, VALUE, st.booleans()),
    st.builds(ConditionPlan, st.just("query"), st.sampled_from(["a", "b"]), HOW, VALUE, st.booleans()),
    st.builds(ConditionPlan, st.just("cookie"), st.sampled_from(["a", "b"]), HOW, VALUE, st.booleans()),
    st.builds(
        lambda networks, invert: ConditionPlan("source", invert=invert, networks=tuple(networks)),
        st.lists(
            st.sampled_from(["10.0.0.0/8", "10.1.0.0/17", "0.0.0.0/0", "::/0", "fc00::/7", "fd00::1/128"]),
            min_size=1, max_size=3,
        ),
        st.booleans(),
    ),
)  # fmt: skip
ROUTES = st.builds(
    lambda host, path, methods, conditions: route(
        host[0], path[0], path[1], host_regex=host[1], methods=tuple(methods), conditions=tuple(conditions)
    ),
    HOSTS,
    PATHS,
    st.lists(st.sampled_from(["GET", "POST"]), max_size=1),
    st.lists(CONDITION, max_size=2),
)
PAIR = st.builds(
    "{}{}{}".format,
    st.sampled_from(["a", "b", "%61", "c"]),
    st.sampled_from(["=", ""]),
    st.sampled_from(["a", "ab", "a+b", "a%20b", "%62", ""]),
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    host=HOST | HOST.map(str.upper) | HOST.map(lambda h: h + "."),
    path=PATH | st.sampled_from(["/v2/models/a", "/v2/models/a/infer", "/a/b/c"]),
    query=st.lists(PAIR, max_size=3).map("&".join),
    fields=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["X-A", "x-a", "X-B"]), VALUE),
            st.tuples(
                st.just("Cookie"), st.lists(st.sampled_from(["a=a", "b=ab", "a=ba", "c"]), min_size=1).map("; ".join)
            ),
        ),
        max_size=3,
    ),
    ip=st.sampled_from(["10.0.0.1", "10.1.127.255", "10.1.128.0", "192.0.2.1", "fd00::1", "::1", ""]),
)


@settings(max_examples=600)
@given(plans=st.lists(ROUTES, max_size=25), requests=st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_table_agrees_with_a_linear_search(
    segment: Segment, plans: list[RoutePlan], requests: list[Request]
) -> None:
    plans = named(plans)
    made = table(segment, plans)
    for request in requests:
        assert ask(made, request) == find(plans, request), (plans, request)
