"""Texts that are patterns, variables or switches elsewhere are refused where they would match nothing, or be sent as
they are; every error says what to write, and that is valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_config_foreign import WHERE, errors, parsed, section, skeleton

from lb.balancing.registry import POLICIES
from lb.config.advice.advice import instead_of_key, keys_of
from lb.config.advice.annotations import model_at
from lb.config.advice.carried import own_policies
from lb.config.advice.explain import _form
from lb.config.advice.foreign import KEYS
from lb.config.reference.page import _sections
from lb.config.schema.file import Config
from lb.config.units import FileContext


def said(folder: Path, place: str, snippet: str) -> str:
    """The error about `snippet` in the place."""
    data = skeleton()
    changed(data, place, snippet)
    lines = [line for line in errors(folder, data) if "is never reached" not in line]
    assert lines, f"{snippet} is taken"
    return lines[0]


def changed(data: dict[str, Any], place: str, snippet: str) -> None:
    here = section(data, place)
    new = parsed(snippet)
    if place == "route" and {"redirect", "respond", "pools"} & new.keys():
        del here["pool"]
    if place == "pool" and "discover" in new:
        del here["endpoints"]
    here.update(new)


# (place, what is guessed, what is said, what it should be instead)
GUESSES = [
    # paths
    ("route", 'match: {path: {prefix: "/v2/*"}}', "write path: {prefix: /v2/}", "match: {path: {prefix: /v2/}}"),
    ("route", 'match: {path: {prefix: "/v2*"}}', "write path: {prefix: /v2}", "match: {path: {prefix: /v2}}"),
    ("route", 'match: {path: {exact: "/a/*"}}', "write path: {prefix: /a/}", "match: {path: {prefix: /a/}}"),
    ("route", 'match: {path: {exact: "/*"}}', "write path: {prefix: /}", "match: {path: {prefix: /}}"),
    ("route", 'match: {path: {exact: "/a/.*"}}', "write path: {prefix: /a/}", "match: {path: {prefix: /a/}}"),
    (
        "route",
        'match: {path: {exact: "/a/*.png"}}',
        "write path: {regex: '^/a/[^/]*[.]png$'}",
        "match: {path: {regex: '^/a/[^/]*[.]png$'}}",
    ),
    (
        "route",
        'match: {path: {exact: "/a/*/b"}}',
        'write path: {template: "/a/{any2}/b"}',
        'match: {path: {template: "/a/{any2}/b"}}',
    ),
    (
        "route",
        'match: {path: {exact: "/a/{id}"}}',
        'write path: {template: "/a/{id}"}',
        'match: {path: {template: "/a/{id}"}}',
    ),
    (
        "route",
        'match: {path: {prefix: "/a/:id/"}}',
        'write path: {template: "/a/{id}/"}',
        'match: {path: {template: "/a/{id}/"}}',
    ),
    (
        "route",
        'match: {path: {exact: "/v[0-9]+/x"}}',
        "write path: {regex: '^/v[0-9]+/x'}",
        "match: {path: {regex: '^/v[0-9]+/x'}}",
    ),
    ("route", 'match: {path: {prefix: "^/v2/"}}', "write path: {regex: '^/v2/'}", "match: {path: {regex: '^/v2/'}}"),
    (
        "route",
        'match: {path: {exact: "/a?x=1"}}',
        'write /a and query: {x: "1"} beside it',
        'match: {path: {exact: /a}, query: {x: "1"}}',
    ),
    ("route", "match: {path: {prefix: v2}}", "write /v2", "match: {path: {prefix: /v2}}"),
    ("route", "match: {path: {prefix: 'http://x/v2'}}", "write /v2", "match: {path: {prefix: /v2}}"),
    ("match", 'path: {exact: "v2/*"}', "write path: {prefix: /v2/}", "path: {prefix: /v2/}"),
    ("match", 'path: {exact: "*.png"}', "write path: {regex: '[.]png$'}", "path: {regex: '[.]png$'}"),
    ("route", 'match: {path: {regex: "~^/v2"}}', "write '^/v2'", "match: {path: {regex: '^/v2'}}"),
    ("match", 'path: "/v2/*"', "must be a mapping; write {prefix: /v2/}", "path: {prefix: /v2/}"),
    ("match", 'path: "^/v2/"', "must be a mapping; write {regex: '^/v2/'}", "path: {regex: '^/v2/'}"),
    ("route", 'match: "/v2/*"', "write {path: {prefix: /v2/}}", "match: {path: {prefix: /v2/}}"),
    ("route", 'match: "*"', "must be a mapping; leave it out for any", ""),
    ("match", 'path: {template: "/a/:id"}', 'write template: "/a/{id}"', 'path: {template: "/a/{id}"}'),
    ("match", 'path: {template: "/a/<id>"}', 'write template: "/a/{id}"', 'path: {template: "/a/{id}"}'),
    ("match", 'path: {template: "/a/{id:[0-9]+}"}', 'write template: "/a/{id}"', 'path: {template: "/a/{id}"}'),
    ("match", 'path: {template: "/a/*"}', "write prefix: /a/", "path: {prefix: /a/}"),
    ("match", "path: {template: /a}", "write it as exact", "path: {exact: /a}"),
    # hosts
    ("match", "host: _", "'_' is every host elsewhere; leave it out for any", ""),
    ("match", 'host: "*"', "'*' is every host elsewhere; leave it out for any", ""),
    ("match", "host: .example.org", 'write "*.example.org"', 'host: "*.example.org"'),
    ("match", 'host: "www.*"', "write host_regex: '^www[.].*$'", "host_regex: '^www[.].*$'"),
    ("match", 'host: "~^www"', "write host_regex: '^www'", "host_regex: '^www'"),
    ("match", 'host: "example.org:80"', "write example.org", "host: example.org"),
    ("match", 'host: "https://example.org/"', "write example.org", "host: example.org"),
    ("match", "host: bücher.example", "write xn--bcher-kva.example", "host: xn--bcher-kva.example"),
    ("match", 'host: "*.bücher.example"', 'write "*.xn--bcher-kva.example"', 'host: "*.xn--bcher-kva.example"'),
    ("match", "host: [a.org, b.org]", "write host_regex: '^(a[.]org|b[.]org)$'", "host_regex: '^(a[.]org|b[.]org)$'"),
    ("match", 'host: "a.org b.org"', "write host_regex: '^(a[.]org|b[.]org)$'", "host_regex: '^(a[.]org|b[.]org)$'"),
    ("match", 'host_regex: "~*^www"', "write '(?i)^www'", "host_regex: '(?i)^www'"),
    ("pool tls", 'server_name: "https://x.org"', "write x.org", "server_name: x.org"),
    ("certificate", 'names: ["_"]', "leave it out for any", ""),
    # methods and models
    ("match", 'method: "*"', "leave method out for any", ""),
    ("match", "method: ANY", "leave method out for any", ""),
    ("match", "method: [ALL]", "leave method out for any", ""),
    ("match", 'method: "GET|POST"', "write [GET, POST]", "method: [GET, POST]"),
    ("match", 'method: "GET,POST"', "write [GET, POST]", "method: [GET, POST]"),
    ("match", 'method: ["GET POST"]', "write [GET, POST]", "method: [GET, POST]"),
    ("route", 'match: {model: "llm-*"}', "write {prefix: llm-}", "match: {model: {prefix: llm-}}"),
    ("route", 'match: {model: "llm-.*"}', "write {regex: 'llm-.*'}", "match: {model: {regex: 'llm-.*'}}"),
    ("route", 'match: {model: "*"}', "path: {prefix: /v2/models/}", "match: {path: {prefix: /v2/models/}}"),
    ("route", "match: {model: [a, b]}", "write {regex: '^(a|b)$'}", "match: {model: {regex: '^(a|b)$'}}"),
    # headers, cookies, parameters
    ("match", 'headers: {x-a: "*"}', 'write {present: true}, or {exact: "*"}', "headers: {x-a: {present: true}}"),
    ("match", 'headers: {x-a: ".*"}', "write {present: true}", "headers: {x-a: {present: true}}"),
    ("match", 'headers: {x-a: "foo*"}', "write {prefix: foo}", "headers: {x-a: {prefix: foo}}"),
    ("match", 'headers: {x-a: "*foo"}', "write {suffix: foo}", "headers: {x-a: {suffix: foo}}"),
    ("match", 'headers: {x-a: "*foo*"}', "write {contains: foo}", "headers: {x-a: {contains: foo}}"),
    ("match", 'headers: {x-a: "~^foo"}', "write {regex: '^foo'}", "headers: {x-a: {regex: '^foo'}}"),
    ("match", "headers: {x-a: true}", '"true" for this text, {present: true} for any', 'headers: {x-a: "true"}'),
    ("match", "headers: {x-a: null}", "{present: true} for any", "headers: {x-a: {present: true}}"),
    ("match", "headers: {x-a: [a, b]}", "write {one_of: [a, b]}", "headers: {x-a: {one_of: [a, b]}}"),
    ("match", 'cookies: {a: "*"}', "write {present: true}", "cookies: {a: {present: true}}"),
    ("match", 'query: {a: "*"}', "write {present: true}", "query: {a: {present: true}}"),
    ("match", 'headers: {"x-*": a}', "is one name, no pattern", ""),
    ("route", 'response_headers: {remove: ["x-*"]}', "is one name, no pattern", ""),
    ("route", "response_headers: {remove: [-Server]}", "write Server", "response_headers: {remove: [Server]}"),
    ("listener", 'upgrades: ["*"]', "is one name, no pattern", ""),
    ("key", "header: $http_x_user", "write x-user", "header: x-user"),
    ("match", "source: 0.0.0.0", "write 0.0.0.0/0 for every address", "source: 0.0.0.0/0"),
    ("listener", 'trusted_proxies: ["::"]', "write ::/0 for every address", 'trusted_proxies: ["::/0"]'),
    # variables
    (
        "route",
        r'rewrite: {regex: {pattern: "^/v1/(.*)", substitution: "/$1"}}',
        r"write substitution: '/\1'",
        r"rewrite: {regex: {pattern: '^/v1/(.*)', substitution: '/\1'}}",
    ),
    (
        "route",
        'rewrite: {regex: {pattern: "^/v1/(.*)", substitution: "/v2/$1"}}',
        r"has $1; groups are written \1 to \9: write substitution: '/v2/\1'",
        "",
    ),
    ("route", "rewrite: {path: /$1}", r"groups are written \1 to \9", ""),
    ("route", "rewrite: {path: /x$request_uri}", "has the variable $request_uri", ""),
    ("route", "redirect: {path: /x$request_uri}", "path and query stay as they were", "redirect: {prefix: /x}"),
    ("route", "redirect: {scheme: https, host: $host}", "leave it out", "redirect: {scheme: https}"),
    ("route", 'redirect: {host: "https://x.org"}', "write x.org", "redirect: {host: x.org}"),
    ("route", "request_headers: {set: {x-real-ip: $remote_addr}}", "forwarded of the listener", ""),
    ("route", "request_headers: {set: {x-real-ip: '%[src]'}}", "forwarded of the listener", ""),
    ("route", "request_headers: {add: {x-ip: '%DOWNSTREAM_REMOTE_ADDRESS%'}}", "forwarded of the listener", ""),
    ("route", "request_headers: {add: {x-ip: '{client_ip}'}}", "forwarded of the listener", ""),
    ("route", "request_headers: {add: {x-ip: '%ci'}}", "forwarded of the listener", ""),
    ("route", "request_headers: {set: {x-id: 'id=$request_id'}}", "request_id of the listener", ""),
    ("route", "request_headers: {set: {x-b: '%REQ(X-A)%'}}", "write ${header.NAME}", ""),
    ("route", "response_headers: {set: {x-by: $upstream_addr}}", "expose_endpoint: true of a route", ""),
    ("route", "respond: {body: 'hi $remote_addr'}", "has the variable $remote_addr", ""),
    ("route", "respond: {headers: {x-a: $host}}", "has the variable $host", ""),
    ("route", 'rewrite: {path: "/a/*"}', "write prefix: /a/", ""),
    ("match", 'grpc: {service: a.B, method: "*"}', "leave it out for every method", ""),
    # files, health, sizes
    ("config", "log: {access: 'syslog:server=127.0.0.1'}", "write - for standard output", "log: {access: '-'}"),
    ("config", "log: {access: '127.0.0.1:514'}", "write - for standard output", "log: {access: '-'}"),
    ("config", "log: {access: json}", "would be a file of this name", "log: {access: '-'}"),
    ("config", "log: {access: true}", "must be a file's path", "log: {access: /var/log/tidegate/access.log}"),
    ("config", "log: {access: false}", 'write "" for no log', 'log: {access: ""}'),
    ("health", "host: 'http://x'", "write x", "host: x"),
    ("health", "host: $host", "leave it out", ""),
    ("health", "path: healthz", "write /healthz", "path: /healthz"),
    ("health", "path: GET /healthz HTTP/1.1", "write /healthz", "path: /healthz"),
    ("health", "status: 2xx", "must be a list; write [200-299]", "status: [200-299]"),
    ("health", "status: [2xx]", "write 200-299", "status: [200-299]"),
    ("health", 'status: "200,204"', "write [200, 204]", "status: [200, 204]"),
    ("health", "expect: ok", "write body: {contains: ok}", "body: {contains: ok}"),
    ("health", "expect: 200", "write status: [200]", "status: [200]"),
    ("route", "max_body: 0", "0 would refuse every body; leave it out", "max_body: 1024TiB"),
    ("route", "max_body: unlimited", "there is always a limit, of 1024TiB at most", "max_body: 1024TiB"),
    ("listener", "via: off", 'write "" for none', 'via: ""'),
    # sections, switched on and off
    ("route", "sticky: true", "such as {header: x-session}", "pools: [{pool: app}], sticky: {header: x-session}"),
    ("route", "cors: true", "such as {allow_origins: [", 'cors: {allow_origins: ["https://app.example.org"]}'),
    ("pool", "health: off", "leave it out: without it there is none", ""),
    ("pool", "health: false", "leave it out: without it there is none", ""),
    ("pool", "slow_start: off", "leave slow_start out", ""),
    ("pool", "queue: off", "nobody waits without max_in_flight", "max_in_flight: 1, queue: {max: 0}"),
    ("config", "admin: off", "{bind: unix:/run/tidegate/admin.sock}", "admin: {bind: unix:/run/tidegate/admin.sock}"),
    ("config", "cache: off", "leave it out: without it there is none", ""),
    ("pool", "max_in_flight: 0", "leave it out", ""),
    ("pool", "max_in_flight: unlimited", "leave it out", ""),
    ("listener", "max_connections: unlimited", "of 1000000 at most", "max_connections: 1000000"),
    ("route", "timeout: infinite", "leave it out", ""),
    ("pool", "response_timeout: off", "write 0s for no limit", "response_timeout: 0s"),
    ("pool", "connect_timeout: none", "of 365d at most", "connect_timeout: 365d"),
    ("pool", "connect_timeout: 0", "must be at least 1ms", "connect_timeout: 1ms"),
    ("queue", "timeout: 0", "must be at least 1ms", "timeout: 1ms"),
    ("config", "cache: {size: 0}", "must be at least 1MiB", "cache: {size: 1MiB}"),
    ("pool", "retries: off", "write 0", "retries: 0"),
    ("pool", "panic_threshold: none", "write 0", "panic_threshold: 0"),
    ("listener", 'normalize_path: "no"', "write false", "normalize_path: false"),
    ("listener", "upgrades: off", "write []", "upgrades: []"),
    ("listener", "max_connections_per_source: unlimited", "write 0 for no limit", "max_connections_per_source: 0"),
    ("tcp pool", "send_proxy: true", "write v2", "send_proxy: v2"),
    ("tcp pool", "send_proxy: 1", "write v1", "send_proxy: v1"),
    ("config", 'workers: "2"', "write 2", "workers: 2"),
    # values that are carried over
    ("pool", "balance: roundrobin", "write policy: round_robin", "policy: round_robin"),
    ("pool", "lb_policy: ROUND_ROBIN", "write policy: round_robin", "policy: round_robin"),
    ("pool", "algorithm: leastconn", "write policy: least_request", "policy: least_request"),
    (
        "pool",
        "lb_policy: MAGLEV",
        "write policy: {type: maglev, key: {header: x-session}}",
        "policy: {type: maglev, key: {header: x-session}}",
    ),
    ("pool", "policy: {name: round_robin}", "write policy: round_robin", "policy: round_robin"),
    ("pool", "policy: adaptive", "policy: auto", "policy: auto"),
    ("pool", "policy: {round_robin: {}}", "write policy: round_robin", "policy: round_robin"),
    ("pool", "policy: {type: maglev, key: {host: true}}", 'write text: "${request.host}"', ""),
    ("tls", "protocols: [TLSv1.2, TLSv1.3]", "write min_version: tls1.2", "min_version: tls1.2"),
    ("tls", "ssl_protocols: TLSv1.3", "write min_version: tls1.3", "min_version: tls1.3"),
    ("pool tls", "verify: false", "write insecure_skip_verify: true", "insecure_skip_verify: true"),
    ("pool tls", "verify: true", "write insecure_skip_verify: false", "insecure_skip_verify: false"),
    ("pool tls", "insecure: true", "write insecure_skip_verify: true", "insecure_skip_verify: true"),
    ("pool tls", "verify: ca.pem", "write ca_file: ca.pem", "ca_file: ca.pem"),
    (
        "pool",
        'endpoints: ["127.0.0.1:9000 weight=2 backup"]',
        'write {address: "127.0.0.1:9000", weight: 2, priority: 1}',
        'endpoints: [{address: "127.0.0.1:9000", weight: 2, priority: 1}]',
    ),
    ("route", "route: {cluster: app}", "write pool: app", "pool: app"),
    ("route", "proxy_pass: 'http://app'", "write pool: app", "pool: app"),
    ("route", "host: x.org", "write match: {host: x.org}", "match: {host: x.org}"),
    ("route", "path: /api/*", "write match: {path: {prefix: /api/}}", "match: {path: {prefix: /api/}}"),
    ("route", "client_max_body_size: 10m", "write max_body: 10MiB", "max_body: 10MiB"),
    ("route", "deny: 10.0.0.0/8", "write match: {not_source: [10.0.0.0/8]}", "match: {not_source: [10.0.0.0/8]}"),
    ("endpoint", "enabled: true", "write weight: 1", "weight: 1"),
    ("endpoint", "down: true", "write weight: 0", "weight: 1"),
    ("endpoint", "w: 5", "write weight: 5", "weight: 5"),
    ("endpoint", "w: 5000", "write weight: 2", "weight: 2"),
    ("pool", "slowstart: 30", "unknown key; write slow_start", "slow_start: 30s"),
    ("listener", "clientidletimeout: 30 sec", "write idle_timeout: 30s", "idle_timeout: 30s"),
    ("match", 'host: ""', "'' is not a host", ""),
    ("listener", "server_name: x.org", "write in a route match: {host: x.org}", ""),
    ("pool", "http2: true", "write protocol: http2", "protocol: http2"),
    ("pool", "maxconn: 30", "write max_in_flight: 30", "max_in_flight: 30"),
    ("queue", "size: 100", "write max: 100", "max: 100"),
    ("outlier", "consecutive_errors: 3", "write consecutive_5xx: 3", "consecutive_5xx: 3"),
    ("outlier", "success_rate_stdev_factor: 1900", "write 1.9", "success_rate_stdev_factor: 1.9"),
    ("redirect", 'url: "https://x.org/y"', "write scheme: https, host: x.org, path: /y", "host: x.org, path: /y"),
    ("route", 'redirect: "https://x.org"', "write {scheme: https, host: x.org}", "redirect: {host: x.org}"),
    ("route", "respond: 404", "write {status: 404}", "respond: {status: 404}"),
    # one where there are to be many, and the other way round
    ("retry", 'on: ["5xx,reset"]', 'write ["5xx", reset]', 'on: ["5xx", reset]'),
    ("match", 'source: "10.0.0.0/8, fd00::/8"', 'write [10.0.0.0/8, "fd00::/8"]', 'source: [10.0.0.0/8, "fd00::/8"]'),
    ("tls", 'alpn: ["h2,http/1.1"]', "write [h2, http/1.1]", "alpn: [h2, http/1.1]"),
    ("route", "pool: [app]", "write pool: app", "pool: app"),
    ("route", "pool: [app, canary]", "write pools: [{pool: app}, {pool: canary}]", "pool: app"),
    ("route", "sticky: {cookie: SRV}", "in the pool affinity: {cookie: {name: SRV}}", ""),
    ("pool", "discover: {consul: {}}", "write dns: {name: models.internal, port: 8001}", ""),
    # keys that nothing here has
    ("config", "version: 1", "leave it out", ""),
    ("admin", "enabled: false", "the admin server is always there", ""),
    ("cache", "enabled: false", "without it there is none", ""),
    ("route", "default: true", "a route without match takes what no other does", ""),
    ("route", "action: allow", "a route has one of pool, pools, redirect and respond", ""),
    ("route", "buffering: off", "bodies are passed on as they come", ""),
    ("pool", "replicas: 3", "serve: {models: models, min: 2}", ""),
]


@pytest.mark.parametrize(
    ("place", "guess", "expected"), [row[:3] for row in GUESSES], ids=lambda value: str(value)[:60]
)
def test_guesses_are_refused_and_say_what_to_write(tmp_path: Path, place: str, guess: str, expected: str) -> None:
    line = said(tmp_path, place, guess)
    assert expected in line, line
    assert "put it in quotes" not in line


@pytest.mark.parametrize(
    ("place", "snippet"),
    sorted({(place, snippet) for place, _, _, snippet in GUESSES if snippet}),
    ids=lambda value: str(value)[:60],
)
def test_what_is_said_to_write_is_valid(tmp_path: Path, place: str, snippet: str) -> None:
    data = skeleton()
    if place in ("path", "key"):
        section(data, place).clear()
    changed(data, place, f"{{{snippet}}}")
    if "rewrite" in snippet or "redirect: {prefix" in snippet:
        section(data, "route")["match"] = {"path": {"prefix": "/v1/"}}
    if "protocol: http2" in snippet:
        data["pools"]["canary"]["protocol"] = "http2"
    lines = errors(tmp_path, data)
    assert [line for line in lines if "is never reached" not in line] == []


@pytest.mark.parametrize(
    ("place", "snippet"),
    [
        ("match", "path: {exact: '/v1/models/m:predict'}"),
        ("match", "path: {prefix: /odata/$metadata/}"),
        ("match", "path: {exact: '/a/Products(1)'}"),
        ("match", "path: {exact: '/a+b/c'}"),
        ("match", "path: {regex: '^/a/[*]$'}"),
        ("match", "headers: {accept: '*/*', x-a: {exact: '*'}, if-match: 'W/\"a\"'}"),
        ("match", "headers: {accept: text/*, x-b: $5, x-c: a.b+c}"),
        ("route", "match: {model: {exact: 'llm-*'}}"),
        ("match", "method: PURGE"),
        ("match", "source: [0.0.0.0/0, '::/0']"),
        ("match", "host: localhost"),
        ("match", "host: my_service"),
        ("route", "match: {path: {template: '/{host}/x'}}, rewrite: {path: '/{host}/$metadata'}"),
        (
            "route",
            "request_headers: {set: {x-price: '$5', x-escaped: 'a%20b%AB%CD', x-json: '{\"a\":1}'}}",
        ),
        ("route", "request_headers: {set: {x-key: 'ab$cd', x-literal: '$${host}'}}"),
        ("route", "response_headers: {set: {cache-control: 'max-age=60', x-100: '100% sure 50%'}}"),
        ("route", "respond: {body: '{\"$schema\": {}} a{color: red} $5 100% {name}'}"),
        ("health", "host: 'inside.example.org:8080', path: '/healthz?full=1&x=*'"),
        ("config", "log: {access: ./off}"),
        ("config", "log: {access: '-'}"),
        ("listener", "min_body_rate: 0B"),
        ("route", "timeout: 0s"),
    ],
)
def test_what_may_be_meant_as_it_is_stays_valid(tmp_path: Path, place: str, snippet: str) -> None:
    data = skeleton()
    changed(data, place, f"{{{snippet}}}" if not snippet.startswith("{") else snippet)
    assert [line for line in errors(tmp_path, data) if "is never reached" not in line] == []


def test_no_message_has_a_bound_in_base_units(tmp_path: Path) -> None:
    """Of every duration and size that has a least value: 0 is refused with a unit."""
    found = 0
    for place, key in [
        ("pool", "connect_timeout"), ("queue", "timeout"), ("queue", "overload_after"), ("health", "interval"),
        ("health", "timeout"), ("health", "fast_interval"), ("outlier", "interval"), ("outlier", "base_ejection_time"),
        ("cache", "size"), ("cache", "max_object"), ("cache", "ttl"), ("listener", "max_header_bytes"),
        ("retry", "per_attempt_timeout"), ("tls", "handshake_timeout"), ("tracing", "timeout"),
        ("serve", "start_timeout"),
    ]:  # fmt: skip
        line = said(tmp_path, place, f"{{{key}: 0}}")
        assert re.search(r"must be at least [0-9.]+(?:us|ms|s|m|h|d|B|KiB|MiB)\b", line), line
        found += 1
    assert found


def test_of_every_section_an_empty_one_is_suggested_only_where_it_is_valid() -> None:
    context = FileContext(Path("/"))
    suggested = 0
    for _, model in _sections(Config, ""):
        told = _form(model, True)
        if "{} is one" in told:
            model.model_validate({}, context=context)
            suggested += 1
        else:
            assert "such as {" in told, model
    assert suggested


def test_every_unknown_key_comes_with_what_may_stand_there() -> None:
    for _, model in _sections(Config, ""):
        assert instead_of_key(model, "zzz") == f"; the keys here are {', '.join(keys_of(model))}"


ODD = (
    None, True, False, 0, -1, 1.5, 10**30, "", "x", "*", "a,b", "off", "unlimited", "$host", "ü", [], ["a", "b"], [1],
    [None], [["a"]], {}, {"name": "x"}, {"a": None}, {"x": {"y": 1}},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place", WHERE)
def test_of_whatever_kind_a_value_is_there_is_a_message(tmp_path: Path, place: str) -> None:
    """And no other exception, under keys that are there and under those of other load balancers."""
    squeezed = place.replace(" ", "")
    rows = [row for row in KEYS if not row.within or squeezed in row.within.split()]
    model = model_at(Config, WHERE[place])
    assert model is not None
    names = [*(name for row in rows for name in row.names.split()), *keys_of(model)]
    for value in ODD:
        data = skeleton()
        section(data, place).update(dict.fromkeys(names, value))
        assert errors(tmp_path, data)


def test_the_policies_that_advice_knows_are_those_that_there_are() -> None:
    assert own_policies() == sorted(POLICIES)
