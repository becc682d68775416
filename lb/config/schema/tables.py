"""Stick tables, and rules by what they count: how they are written, and what they compile to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lb.config.plan.tables import (
    COUNTERS,
    FIELDS,
    MOST_SETS,
    RATES,
    WAYS,
    ComparisonPlan,
    TablePlace,
    TablePlan,
    TableRulePlan,
    sets_of,
)
from lb.config.schema.base import Boolean, FilePath, Integer, Model, Name, did_you_mean, only_one, problem, text
from lb.config.schema.maps import Key
from lb.config.schema.pools.engine import RedisConfig, expand_redis
from lb.config.schema.pools.platforms import RareModel
from lb.config.schema.source_key import SourcePrefixConfig
from lb.config.units import DAY, MINUTE, SECOND, Duration, format_duration, parse_duration
from lb.config.values import parse

MOST_TRACKED = 4  # tables that a request counts in
MOST_ENTRIES = MOST_SETS * WAYS
LEAST_SECRET = 32  # bytes
_MOST = (1 << 63) - 1
_SHORTEST = SECOND // 10
_STORED = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?", re.ASCII)


# HAProxy's names.
_ELSEWHERE = {
    "http_req_cnt": "requests",
    "http_req_rate": "request_rate",
    "http_err_cnt": "errors",
    "http_err_rate": "error_rate",
    "http_fail_cnt": "failures",
    "http_fail_rate": "failure_rate",
    "bytes_in_cnt": "bytes_in",
    "bytes_out_cnt": "bytes_out",
    "conn_cur": "concurrent",
    "sess_cnt": "requests",
    "sess_rate": "request_rate",
    "conn_cnt": "requests",
    "conn_rate": "request_rate",
    "gpc": "gpc0",
    "gpt": "gpt0",
}


def _meant(name: str) -> str:
    return f"; write {_ELSEWHERE[name]}" if name in _ELSEWHERE else did_you_mean(name, FIELDS)


def _stored(value: Any) -> Any:
    found = _STORED.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise problem("store", f"{value!r} is nothing that a table stores; write requests, or request_rate(10s)")
    name, window = found[1], found[2]
    if name not in FIELDS:
        raise problem("store", f"a table does not store {name!r}{_meant(name)}")
    if name not in RATES:
        if window is not None:
            raise problem("store", f"{name} has no window: only rates have one")
        return name
    if not window:
        raise problem("store", f"{name} needs its window; write {name}(10s)")
    try:
        ns = parse_duration(window)
    except ValueError as error:
        raise problem("store", f"{value}: {error}") from None
    if not _SHORTEST <= ns <= DAY:
        raise problem("store", f"{value}: a window has 100ms to 1d")
    return f"{name}({format_duration(ns)})"


Stored = Annotated[str, BeforeValidator(_stored)]


class TableConfig(Model):
    """Counters by key, exact over all workers (HAProxy's stick tables): for conditions (`tables` of `match`), for rules
    (`table_rules`) and for texts (`${table.NAME.FIELD}`). Requests count where their listener or route has the table
    in `track` ([Limit by key](howto/limit-by-key.md))."""

    key: Key
    """What is counted together: a text with values of the request, such as `${client.address}`, `${header.x-tenant}`
    or `${client.address} ${request.host}`. A request for which it is empty is not counted. Keys are shown in the admin
    API: for credentials take `${auth.identity}`."""
    source: SourcePrefixConfig = Field(default_factory=lambda: SourcePrefixConfig(ipv4_prefix=32, ipv6_prefix=64))
    """How much of an address counts, where `key` is `${client.address}`. Default: all of IPv4, the /64 network of
    IPv6."""
    size: Integer = Field(default=100_000, ge=1, le=1_000_000)
    """Keys that the table has room for. Each takes about 0.5 KiB of shared memory once it is used. A key that finds no
    room takes that of the one that was used least recently among those it shares its place with; one with requests
    under way stays."""
    expire: Duration = Field(default=10 * MINUTE, ge=SECOND, le=30 * DAY)
    """Time since a key's last request after which its counters are forgotten."""
    store: Annotated[list[Stored], Field(min_length=1, max_length=len(FIELDS))]
    """What is counted. `requests`; `errors`, answers with 4xx; `failures`, with 5xx; `bytes_in` and `bytes_out`, of
    bodies, counted when a request ends; `gpc0`, a counter of rules; each of these also within a window, such as
    `request_rate(10s)`, `error_rate(1m)`, `failure_rate`, `bytes_in_rate`, `bytes_out_rate`, `gpc0_rate`; `concurrent`,
    requests under way; `gpt0`, a number that rules set."""
    shared: Boolean = False
    """Daemons add up what they count in tables of this name that have the same `key`, `source` and `store`, by the
    Redis server of `peers`: the own counts are exact, those of the others a few seconds old. A table that stores a rate
    then stores its counter, too. `concurrent` and keys of more than 88 bytes stay with their daemon."""

    @model_validator(mode="after")
    def _once(self) -> TableConfig:
        names = [each.partition("(")[0] for each in self.store]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise problem("store", f"has {name} twice")
        if "source" in self.model_fields_set and not self.by_address:
            raise problem("source", "is only for key: ${client.address}")
        return self

    @property
    def names(self) -> list[str]:
        """What it stores, without windows."""
        names = [each.partition("(")[0] for each in self.store]
        if self.shared:  # increments of the counter are what peers are told of a rate
            names += [COUNTERS[RATES.index(name)] for name in names if name in RATES]
        return list(dict.fromkeys(names))

    @property
    def by_address(self) -> bool:
        """Whether its key is an address."""
        parts = parse(self.key, "text")
        return len(parts) == 1 and not isinstance(parts[0], str) and parts[0].name == "client.address"


class PeersConfig(RareModel):
    """The Redis server by which daemons share tables that have `shared: true` ([Several
    daemons](howto/limit-by-key.md#several-daemons)). No request waits for it. While it is away each daemon counts
    alone."""

    redis: Annotated[RedisConfig, BeforeValidator(expand_redis, json_schema_input_type=str | RedisConfig)]
    """The server: a URL, or a mapping. Redis from 6.0 on, or Valkey."""
    secret_file: FilePath
    """File with the secret that the daemons have in common, at least 32 random bytes. Keys and counts are encrypted by
    it. What was written with another one is ignored. Read at each reload."""
    prefix: Annotated[str, *text(r"[!-~]{0,100}", "is no prefix of at most 100 printable characters")] = "tidegate:"
    """Beginning of the names of keys in Redis, so that others can use the server, too."""
    interval: Duration = Field(default=SECOND, ge=SECOND // 10, le=MINUTE)
    """Time between two exchanges: about as old are the counts of other daemons."""


class TableCompareConfig(Model):
    """How a number is compared. Exactly one of the three; a number alone is short for `exact`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [k]} for k in ("above", "below", "exact")]})

    above: Annotated[int, Field(strict=True, ge=0, le=_MOST)] | None = None
    """It is larger."""
    below: Annotated[int, Field(strict=True, ge=1, le=_MOST)] | None = None
    """It is smaller; so is what was not counted yet, which is 0."""
    exact: Annotated[int, Field(strict=True, ge=0, le=_MOST)] | None = None
    """It is the same."""

    @model_validator(mode="after")
    def _one(self) -> TableCompareConfig:
        only_one(self, ("above", "below", "exact"))
        return self


def _number(value: Any) -> Any:
    return {"exact": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _field(value: str) -> str:
    if value not in FIELDS:
        raise problem("store", f"a table does not store {value!r}{_meant(value)}")
    return value


Compare = Annotated[TableCompareConfig, BeforeValidator(_number, json_schema_input_type=int | TableCompareConfig)]
Comparisons = Annotated[
    dict[Annotated[str, AfterValidator(_field)], Compare], Field(min_length=1, max_length=len(FIELDS))
]
TableMatch = Annotated[dict[Name, Comparisons], Field(max_length=32)]


class TableRuleConfig(Model):
    """What becomes of a request by what tables have counted of its keys, itself included. Rules are asked in their
    order, those of the listener first, until one denies the request. Those that name a table by `${auth.identity}` are
    asked after the others, once `auth` is passed."""

    when: Annotated[TableMatch, Field(min_length=1)]
    """Conditions that all have to hold: of each table what it stores, compared with a number."""
    deny: Literal[403, 429, 503] | None = None
    """Status by which the request is refused. Default: it goes on, or with `tarpit` 429."""
    tarpit: Duration | None = Field(default=None, ge=SECOND // 10, le=10 * MINUTE)
    """Time after which it is refused, so that a client that sends one request after the other gets nowhere. Its
    connection stays open meanwhile, and no endpoint hears of it. A worker holds 4,096 requests at a time; further ones
    are refused at once. Default: at once."""
    set_gpt0: Annotated[dict[Name, Annotated[int, Field(strict=True, ge=0, le=_MOST)]], Field(max_length=4)] = {}
    """Numbers that `gpt0` gets, by table, which the request has to count in."""
    increment_gpc0: Annotated[list[Name], Field(max_length=4)] = []
    """Tables, which the request has to count in, whose `gpc0` grows by one."""

    @model_validator(mode="after")
    def _some(self) -> TableRuleConfig:
        if self.deny is None and self.tarpit is None and not self.set_gpt0 and not self.increment_gpc0:
            raise problem("rule", "does nothing; it needs deny, tarpit, set_gpt0 or increment_gpc0")
        return self


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Track = Annotated[
    list[Name], BeforeValidator(_names, json_schema_input_type=str | list[str]), Field(max_length=MOST_TRACKED)
]
TableRules = Annotated[list[TableRuleConfig], Field(max_length=64)]


def comparisons_of(match: Mapping[str, Mapping[str, TableCompareConfig]]) -> Iterator[ComparisonPlan]:
    """The conditions of a mapping of tables."""
    for table, fields in match.items():
        for field, compare in fields.items():
            for how in ("above", "below", "exact"):
                number = getattr(compare, how)
                if number is not None:
                    yield ComparisonPlan(table, FIELDS.index(field), how, number)


def rule_plan(rule: TableRuleConfig) -> TableRulePlan:
    """What `rule` compiles to."""
    return TableRulePlan(
        when=tuple(comparisons_of(rule.when)),
        deny=rule.deny or (429 if rule.tarpit else 0),
        tarpit_ns=rule.tarpit or 0,
        set_gpt0=tuple(rule.set_gpt0.items()),
        add_gpc0=tuple(rule.increment_gpc0),
    )


def shape_of(table: TableConfig) -> str:
    """What of a table has to stay the same for its counts to mean the same."""
    prefixes = (table.source.ipv4_prefix, table.source.ipv6_prefix) if table.by_address else ()
    shape = (table.key, prefixes, table.size, sorted(table.store), table.shared)
    return hashlib.sha256(repr(shape).encode()).hexdigest()


def meaning_of(table: TableConfig) -> str:
    """What has to be the same in two daemons for the counts of a table to add up."""
    prefixes = (table.source.ipv4_prefix, table.source.ipv6_prefix) if table.by_address else ()
    return hashlib.sha256(repr((table.key, prefixes, sorted(table.store))).encode()).hexdigest()


def table_plan(name: str, table: TableConfig, place: TablePlace) -> TablePlan:
    """What `table` compiles to."""
    windows = dict.fromkeys(RATES, 0)
    for each in table.store:
        rate, _, window = each.removesuffix(")").partition("(")
        if window:
            windows[rate] = parse_duration(window)
    plan = TablePlan(
        name=name,
        key=table.key,
        ipv4_prefix=table.source.ipv4_prefix if table.by_address else 0,
        ipv6_prefix=table.source.ipv6_prefix if table.by_address else 0,
        expire_ns=table.expire,
        stored=tuple(sorted(FIELDS.index(each) for each in table.names)),
        windows=tuple(windows[rate] for rate in RATES),
        place=place,
    )
    return replace(plan, digest=hashlib.sha256(msgspec.msgpack.encode(plan)).hexdigest())


def places_in_order(tables: Mapping[str, TableConfig]) -> dict[str, TablePlace]:
    """Places of tables one behind the other, as in an empty segment."""
    found: dict[str, TablePlace] = {}
    first = 0
    for number, (name, table) in enumerate(tables.items()):
        found[name] = TablePlace(number, first, sets_of(table.size))
        first += found[name].sets
    return found


assert len(COUNTERS) == len(RATES)
