"""What a route looks at in a request: host, path, method, headers, query, cookies, source, gRPC method, model."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lb.config.advice.literal import expression, quoted, template_advice, value_advice
from lb.config.network import canonical
from lb.config.schema.base import (
    AskedPath,
    Boolean,
    FieldName,
    HostPattern,
    HttpPath,
    Model,
    Name,
    Regex,
    Token,
    did_you_mean,
    only_one,
    problem,
    text,
)
from lb.config.schema.routes.template import Template
from lb.config.schema.tables import TableMatch

# Those that llhttp parses, without PRI, which is no request of HTTP/1.1.
# fmt: off
METHODS = frozenset((
    "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE",
    "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK",
    "UNSUBSCRIBE",
))
# The others that IANA has registered.
REGISTERED = frozenset((
    "BASELINE-CONTROL", "CHECKIN", "LABEL", "MKREDIRECTREF", "MKWORKSPACE", "ORDERPATCH", "UNCHECKOUT", "UPDATE",
    "UPDATEREDIRECTREF", "VERSION-CONTROL",
))
# fmt: on

HOW = ("exact", "prefix", "suffix", "contains", "regex")

Parameter = Annotated[str, *text(r"[!-~]{1,256}", "is not a name of a parameter: 1 to 256 visible ASCII characters")]
"""Name of a parameter in a query, as it reads when it is decoded."""

Value = Annotated[str, Field(min_length=1, max_length=4096)]


def _network(value: str) -> str:
    try:
        return str(canonical(ipaddress.ip_network(value)))
    except ValueError as error:
        raise problem("network", f"not a network such as 10.0.0.0/8, 192.0.2.7 or fd00::/8: {error}") from None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _escaped(text: str) -> str:
    return expression(text, "[*]").replace("'", "''")


def _exact(value: Any) -> Any:
    if isinstance(value, str) and (form := value_advice(value)):
        literal = f"{{exact: {quoted(value)}}}"
        raise problem("text", f"{value!r} is compared as it is, no pattern; write {form}, or {literal} for this text")
    if isinstance(value, bool):
        word = str(value).lower()
        raise problem("text", f'must be text; write "{word}" for this text, {{present: {word}}} for any')
    if value is None:
        raise problem("text", "must be text; write {present: true} for any, {absent: true} for none")
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        raise problem("text", f"must be text; write {{one_of: [{', '.join(map(quoted, value))}]}}")
    # Numbers, too: they are text without its quotes, which is what the error then says.
    return {"exact": value} if isinstance(value, str | int | float) else value


def _exact_model(value: Any) -> Any:
    if isinstance(value, str) and value_advice(value) == "{present: true}":
        raise problem("text", f"{value!r} would be a model of this name; write path: {{prefix: /v2/models/}} for any")
    if isinstance(value, bool):
        raise problem("text", "must be text: the name of a model")
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        raise problem("text", f"must be text; write {{regex: '^({'|'.join(map(_escaped, value))})$'}}")
    return _exact(value)


class PathMatch(Model):
    """How a request's path is compared, without its query. Exactly one of the four."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [k]} for k in ("exact", "prefix", "template", "regex")]}
    )

    exact: HttpPath | None = None
    """The whole path, byte for byte."""
    prefix: HttpPath | None = None
    """The beginning of the path: `/v2/` takes `/v2/models` but not `/v2`."""
    template: AskedPath | None = None
    """The whole path, with names for segments: `/v2/models/{model}/infer`. A name stands for one segment that is not
    empty; `{rest...}` at the end for whatever is left. A rewrite can use the names."""
    regex: Regex | None = None
    """A regular expression (RE2's syntax) that is looked for in the path; `^` and `$` bind it to the path's ends.
    Tried one after another when nothing above it matched: slower than the other three."""

    @model_validator(mode="after")
    def _one(self) -> PathMatch:
        only_one(self, ("exact", "prefix", "template", "regex"))
        if self.template is not None:
            try:
                Template.parse(self.template)
            except ValueError as error:
                said = template_advice(self.template)
                raise problem(
                    "template", f"not a template: {str(error).partition('; ')[0] if said else error}{said}"
                ) from None
        return self


class TextMatch(Model):
    """How a text is compared, byte for byte. Exactly one of the first nine; plain text is short for `exact`."""

    exact: Annotated[str, Field(max_length=4096)] | None = None
    """The whole text; `""` for one that is there and empty."""
    prefix: Value | None = None
    """Its beginning."""
    suffix: Value | None = None
    """Its end."""
    contains: Value | None = None
    """A part of it."""
    regex: Regex | None = None
    """A regular expression (RE2's syntax) that is looked for in it; `^` and `$` bind it to its ends."""
    one_of: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(min_length=1, max_length=4096)] | None = None
    """One of these texts."""
    map: Name | None = None
    """A text that a map of the section `maps` has, whatever its value: a list from a file. Its `key` does not matter
    here."""
    present: Boolean = False
    """Whatever it is, it is there (`present: true`)."""
    absent: Boolean = False
    """It is not there (`absent: true`)."""
    invert: Boolean = False
    """The opposite: what does not match, or is not there at all, takes the route."""

    @model_validator(mode="after")
    def _one(self) -> TextMatch:
        only_one(self, (*HOW, "one_of", "map", "present", "absent"))
        return self


Text = Annotated[TextMatch, BeforeValidator(_exact, json_schema_input_type=str | TextMatch)]


class GrpcMatch(Model):
    """A gRPC method. It stands for the path `/SERVICE/METHOD` and a content type of `application/grpc`."""

    service: Annotated[
        str, *text(r"[A-Za-z_][A-Za-z0-9_.]{0,255}", "is not a service: package.Service, as in the .proto file")
    ]
    """Service with its package, such as `inference.GRPCInferenceService`."""
    method: (
        Annotated[str, *text(r"[A-Za-z_][A-Za-z0-9_]{0,255}", "is not a method's name; leave it out for every method")]
        | None
    ) = None
    """Method. Default: every method of the service."""


class ModelMatch(Model):
    """A model of the Open Inference Protocol, by its name. Exactly one of the three; plain text is short for
    `exact`."""

    exact: Value | None = None
    """The name."""
    prefix: Value | None = None
    """The beginning of the name."""
    regex: Regex | None = None
    """A regular expression (RE2's syntax) for the whole name."""

    @model_validator(mode="after")
    def _one(self) -> ModelMatch:
        only_one(self, ("exact", "prefix", "regex"))
        return self


def _method(value: str) -> str:
    """Any token is a method, but one that is nearly a known one is more likely a slip."""
    name = value.upper()
    if name in ("*", "ANY", "ALL"):
        raise problem("method", f"{value!r} would be a method of this name; leave method out for any")
    if value.count("|") and METHODS.issuperset(name.split("|")):
        raise problem("method", f"{value!r} is one method of this name; write [{', '.join(name.split('|'))}]")
    if name in METHODS or name in REGISTERED:
        return name
    near = did_you_mean(name, METHODS | REGISTERED)
    if near or name == "PRI":
        raise problem("method", f"{value!r} is not a method of HTTP{near}")
    return value


Method = Annotated[Token, AfterValidator(_method)]


Methods = Annotated[list[Method], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Networks = Annotated[
    list[Annotated[str, AfterValidator(_network)]],
    Field(min_length=1, max_length=256),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]


class Conditions(Model):
    """Conditions that all have to hold. At least one."""

    host: Text | None = None
    """Host of the request, without its port, in either case: plain text for the whole name, or a mapping."""
    path: Text | None = None
    """Path of the request: plain text for the whole path, or a mapping."""
    method: Methods | None = None
    """One method or a list of methods, such as `GET` or `[GET, HEAD]`. Any token will do, in the letters that clients
    use for it. Default: any."""
    headers: Annotated[dict[FieldName, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Headers, by name: plain text for the whole value, or a mapping. Of several lines with that name one has to
    match."""
    query: Annotated[dict[Parameter, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Parameters of the query, by name. Names and values are compared as they read when they are decoded; of several
    with that name one has to match."""
    cookies: Annotated[dict[FieldName, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Cookies, by name. Of several with that name one has to match."""
    source: Networks | None = None
    """Networks, or single addresses, of which one has the client's address. A client on a Unix socket has none."""
    not_source: Networks | None = None
    """Networks, or single addresses, of which none has the client's address."""
    maps: Annotated[dict[Name, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Values of maps of the section `maps`, by the map's name: what it has for the request. Where it has nothing, the
    value is not there."""
    tables: TableMatch = Field(default_factory=dict)
    """What stick tables of the section `tables` have counted of the request's key, by the table's name: `{clients:
    {request_rate: {above: 100}}}`. The request itself is not counted yet."""

    @model_validator(mode="after")
    def _some(self) -> Conditions:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise problem("match", "a group has no condition, and so takes every request; leave it out")
        return self


class Group(Conditions):
    """Conditions that all have to hold, and groups of them. At least one."""

    any: Annotated[list[Conditions], Field(max_length=64)] = Field(default_factory=list)
    """Groups of conditions of which one has to hold."""
    none: Annotated[list[Conditions], Field(max_length=64)] = Field(default_factory=list)
    """Groups of conditions of which none may hold."""


class MatchConfig(Model):
    """Conditions of a route; all that are given have to hold. An empty match takes every request."""

    host: HostPattern | None = None
    """Host of the request, without its port: a name, or `*.example.org` for any name below `example.org`. Default:
    any."""
    host_regex: Regex | None = None
    """Instead of `host`, a regular expression (RE2's syntax) that is looked for in it, in either case."""
    path: PathMatch | None = None
    """Path of the request. Default: any."""
    model: Annotated[ModelMatch, BeforeValidator(_exact_model, json_schema_input_type=str | ModelMatch)] | None = None
    """Model that the request is about, as its path `/v2/models/NAME…` says, or over gRPC the first message of the
    inference protocol's calls. Instead of `path`."""
    grpc: GrpcMatch | None = None
    """gRPC method that is called. Instead of `path`."""
    method: Methods | None = None
    """One method or a list of methods, such as `GET` or `[GET, HEAD]`. Any token will do, in the letters that clients
    use for it. Default: any."""
    headers: Annotated[dict[FieldName, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Headers, by name: plain text for the whole value, or a mapping. Of several lines with that name one has to
    match."""
    query: Annotated[dict[Parameter, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Parameters of the query, by name. Names and values are compared as they read when they are decoded; of several
    with that name one has to match."""
    cookies: Annotated[dict[FieldName, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Cookies, by name. Of several with that name one has to match."""
    source: Networks | None = None
    """Networks, or single addresses, of which one has the client's address. A client on a Unix socket has none."""
    not_source: Networks | None = None
    """Networks, or single addresses, of which none has the client's address."""

    maps: Annotated[dict[Name, Text], Field(max_length=32)] = Field(default_factory=dict)
    """Values of maps of the section `maps`, by the map's name: what it has for the request. Where it has nothing, the
    value is not there."""
    tables: TableMatch = Field(default_factory=dict)
    """What stick tables of the section `tables` have counted of the request's key, by the table's name: `{clients:
    {request_rate: {above: 100}}}`. The request itself is not counted yet."""
    any: Annotated[list[Group], Field(max_length=64)] = Field(default_factory=list)
    """Groups of conditions of which one has to hold."""
    none: Annotated[list[Group], Field(max_length=64)] = Field(default_factory=list)
    """Groups of conditions of which none may hold."""

    @model_validator(mode="after")
    def _paths(self) -> MatchConfig:
        given = [name for name in ("path", "model", "grpc") if getattr(self, name) is not None]
        if len(given) > 1:
            raise problem("match", f"{' and '.join(given)} each say what the path is: one of them is enough")
        if self.host is not None and self.host_regex is not None:
            raise problem("match", "host and host_regex each say what the host is: one of them is enough")
        return self


def texts_of(match: MatchConfig | Conditions, path: str = "") -> Iterator[tuple[str, TextMatch]]:
    """Each TextMatch of a match and its groups, with its path from there."""
    if isinstance(match, Conditions):
        for name, one in (("host", match.host), ("path", match.path)):
            if one is not None:
                yield f"{path}{name}", one
    for section in ("headers", "query", "cookies", "maps"):
        for name, one in getattr(match, section).items():
            yield f"{path}{section}.{name}", one
    for section in ("any", "none"):
        for i, group in enumerate(getattr(match, section, ())):
            yield from texts_of(group, f"{path}{section}[{i}].")


def maps_of(match: MatchConfig | Conditions) -> Iterator[str]:
    """The maps that a match and its groups use."""
    yield from match.maps
    for _, one in texts_of(match):
        if one.map is not None:
            yield one.map
    for group in (*getattr(match, "any", ()), *getattr(match, "none", ())):
        yield from maps_of(group)


def tables_of(match: MatchConfig | Conditions, path: str = "") -> Iterator[tuple[str, str]]:
    """The tables that a match and its groups use, each with its path from there."""
    for name in match.tables:
        yield name, f"{path}tables.{name}"
    for section in ("any", "none"):
        for i, group in enumerate(getattr(match, section, ())):
            yield from tables_of(group, f"{path}{section}[{i}].")


class NormalizeConfig(Model):
    """What is done to a path before it is compared; the endpoint gets the path that was compared. `true` is all of it,
    `false` nothing."""

    decode: Boolean = True
    """Whether escapes of letters, digits and `-._~`, which need none, become those characters (RFC 3986 section 6.2.2),
    and the digits of all others capitals. An escaped NUL and a `%` without two hexadecimal digits are then answered
    with 400."""
    dot_segments: Boolean = True
    """Whether `/a/./b` and `/a/x/../b` become `/a/b` (RFC 3986 section 5.2.4)."""
    merge_slashes: Boolean = True
    """Whether `/a//b` becomes `/a/b`."""
    escaped_slash: Literal["same_route", "keep", "decode", "reject"] = "same_route"
    """What becomes of `%2F`, `%5C` and `\\`, which some endpoints take for slashes and others do not. `same_route`
    leaves them as they are where each reading of the path takes the same route, and answers 400 where one does not:
    neither `/%2Fadmin/x` nor `/x/..%2Fadmin/x` gets round a route for `/admin/`. Escapes of escapes (`%252F`) and what
    Java servers cut off (`/admin;x/`) are readings, too. `keep` leaves them as they are whatever they could mean: only
    for endpoints that take `%2F` for a part of a name. `decode` makes slashes of them, `reject` answers 400."""


def _all_or_nothing(value: Any) -> Any:
    if isinstance(value, bool):
        whole: dict[str, Any] = dict.fromkeys(("decode", "dot_segments", "merge_slashes"), value)
        return whole if value else {**whole, "escaped_slash": "keep"}
    return value


Normalize = Annotated[NormalizeConfig, BeforeValidator(_all_or_nothing, json_schema_input_type=bool | NormalizeConfig)]
