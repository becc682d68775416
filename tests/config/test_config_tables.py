"""Stick tables in the file: what is accepted, what is refused and where, and what they compile to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lb.config.checks.file import check_config, check_files
from lb.config.plan.tables import FIELDS
from lb.config.schema.file import Config
from lb.config.schema.tables import (
    TableCompareConfig,
    TableConfig,
    TableRuleConfig,
    meaning_of,
    places_in_order,
    rule_plan,
    shape_of,
    table_plan,
)
from lb.config.units import MINUTE, SECOND
from lb.config.values import CLOSE, OPEN

ADDRESS, IDENTITY = f"{OPEN}client.address{CLOSE}", f"{OPEN}auth.identity{CLOSE}"
CLIENTS: dict[str, Any] = {"key": ADDRESS, "store": ["requests", "request_rate(10s)", "error_rate(1m)", "gpt0", "gpc0"]}
DENY: dict[str, Any] = {"when": {"clients": {"request_rate": {"above": 100}}}, "deny": 429}


def problems(route: dict[str, Any], listener: dict[str, Any] | None = None, **tables: Any) -> list[str]:
    config = Config.model_validate(
        {
            "tables": {"clients": CLIENTS, **tables},
            "listeners": {
                "web": {
                    "bind": "127.0.0.1:0",
                    "protocol": "http",
                    "routes": [{"respond": {"status": 200}, **route}],
                    **(listener or {}),
                }
            },
        }
    )
    return [f"{path}: {what}" for path, what in check_config(config)]


def test_what_the_sections_contradict() -> None:
    assert problems({"track": "clients", "table_rules": [DENY]}) == []
    assert problems({"table_rules": [DENY]}, {"track": "clients", "table_rules": [DENY]}) == []
    at = "listeners.web.routes[0]"
    assert problems({"track": ["client", "clients", "clients"]}) == [
        f"{at}.track[0]: there is no table 'client'; did you mean clients?",
        f"{at}.track[2]: has 'clients' twice; a request counts once",
    ]
    more = {f"t{i}": CLIENTS for i in range(4)}
    (found,) = problems({"track": list(more)}, {"track": "clients"}, **more)
    assert found == f"{at}.track: 5 tables with those of the listener; 4 are the most"
    rule = {"when": {"clients": {"failures": 1}}, "set_gpt0": {"clients": 1}, "increment_gpc0": ["clients"]}
    assert problems({"table_rules": [rule]}) == [
        f"{at}.table_rules[0].when.clients: tables.clients does not store failures",
        f"{at}.table_rules[0].set_gpt0: its requests do not count in 'clients'; put it into track",
        f"{at}.table_rules[0].increment_gpc0: its requests do not count in 'clients'; put it into track",
        f"{at}.table_rules[0].when.clients: has no effect: no request counts in 'clients'; put it into track",
    ]
    bare = {"key": f"{OPEN}header.x-user{CLOSE}", "store": ["requests"]}
    (found,) = problems({"track": ["bare", "clients"], "table_rules": [{**DENY, "set_gpt0": {"bare": 1}}]}, bare=bare)
    assert found == f"{at}.table_rules[0].set_gpt0: tables.bare does not store gpt0"
    match = {"tables": {"clients": {"requests": {"above": 1}}, "nobody": {"requests": 1}}}
    assert problems({"match": match}, {"track": "clients"}) == [f"{at}.match.tables.nobody: there is no table 'nobody'"]
    group = {"any": [{"tables": {"clients": {"bytes_in": {"below": 1}}}}]}
    assert problems({"match": group}, {"track": "clients"}) == [
        f"{at}.match.any[0].tables.clients: tables.clients does not store bytes_in"
    ]
    users = {"key": IDENTITY, "store": ["requests"]}
    match = {"tables": {"users": {"requests": 1}}}
    found, needs = problems({"match": match, "track": "users"}, users=users)
    assert found.endswith("tables.users.key: ${auth.identity} is known once the route is chosen")
    assert needs.endswith("tables.users counts by ${auth.identity}, which needs auth here")
    said = f"{OPEN}table.clients.requests{CLOSE} {OPEN}table.clients.failures{CLOSE} {OPEN}table.x.requests{CLOSE}"
    assert problems({"respond": {"status": 200, "headers": {"X-Seen": said}}}) == [
        f"{at}.respond.headers.X-Seen: tables.clients does not store failures",
        f"{at}.respond.headers.X-Seen: there is no table 'x'",
    ]
    (found,) = problems({}, open={"key": f"{OPEN}header.Authorization{CLOSE}", "store": ["requests"]})
    assert found.startswith("tables.open.key: ${header.authorization} has credentials, which would be shown")
    (found,) = problems({}, same={"key": "x", "store": ["requests"]})
    assert found.startswith("tables.same.key: 'x' is the same for every request")
    (found,) = problems({}, **{f"t{i}": {**CLIENTS, "size": 1_000_000} for i in range(5)})
    assert found == "tables: have room for 5100000 keys together; 4194304 are the most"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"store": []}, "at least 1"),
        ({"store": ["reqests"]}, "a table does not store 'reqests'; did you mean requests?"),
        ({"store": ["request_rate"]}, r"request_rate needs its window; write request_rate\(10s\)"),
        ({"store": ["requests(10s)"]}, "requests has no window"),
        ({"store": ["request_rate(10)"]}, r"request_rate\(10\): "),
        ({"store": ["request_rate(10ms)"]}, "a window has 100ms to 1d"),
        ({"store": ["request_rate(1s)", "request_rate(2s)"]}, "has request_rate twice"),
        ({"store": [1]}, "1 is nothing that a table stores"),
        ({"key": f"{OPEN}endpoint.address{CLOSE}"}, "a key cannot have"),
        ({"key": f"{OPEN}table.x.requests{CLOSE}"}, "a key cannot have"),
        ({"key": f"{OPEN}request.host{CLOSE}", "source": {"ipv4_prefix": 24}}, "is only for key"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"expire": "0s"}, "greater than or equal to"),
    ],
)
def test_a_table_that_is_none(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TableConfig.model_validate({"key": ADDRESS, "store": ["requests"], **table})


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"when": {}}, "at least 1"),
        ({"when": {"clients": {}}}, "at least 1"),
        ({"when": {"clients": {"request_rat": 1}}}, "did you mean request_rate?"),
        ({"when": {"clients": {"requests": {"above": 1, "below": 2}}}}, "not above and below together"),
        ({"when": {"clients": {"requests": True}}}, "valid dictionary"),
        ({"deny": 404}, "403, 429 or 503"),
        ({"deny": None}, "does nothing; it needs deny, tarpit"),
        ({"tarpit": "1h"}, "less than or equal to"),
    ],
)
def test_a_rule_that_is_none(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TableRuleConfig.model_validate({**DENY, **rule})


def test_what_tables_and_rules_compile_to() -> None:
    table = TableConfig.model_validate({**CLIENTS, "size": 10, "source": {"ipv4_prefix": 24}})
    places = places_in_order({"a": table, "b": table})
    assert [(place.number, place.first, place.sets) for place in places.values()] == [(0, 0, 3), (1, 3, 3)]
    plan = table_plan("a", table, places["a"])
    assert [FIELDS[i] for i in plan.stored] == ["requests", "gpc0", "request_rate", "error_rate", "gpt0"]
    assert plan.windows == (10 * SECOND, MINUTE, 0, 0, 0, 0)
    assert (plan.ipv4_prefix, plan.ipv6_prefix) == (24, 128)
    other = table_plan("a", TableConfig.model_validate({**CLIENTS, "key": IDENTITY}), places["a"])
    assert (other.ipv4_prefix, other.ipv6_prefix) == (0, 0)
    assert other.digest != plan.digest
    default = TableConfig.model_validate(CLIENTS)
    assert (default.source.ipv4_prefix, default.source.ipv6_prefix) == (32, 64)
    held = rule_plan(TableRuleConfig.model_validate({"when": DENY["when"], "tarpit": "5s"}))
    assert (held.deny, held.tarpit_ns) == (429, 5 * SECOND)
    assert [(each.table, FIELDS[each.field], each.how, each.number) for each in held.when] == [
        ("clients", "request_rate", "above", 100)
    ]
    short = TableCompareConfig.model_validate({"exact": 7})
    assert short.exact == 7


def test_shared_tables_need_peers_and_their_secret(tmp_path: Path) -> None:
    shared = {"clients": {**CLIENTS, "shared": True}}
    assert problems({}, **shared) == ["tables.clients.shared: needs the section peers, which says by which server"]
    secret = tmp_path / "secret"
    peers = {"redis": "redis://10.0.0.5:6379/0", "secret_file": str(secret)}
    config = Config.model_validate({"peers": peers, "tables": shared})
    assert config.peers is not None
    assert (config.peers.redis.url, config.peers.interval) == ("redis://10.0.0.5:6379/0", SECOND)
    assert check_files(config) == [("peers.secret_file", f"{secret}: No such file or directory")]
    secret.write_bytes(b"x" * 31 + b"\n")
    assert check_files(config) == [("peers.secret_file", f"{secret}: has 31 bytes; 32 are the least")]
    secret.write_bytes(b"x" * 32)
    assert check_files(config) == []
    # A table of the same counts means the same on all daemons, whatever its size; one that is not shared is another.
    one, other = TableConfig(**shared["clients"]), TableConfig(**shared["clients"], size=10, expire="1h")
    assert meaning_of(one) == meaning_of(other) != meaning_of(TableConfig(**{**shared["clients"], "key": IDENTITY}))
    assert shape_of(one) != shape_of(TableConfig(**CLIENTS))
