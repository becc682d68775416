"""Routes that are made from others of their form are what the models would have made of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lb.config.forms import Routes, by_form, members_of, validated
from lb.config.memory import FileMemory
from lb.config.plan.places import place_of
from lb.config.schema.routes.route import RouteConfig

models = TypeAdapter(list[RouteConfig])

TEXTS: dict[str, list[Any]] = {
    "name": ["a", "b.c", "", "no name", 7, None],
    "pool": ["one", "two", "", ["one"], "\ud800", None],
    "host": ["a.example", "B.Example", "*.b.example", "_", "www.*", "a b", "", True, None],
    "exact": ["/a", "/b/c", "/c/*", "/{d}", "/e?f", "a", "", 1, None],
    "prefix": ["/a/", "/b", "/c/*", "^/d", "/ ", "", [], None],
    "template": ["/{a}", "/{b}/c", "/{"],
    "regex": ["^/a", "^/b", ""],
}


def route(key: str, text: Any, others: dict[str, Any]) -> dict[str, Any]:
    """A route that has everything but `key` from `others`."""
    match: dict[str, Any] = {"host": "h.example", "path": {"prefix": "/x/"}, "method": "GET"}
    made: dict[str, Any] = {"pool": "p", "match": match, **others}
    if key in ("name", "pool"):
        made[key] = text
    elif key == "host":
        match["host"] = text
    else:
        match["path"] = {key: text}
    return made


OTHERS: list[dict[str, Any]] = [
    {},
    {"timeout": "2s", "retry": {"attempts": 2}},
    {"rewrite": {"prefix": "/y/"}},
    {"rewrite": {"path": "/{a}"}},
    {"mistake": 1},
]


def outcome(values: list[Any], memory: FileMemory | None) -> list[Any]:
    """The routes, or the errors; what each has to itself has to be what its RouteConfig says."""
    make = models.validate_python
    try:
        routes = make(values) if memory is None else validated(values, make, memory)
        for route, member in zip(routes, members_of(routes), strict=True):
            assert (member.name, member.pool, member.place) == (route.name, route.pool, place_of(route.match))
            assert member.first.model_fields_set == route.model_fields_set
            assert member.first.match.model_fields_set == route.match.model_fields_set
        return list(routes)
    except ValidationError as error:
        return [(detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("others", OTHERS, ids=lambda others: "-".join(others) or "plain")
def test_every_text_after_every_other(key: str, others: dict[str, Any]) -> None:
    for first, second in itertools.permutations(TEXTS[key], 2):
        values = [route(key, first, others), route(key, second, others)]
        assert outcome(values, FileMemory()) == outcome(values, None)
        memory = FileMemory()
        outcome(values[:1], memory)
        memory.keep()
        assert outcome(values[1:], memory) == outcome(values[1:], None)


@pytest.mark.parametrize("values", [None, {}, "text", [], [None], [[]], [{"match": None, "pool": "a"}], [{}]])
def test_what_is_no_list_of_routes(values: Any) -> None:
    assert outcome(values, FileMemory()) == outcome(values, None)


def test_the_models_see_one_route_of_each_form() -> None:
    seen = []

    def make(values: list[Any]) -> list[RouteConfig]:
        seen.append(len(values))
        return models.validate_python(values)

    values = [
        {"pool": f"p{i}", "match": {"host": f"h{i}.example", "path": {kind: f"/{i}"}, "method": method}}
        for i in range(50)
        for kind in ("exact", "prefix")
        for method in ("GET", "POST")
    ]
    memory = FileMemory()
    routes = validated(values, make, memory)
    assert routes == models.validate_python(values)
    assert seen == [4]
    memory.keep()
    again = validated(values, make, memory)
    assert all(a is b for a, b in zip(routes, again, strict=True))
    assert seen == [4]


def test_routes_by_form() -> None:
    values = [
        {"pool": "a", "match": {"path": {"exact": "/1"}}},
        {"pool": "b", "match": {"path": {"prefix": "/2"}}},
        {"pool": "c", "match": {"path": {"exact": "/3"}}},
        {"pool": "d", "timeout": "1s"},
    ]
    members = members_of(validated(values, models.validate_python, FileMemory()))
    assert [(route.pool, places) for route, places in by_form(members)] == [("a", [0, 2]), ("b", [1]), ("d", [3])]
    routes = models.validate_python(values)
    assert [places for _, places in by_form(members_of(routes))] == [[0], [1], [2], [3]]


def test_routes_are_a_sequence() -> None:
    values = [{"pool": name, "match": {"path": {"exact": f"/{name}"}}} for name in "abc"]
    routes, plain = validated(values, models.validate_python, FileMemory()), models.validate_python(values)
    assert isinstance(routes, Routes)
    assert (len(routes), routes[-1], list(routes[1:]), repr(routes)) == (3, plain[-1], plain[1:], repr(plain))
    assert routes == plain
    assert plain == routes
    assert routes != plain[1:]
    assert routes != 3
    assert routes[1] is routes[1]


def test_a_copy_with_changes_changes_no_other_route() -> None:
    values = [{"pool": name, "match": {"path": {"exact": f"/{name}"}}} for name in "ab"]
    first, second = validated(values, models.validate_python, FileMemory())
    copy = second.model_copy(update={"timeout": 5})
    assert "timeout" in copy.model_fields_set
    assert "timeout" not in first.model_fields_set
    with pytest.raises(ValidationError, match="frozen"):
        second.pool = "c"
