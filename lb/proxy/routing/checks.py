"""Checks of the configuration that need the data path's own code: regular expressions, as RE2 takes them."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.checks.file import Found
from lb.config.forms import by_form, members_of
from lb.config.schema.file import Config
from lb.config.schema.pools.health import HealthConfig
from lb.config.schema.pools.steps import CAPTURED
from lb.config.schema.routes.match import MatchConfig, texts_of
from lb.config.schema.routes.route import PathRewriteConfig, RouteConfig
from lb.config.schema.routes.template import substitution_of
from lb.config.values import has_values, parse, values_in
from lb.http.regex import Regex

MOST_GROUPS = 9  # of a pattern, \1 to \9, as lb.http.regex finds them
_META = frozenset("\\.[](){}*+?|^$")  # characters that do not stand for themselves


def check_routes(config: Config) -> list[Found]:
    """A problem for each expression that RE2 refuses, and for each group that an expression does not have."""
    asked = [
        (f"pools.{name}.health.{where}", pattern)
        for name, pool in config.pools.items()
        if pool.health is not None
        for where, pattern in _expected(pool.health)
    ]
    captures = [
        (f"pools.{name}.health.{where}", problem)
        for name, pool in config.pools.items()
        if pool.health is not None
        for where, problem in _groups_of(pool.health)
    ]
    return [
        *((where, made) for where, pattern in asked if isinstance(made := _compiled(pattern), str)),
        *captures,
        *_routes(config),
    ]


def _expected(health: HealthConfig) -> Iterator[tuple[str, str]]:
    """The regular expressions of a pool's checks, each with its path from there."""
    if health.body is not None and health.body.regex is not None:
        yield "body.regex", health.body.regex
    if health.expect is not None:
        yield "expect", health.expect
    for i, step in enumerate(health.steps):
        if step.expect is not None:
            yield f"steps[{i}].expect", step.expect


def _groups_of(health: HealthConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with the groups that a check's steps capture."""
    for i, step in enumerate(health.steps):
        made = _compiled(step.expect) if step.expect is not None else None
        if step.expect is None or not isinstance(made, Regex):
            continue
        if made.groups > MOST_GROUPS:
            yield f"steps[{i}].expect", f"has {made.groups} groups; {MOST_GROUPS} are captured at most, (?:...) is none"
        for name in CAPTURED.findall(step.expect):
            if not made.group(name):
                yield f"steps[{i}].expect", f"(?P<{name}> is no group where it stands"


def _routes(config: Config) -> list[Found]:
    return [
        (f"listeners.{name}.routes[{i}].{where}", problem)
        for name, listener in config.listeners.items()
        for route, places in by_form(members_of(listener.routes))
        for where, problem in _route(route)
        for i in places
    ]


def _route(route: RouteConfig) -> Iterator[Found]:
    """What is wrong with a route, and so with every one of its form."""
    for where, pattern in _patterns(route.match):
        if isinstance(made := _compiled(pattern), str):
            yield f"match.{where}", made
    yield from _captures(route)
    for name, rewrite in (("rewrite", route.rewrite), ("redirect", route.redirect)):
        if rewrite is not None:
            yield from _substitution(f"{name}.regex", rewrite)


def _captures(route: RouteConfig) -> Iterator[Found]:
    path = route.match.path
    if path is None or path.regex is None:
        return
    for where, text, _ in route.texts():
        for value in values_in(parse(text)) if has_values(text) else ():
            if value.name == "capture" and value.argument.isdigit():
                made = _compiled(path.regex)
                if isinstance(made, Regex) and int(value.argument) > made.groups:
                    yield where, f"there is no group {value.argument} in match.path.regex; it has {made.groups}"


def _patterns(match: MatchConfig) -> Iterator[tuple[str, str]]:
    """The regular expressions below a `match`, each with its path from there."""
    if match.host_regex is not None:
        yield "host_regex", match.host_regex
    if match.path is not None and match.path.regex is not None:
        yield "path.regex", match.path.regex
    if match.model is not None and match.model.regex is not None:
        yield "model.regex", match.model.regex
    for where, text in texts_of(match):
        if text.regex is not None:
            yield f"{where}.regex", text.regex


def _substitution(path: str, rewrite: PathRewriteConfig) -> Iterator[Found]:
    if rewrite.regex is None:
        return
    made = _compiled(rewrite.regex.pattern)
    if isinstance(made, str):
        yield f"{path}.pattern", made
        return
    for part in substitution_of(rewrite.regex.substitution):
        if isinstance(part, int) and part > made.groups:
            yield f"{path}.substitution", rf"there is no group \{part} in the pattern; it has {made.groups}"


def _compiled(pattern: str) -> Regex | str:
    """The expression, or what is wrong with it."""
    try:
        return Regex(pattern.encode("latin-1"))
    except ValueError as error:
        return f"not a regular expression: {error}"


def rewrites_in_vain(config: Config) -> Iterator[Found]:
    """A warning for each `regex` of a rewrite or redirect that is certain to match no path of its route."""
    for name, listener in config.listeners.items():
        for i, member in enumerate(members_of(listener.routes)):
            if member.first.match.model is not None:  # such a route is chosen by what the request says of a model
                continue
            _, _, kind, path = member.place
            for where, rewrite in (("rewrite", member.first.rewrite), ("redirect", member.first.redirect)):
                if rewrite is None or rewrite.regex is None:
                    continue
                if _matches_none(rewrite.regex.pattern, kind, path):
                    paths = f"the path {path!r}" if kind == "exact" else f"paths that begin with {_start(kind, path)!r}"
                    said = f"{rewrite.regex.pattern!r} is never found: the route takes {paths}"
                    yield f"listeners.{name}.routes[{i}].{where}.regex.pattern", said


def _matches_none(pattern: str, kind: str, path: str) -> bool:
    """Whether it is certain that an expression is found in no path that a route of this path takes."""
    if kind == "exact":
        made = _compiled(pattern)
        return isinstance(made, Regex) and not made.matches(path.encode("latin-1"))
    begin, start = _beginning(pattern), _start(kind, path)
    return not (start.startswith(begin) or begin.startswith(start) or begin.startswith("*"))  # `OPTIONS *`


def _start(kind: str, path: str) -> str:
    """What all paths of such a route begin with."""
    if kind == "prefix":
        return path
    return path.partition("{")[0] if kind == "template" else "/"


def _beginning(pattern: str) -> str:
    """What each text begins with in which the expression is found; "" where that is not plain."""
    if not pattern.startswith("^") or "|" in pattern:
        return ""
    found, i = [], 1
    while i < len(pattern):
        text = pattern[i]
        if text == "\\" and i + 1 < len(pattern) and not pattern[i + 1].isalnum():
            i += 1
            text = pattern[i]
        elif text in _META:
            break
        if pattern[i + 1 : i + 2] in ("?", "*", "{"):  # it may be there no time
            break
        found.append(text)
        i += 1
    return "".join(found)
