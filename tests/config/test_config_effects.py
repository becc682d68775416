"""Settings that can have no effect beside others are errors of the file, with their line and path."""

from __future__ import annotations

from pathlib import Path

import pytest

from lb.config.load import load
from lb.errors import ConfigError

FILE = """
log: {access: "-"}
peers: {redis: "redis://127.0.0.1:1", secret_file: /dev/null}
maps:
  hosts: {key: "${request.host}", match: domain, ignore_case: false, entries: {a: b}}
tables:
  clients: {key: "${client.address}", store: [requests, gpt0]}
listeners:
  local:
    bind: ["unix:/run/a.sock", "unix:@a"]
    protocol: http
    max_connections_per_source: 3
    routes: [{respond: {status: 200}}]
  behind:
    bind: ["unix:@b"]
    protocol: http
    proxy_protocol: {from: [10.0.0.0/8, unix]}
    max_connections_per_source: 3
    routes: [{respond: {status: 200}}]
  direct:
    bind: 127.0.0.1:1
    protocol: http
    proxy_protocol: {from: [unix, 10.0.0.0/8]}
    routes: [{respond: {status: 200}}]
  mixed:
    bind: [127.0.0.1:2, "unix:@c"]
    protocol: http
    proxy_protocol: {from: [unix, 10.0.0.0/8]}
    max_connections_per_source: 3
    routes: [{respond: {status: 200}}]
  web:
    bind: 127.0.0.1:3
    protocol: http
    error_pages:
      - {on: [5xx], body: own}
      - {on: [404, 503], body: later}
      - {on: [503], intercept: true, body: of endpoints}
      - {on: [5xx], intercept: true, body: of the other endpoints}
      - {on: [502], intercept: true, body: last}
      - {on: [503], intercept: true, body: last}
    table_rules:
      - {when: {clients: {gpt0: 1}}, set_gpt0: {clients: 2}}
      - {when: {clients: {gpt0: 1}}, deny: 403}
      - {when: {clients: {gpt0: 1}}, tarpit: 1s}
    track: clients
    routes:
      - respond: {status: 200}
        error_pages: [{on: [404], intercept: true, body: x}]
        idempotency_key: true
      - match: {path: {prefix: /a/}}
        pool: plain
        idempotency_key: true
        idempotent: true
        compression: {gzip_level: 3, br_level: 3, types: [text/*, TEXT/html, application/json, text/*]}
        response_rewrite: {locations: {"http://": "https://", "http://a/": /, /: /x/}, cookie_path: {/: /b, /c: /d}}
        canary: {pool: other, max_latency_ratio: null, latency_quantile: 90}
      - match: {path: {prefix: /b/}, method: [GET, PUT]}
        pool: plain
        idempotency_key: true
        response_rewrite: {locations: {/app/: /, /: /x/}}
      - match: {path: {prefix: /c/}, method: [GET, POST]}
        pool: plain
        idempotency_key: true
      - match: {path: {prefix: /d/}}
        pool: models
        response_rewrite: {location: "off"}
        mirror: {pool: copies, max_bytes: 64KiB, compare: {max_answer: 65KiB}}
  below:
    bind: 127.0.0.1:4
    protocol: tls
    sni_routes: [{sni: example.org, pool: bytes}]
pools:
  plain: {protocol: http, endpoints: ["127.0.0.1:1"]}
  other: {protocol: http, endpoints: ["127.0.0.1:1"]}
  models: {protocol: oip, endpoints: ["127.0.0.1:1"]}
  copies: {protocol: oip, endpoints: ["127.0.0.1:1"]}
  bytes: {protocol: tcp, source: 10.0.0.1, endpoints: ["unix:/run/b", "unix:@c"]}
  some: {protocol: tcp, source: 10.0.0.1, endpoints: ["unix:/run/b", "10.0.0.2:1"]}
  quic: {protocol: udp, endpoints: ["127.0.0.1:1"], affinity: {quic: {server_id_length: 2}}}
"""

EXPECTED = """
peers: has no effect: no table has shared: true
maps.hosts.ignore_case: false has no effect with match: domain, since names have no case
listeners.local.max_connections_per_source: has no effect: clients of a Unix socket have no address without proxy_protocol
listeners.behind.proxy_protocol.from[0]: has no effect: clients of a Unix socket have no address; write unix
listeners.direct.proxy_protocol.from[0]: has no effect: no address of the listener is a Unix socket
listeners.web.error_pages[1].on[1]: 503 is never reached: error_pages[0] takes it
listeners.web.error_pages[4].on[0]: 502 is never reached: error_pages[0] and error_pages[3] take it
listeners.web.error_pages[5].on[0]: 503 is never reached: error_pages[0] and error_pages[2] take it
listeners.web.table_rules[2]: is never reached: table_rules[1] refuses the same requests
listeners.web.routes[0].error_pages[0].intercept: only for routes with a pool, whose endpoints have errors
listeners.web.routes[0].idempotency_key: only for routes with a pool, not for redirect or respond
listeners.web.routes[1].idempotency_key: has no effect with idempotent: true, which lets every request be repeated
listeners.web.routes[1].compression.br_level: has no effect: codings are gzip
listeners.web.routes[1].compression.types[1]: has no effect: 'text/*' is in the list and takes it
listeners.web.routes[1].compression.types[3]: has no effect: 'text/*' is in the list and takes it
listeners.web.routes[1].response_rewrite.locations.http://a/: is never reached: http:// stands in front of it and takes it
listeners.web.routes[1].response_rewrite.cookie_path./c: is never reached: / stands in front of it and takes it
listeners.web.routes[1].canary.latency_quantile: has no effect with max_latency_ratio: null
listeners.web.routes[2].idempotency_key: has no effect: GET and PUT may be repeated anyway
listeners.web.routes[4].response_rewrite: only for pools of protocol http, http2 and grpc
listeners.web.routes[4].mirror.compare.max_answer: is more than max_bytes of the mirror, which all answers that wait have
pools.bytes.source: has no effect: all endpoints are Unix sockets
pools.quic.affinity.quic.server_id_length: has no effect: no endpoint has a server_id
"""  # noqa: E501


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path, files=False)
    found = str(raised.value).splitlines()
    lines = text.splitlines()
    for each in found:  # the line is the one that has the setting
        place, said = each.removeprefix(f"{path}:").split(": ", 1)
        key = said.partition(":")[0].rpartition(".")[2].rpartition("/")[2]
        assert "[" in key or key in lines[int(place) - 1], each
    return [each.partition(": ")[2] for each in found]


def test_each_setting_without_effect_is_named(tmp_path: Path) -> None:
    assert sorted(problems(tmp_path, FILE)) == sorted(EXPECTED.strip().splitlines())


def test_tables_that_nobody_counts_in(tmp_path: Path) -> None:
    """What operators set by hand, what peers count, and what is tracked elsewhere are numbers like any other."""
    text = """
tables:
  clients: {key: "${client.address}", store: [requests, request_rate(10s), gpt0]}
listeners:
  web:
    bind: 127.0.0.1:1
    protocol: http
    table_rules:
      - {when: {clients: {request_rate: {above: 5}}}, deny: 429}
      - {when: {clients: {gpt0: 1}}, deny: 403}
    routes:
      - match: {any: [{none: [{tables: {clients: {requests: 1}}}]}], tables: {clients: {gpt0: 1}}}
        respond: {status: 200}
"""
    said = "has no effect: no request counts in 'clients'; put it into track"
    assert problems(tmp_path, text) == [
        f"listeners.web.table_rules[0].when.clients: {said}",
        f"listeners.web.routes[0].match.any[0].none[0].tables.clients: {said}",
    ]
    path = tmp_path / "t.yaml"
    path.write_text(text + "  more: {bind: 127.0.0.1:2, protocol: http, routes: [{respond: {}, track: clients}]}\n")
    load(path, files=False)


def test_what_is_said_for_names_and_logs(tmp_path: Path) -> None:
    text = """
listeners:
  web: {bind: 127.0.0.1:1, protocol: http, routes: [{respond: {}, log_fields: {tenant: a}}]}
  below:
    bind: 127.0.0.1:2
    protocol: tls
    sni_routes:
      - {sni: [example.org, 192.0.2.1], pool: bytes}
pools:
  bytes: {protocol: tcp, endpoints: ["127.0.0.1:1"]}
"""
    assert problems(tmp_path, text) == [
        "listeners.web.routes[0].log_fields: are for the access log, which is off; set log.access",
        "listeners.below.sni_routes[0].sni[1]: 192.0.2.1 is an address, which no client names in its ClientHello "
        "(RFC 6066 section 3); source is for clients'",
    ]
