"""Checks of stick tables that concern several sections: tables that there are and store what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from lb.config.checks.values import of_table
from lb.config.forms import by_form, members_of
from lb.config.schema.access import access_of, credential_headers
from lb.config.schema.base import did_you_mean
from lb.config.schema.quotas import CREDENTIALS
from lb.config.schema.routes.match import Conditions, MatchConfig
from lb.config.schema.tables import MOST_ENTRIES, MOST_TRACKED, TableRuleConfig
from lb.config.values import has_values, parse, values_in

if TYPE_CHECKING:
    from lb.config.schema.file import Config

Found = tuple[str, str]


def check_tables(config: Config, broken: Set[str]) -> Iterator[Found]:
    """Problems of the section `tables`, and of `track`, `table_rules` and conditions."""
    secret = CREDENTIALS | credential_headers(config.auth)
    for name, table in config.tables.items():
        if not has_values(table.key):
            yield f"tables.{name}.key", f"{table.key!r} is the same for every request; a value is ${{client.address}}"
        for value in values_in(parse(table.key, "text")):
            if value.name == "header" and value.argument in secret:
                said = f"{value.spelling} has credentials, which would be shown; use ${{auth.identity}}"
                yield f"tables.{name}.key", said
        if table.shared and config.peers is None and "peers" not in broken:
            yield f"tables.{name}.shared", "needs the section peers, which says by which server"
    if (total := sum(table.size for table in config.tables.values())) > MOST_ENTRIES:
        yield "tables", f"have room for {total} keys together; {MOST_ENTRIES} are the most"
    for name, listener in config.listeners.items():
        path = f"listeners.{name}"
        yield from _track(config, broken, f"{path}.track", listener.track)
        yield from _rules(config, broken, f"{path}.table_rules", listener.table_rules, listener.track)
        for first, places in by_form(members_of(listener.routes)):
            route = f"{path}.routes[{places[0]}]"
            yield from _track(config, broken, f"{route}.track", first.track)
            tracked = list(dict.fromkeys((*listener.track, *first.track)))
            if len(tracked) > MOST_TRACKED:
                yield f"{route}.track", f"{len(tracked)} tables with those of the listener; {MOST_TRACKED} are the most"
            yield from _rules(config, broken, f"{route}.table_rules", first.table_rules, tracked)
            yield from _match(config, broken, f"{route}.match", first.match)
            used = {*tracked, *(table for rule in listener.table_rules for table in rule.when), *first.table_names}
            for each in sorted(used & config.tables.keys()):
                for value in values_in(parse(config.tables[each].key, "text")):
                    if value.name == "auth.identity" and access_of(listener.auth, first.auth) is None:
                        yield route, f"tables.{each} counts by {value.spelling}, which needs auth here"
                    elif value.name == "request.id" and not listener.request_id:
                        yield route, f"tables.{each} counts by {value.spelling}, which needs request_id: true"


def _track(config: Config, broken: Set[str], path: str, names: list[str]) -> Iterator[Found]:
    for i, name in enumerate(names):
        if name in names[:i]:
            yield f"{path}[{i}]", f"has {name!r} twice; a request counts once"
        elif name not in config.tables and not broken & {"tables", f"tables.{name}"}:
            yield f"{path}[{i}]", f"there is no table {name!r}" + did_you_mean(name, config.tables)


def _rules(
    config: Config, broken: Set[str], path: str, rules: list[TableRuleConfig], tracked: list[str]
) -> Iterator[Found]:
    for i, rule in enumerate(rules):
        for name, fields in rule.when.items():
            for field in fields:
                yield from of_table(config, broken, f"{path}[{i}].when.{name}", f"{name}.{field}", early=False)
        for key, names, field in (
            ("set_gpt0", list(rule.set_gpt0), "gpt0"),
            ("increment_gpc0", rule.increment_gpc0, "gpc0"),
        ):
            for name in names:
                if name not in tracked:
                    yield f"{path}[{i}].{key}", f"its requests do not count in {name!r}; put it into track"
                elif name in config.tables and not {field, f"{field}_rate"} & {*config.tables[name].names}:
                    yield f"{path}[{i}].{key}", f"tables.{name} does not store {field}"


def _match(config: Config, broken: Set[str], path: str, match: MatchConfig | Conditions) -> Iterator[Found]:
    for name, fields in match.tables.items():
        for field in fields:
            yield from of_table(config, broken, f"{path}.tables.{name}", f"{name}.{field}", early=True)
    for section in ("any", "none"):
        for i, group in enumerate(getattr(match, section, ())):
            yield from _match(config, broken, f"{path}.{section}[{i}]", group)
