"""Of the plan, what routes are made of beside their path: conditions and actions. See lb.config.plan.plan.

Whatever has its default is left out on the way to the workers, so that thousands of plain routes stay small.
"""

from __future__ import annotations

from msgspec import Struct

from lb.config.plan.tables import ComparisonPlan

# What routes may let clients do to model servers: a bit of RoutePlan.server_calls each, in this order.
SERVER_CALLS = ("models", "settings", "shared_memory")


class NormalizePlan(Struct, frozen=True):
    """What is done to a path before it is compared and passed on."""

    decode: bool
    dot_segments: bool
    merge_slashes: bool
    escaped_slash: str  # same_route | keep | decode | reject


class ConditionPlan(Struct, frozen=True):
    """One condition of a route besides host, path and method."""

    what: str  # header | query | cookie | source | grpc | model | host | path | method | map | table | any
    name: str = ""  # of the header (lower case), parameter or cookie
    how: str = "present"  # present | exact | prefix | suffix | contains | regex | one_of | map | comparison
    value: str = ""  # map: the name of one that has the text
    invert: bool = False
    networks: tuple[str, ...] = ()  # source: "10.0.0.0/8", "fd00::/8"
    texts: tuple[str, ...] = ()  # one_of
    groups: tuple[tuple[ConditionPlan, ...], ...] = ()  # any: all conditions of one group hold
    comparison: ComparisonPlan | None = None  # table


class MapPlan(Struct, frozen=True):
    """A map of the file's section `maps`."""

    name: str
    key: str  # a text of what is looked up
    block: bytes  # lb.proxy.routing.values.lookup
    digest: str  # of both: another one tells workers that routes with it are new


class CorsPlan(Struct, frozen=True):
    """Which pages of other origins may ask, and for what; the texts are those of the fields that say so."""

    origins: tuple[str, ...]  # "https://app.example.org", "https://*.example.org", "*"
    regexes: tuple[str, ...]  # for whole origins
    allow_methods: str
    allow_headers: str  # "" = none
    expose_headers: str  # "" = none
    credentials: bool
    max_age_s: int


class SharePlan(Struct, frozen=True):
    """One pool of a split."""

    pool: int  # index into Plan.pools
    weight: int


class SplitPlan(Struct, frozen=True):
    """Requests shared among pools; without a key at random."""

    shares: tuple[SharePlan, ...]
    key: str = ""  # as in PolicyPlan, but for the model
    key_name: str = ""
    ipv4_prefix: int = 32  # bits of a source that count
    ipv6_prefix: int = 128
    key_depth: int = 0
    key_length: int = 0
    by: str = ""  # a text that names one of the pools; "" = none


class ComparePlan(Struct, frozen=True):
    """Answers to copies compared with those of their originals."""

    absolute: float
    relative: float
    nan_equal: bool
    max_answer: int  # bytes


class MirrorPlan(Struct, frozen=True):
    """Copies of a route's requests for another pool."""

    pool: int
    per_million: int  # of the requests
    max_in_flight: int  # copies under way, per worker
    max_bytes: int  # of all of them together, per worker
    compare: ComparePlan | None = None  # None = answers are thrown away


class RewritePlan(Struct, frozen=True):
    """A new path: `kind` says how it comes about."""

    kind: str  # prefix | path | regex | format
    parts: tuple[str | int, ...]  # literal text, and numbers of names (path) or groups (regex); format: one text
    matched: str = ""  # prefix, format: what is replaced; path: the key of the route's template; regex: the pattern


class AnswerPlan(Struct, frozen=True):
    """An answer that Tidegate gives itself: a redirect where `redirect` says so, else a fixed one. Its texts may have
    values of the request (lb.config.values)."""

    status: int
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    text: str = ""  # the body where it has values
    redirect: bool = False
    scheme: str = ""  # of a redirect; "" = that of the request
    host: str = ""  # with its port
    drop_query: bool = False
    location: str = ""  # the whole of it; "" = as scheme, host and the route's rewrite say


class ErrorPagePlan(Struct, frozen=True):
    """What clients get in place of an error. Texts may have values of the error (lb.config.values)."""

    statuses: tuple[int, ...]
    fields: tuple[tuple[str, str], ...]  # Content-Type among them
    body: bytes
    text: str = ""  # of the body, where it has values; then there is no `body`
    status: int = 0  # that the client is told; 0 = that of the error
    intercept: bool = False  # in place of endpoints' answers, too


class CompressionPlan(Struct, frozen=True):
    """Which answers are compressed, and how."""

    codings: tuple[tuple[str, int], ...]  # names with levels, the most wanted first
    types: tuple[str, ...]  # lower case: "text/html", "text/*", "*"
    min_length: int  # bytes of an answer whose length is known
    private: bool = False  # cookies and credentials do not matter


class DecompressionPlan(Struct, frozen=True):
    """Which bodies are decompressed."""

    codings: tuple[str, ...]  # of lb.http.decoders
    requests: bool = True
    answers: bool = False  # for clients that do not take their coding
    max_ratio: int = 100  # bytes that come out for each that goes in


class BandwidthPlan(Struct, frozen=True):
    """How fast answers go to clients, in bytes a second; 0 = as fast as they take them."""

    per_request: int
    after: int  # bytes of each answer that `per_request` does not count
    per_key: int
    key: str  # as of RatePlan
    key_name: str


class FieldsPlan(Struct, frozen=True):
    """Changes to a head's fields, done in the order remove, set, add. Their texts may have values of the request
    (lb.config.values)."""

    remove: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()


class CookieFlagsPlan(Struct, frozen=True):
    """Attributes of cookies that are taken out and added."""

    name: str  # of the cookie; "*" = all without rules of their own
    dropped: tuple[str, ...]  # lower case
    added: str  # "; Secure; SameSite=Lax"


class ResponseRewritePlan(Struct, frozen=True):
    """What becomes of URLs and cookies in the heads of endpoints' answers. Pairs are what stands there, or begins it,
    and what replaces it."""

    undo: bool  # the route's rewrite is undone
    inside: str = ""  # how paths begin for the endpoint; "" = as for the client
    outside: str = ""  # how they begin for the client
    host: str = ""  # the endpoint's for the route; "" = the client's
    locations: tuple[tuple[str, str], ...] = ()
    cookie_paths: tuple[tuple[str, str], ...] = ()
    cookie_domains: tuple[tuple[str, str], ...] = ()  # lower case; "" = the attribute goes
    cookie_flags: tuple[CookieFlagsPlan, ...] = ()


class RetryPlan(Struct, frozen=True):
    """When a request is tried again."""

    attempts: int  # retries
    on: tuple[str, ...]  # connect | reset | 5xx | timeout | rate-limited, or one of gRPC's codes by Envoy's name
    per_attempt_timeout_ns: int  # 0 = none
    budget_percent: int  # retries at most, of the requests; 100 = no limit beyond `attempts`
    budget_min: int  # retries a second that are always allowed, in all workers
    backoff_base_ns: int = 0  # bound of the pause before the first retry, drawn at random; 0 = none
    backoff_max_ns: int = 0  # the bound doubles up to this
    careful: bool = False  # see `safe_retries`
    retry_after_ns: int = 0  # longest wait for an endpoint that says when it may be asked again


def safe_retries(attempts: int) -> RetryPlan:
    """The retries of a route that says nothing of them, where its pool has so many.

    A request that was not sent, or was refused unread, goes to another endpoint without a budget: it is no work that
    is done twice. Another one is repeated where that does no harm, after a broken connection, and after 502, 503 and
    504 where another endpoint may do better; then 20 % and 10 a second are the most (Finagle's and Linkerd's budget).
    """
    return RetryPlan(attempts, ("connect", "reset", "5xx"), 0, 20, 10, careful=True)


class HedgePlan(Struct, frozen=True):
    """When a second attempt begins while the first has not answered."""

    per_mille: int  # of the pool's latency, after which there is a hedge; 0 = after `delay_ns`
    delay_ns: int  # the least delay where `per_mille` says when
    samples: int  # answers that have to be known before there are hedges by `per_mille`
    budget_percent: int  # hedges at most, of the requests; 100 = no limit
    budget_min: int  # hedges a second that are always allowed, in all workers
    careful: bool = False  # see `SAFE_HEDGES`


# The hedges of a route that says nothing of them. A request is looked at when the worker's clock ticks (each 20 ms), so
# that one with an answer by then costs nothing more; of its endpoint it may not be bound to any.
SAFE_HEDGES = HedgePlan(990, 10_000_000, 100, 5, 1, careful=True)


class HttpCachePlan(Struct, frozen=True):
    """How a route's answers are kept as by an HTTP cache; times in whole seconds."""

    ttl_s: int = 0  # of answers that say nothing; 0 = by Last-Modified
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0
    max_object: int = 0  # bytes; 0 = the cache's
    ignore_set_cookie: bool = False
    request_directives: bool = True
    query: bool = True  # counts in the key
    headers: tuple[str, ...] = ()  # lower case; count in the key


class RatePlan(Struct, frozen=True):
    """A route's limit: `burst` tokens, of which one comes back every `interval_ns`."""

    interval_ns: int
    burst: int
    key: str  # "" (the whole route) | header | cookie | query | source | identity | path | uri | text
    key_name: str  # name of the header (lower case), cookie or query parameter; or the text
    fields: str  # standard | legacy | off
    delay_after: int = -1  # of the burst, how many requests go on at once; -1 = all
