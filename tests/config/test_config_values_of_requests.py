"""Values of requests in a file: what is one, where they may stand, and what is said of those that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lb.config.environment import Sources, expanded
from lb.config.load import ConfigError, load
from lb.config.schema.file import Config
from lb.config.schema.routes.template import groups_of
from lb.config.values import Value, parse, renamed, spelled, values_in

FILE = """
listeners:
  web:
    bind: 127.0.0.1:0
    protocol: http
    routes:
      - {ROUTE}
pools:
  a: {protocol: http, endpoints: [127.0.0.1:1]}
"""


def loaded(tmp_path: Path, route: str) -> Config:
    path = tmp_path / "t.yaml"
    path.write_text(FILE.replace("{ROUTE}", "{" + route + "}"))
    return load(path)


def refused(tmp_path: Path, route: str) -> str:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, route)
    return str(error.value)


def marked(text: str, **environment: str) -> str:
    return expanded(text, Sources(environment, Path("/")), [])


def test_values_and_environment_variables_stand_side_by_side() -> None:
    text = marked("${ZONE}/${client.address} ${header.X-A:-${cookie.c:-${NONE:-x}}} $${request.host}", ZONE="eu")
    assert spelled(text) == "eu/${client.address} ${header.X-A:-${cookie.c:-x}} ${request.host}"
    parts = parse(text)
    assert parts[:2] == ("eu/", Value("client.address", "", "field", ()))
    assert [value.spelling for value in values_in(parts)] == ["${client.address}", "${header.x-a}", "${cookie.c}"]
    assert parts[-1] == " ${request.host}"  # escaped: plain text


def test_what_a_variable_holds_is_never_a_value() -> None:
    assert parse(marked("${A}", A="${client.address}")) == ("${client.address}",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${request.hos}", "did you mean request.host?"),
        ("${heade.x-a}", "did you mean header.x-a?"),
        ("${zzz.yyy}", "there are client.address, "),
        ("${header.}", "is not a name of a header"),
        ("${header.a(b}", "is not a name of a header"),
        ("${capture.12}", "is not a name of a capture"),
        ("${env.HOME}", "write ${HOME}"),
    ],
)
def test_what_is_no_value_is_said_with_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    line = refused(tmp_path, f"pool: a, request_headers: {{set: {{x-a: '{text}'}}}}")
    assert said in line
    assert "t.yaml:7: listeners.web.routes[0].request_headers.set.x-a: " in line
    assert "\U000f0010" not in line


def test_defaults_go_sixteen_deep() -> None:
    text = "x"
    for _ in range(16):
        text = "${header.a:-" + text + "}"
    assert len(list(values_in(parse(marked(text))))) == 16
    with pytest.raises(ValueError, match="more than 16 defaults"):
        parse(marked("${header.a:-" + text + "}"))


def test_keys_may_be_texts_with_values(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    pool = "b: {protocol: http, endpoints: [127.0.0.1:1], policy: {type: maglev, key: {text: '${%s}'}}}"
    keys = "sticky: {text: '${header.x}'}, rate_limit: {rate: 1/s, key: {text: '${cookie.c}'}}"
    route = f"{{pools: [{{pool: a}}, {{pool: b}}], {keys}}}"
    for value, said in (
        ("request.path", ""),
        ("auth.identity", "pools.b.policy.key.text: ${auth.identity} needs auth"),
    ):
        path.write_text(FILE.replace("{ROUTE}", route) + f"  {pool % value}\n")
        if said:
            with pytest.raises(ConfigError, match=re.escape(said)):
                load(path)
            continue
        config = load(path)
        made = config.listeners["web"].routes[0]
        limit, key = made.rate_limit, config.pools["b"].policy.key
        assert limit is not None
        assert key is not None
        assert made.sticky is not None
        texts = [limit.key.text, made.sticky.text, key.text]
        assert [spelled(text or "") for text in texts] == ["${cookie.c}", "${header.x}", "${request.path}"]


@pytest.mark.parametrize(
    "route",
    [
        "pool: a, match: {headers: {x-a: '${client.address}'}}",
        "pool: '${request.host}'",
        "pool: a, rewrite: {host: '${request.host}'}",
        "pool: a, match: {host: '${header.host}'}",
    ],
)
def test_elsewhere_there_are_no_values(tmp_path: Path, route: str) -> None:
    line = refused(tmp_path, route)
    assert "has a value of requests, which are known in the routes' request_headers" in line
    assert "${" in line


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ("pool: a, request_headers: {set: {x-a: '${endpoint.address}'}}", "known once an endpoint answers"),
        ("respond: {body: '${pool.name}'}", "a route that answers itself has no pool"),
        ("pool: a, request_headers: {set: {x-a: '${auth.identity}'}}", "needs auth of the route"),
        ("pool: a, request_headers: {set: {x-a: '${capture.1}'}}", "needs match.path.regex or match.path.template"),
        ("pool: a, rate_limit: {rate: 1/s, key: {text: '${capture.1}'}}", "needs match.path.regex"),
        ("pool: a, rate_limit: {rate: 1/s, key: {text: '${auth.identity}'}}", "needs auth of the route"),
        ("pool: a, rate_limit: {rate: 1/s, key: {text: '${map.nope}'}}", "there is no map 'nope'"),
        ("pools: [{pool: a}], sticky: {text: '${tls.sni}'}", "is known once the route is chosen"),
        ("pools: [{pool: a}], sticky: {text: '${map.nope}'}", "a key cannot have ${map.nope}"),
        (
            "pool: a, match: {path: {template: '/{b}'}}, request_headers: {set: {x-a: '${capture.c}'}}",
            "has no such name; its names: b",
        ),
        (
            "pool: a, match: {path: {template: '/{b}'}}, rewrite: {path: '/${capture.2}'}",
            "the path's template has 1 name",
        ),
        ("pool: a, rewrite: {path: '/${header.x}?a'}", "is not a path"),
        ("pool: a, request_headers: {set: {x-a: 'ü${header.x}'}}", "is not a header's value"),
        ("pool: a, request_headers: {set: {x-a: '$host ${header.x}'}}", "write ${request.host}"),
        ("redirect: {location: '${query.next}'}", "whoever asks would choose the host"),
        ("redirect: {location: '${map.moved:-/}'}", "is the whole URL and has no default"),
        ("redirect: {location: '${map.moved}/x'}", "whoever asks would choose the host"),
        ("redirect: {location: 'https://a.org${header.x}/b'}", "${header.x} goes on with the host in front of it"),
        ("redirect: {location: 'https://a.org${header.x:-/}'}", "write a slash in front of ${header.x}, or a dot"),
        ("redirect: {location: '${request.scheme}://${request.host}${query.q}'}", "${query.q} goes on with the host"),
        ("redirect: {host: 'a.org${header.x}'}", "${header.x} goes on with the host"),
        ("pool: a, response_headers: {set: {Location: 'https://a${header.x}'}}", "${header.x} goes on with the host"),
        ("redirect: {location: '//${request.host}/'}", "a URL begins with"),
        ("redirect: {location: 'ftp://${request.host}/'}", "a URL begins with"),
        ("redirect: {location: '${request.scheme}${request.uri}'}", "behind ${request.scheme} stands ://"),
        ("redirect: {location: 'https://a.org/', scheme: https}", "location is the whole URL; leave out scheme"),
        ("redirect: {location: 'a.org'}", "is not a URL"),
        ("redirect: {location: 'https://a.org{uri}'}", "such as https://login.example.org/?next=${request.uri}"),
        ("redirect: {location: '/{path}/${request.host}'}", "is not a URL"),
        ("redirect: {host: '${request.host}/x'}", "is not a host"),
        ("pool: a, response_headers: {set: {Location: '${header.x-to}'}}", "whoever asks would choose the host"),
        ("pool: a, match: {maps: {tenants: x}}", "there is no map 'tenants'"),
        ("pool: a, request_headers: {set: {x-a: '${request.id}'}}", "needs request_id: true of the listener"),
        ("pool: a, request_headers: {set: {x-a: '${tls.client.subject}'}}", "needs tls of the listener"),
        ("pools: [{pool: a}], pool_by: '${pool.name}'", "is known once the route is chosen"),
        ("pools: [{pool: a}], pool_by: a", "is the same for every request"),
        ("pools: [{pool: a}], pool_by: '${header.x:-b}'", "pool_by: its default 'b' names none of the pools"),
        ("pool: a, pool_by: '${header.x}'", "pool_by chooses among pools"),
        ("pool: a, rewrite: {path: '/x${request.uri}'}", "the query stays as it is behind the new path"),
        ("redirect: {path: '/x${request.query}'}", "the query stays as it is behind the new path"),
        ("pool: a, match: {any: [{}]}", "a group has no condition"),
    ],
)  # fmt: skip
def test_what_a_place_does_not_take_is_said(tmp_path: Path, route: str, said: str) -> None:
    assert said in refused(tmp_path, route)


@pytest.mark.parametrize("kept", ["http_cache: true", "cache: {results_by_get: true}"])
def test_answers_that_a_cache_keeps_have_no_values(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "t.yaml"
    route = "{pool: a, " + kept + ", response_headers: {set: {x-a: '${header.x}'}}}"
    path.write_text(FILE.replace("{ROUTE}", route) + "cache: {size: 8MiB}\n")
    with pytest.raises(ConfigError, match="are for other clients, too; leave one of them out"):
        load(path)


URLS: list[tuple[str, list[str]]] = [
    ("https://${request.host}/a/${header.x}?b=${request.uri}#${header.y}", ["host", "path", "query", "query"]),
    ("${request.scheme}://www.${request.host}${request.uri}", ["host", "host", "path"]),
    ("/login?next=${request.uri:-${header.z}}", ["query", "query"]),
    ("https://a.org${request.path}?${request.query}", ["path", "query"]),
]


@pytest.mark.parametrize(("text", "places"), URLS)
def test_each_value_of_a_url_is_written_as_its_place_needs(text: str, places: list[str]) -> None:
    assert [value.encoding for value in values_in(parse(marked(text), "url"))] == places


def test_captures_are_numbered_by_the_routes_path() -> None:
    assert renamed(marked("${capture.b} ${capture.a:-${capture.1}}"), {"a": 1, "b": 2}) == marked(
        "${capture.2} ${capture.1:-${capture.1}}"
    )
    assert groups_of(r"^/(?P<a>x)(y)(?:z)\((?<b>[)(]\))(\Q((\E)(?P<c>[[:alpha:](])") == {"a": 1, "b": 3, "c": 5}


def test_a_file_with_values_loads(tmp_path: Path) -> None:
    config: Any = loaded(
        tmp_path,
        "pool: a, match: {path: {regex: '^/t/(?P<t>[a-z]+)'}}, rewrite: {path: '/x/${capture.t}/${capture.1}'},"
        " request_headers: {set: {x-real-ip: '${client.address}'}},"
        " response_headers: {add: {x-by: '${endpoint.address:-none}', x-plain: '$${request.host}'}}",
    )
    route = config.listeners["web"].routes[0]
    assert route.response_headers.add["x-plain"] == "${request.host}"
    assert spelled(route.request_headers.set["x-real-ip"]) == "${client.address}"
