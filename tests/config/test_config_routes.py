"""Routes: templates, their plans, and what is said of routes that take nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import ValidationError

from lb.config.checks.file import check_config
from lb.config.checks.routes import check_table
from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.compile_route import compile_normalize, compile_route
from lb.config.plan.plan import Plan, RoutePlan
from lb.config.plan.routes import (
    AnswerPlan,
    ConditionPlan,
    FieldsPlan,
    MirrorPlan,
    NormalizePlan,
    RetryPlan,
    RewritePlan,
    SharePlan,
    SplitPlan,
)
from lb.config.schema.file import Config
from lb.config.schema.listeners.listener import ListenerConfig
from lb.config.schema.routes.match import NormalizeConfig
from lb.config.schema.routes.route import RouteConfig
from lb.config.schema.routes.template import Template, parts_of, substitution_of

CONFIGS = Path(__file__).parents[2] / "configs"


def plan(**route: Any) -> RoutePlan:
    made = RouteConfig.model_validate({"pool": "a", **route})
    return compile_route(made, "r", 0, {"a": 0, "b": 1}, False, {})


def test_template() -> None:
    made = Template.parse("/v2/models/{model}/x/{rest...}")
    assert made == Template(b"/v2/models/\x00/x/\x01", ("model", "rest"), 4, 0b100, True)
    assert made.literal == len("/v2/models//x/")
    assert Template.parse("/{a}/").segments == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/a/b", "no name"),
        ("/a-{b}", "whole segment"),
        ("/{b}c", "not a name"),
        ("/{1}", "not a name"),
        ("/{}", "not a name"),
        ("/{a}/{a}", "twice"),
        ("/{a...}/b", "nothing can follow"),
        ("/{a}" + "/b" * 64, "more than 64"),
    ],
)
def test_what_is_no_template(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Template.parse(text)


def test_replacements() -> None:
    assert parts_of("/x/{b}{a}", ("a", "b")) == ("/x/", 1, 0)
    assert parts_of("/x", ()) == ("/x",)
    for text in ("/{c}", "/{a", "/a}"):
        with pytest.raises(ValueError, match=r"name|brace"):
            parts_of(text, ("a",))
    assert substitution_of(r"/\1/\\\0x") == ("/", 1, "/", "\\", 0, "x")
    with pytest.raises(ValueError, match="backslash"):
        substitution_of(r"\x")


def test_paths() -> None:
    assert plan().path_kind == ""
    for kind in ("exact", "prefix", "regex"):
        assert (plan(match={"path": {kind: "/x"}}).path_kind, plan(match={"path": {kind: "/x"}}).path) == (kind, "/x")
    grpc = plan(match={"grpc": {"service": "a.B", "method": "C"}})
    assert (grpc.path_kind, grpc.path, grpc.conditions) == ("exact", "/a.B/C", (ConditionPlan("grpc"),))
    assert plan(match={"grpc": {"service": "a.B"}}).path == "/a.B/"
    model = plan(match={"model": "m-1.x"})
    assert (model.path_kind, model.path, model.conditions) == ("model", "/v2/models/m-1.x", ())
    escaped = plan(match={"model": "a/b"})
    assert (escaped.path_kind, escaped.path) == ("prefix", "/v2/models/")
    assert escaped.conditions == (ConditionPlan("model", how="exact", value="a/b"),)
    assert plan(match={"model": {"regex": "a|b"}}).conditions == (
        ConditionPlan("model", how="regex", value="^(?:a|b)$"),
    )


def test_conditions() -> None:
    made = plan(
        match={
            "host_regex": "^a",
            "source": "10.0.0.1",
            "not_source": ["fd00::/8"],
            "headers": {"X-A": "1", "x-b": {"absent": True}},
            "query": {"q": {"regex": "b+", "invert": True}},
            "cookies": {"c": {"present": True}},
        }
    )
    assert (made.host, made.host_regex) == ("^a", True)
    assert made.conditions == (
        ConditionPlan("source", networks=("10.0.0.1/32",)),
        ConditionPlan("source", invert=True, networks=("fd00::/8",)),
        ConditionPlan("header", "x-a", "exact", "1"),
        ConditionPlan("header", "x-b", invert=True),
        ConditionPlan("cookie", "c"),
        ConditionPlan("query", "q", "regex", "b+", True),
    )


def test_actions() -> None:
    made = plan(
        match={"path": {"template": "/m/{m}"}},
        rewrite={"path": "/v2/{m}", "host": "b.org"},
        request_headers={"set": {"X-A": "1"}, "remove": ["X-B"]},
        response_headers={"add": {"X-C": "2"}},
        mirror={"pool": "b", "percent": 0.5},
        retry={"on": ["5xx"]},
        response_timeout=0,
        max_in_flight=3,
    )
    assert made.rewrite == RewritePlan("path", ("/v2/", 0), "/m/\0")
    assert made.rewrite_host == "b.org"
    assert made.request_fields == FieldsPlan(("x-b",), (("X-A", "1"),))
    assert made.response_fields == FieldsPlan(add=(("X-C", "2"),))
    assert made.mirror == MirrorPlan(1, 5000, 64, 16 << 20)
    assert made.retry == RetryPlan(1, ("5xx",), 0, 20, 10, 25_000_000, 250_000_000, retry_after_ns=10_000_000_000)
    assert (made.response_timeout_ns, made.max_in_flight) == (0, 3)
    split = plan(pool=None, pools=[{"pool": "a", "weight": 9}, {"pool": "b"}], sticky={"header": "X-User"})
    assert (split.pool, split.split) == (-1, SplitPlan((SharePlan(0, 9), SharePlan(1, 1)), "header", "x-user"))
    redirect = plan(pool=None, match={"path": {"prefix": "/a"}}, redirect={"prefix": "/b", "scheme": "https"})
    assert redirect.answer == AnswerPlan(302, redirect=True, scheme="https")
    assert redirect.rewrite == RewritePlan("prefix", ("/b",), "/a")
    respond = plan(pool=None, respond={"status": 404, "headers": {"X-A": "1"}, "body": "no"})
    assert respond.answer == AnswerPlan(404, (("X-A", "1"),), b"no")


def test_normalisation() -> None:
    def made(value: Any) -> NormalizePlan | None:
        listener = {"bind": "127.0.0.1:0", "protocol": "http", "normalize_path": value}
        return compile_normalize(ListenerConfig.model_validate(listener).normalize_path)

    assert made(True) == compile_normalize(NormalizeConfig()) == NormalizePlan(True, True, True, "same_route")
    assert made(False) is None
    assert made({"merge_slashes": False, "escaped_slash": "reject"}) == NormalizePlan(True, True, False, "reject")


def table(*matches: dict[str, Any], **listener: Any) -> list[tuple[str, str]]:
    routes = [{"pool": "a", "match": match} for match in matches]
    made = ListenerConfig.model_validate({"bind": "127.0.0.1:0", "protocol": "http", "routes": routes, **listener})
    return list(check_table("l", made))


def test_routes_that_others_hide() -> None:
    x, get = {"path": {"exact": "/x"}}, {"method": "GET"}
    assert table(x, {**x, **get}) == [
        ("l.routes[1].match", "is never reached: routes[0] takes every request with that host and path")
    ]
    assert table({**x, **get}, x, {**x, **get}) == [("l.routes[2].match", "is never reached: routes[0] has the same")]
    assert table({"path": {"template": "/{a}"}}, {"path": {"template": "/{b}"}})
    # None of these hides another: a more particular one goes first wherever it stands.
    assert (
        table({}, x, {"path": {"prefix": "/x"}}, {"host": "a.org"}, {**x, "host": "a.org"}, {"host": "*.a.org"}) == []
    )
    assert table(*({**x, "headers": {"x-a": str(i)}} for i in range(100))) == []


def test_paths_that_no_request_has() -> None:
    for path in (
        {"exact": "/a//b"},
        {"prefix": "/a//"},
        {"prefix": "/%61/"},
        {"template": "/../{a}"},
        {"exact": "/%00"},
    ):
        ((_, problem),) = table({"path": path})
        assert "is never reached" in problem
        assert table({"path": path}, normalize_path=False) == []
    assert table({"path": {"prefix": "/a/."}}, {"path": {"prefix": "/%2F"}}) == []


class Numbers:
    def endpoint(self, pool: str, address: str) -> int:
        return 0

    def series(self, kind: str, name: str) -> int:
        return 0


def test_the_example_survives_the_wire_and_plain_routes_are_small_on_it() -> None:
    config = load(CONFIGS / "routing.yaml", files=False)
    made = compile_plan(config, generation=1, workers=1, allocator=Numbers(), managed={})
    wire = msgpack.packb(made.to_wire())
    assert Plan.from_wire(msgpack.unpackb(wire)) == made
    *own, form = msgpack.unpackb(made.to_wire()["listeners"][0]["routes"][-1])
    assert len(own) == len(RoutePlan.OWN)
    rest = msgpack.unpackb(form)
    assert rest.keys() == {"path_kind", "methods", "cache", "timeout_ns", "max_body"}


def test_a_canary() -> None:
    pools = {name: {"protocol": protocol, "endpoints": ["127.0.0.1:1"]} for name, protocol in
             (("a", "http"), ("b", "http"), ("calls", "grpc"))}  # fmt: skip

    def problems(**route: Any) -> list[str]:
        document = {
            "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [route]}},
            "pools": pools,
        }
        try:
            config = Config.model_validate(document)
        except ValidationError as error:
            return [detail["msg"] for detail in error.errors()]
        return [text for _, text in check_config(config)]

    assert problems(pool="a", canary={"pool": "b"}, sticky={"cookie": "u"}, mirror={"pool": "b"}) == []
    assert problems(pool="a", canary={"pool": "b", "steps": [0.1, 100]}) == []
    for canary, problem in (
        ({"pool": "c"}, "there is no pool 'c'"),
        ({"pool": "a"}, "is the baseline itself"),
        ({"pool": "calls"}, "must speak what the baseline speaks: http"),
        ({"pool": "b", "steps": [5, 5]}, "5 after 5; each has to be larger"),
        ({"pool": "b", "steps": [50, 101]}, "less than or equal to 100"),
        ({"pool": "b", "steps": []}, "at least 1 item"),
        ({"pool": "b", "interval": 1}, "greater than or equal"),
    ):
        assert problem in " ".join(problems(pool="a", canary=canary)), canary
    assert "canary is only for a route with pool" in problems(pools=[{"pool": "a"}], canary={"pool": "b"})[0]
    shares = {0.0: (0, 1_000_000), 0.5: (5000, 995_000), 100.0: (1_000_000, 0)}
    route = RouteConfig.model_validate({"pool": "a", "canary": {"pool": "b"}})
    for share, weights in shares.items():
        made = compile_route(route, "r", 0, {"a": 0, "b": 1}, False, {}, share)
        assert made.pool == -1
        assert made.split is not None
        assert [(each.pool, each.weight) for each in made.split.shares] == [(1, weights[0]), (0, weights[1])]
