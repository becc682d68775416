"""Names and values that users of other load balancers type: every error says what to write here, and that is valid."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from lb.balancing.policy_checks import check_policies
from lb.balancing.registry import POLICIES as OWN_POLICIES
from lb.config.advice.advice import _PLACES, instead_of_key, keys_of
from lb.config.advice.annotations import model_at
from lb.config.advice.foreign import KEYS, PLACES, POLICIES, VALUES, Advice
from lb.config.advice.shapes import FORMS, LISTS
from lb.config.document import parse
from lb.config.load import load
from lb.config.reference.page import _hints, _origin, _sections
from lb.config.schema.base import nearest, plain
from lb.config.schema.file import CacheConfig, Config, ListenerConfig
from lb.config.units import FileContext
from lb.discovery.registry import check_discovery
from lb.errors import ConfigError
from lb.proxy.routing.checks import check_routes

ROWS = [*KEYS, *POLICIES, *(row for rows in VALUES.values() for row in rows)]
HTTP_POOL = {"protocol": "http", "endpoints": ["10.0.0.1:8080"]}
TLS = {"certificates": [{"cert": "a.pem", "key": "a.key"}]}


def skeleton() -> dict[str, Any]:
    """A file with a section for every place."""
    return copy.deepcopy(_SKELETON)


def parsed(snippet: str) -> dict[str, Any]:
    """`snippet` as the loader reads it."""
    document = parse(snippet.encode())
    assert document.problems == []
    return document.data


_SKELETON: dict[str, Any] = {
    "admin": {"bind": "127.0.0.1:9900"},
    "cache": {},
    "log": {},
    "maps": {"tiers": {"key": "${request.host}", "entries": {"example.org": "gold"}}},
    "tables": {"clients": {"key": "${client.address}", "store": ["requests"]}},
    "tracing": {"endpoint": "http://127.0.0.1:4318/v1/traces"},
    "listeners": {
        "web": {
            "bind": "0.0.0.0:1",
            "protocol": "http",
            "routes": [{"pool": "app", "match": {"path": {"prefix": "/"}}}],
        },
        "away": {"bind": "0.0.0.0:5", "protocol": "http", "routes": [{"redirect": {"scheme": "https"}}]},
        "own": {
            "bind": "0.0.0.0:6",
            "protocol": "http",
            "track": "clients",
            "routes": [{"respond": {"status": 200}, "match": {
                "headers": {"x-team": {"exact": "red"}}, "any": [{"any": [{"host": "a.org"}]}],
            }}],
        },
        "packed": {
            "bind": "0.0.0.0:7",
            "protocol": "http",
            "routes": [{"pool": "app", "compression": {}, "request_headers": {"set": {"x-tier": "${map.tiers}"}}}],
        },
        "other": {"bind": "0.0.0.0:2", "protocol": "https", "tls": TLS, "routes": [{"pool": "app"}]},
        "tcp": {"bind": "0.0.0.0:3", "protocol": "tcp", "pool": "tcp"},
        "udp": {"bind": "0.0.0.0:4", "protocol": "udp", "pool": "udp"},
    },
    "pools": {
        "app": {**HTTP_POOL, "endpoints": [{"address": "10.0.0.1:8080"}]},
        "canary": HTTP_POOL,
        "secure": {**HTTP_POOL, "tls": {}},
        "checked": {**HTTP_POOL, "health": {"type": "http"}},
        "hashed": {**HTTP_POOL, "policy": {"type": "maglev", "key": {"header": "x-a"}}},
        "queued": {**HTTP_POOL, "max_in_flight": 8, "queue": {}, "outlier": {}},
        "oip": {"protocol": "oip", "serve": {"models": "models"}},
        "tcp": {"protocol": "tcp", "endpoints": ["10.0.0.1:8080"]},
        "udp": {"protocol": "udp", "endpoints": ["10.0.0.1:8080"]},
    },
}  # fmt: skip


WHERE: dict[str, tuple[str | int, ...]] = {
    "config": (),
    "admin": ("admin",),
    "cache": ("cache",),
    "log": ("log",),
    "tracing": ("tracing",),
    "listener": ("listeners", "web"),
    "tcp listener": ("listeners", "tcp"),
    "udp listener": ("listeners", "udp"),
    "tls": ("listeners", "other", "tls"),
    "certificate": ("listeners", "other", "tls", "certificates", 0),
    "route": ("listeners", "web", "routes", 0),
    "match": ("listeners", "web", "routes", 0, "match"),
    "innermost group": ("listeners", "own", "routes", 0, "match", "any", 0, "any", 0),
    "text": ("listeners", "own", "routes", 0, "match", "headers", "x-team"),
    "respond": ("listeners", "own", "routes", 0, "respond"),
    "compression": ("listeners", "packed", "routes", 0, "compression"),
    "map": ("maps", "tiers"),
    "table": ("tables", "clients"),
    "path": ("listeners", "web", "routes", 0, "match", "path"),
    "redirect": ("listeners", "away", "routes", 0, "redirect"),
    "rate limit": ("listeners", "web", "routes", 0, "rate_limit"),
    "retry": ("listeners", "web", "routes", 0, "retry"),
    "pool": ("pools", "app"),
    "oip pool": ("pools", "oip"),
    "tcp pool": ("pools", "tcp"),
    "pool tls": ("pools", "secure", "tls"),
    "endpoint": ("pools", "app", "endpoints", 0),
    "key": ("pools", "hashed", "policy", "key"),
    "outlier": ("pools", "queued", "outlier"),
    "queue": ("pools", "queued", "queue"),
    "health": ("pools", "checked", "health"),
    "serve": ("pools", "oip", "serve"),
}
ANYWHERE = ("config", "listener", "route", "pool")


def section(data: Any, place: str) -> dict[str, Any]:
    for part in WHERE[place]:
        if isinstance(data, dict) and part in ("rate_limit", "retry"):
            data = data.setdefault(part, {"rate": "1/s"} if part == "rate_limit" else {})
        else:
            data = data[part]
    return data  # type: ignore[no-any-return]


def errors(folder: Path, data: Any) -> list[str]:
    path = folder / "t.yaml"
    path.write_text(json.dumps(data))
    try:
        load(path, files=False, checks=[check_policies, check_discovery, check_routes])
    except ConfigError as error:
        return [line.removeprefix(f"{path}:1: ") for line in error.problems]
    return []


def with_snippet(row: Advice) -> dict[str, Any]:
    """The skeleton that follows the advice of `row`."""
    data = skeleton()
    here = section(data, row.at)
    changes = parsed("{" + row.snippet + "}")
    if row.at in ("listener", "tcp listener", "udp listener") and "pool" not in changes and "tls" in changes:
        data["listeners"] = {"web": {**here}}
        here = data["listeners"]["web"]
    if row.at == "route" and {"pools", "redirect", "respond"} & changes.keys():
        del here["pool"]
    if row.at in ("path", "key", "text") or (row.at == "match" and "grpc" in changes):
        here.clear()
    if row.at == "oip pool" and "scaling" in changes:
        here["serve"]["max"] = 4
    if row.at == "map" and "file" in changes:
        del here["entries"]
    if row.at == "pool" and "discover" in changes:
        del here["endpoints"]
    if row.at == "oip pool" and changes == {"protocol": "oip"}:
        here["protocol"] = "http"
    here.update(changes)
    if row.at == "pool" and here["protocol"] not in ("http", "http2", "grpc"):
        data["listeners"] = {"web": {"bind": "0.0.0.0:1", "protocol": "http", "routes": [{"pool": "app"}]}}
    if row.at == "config":
        data["pools"].setdefault("app", HTTP_POOL)
        for name, kind in (("canary", "http"), ("tcp", "tcp"), ("udp", "udp")):
            data["pools"].setdefault(name, {"protocol": kind, "endpoints": ["10.0.0.1:8080"]})
    if row.at == "endpoint" and row.snippet.startswith("weight: 0"):
        data["pools"]["app"]["endpoints"].append("10.0.0.9:80")
    return data


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.snippet], ids=lambda row: f"{row.names.split()[0]}-{row.at}"
)
def test_every_advised_snippet_is_valid_where_it_is_advised(tmp_path: Path, row: Advice) -> None:
    assert row.at in PLACES
    assert errors(tmp_path, with_snippet(row)) == []


def test_the_skeleton_itself_is_valid(tmp_path: Path) -> None:
    assert errors(tmp_path, skeleton()) == []
    for place in WHERE:
        section(skeleton(), place)


@pytest.mark.parametrize("row", KEYS, ids=lambda row: f"{row.names.split()[0]}-{row.within or 'any'}")
def test_every_foreign_key_gets_its_advice(tmp_path: Path, row: Advice) -> None:
    """In each place where it is said to stand, each of the names; nothing else is suggested."""
    data, expected = skeleton(), []
    by_squeezed = {place.replace(" ", ""): place for place in WHERE}
    for place in [by_squeezed[name] for name in row.within.split()] or ANYWHERE:
        here = section(data, place)
        model = model_at(Config, WHERE[place])
        assert model is not None
        known = {plain(key) for key in keys_of(model)}
        for name in row.names.split():
            if row.within:
                assert name not in known, f"{name} is a key {PLACES.get(place, place)}"
            if name in known or advised_before(row, name, model):
                continue
            here[name] = None  # no value to carry over
            expected.append(".".join(map(str, (*WHERE[place], name))).replace(".0", "[0]"))
    found = errors(tmp_path, data)
    assert expected or not row.within
    for path in expected:
        (line,) = [line for line in found if line.startswith(f"{path}: unknown key")]
        if row.within or "it is one of" not in line:
            assert (row.snippet or row.note) in line, line
            assert "did you mean" not in line, line


def advised_before(row: Advice, name: str, model: type[BaseModel]) -> bool:
    """Whether another row is for this name in this very place."""
    here = _PLACES[model]
    mine = [r for r in KEYS if name in r.names.split() and here in r.within.split()]
    return bool(mine) and mine[0] is not row


@pytest.mark.parametrize(("place", "key"), VALUES)
def test_every_foreign_value_gets_its_advice(tmp_path: Path, place: str, key: str) -> None:
    for row in VALUES[place, key]:
        for word in row.names.split():
            data = skeleton()
            at = "config" if place == "log" else place
            here = section(data, at)
            if place == "log":
                here["log"] = {key: word}
            else:
                here[key] = [word] if key in ("providers", "on", "codings") else word
            (line,) = [line for line in errors(tmp_path, data) if "is not one of" in line]
            assert (row.snippet or row.note) in line or "; write " in line, line
            assert "did you mean" not in line, line


@pytest.mark.parametrize("row", POLICIES, ids=lambda row: row.names.split()[0])
def test_every_foreign_policy_gets_its_advice(tmp_path: Path, row: Advice) -> None:
    for name in row.names.split():
        assert name not in map(plain, OWN_POLICIES)
        data = skeleton()
        data["pools"]["app"]["policy"] = name
        assert any(
            f"there is no policy {name!r}; write" in line and row.snippet in line for line in errors(tmp_path, data)
        ), name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adaptive", "policy: auto"),
        ("least_connections", "policy: least_request"),
        ("leastconn", "policy: least_request"),
        ("weighted_round_robin", "policy: round_robin"),
        ("wrr", "policy: round_robin"),
        ("ip_hash", "policy: {type: maglev, key: {source: true}}"),
        ("consistent_hash", "policy: {type: ring_hash, key: {header: x-session}}"),
        ("LEAST_REQUEST", "least_request"),
        ("round-robin", "round_robin"),
        ("RoundRobin", "round_robin"),
    ],
)
def test_policies_that_people_type(tmp_path: Path, name: str, said: str) -> None:
    data = skeleton()
    data["pools"]["app"]["policy"] = name
    (line,) = errors(tmp_path, data)
    assert line.startswith(f"pools.app.policy: there is no policy {name!r}; write {said}")


def test_a_policy_is_named_beside_a_key_that_was_meant_for_endpoints(tmp_path: Path) -> None:
    data = skeleton()
    data["pools"]["app"] = {"protocol": "http", "policy": "leastconn", "servers": ["10.0.0.1:80"]}
    said = [line.partition(";")[0] for line in errors(tmp_path, data)]
    assert said == ["pools.app.policy: there is no policy 'leastconn'", "pools.app.servers: unknown key"]


@pytest.mark.parametrize(
    ("place", "key", "value", "said"),
    [
        ("listener", "bind", 8080, "8080 is a port alone; write 0.0.0.0:8080, or 127.0.0.1:8080…"),
        ("listener", "bind", "8080", "'8080' is a port alone; write 0.0.0.0:8080, or 127.0.0.1:8080…"),
        ("listener", "bind", ":8080", "':8080' has no IP address; write 0.0.0.0:8080 or [::]:8080 for every address"),
        ("listener", "bind", "*:8080", "'*:8080' has no IP address; write 0.0.0.0:8080 or [::]:8080 for every address"),
        ("listener", "bind", "http://0.0.0.0:80", "'http://0.0.0.0:80' is a URL; write 0.0.0.0:80…"),
        ("listener", "bind", "/run/web.sock", "'/run/web.sock' is a path; write unix:/run/web.sock for a Unix socket"),
        ("admin", "bind", 9900, "9900 is a port alone; write 0.0.0.0:9900, or 127.0.0.1:9900…"),
        ("endpoint", "address", 8080, "8080 is a port alone; write 127.0.0.1:8080"),
        ("endpoint", "address", "https://a.org", "'https://a.org' is a URL; write a.org:443 and tls: {} …"),
        ("endpoint", "address", "10.0.0.1:80 w=5", '\'10.0.0.1:80 w=5\' has … write {address: "10.0.0.1:80"…'),
        ("listener", "protocol", "HTTP", "'HTTP' is … write http"),
        ("listener", "protocol", "grpc", "'grpc' is … write protocol: http (it understands …"),
        ("listener", "forwarded_header", "yes", "must be true or false; write true"),
        ("listener", "forwarded_header", "off", "must be true or false; write false"),
        ("listener", "forwarded_header", 1, "must be true or false; write true"),
        ("listener", "max_headers", "100", "must be a whole number; write 100"),
        ("listener", "max_headers", "10k", "must be a whole number; write 10000"),
        ("listener", "max_headers", "many", "must be a whole number"),
        ("listener", "idle_timeout", 30, "must be a duration … write 30s for seconds, 30ms for milliseconds"),
        ("listener", "idle_timeout", "30", "'30' is not a duration … write 30s for seconds, 30ms for milliseconds"),
        ("listener", "idle_timeout", "1m30s", "'1m30s' is not a duration … write 90s"),
        ("listener", "idle_timeout", "30 sec", "'30 sec' is not a duration … write 30s"),
        ("listener", "idle_timeout", "soon", "'soon' is not a duration; write a number with us, ms …"),
        ("route", "max_body", "10MB", "'10MB' is not a size … write 10MiB (units…"),
        ("route", "max_body", "10m", "'10m' is not a size … write 10MiB (units…"),
        ("route", "max_body", 65536, "must be a size … write 64KiB (units…"),
        ("rate limit", "rate", 100, "100 is not a rate … write 100/s for 100 a second, 100/m for 100 a minute"),
        ("rate limit", "rate", "100", "'100' is not a rate … write 100/s for 100 a second, 100/m for 100 a minute"),
        ("rate limit", "rate", "100r/s", "'100r/s' is not a rate … write 100/s"),
        ("rate limit", "rate", "100 per minute", "'100 per minute' is not a rate … write 100/m"),
        ("pool", "panic_threshold", "90%", "must be a whole number; write 90"),
        ("endpoint", "weight", "90%", "must be a whole number; write 90"),
        ("endpoint", "weight", 1.5, "must be a whole number"),
        ("pool", "queue", {"overload_share": "90%"}, "must be a number; write 0.9"),
        ("route", "rate_limit", "100/s", "must be a mapping; write {rate: 100/s}"),
        ("route", "rate_limit", 100, "must be a mapping; write {rate: 100/s}"),
        ("route", "retry", 3, "must be a mapping; write {attempts: 3}"),
        ("route", "match", "/v2/", "must be a mapping; write {path: {prefix: /v2/}}"),
        ("match", "path", "/v2/", "must be a mapping; write {prefix: /v2/}"),
        ("pool", "health", "http", "must be a mapping; write {type: http}"),
        ("pool", "health", True, "must be a mapping such as {type: http, path: /healthz}"),
        ("tls", "min_version", "TLSv1.2", "'TLSv1.2' is not one of tls1.2, tls1.3; write min_version: tls1.2"),
        ("tls", "min_version", "tls1.1", "'tls1.1' is not one of tls1.2, tls1.3; tls1.2 is the oldest that is spoken"),
        ("rate limit", "rate", "0.5/s", "'0.5/s' is not a rate … write 30/m"),
        ("rate limit", "rate", "0.5r/m", "'0.5r/m' is not a rate … write 30/h"),
        ("rate limit", "rate", 0.1, "0.1 is not a rate … write 6/m"),
        ("rate limit", "rate", "0.0000001/d", "'0.0000001/d' is not a rate …"),
        ("rate limit", "key", "${header.x-a}", "'${header.x-a}' has a value … text of a key (key: {text: …})"),
        ("map", "match", "map_beg", "'map_beg' is not one of … write match: prefix"),
        ("map", "key", "$host", "'$host' is the same for every request; a value is ${request.host}"),
        ("rate limit", "key", "$binary_remote_addr", "must be a … $binary_remote_addr is ${client.address} in…"),
        ("endpoint", "address", "$HOST", "'$HOST' has no port … an environment variable is written ${HOST}"),
    ],
)  # fmt: skip
def test_values_that_people_type(tmp_path: Path, place: str, key: str, value: Any, said: str) -> None:
    data = skeleton()
    section(data, place)[key] = value
    (line,) = [line for line in errors(tmp_path, data) if "is never reached" not in line]
    path = ".".join(map(str, (*WHERE[place], key, *(value if isinstance(value, dict) else ())))).replace(".0", "[0]")
    begin, *rest = said.split("…")
    assert line.startswith(f"{path}: {begin.rstrip()}")
    assert rest[0].strip() in line if rest else line == f"{path}: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${host}", "the environment variable host is not set; … (as a value of the request write ${request.host})"),
        ("${remote_addr}", "the environment … (as a value of the request write ${client.address})"),
        ("${http_user_agent}", "the environment … (as a value of the request write ${header.NAME})"),
        ("${src}", "the environment … (as a value of the request write ${client.address})"),
        ("${path}", "the environment … (as a value of the request write ${request.path})"),
        ("${NO_SUCH_HOST}", "the environment … give a default: ${NO_SUCH_HOST:-default}"),
        ("#{host}", "'#{host}' has the variable #{host}, which is plain text here; write ${request.host} …"),
        ("#{path}", "'#{path}' has the variable #{path}, which is plain text here; write ${request.uri}, or …"),
        ("${client.ip}", "'${client.ip}': there is no value ${client.ip}; write ${client.address}"),
        ("${request.header.x-a}", "'${request.header.x-a}': there is no value … write ${header.x-a}"),
        ("${cookies.a}", "'${cookies.a}': there is no value ${cookies.a}; write ${cookie.a}"),
        ("${request.URL}", "'${request.URL}': there is no value ${request.URL}; write ${request.uri}"),
    ],
)
def test_values_of_requests_that_people_type(tmp_path: Path, text: str, said: str) -> None:
    data = skeleton()
    data["listeners"]["web"]["routes"][0]["request_headers"] = {"set": {"x-a": text}}
    (line,) = errors(tmp_path, data)
    begin, *rest = said.split("…")
    assert line.startswith(f"listeners.web.routes[0].request_headers.set.x-a: {begin.rstrip()}")
    assert line.endswith(rest[0].strip()) if rest and rest[0] else True, line


def test_a_location_as_alb_has_it(tmp_path: Path) -> None:
    data = skeleton()
    data["listeners"]["away"]["routes"][0]["redirect"] = {"location": "https://#{host}:443/#{path}?#{query}"}
    (line,) = errors(tmp_path, data)
    assert "'https://#{host}:443/#{path}?#{query}' has the variable #{host}" in line
    assert "write ${request.host}" in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("headers", {"x": ["a", "b"]}, "headers.x: must be text; write {one_of: [a, b]}"),
        ("headers", {"x": "~^a"}, "headers.x: '~^a' … {regex: '^a'}"),
        ("headers", {"x": "~ ^a"}, "headers.x: '~ ^a' … {regex: '^a'}"),
        ("headers", {"x": "~* bot"}, "headers.x: '~* bot' … {regex: '(?i)bot'}"),
        ("headers", {"x": "~*bot"}, "headers.x: '~*bot' … {regex: '(?i)bot'}"),
        ("any", [{"any": [{"none": [{"host": "a"}]}]}], "any[0].any[0].none: unknown key; groups nest two deep …"),
    ],
)
def test_conditions_that_people_type(tmp_path: Path, key: str, value: Any, said: str) -> None:
    data = skeleton()
    data["listeners"]["web"]["routes"][0]["match"] = {key: value}
    (line,) = errors(tmp_path, data)
    begin, *rest = said.split("…")
    assert line.startswith(f"listeners.web.routes[0].match.{begin.rstrip()}"), line
    assert rest[0].strip() in line if rest else True, line


def test_texts_that_begin_with_a_tilde_stay(tmp_path: Path) -> None:
    data = skeleton()
    data["listeners"]["web"]["routes"][0]["match"] = {"headers": {"x": "~me", "y": "~"}, "query": {"v": "~1.2"}}
    assert errors(tmp_path, data) == []


@pytest.mark.parametrize(
    ("place", "key", "value", "said"),
    [
        ("pool", "endpoints", {"a": "10.0.0.1:80"}, "must be a list, such as endpoints: ["),
        ("listener", "routes", {"a": {"pool": "app"}}, "must be a list, such as routes: [{match: "),
        ("config", "listeners", [{"bind": "0.0.0.0:1"}], "must be a mapping of names, such as listeners: {web: {"),
        ("config", "pools", [{"name": "app"}], "must be a mapping of names, such as pools: {app: {"),
        ("match", "headers", ["x-team: blue"], "must be a mapping of names, such as headers: {x-team: blue}"),
        ("tls", "certificates", {"cert": "a", "key": "b"}, "must be a list, such as certificates: [{cert: "),
        ("route", "match", ["/v2/"], "must be a mapping such as {path: {prefix: /v2/}}"),
        ("pool", "health", ["http"], "must be a mapping such as {type: http, path: /healthz}"),
    ],
)
def test_lists_and_mappings_in_each_others_place(tmp_path: Path, place: str, key: str, value: Any, said: str) -> None:
    data = skeleton()
    section(data, place)[key] = value
    path = ".".join(map(str, (*WHERE[place], key))).replace(".0", "[0]")
    assert [line for line in errors(tmp_path, data) if line.startswith(f"{path}: {said}")]


def test_every_list_and_mapping_has_an_example_that_is_valid() -> None:
    context = FileContext(Path("/"))
    for _, model in _sections(Config, ""):
        hints = _hints(model)
        for name, field in model.model_fields.items():
            kind = _origin(hints[name])
            if kind is None:
                continue
            key = field.alias or name
            example = parsed(LISTS[model.__name__, key])
            assert list(example) == [key]
            assert isinstance(example[key], kind)
            TypeAdapter(hints[name]).validate_python(example[key], context=context)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_valid(name: str) -> None:
    model = next(m for _, m in _sections(Config, "") if m.__name__ == name)
    document = parse(f"form: {FORMS[name]}".encode())
    assert document.problems == []
    model.model_validate(document.data["form"], context=FileContext(Path("/")))


@pytest.mark.parametrize(
    ("place", "key", "said"),
    [
        ("listener", "idle-timeout", "unknown key; write idle_timeout"),
        ("listener", "maxConnections", "unknown key; write max_connections"),
        ("listener", "Bind", "unknown key; write bind"),
        ("listener", "routs", "unknown key; did you mean routes?"),
        ("pool", "max_body", "unknown key here; it is one of listeners.NAME.routes[]"),
        ("config", "routes", "unknown key; write in a listener routes: [{pool: app}]"),
        ("listener", "rate_limit", "unknown key here; it is one of listeners.NAME.routes[]"),
        ("cache", "quirk", f"unknown key; the keys here are {', '.join(keys_of(CacheConfig))}"),
        ("listener", "zzz", f"unknown key; the keys here are {', '.join(keys_of(ListenerConfig))}"),
    ],
)
def test_other_keys(tmp_path: Path, place: str, key: str, said: str) -> None:
    data = skeleton()
    section(data, place)[key] = "x"
    path = ".".join(map(str, (*WHERE[place], key)))
    assert f"{path}: {said}" in errors(tmp_path, data)


@pytest.mark.slow
def test_a_key_of_another_place_is_taken_for_no_other_key_but_its_plural() -> None:
    models = {model for _, model in _sections(Config, "")}
    every = {key for model in models for key in keys_of(model)}
    suggested = 0
    for model in models:
        for key in every - set(keys_of(model)):
            _, found, meant = instead_of_key(model, key).partition("did you mean ")
            if found:
                suggested += 1
                assert meant.rstrip("?") in keys_of(model)
                assert meant.rstrip("?").rstrip("s") == key.rstrip("s"), (model.__name__, key, meant)
    assert suggested


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("wrokers", ["workers", "zone"], "workers"),
        ("idel", ["idle"], "idle"),
        ("round_robbin", ["round_robin", "random"], "round_robin"),
        ("maglev2", ["maglev"], "maglev"),
        ("least_requests", ["least_request"], "least_request"),
        ("Least-Request", ["least_request"], "least_request"),
        ("tls1.1", ["tls1.2", "tls1.3"], None),
        ("http3", ["http2"], None),
        ("metrics", ["retries"], None),
        ("batch", ["pool"], None),
        ("on", ["no"], None),
        ("retry", ["retries"], None),
    ],
)
def test_slips(word: str, known: list[str], meant: str | None) -> None:
    assert nearest(word, known) == meant
