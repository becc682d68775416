"""Routes: which requests, where they go, and what is changed or answered on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lb.config.advice.literal import quoted
from lb.config.advice.variables import substitution_advice
from lb.config.schema.access import RouteAccess
from lb.config.schema.base import (
    Boolean,
    FieldName,
    FilePath,
    Integer,
    Model,
    Name,
    Number,
    Regex,
    advised,
    problem,
    text,
)
from lb.config.schema.pools.platforms import RareModel
from lb.config.schema.pools.pool import KeyConfig
from lb.config.schema.quotas import RouteQuotas
from lb.config.schema.routes.bandwidth import BandwidthConfig
from lb.config.schema.routes.bodies import FRAMING
from lb.config.schema.routes.cache import RouteCache, RouteCacheConfig
from lb.config.schema.routes.canary import CanaryConfig
from lb.config.schema.routes.compression import Compression, Decompression
from lb.config.schema.routes.cors import CorsConfig
from lb.config.schema.routes.error_pages import ErrorPages
from lb.config.schema.routes.http_cache import HttpCache
from lb.config.schema.routes.match import MatchConfig, maps_of, tables_of
from lb.config.schema.routes.rate import RateLimitConfig
from lb.config.schema.routes.response_rewrite import ResponseRewriteConfig
from lb.config.schema.routes.retry import Hedge, Retry
from lb.config.schema.routes.template import Template, groups_of, parts_of, substitution_of
from lb.config.schema.routes.texts import (
    FieldValue,
    Host,
    Location,
    LogField,
    Replacement,
    ValuedHost,
    checked_name,
    checked_text,
)
from lb.config.schema.tables import TableRules, Track
from lb.config.units import KIB, MAX_SIZE, MIB, Duration, Size, format_size
from lb.config.values import EARLY, ENCODINGS, LATE, OF_ERRORS, Value, has_values, literals_in, parse, values_in

_WITH_QUERY = ("request.uri", "request.query")
FORWARDED = frozenset(("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"))


class ShareConfig(Model):
    """One pool of a split."""

    pool: str
    """Name of the pool."""
    weight: Integer = Field(default=1, ge=0, le=1_000_000)
    """Share of the requests relative to the other pools; 0 takes none."""


class CompareConfig(RareModel):
    """Answers to copies of inferences compared with those of their originals, output by output and element by element,
    as `numpy.allclose` does: a floating-point element differs where |copy - original| > `absolute` + `relative` *
    |original|. Everything else has to be the same: names, shapes, datatypes, integers, text, the gRPC status."""

    absolute: Number = Field(default=1e-5, ge=0, le=1e300)
    """Difference that an element may have whatever its size."""
    relative: Number = Field(default=1e-3, ge=0, le=1)
    """Difference that an element may have, as a part of the original's."""
    nan_equal: Boolean = True
    """Whether NaN is equal to NaN."""
    max_answer: Size = Field(default=256 * KIB, ge=KIB, le=MIB)
    """Largest answer that is compared. All answers that wait for the other one take at most `max_bytes` of the mirror,
    in each worker."""


class MirrorConfig(Model):
    """Copies of requests for another pool, whose answers are thrown away, or compared. A copy never delays its
    original: where a limit below is reached, no copy is made, and the status page counts it."""

    pool: str
    """Name of the pool that gets the copies, of the same protocol as those that answer the route. What is copied:
    [Mirror](howto/routing.md#mirror)."""
    percent: Number = Field(default=100, gt=0, le=100)
    """Share of the requests that are copied. A request that is larger than the listener's `retry_buffer` is not, but
    for inferences by REST; nor is an inference that the cache answers."""
    max_in_flight: Integer = Field(default=64, ge=1, le=10_000)
    """Most copies under way, in each worker."""
    max_bytes: Size = Field(default=16 * MIB, ge=64 * KIB)
    """Most memory that the copies under way take, in each worker."""
    compare: CompareConfig | None = None
    """Compares the answers of an `oip` pool with the originals': [Compare answers](howto/routing.md#compare-answers).
    `{}` is a mapping with the defaults. Default: they are thrown away."""


class RegexRewriteConfig(Model):
    """A substitution in the path."""

    pattern: Regex
    """A regular expression (RE2's syntax); every match in the path is replaced."""
    substitution: Annotated[
        str,
        *text(r'[!"$->@-~]{0,4096}', "is not a part of a path: no spaces, '?' or '#'"),
        advised(substitution_advice),
    ]
    r"""What replaces it; `\1` to `\9` are its groups, `\0` is the match, `\\` is a backslash."""


class PathRewriteConfig(Model):
    """How a path is replaced. At most one of `prefix`, `path` and `regex`; the query stays."""

    prefix: Replacement | None = None
    """Replaces the prefix that the route matched (`match.path.prefix`). It may have
    [values of the request](howto/values.md)."""
    path: Replacement | None = None
    """Replaces the whole path; `{name}` is what that name of the route's template stood for. It may have
    [values of the request](howto/values.md): `/tenants/${header.x-tenant:-none}${request.path}`."""
    regex: RegexRewriteConfig | None = None
    """Replaces parts of the path."""

    @model_validator(mode="after")
    def _one(self) -> PathRewriteConfig:
        given = [name for name in ("prefix", "path", "regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise problem("rewrite", f"{' and '.join(given)} each give a new path: one of them is enough")
        if self.regex is not None:
            try:
                substitution_of(self.regex.substitution)
            except ValueError as error:
                raise problem("substitution", f"regex.substitution: {error}") from None
        return self


class RewriteConfig(PathRewriteConfig):
    """What the endpoint sees instead of what the client sent."""

    host: Host | None = None
    """`Host` for the endpoint. `X-Forwarded-Host` still says what the client asked for."""


class RedirectConfig(PathRewriteConfig):
    """An answer that sends the client elsewhere. What is not given stays as it was."""

    status: Annotated[Integer, Field(ge=301, le=308)] = 302
    """301 or 308 (for good), 302, 303 or 307 (for now); 307 and 308 keep method and body."""
    scheme: Literal["http", "https"] | None = None
    """Scheme to go to."""
    host: ValuedHost | None = None
    """Host to go to, with its port unless it is the scheme's own. It may have
    [values of the request](howto/values.md), as in `www.${request.host}`."""
    location: Location | None = None
    """Instead of all other keys but `status`, the whole URL, with [values of the request](howto/values.md):
    `https://login.example.org/?next=${request.uri}`."""
    drop_query: Boolean = False
    """Whether the query is left out."""

    @model_validator(mode="after")
    def _elsewhere(self) -> RedirectConfig:
        if self.status not in (301, 302, 303, 307, 308):
            raise problem("redirect", "status must be 301, 302, 303, 307 or 308")
        others = [name for name in ("scheme", "host", "prefix", "path", "regex", "drop_query") if getattr(self, name)]
        if self.location is not None and others:
            raise problem("redirect", f"location is the whole URL; leave out {' and '.join(others)}")
        if not any((self.location, self.scheme, self.host, self.prefix, self.path, self.regex, self.drop_query)):
            raise problem("redirect", "leads back to where it came from; give it a scheme, host, path, prefix or regex")
        return self


class RespondConfig(Model):
    """An answer of its own."""

    status: Annotated[Integer, Field(ge=200, le=599)] = 200
    """Status code."""
    headers: Annotated[dict[FieldName, FieldValue], Field(max_length=32)] = Field(default_factory=dict)
    """Headers, such as `Content-Type`. They may have [values of the request](howto/values.md)."""
    body: Annotated[str, Field(max_length=64 * KIB), AfterValidator(checked_text)] = ""
    """Text of the answer. It may have [values of the request](howto/values.md), which are escaped as its `Content-Type`
    needs: for JSON, for plain text, else for HTML."""
    file: FilePath | None = None
    """File that has the answer's body, in place of `body`: at most 1 MiB, the same for every request. It is read at the
    start, and again when it changes; what cannot be read leaves the content in force. `Content-Type` goes by the
    suffix of its name, unless `headers` has one."""

    @model_validator(mode="after")
    def _bodiless(self) -> RespondConfig:
        for name in self.headers:
            if name.lower() in FRAMING or name.lower() == "date":
                raise problem("fields", f"{name} is set by Tidegate itself")
        if self.body and self.file is not None:
            raise problem("respond", "body and file are each the answer's body: one of them is enough")
        if (self.body or self.file is not None) and self.status in (204, 205, 304):
            raise problem("respond", f"an answer with status {self.status} has no body")
        return self


class FieldsConfig(Model):
    """Changes to headers, in the order `remove`, `set`, `add`. Headers that say where a message ends or that belong to
    a single connection cannot be changed. What is set or added may have [values of the request](howto/values.md), as
    in `X-Real-IP: ${client.address}`; a header whose value comes out empty is left out."""

    set: Annotated[dict[FieldName, FieldValue], Field(max_length=16)] = Field(default_factory=dict)
    """Replaces all lines of that name by one."""
    add: Annotated[dict[FieldName, FieldValue], Field(max_length=16)] = Field(default_factory=dict)
    """Adds a line to those that are there."""
    remove: Annotated[list[FieldName], Field(max_length=32)] = Field(default_factory=list)
    """Removes all lines of that name. Of requests, `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, `Forwarded`,
    `Via`, `X-Request-Id`, `traceparent` and `X-Forwarded-Client-Cert` are then not told to the endpoint at all, neither
    the client's nor Tidegate's own."""

    @model_validator(mode="after")
    def _allowed(self) -> FieldsConfig:
        for name in (*self.set, *self.add, *self.remove):
            if name.lower() in FRAMING:
                raise problem("fields", f"{name} is set by Tidegate itself" + _instead(name.lower()))
        return self


def _instead(name: str) -> str:
    return "; rewrite.host changes it" if name == "host" else ""


def _stay(key: KeyConfig) -> str:
    """What keeps clients with one endpoint of a pool."""
    if key.cookie is not None:
        return f"; to stay with an endpoint, write in the pool affinity: {{cookie: {{name: {quoted(key.cookie)}}}}}"
    return (
        "; to stay with an endpoint, have the pool choose by a key: policy: {type: ring_hash, key: {header: x-session}}"
    )


def _encoding(where: str) -> str:
    """How values are written in the text at `where`, a place of RouteConfig.texts, as far as its key does not say."""
    if where.startswith(("request_headers.", "response_headers.", "respond.headers.")):
        return ENCODINGS.get(where.split(".", 2)[2].lower(), "field")
    return "field"


class RouteConfig(Model):
    """One rule of an HTTP listener: which requests it takes, and what becomes of them. Of the rules that match, the
    most particular takes the request (see docs/howto/routing.md); of equals the first. Exactly one of `pool`,
    `pools`, `redirect` and `respond`."""

    name: Name | None = None
    """Name in metrics, logs and status. Default: the listener's name and the rule's number from 0, as in `web/0`."""
    match: MatchConfig = MatchConfig()
    """Which requests the rule takes. Default: all."""
    pool: str | None = None
    """Name of the pool that answers."""
    pools: Annotated[list[ShareConfig], Field(max_length=64)] = Field(default_factory=list)
    """Pools that share the requests by weight, for canaries and splits."""
    pool_by: Annotated[str, Field(max_length=4096), AfterValidator(checked_name)] | None = None
    """A text with [values of the request](howto/values.md) that names which of the `pools` answers, such as
    `${map.tenants}` or `${header.x-pool}`. Where it names none of them, they share the request by weight; one of weight
    0 answers by its name only. A map whose values name none of them is an error of the file."""
    sticky: KeyConfig | None = None
    """What requests are told apart by when `pools`, or `pool` and `canary`, share them, so that like ones go to the
    same pool. A request without it goes at random. Default: all at random."""
    redirect: RedirectConfig | None = None
    """Sends the client elsewhere."""
    respond: RespondConfig | None = None
    """Answers without asking anybody."""
    rewrite: RewriteConfig | None = None
    """Changes path and host for the endpoint."""
    request_headers: FieldsConfig | None = None
    """Changes headers of the request for the endpoint."""
    response_headers: FieldsConfig | None = None
    """Changes headers of the answer for the client."""
    response_rewrite: ResponseRewriteConfig | None = None
    """Makes redirects and cookies of the endpoints fit what clients see: [Rewrites](howto/routing.md#answers). Default:
    `location: default` where the route has `rewrite.prefix` or `rewrite.host`, else nothing."""
    error_pages: ErrorPages = []
    """Answers in place of Tidegate's own errors and, where a page says so, of the endpoints'; the first that fits, and
    then those of the listener: [Error pages](howto/error-pages.md)."""
    compression: Compression = None
    """Compresses answers of pools of protocol `http` and `http2` for clients that accept it: a mapping, or `true` for
    one without keys ([Compress answers](howto/compression.md)). Default: `false`, answers pass as they are."""
    decompression: Decompression = None
    """Decompresses bodies of requests, and with `answers: true` those of answers, for pools of protocol `http` and
    `http2`: a mapping, or `true` for one without keys ([Decompress requests](howto/compression.md#decompress-requests),
    [answers](howto/compression.md#decompress-answers)). Default: `false`, bodies keep their codings."""
    mirror: MirrorConfig | None = None
    """Sends copies of requests to another pool as well."""
    canary: CanaryConfig | None = None
    """Has another pool take over from `pool` step by step, and back as soon as it is worse."""
    cache: RouteCache = RouteCacheConfig()
    """Whether answers may come from the result cache (`true`, `false`), or a mapping that says how long they are kept
    and which requests share them. It matters only for pools of protocol `oip` and only when the file has a `cache`
    section. Switch it off for models whose answer changes for the same input. Default: `true`."""
    http_cache: HttpCache = None
    """Keeps answers of pools of protocol `http` or `http2` by the rules of HTTP (RFC 9111):
    [Cache HTTP answers](howto/cache-http.md). A mapping, or `true` for one without keys. It needs the section `cache`.
    Default: `false`, nothing is kept."""
    timeout: Duration | None = None
    """Longest time for the whole exchange, from the end of the request's head to the end of the answer; then the
    client gets 504. Default: no limit beyond the pool's."""
    response_timeout: Duration | None = None
    """Longest time from the end of a request to the beginning of its answer; then 504. Default: the pool's."""
    max_body: Size = 64 * MIB
    """Largest request body; a larger one is answered with 413. It bounds the memory that one request may take. 0 is no
    word for no limit: the largest is `1024TiB`."""
    auth: RouteAccess = None
    """Who may send requests, by the providers of the section `auth`: [Let clients in](howto/let-clients-in.md).
    `none`: anybody. Default: as the listener's `auth`, else anybody."""
    bandwidth: BandwidthConfig | None = None
    """How fast answers go to clients: [Bandwidth](howto/limit-traffic.md#bandwidth). Default: as fast as clients take
    them."""
    rate_limit: RateLimitConfig | None = None
    """How often each client may ask. Default: no limit."""
    quota: RouteQuotas = []
    """How much each client may ask for in a day or a month: the name of a quota of the section `quotas`, or up to four
    names. A request counts once it has passed `auth` and `rate_limit`, whatever its answer; a job counts when it is
    accepted. Default: no limit."""
    track: Track = []
    """Stick tables of the section `tables` that its requests count in, beside those of the listener."""
    table_rules: TableRules = []
    """Rules by what tables have counted, behind those of the listener."""
    max_in_flight: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Most requests of this route under way, in all workers together; further ones are answered with 503. Default: no
    limit."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Who goes first where requests wait for an endpoint, in the `queue` of a pool with `max_in_flight`; a request of a
    higher priority passes all those of lower ones."""
    retry: Retry = None
    """When a request is tried again: a mapping, or `off`. Default: the pool's `retries`, where that is safe: after a
    request that was not sent or was refused unread; and where repeating does no harm (see `idempotent`) after a broken
    connection, and after 502, 503 and 504 where the pool has another endpoint and no affinity. The latter are at most
    20 % of the pool's requests of the last ten seconds, and 10 a second are always allowed. `off`: the pool's `retries`
    after requests that were not sent, and after broken connections where repeating does no harm, without a budget."""
    hedge: Hedge = None
    """A second attempt at another endpoint while the first has not answered: a mapping, or `off`. Default: where
    repeating does no harm and the pool has no affinity, when the answer has not begun after the 99th percentile of the
    pool's latency, and 10 ms at least; at most 5 % of the pool's requests, fewer while few of the hedges answer first,
    and none while requests wait for the pool. `off`: none."""
    idempotent: Boolean = False
    """Whether requests may be repeated, by `retry` and `hedge`, whatever their method: set it for gRPC methods, or for
    POSTs, that do no harm when they are done twice. GET, HEAD, PUT, DELETE, OPTIONS and TRACE may be anyway, and
    inferences but those of a sequence."""
    idempotency_key: Boolean = False
    """Whether a request that has an `Idempotency-Key` may be repeated, too, whatever its method (IETF draft
    idempotency-key-header). Set it where the endpoints keep the promise of that header: a key that one of them has seen
    is known to all, and is not carried out a second time. Default: `false`, the header changes nothing."""
    jobs: Boolean = False
    """Whether requests may become jobs: one with `Prefer: respond-async` is answered with 202 once it is durable, and
    its answer can be asked for later ([Answer later](howto/answer-later.md)). It needs the section `jobs`. A job may
    run more than once. Not for gRPC calls, which are answered as ever. Default: `false`."""
    cors: CorsConfig | None = None
    """Requests from pages of other origins. Default: nothing is added to answers, and preflight requests (`OPTIONS`)
    are requests as any other."""
    server_calls: list[Literal["models", "settings", "shared_memory"]] = []
    """What clients may do to the model servers of an `oip` pool, all of them at once: `models` (load and unload them),
    `settings` (of traces and logs), `shared_memory` (register and unregister regions of it). Whoever may send such
    requests decides what the servers run, write and read, so give them a route, or a listener, of their own:
    [Change model servers](howto/change-model-servers.md). Default: nothing; such requests are answered with 404, over
    gRPC with `UNIMPLEMENTED`."""
    stream_messages: Literal["triton", "mlserver"] = "triton"
    """What clients of gRPC's `ModelStreamInfer` read, whatever the model servers of an `oip` pool send: Triton's
    `ModelStreamInferResponse`, or `ModelInferResponse`, as MLServer's own clients do."""
    log_fields: Annotated[
        dict[LogField, Annotated[str, Field(max_length=4096), AfterValidator(checked_text)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    """Further fields in the access log, in the object `fields` of a record, with
    [values of the request](howto/values.md): `{tenant: "${header.x-tenant}"}`. Values may be secret, so log no
    credentials."""
    expose_endpoint: Boolean = False
    """Whether answers carry `X-Tidegate-Endpoint` with the address of the endpoint that gave them. It helps to see the
    balancing at work, and tells clients about the inside of the site: off by default."""

    @model_validator(mode="after")
    def _one(self) -> RouteConfig:
        given = [name for name in ("pool", "pools", "redirect", "respond") if getattr(self, name)]
        if len(given) != 1:
            what = f"not {' and '.join(given)} together" if given else "none is given"
            raise problem("only_one", f"exactly one of pool, pools, redirect, respond is needed; {what}")
        if self.max_body == 0:
            most = format_size(MAX_SIZE)
            raise problem(
                "max_body", f"max_body: 0 would refuse every body; leave it out for 64MiB; {most} is the most"
            )
        if self.pools and not any(share.weight for share in self.pools):
            raise problem("pools", "pools: none has a weight above 0")
        if self.canary is not None and not self.pool:
            raise problem("canary", "canary is only for a route with pool, which is the baseline")
        if self.sticky is not None and not self.pools and self.canary is None:
            raise problem(
                "sticky", "sticky is only for pools, or pool and canary, which share the requests" + _stay(self.sticky)
            )
        if self.pool_by is not None and not self.pools:
            raise problem("pools", "pool_by chooses among pools, which are not given")
        if self.sticky is not None and self.sticky.model:
            raise problem("sticky", "sticky.model is not known when the route is chosen; match the model instead")
        source = self.sticky.source if self.sticky is not None else None
        if source is not None and (source.port or source.destination):
            raise problem("sticky", "sticky.source: port and destination are only for pools of protocol udp")
        if self.sticky is not None and self.sticky.text is not None:
            for value in values_in(parse(self.sticky.text, "text")):
                if value.name not in EARLY:
                    raise problem("sticky", f"sticky.text: {value.spelling} is known once the route is chosen")
        if not (self.pool or self.pools):
            self._without_endpoint()
        if self.cors is not None and self.response_headers is not None:
            for name in (*self.response_headers.set, *self.response_headers.add):
                if name.lower().startswith("access-control-"):
                    raise problem("fields", f"response_headers: {name} is set by cors")
        self._rewrites()
        self._values()
        return self

    @property
    def captures(self) -> dict[str, int]:
        """The numbers of the names that the route's path gives to its parts."""
        path = self.match.path
        if path is None:
            return {}
        if path.regex is not None:
            return groups_of(path.regex)
        names = Template.parse(path.template).names if path.template is not None else ()
        return {name: i + 1 for i, name in enumerate(names)}

    def _values(self) -> None:
        for where, one, late in self.texts():
            if not has_values(one):
                continue
            try:
                parts = parse(one, _encoding(where))
            except ValueError as error:
                raise problem("value", f"{where}: {error}") from None
            for value in values_in(parts):
                self._value(f"{where}: {value.spelling}", value, late)

    @property
    def table_names(self) -> list[str]:
        """The tables that its own keys, texts and conditions use, each once."""
        names = dict.fromkeys((*self.track, *(name for name, _ in tables_of(self.match))))
        for rule in self.table_rules:
            names |= dict.fromkeys((*rule.when, *rule.set_gpt0, *rule.increment_gpc0))
        for _, one, _ in self.texts():
            if has_values(one):
                found = (value for value in values_in(parse(one)) if value.name == "table")
                names |= dict.fromkeys(value.argument.rpartition(".")[0] for value in found)
        return list(names)

    @property
    def map_names(self) -> list[str]:
        """The maps that its texts and conditions use, each once."""
        names: dict[str, None] = dict.fromkeys(maps_of(self.match))
        for _, one, _ in self.texts():
            if has_values(one):
                names |= dict.fromkeys(value.argument for value in values_in(parse(one)) if value.name == "map")
        return list(names)

    def texts(self) -> Iterator[tuple[str, str, bool]]:
        """Each text that may have values, with its key, and whether that may have late ones."""
        if self.pool_by is not None:
            yield "pool_by", self.pool_by, False
        if self.rate_limit is not None and self.rate_limit.key.text is not None:
            yield "rate_limit.key.text", self.rate_limit.key.text, False
        if self.bandwidth is not None and self.bandwidth.key is not None and self.bandwidth.key.text is not None:
            yield "bandwidth.key.text", self.bandwidth.key.text, False
        for name, value in self.log_fields.items():
            yield f"log_fields.{name}", value, False
        for where, fields in (("request_headers", self.request_headers), ("response_headers", self.response_headers)):
            if fields is not None:
                for section, lines in (("set", fields.set), ("add", fields.add)):
                    for name, value in lines.items():
                        yield f"{where}.{section}.{name}", value, where == "response_headers"
        for where, rewrite in (("rewrite", self.rewrite), ("redirect", self.redirect)):
            if rewrite is not None:
                for key in ("prefix", "path", "host", "location"):
                    yield f"{where}.{key}", getattr(rewrite, key, None) or "", False
        if self.respond is not None:
            yield "respond.body", self.respond.body, False
            for name, value in self.respond.headers.items():
                yield f"respond.headers.{name}", value, False

    def _value(self, said: str, value: Value, late: bool) -> None:
        if value.name in OF_ERRORS:
            raise problem("value", f"{said} is for error_pages only")
        if value.name in LATE and not late:
            raise problem("value", f"{said} is known once an endpoint answers, in response_headers only")
        if said.startswith("pool_by: ") and value.name not in EARLY:
            raise problem("value", f"{said} is known once the route is chosen")
        if value.name == "pool.name" and not (self.pool or self.pools):
            raise problem("value", f"{said}: a route that answers itself has no pool")
        place, _, key = said.partition(":")[0].partition(".")
        if place in ("rewrite", "redirect") and key in ("path", "prefix") and value.name in _WITH_QUERY:
            raise problem("value", f"{said}: the query stays as it is behind the new path; write ${{request.path}}")
        if value.name == "capture":
            self._capture(said, value.argument)
        kept = "http_cache" if self.http_cache is not None else ""
        if self.cache is not None and self.cache.results_by_get:
            kept = kept or "cache.results_by_get"
        if late and kept:
            raise problem("value", f"{said}: answers of {kept} are for other clients, too; leave one of them out")

    def _capture(self, said: str, name: str) -> None:
        path = self.match.path
        if path is None or (path.regex is None and path.template is None):
            raise problem(
                "value", f"{said} needs match.path.regex or match.path.template, which name parts of the path"
            )
        if name.isdigit():
            if path.template is not None and not 0 < int(name) <= len(self.captures):
                raise problem("value", f"{said}: the path's template has {len(self.captures)} names")
        elif name not in self.captures:
            known = ", ".join(self.captures) or "none"
            raise problem("value", f"{said}: the route's path has no such name; its names: {known}")
        elif self.captures[name] > 9:
            raise problem("value", f"{said}: only the first nine parts of a path can be captured")

    @staticmethod
    def _names(template: str | None) -> tuple[str, ...]:
        return Template.parse(template).names if template is not None else ()

    def _without_endpoint(self) -> None:
        for name in (
            "rewrite",
            "mirror",
            "canary",
            "request_headers",
            "response_headers",
            "response_rewrite",
            "retry",
            "hedge",
            "response_timeout",
            "http_cache",
            "compression",
            "decompression",
            "bandwidth",
        ):
            if getattr(self, name) is not None:
                raise problem("route", f"{name} is only for routes with a pool, not for redirect or respond")
        if self.jobs:
            raise problem("route", "jobs is only for routes with a pool, not for redirect or respond")

    def _rewrites(self) -> None:
        rewrite = self.rewrite or self.redirect
        if self.request_headers is not None:
            for name in (*self.request_headers.set, *self.request_headers.add):
                if name.lower() in FORWARDED:
                    raise problem(
                        "fields", f"request_headers: {name} is set by Tidegate; see forwarded of the listener"
                    )
        if rewrite is None:
            return
        path = self.match.path
        where = "rewrite" if self.rewrite is not None else "redirect"
        if rewrite.prefix is not None and (path is None or path.prefix is None):
            raise problem("rewrite", f"{where}.prefix replaces match.path.prefix, which is not given")
        if rewrite.path is not None:
            template = path.template if path is not None else None
            try:
                if has_values(rewrite.path):
                    parts_of("".join(literals_in(parse(rewrite.path))), self._names(template))
                else:
                    parts_of(rewrite.path, self._names(template))
            except ValueError as error:
                raise problem("rewrite", f"{where}.path: {error}") from None

    @property
    def pool_names(self) -> list[str]:
        """The pools that may answer, that of a canary last."""
        if self.pool is None:
            return [share.pool for share in self.pools]
        return [self.pool] if self.canary is None else [self.pool, self.canary.pool]
