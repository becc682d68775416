"""The plan: what a configuration compiles to, immutable, sent by the master to every worker (design.md section 5).

Frozen Structs: everything is resolved here (defaults, durations in nanoseconds, sizes in bytes, references as
indices, slots and series of the shared segment), so that later code never checks configuration again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from msgspec import Struct, field
from msgspec.structs import replace

from lb.config.address import places, port_of
from lb.config.plan.access import AccessPlan, ProviderPlan
from lb.config.plan.cache_key import CacheKeyPlan
from lb.config.plan.caching import DiskPlan, FreshnessPlan, PoolCachePlan
from lb.config.plan.discreet import Discreet
from lb.config.plan.quotas import QuotaPlan
from lb.config.plan.routes import (
    AnswerPlan,
    BandwidthPlan,
    CompressionPlan,
    ConditionPlan,
    CorsPlan,
    DecompressionPlan,
    ErrorPagePlan,
    FieldsPlan,
    HedgePlan,
    HttpCachePlan,
    MapPlan,
    MirrorPlan,
    NormalizePlan,
    RatePlan,
    ResponseRewritePlan,
    RetryPlan,
    RewritePlan,
    SplitPlan,
)
from lb.config.plan.tables import TablePlan, TableRulePlan
from lb.config.plan.tier import TierPlan
from lb.config.plan.tls import PoolTlsPlan, TlsPlan
from lb.config.plan.wire import Packed, plain, typed

PRIORITIES = ("high", "normal", "low")
"""Names of the priorities of routes, by their numbers."""


class PolicyPlan(Struct, frozen=True):
    """How a pool chooses; `type` is a name of the registry in lb.balancing, `options` are the policy's own."""

    type: str
    key: str = ""  # "" | header | cookie | query | source | model | path | uri | text
    key_name: str = ""  # name of the header, cookie or query parameter; or the text
    options: dict[str, Any] | None = None
    ipv4_prefix: int = 32  # bits of a source that count, where that is the key
    ipv6_prefix: int = 128
    key_depth: int = 0  # directories of a path that count, where that is the key; 0 = all
    key_length: int = 0  # bytes of a path or URI that count; 0 = all
    source_port: bool = False  # counts, too (udp)
    source_destination: bool = False  # and where the datagrams went to does (udp)


class EndpointPlan(Struct, frozen=True):
    """An endpoint of a pool, with its places in the shared segment."""

    address: str  # "host:port" with a literal IP address, "[v6]:port" or "unix:/path"
    slot: int  # record in the shared segment
    series: int
    weight: int
    host: str = ""  # the name in the configuration that became this address; "" = there was none
    datagrams: int = -1  # series of its datagrams (udp)
    max_in_flight: int = 0  # over all workers; 0 = no limit
    priority: int = 0  # 0 first
    zone: str = ""  # "" = none is known
    server_id: str = ""  # in connection ids of QUIC, as hexadecimal digits; "" = it has none (udp)


class KeepalivePlan(Struct, frozen=True):
    """How the kernel looks after silent connections, and those whose data nobody acknowledges."""

    idle_s: int
    interval_s: int
    probes: int
    user_timeout_ms: int = 0  # 0 = as the kernel has it


class EndpointSpec(Struct, frozen=True):
    """An endpoint as discovery or a supervisor gives it, before it has a slot and a series."""

    address: str  # as in EndpointPlan
    weight: int = 1
    host: str = ""  # as in EndpointPlan
    max_in_flight: int = 0  # as in EndpointPlan; 0 = the pool's
    priority: int = 0  # as in EndpointPlan
    zone: str = ""  # as in EndpointPlan
    server_id: str = ""  # as in EndpointPlan


class QueuePlan(Struct, frozen=True):
    """The queue of a pool's requests."""

    series: int
    max: int  # waiting, in all workers; 0 = nobody waits
    timeout_ns: int
    overload_after_ns: int
    overload_share: float  # of the time that is left, which may be spent waiting during an overload


class OutlierPlan(Struct, frozen=True):
    """What a worker decides about an endpoint by itself."""

    consecutive_5xx: int  # 0 = never
    consecutive_gateway_failure: int  # 0 = never
    most: int  # endpoints that may be ejected at once
    probes: int  # requests in flight at an endpoint on probation


class SequencePlan(Struct, frozen=True):
    """Sequences of a pool: requests that one endpoint has to answer all of."""

    idle_ns: int  # an open sequence without a request
    drain_ns: int  # longest time for which an endpoint that was removed serves the sequences that it has


class CookiePlan(Discreet, frozen=True):
    """The cookie by which clients of a pool stay with an endpoint."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("keys",)

    name: str
    path: str
    domain: str  # "" = the host that was asked
    ttl_s: int  # 0 = until the browser is closed
    secure: bool
    http_only: bool
    same_site: str  # "" | strict | lax | none
    keys: tuple[bytes, ...] = ()  # what its files hold: the first signs, all are valid; () = the segment's


class LearnPlan(Struct, frozen=True):
    """The sessions that a pool learns from its endpoints' answers."""

    kind: str  # cookie | header
    name: str  # of the cookie, or of the header in lower case
    idle_ns: int  # a session without a request
    series: int


class QuicPlan(Struct, frozen=True):
    """How datagrams of QUIC are brought to the endpoint that has their connection."""

    key_length: int  # bytes of a connection id that are looked up
    server_id_length: int  # bytes; 0 = connection ids name no endpoint
    idle_ns: int  # a connection id without a datagram


class SourcePlan(Struct, frozen=True):
    """From where endpoints are reached."""

    address: str = ""  # of this machine; "" = the client's own
    first: int = 0  # of the ports; 0 = those that the system gives out
    last: int = 0


class CostPlan(Struct, frozen=True):
    """What a request of a pool counts for, where that is not 1."""

    unit: str  # batch | bytes
    learn: bool  # each model has its own cost


class PoolPlan(Struct, frozen=True):
    """A pool: endpoints, how one of them is chosen, and how it is spoken to."""

    name: str
    protocol: str  # oip | http | http2 | grpc | tcp | udp
    policy: PolicyPlan
    endpoints: tuple[EndpointPlan, ...]
    connect_timeout_ns: int
    response_timeout_ns: int  # from the request's last byte to the response's head; 0 = none
    idle_timeout_ns: int  # an idle upstream connection (http), a silent session (tcp)
    retries: int  # retries on another endpoint
    max_idle: int  # idle upstream connections kept per worker and endpoint (http)
    send_proxy: str = ""  # "" | v1 | v2: PROXY protocol towards the endpoint (tcp)
    send_unique_id: bool = False  # a unique id for connections that came without one (v2)
    send_checksum: bool = False  # CRC-32C of the header (v2)
    on_marked_down: str = "keep"  # keep | shutdown_sessions
    on_marked_up: str = "keep"  # keep | shutdown_backup_sessions
    tls: PoolTlsPlan | None = None
    series: int = -1  # that counts for its budgets, and for its queue; -1 = none (tcp, udp)
    queue: QueuePlan | None = None  # None = nobody waits: no endpoint has a limit, or its protocol knows no waiting
    learns_limits: bool = False  # the policy finds how many requests each endpoint is good for
    shaped: bool = False  # ejection, panic, slow start, priorities or zones have a say in what endpoints get
    slow_start: bool = False  # shares grow: an endpoint gets a part of its weight
    groups: tuple[
        int, ...
    ] = ()  # of each endpoint, as lb.config.schema.pools.failover.groups_of has them; () = all are of one
    outlier: OutlierPlan | None = None
    avoid_failing: bool = True  # endpoints whose recent attempts failed take a part of their turns
    models: tuple[str, ...] = ()  # whose readiness is known, each at the place of its bit; "" = nobody's (oip)
    sequence: SequencePlan | None = None  # None = a sequence is as good as any request
    cookie: CookiePlan | None = None  # None = it gives none
    learn: LearnPlan | None = None  # None = it learns no sessions
    source: SourcePlan | None = None  # None = as the system routes
    quic: QuicPlan | None = None  # None = its datagrams are of any protocol (udp)
    cost: CostPlan | None = None  # None = a request is a request
    leaving: tuple[EndpointPlan, ...] = ()  # removed, but may have open sequences
    keepalive: KeepalivePlan | None = None  # of its connections; None = off
    count_models: bool = False  # its model servers have no statistics: workers count inferences (oip)
    on_demand: bool = False  # it may have no endpoint, and gets one when a request comes
    awaits_start: bool = False  # requests that find no endpoint wait for the start of one
    managed: bool = False  # the master starts its endpoints, and tells how that goes on
    cache_rows: tuple[str, ...] = ()  # models whose batches are cached row by row (oip)
    cache: PoolCachePlan | None = None  # None = its answers are not kept
    cache_epoch: int = 0  # another one: its model servers are others, and what they answered before counts no more
    models_epoch: int = 0  # another one: a model was loaded or unloaded; what is known of models is to be asked anew


class RoutePlan(Struct, frozen=True):
    """A route of an HTTP listener: which requests it takes, and what becomes of them."""

    OWN: ClassVar[tuple[str, ...]] = ("name", "series", "pool", "host", "path")  # see lb.config.plan.wire

    name: str
    series: int
    pool: int  # index into Plan.pools; -1 = the route answers itself, or splits
    host: str  # lower case, "" = any, "*.example.org" = any one or more labels below
    path: str
    path_kind: str  # "" (any) | exact | prefix | template | regex | model (exact: /v2/models/NAME and what is below it)
    methods: tuple[str, ...]  # () = any
    cache: bool
    timeout_ns: int  # whole exchange; 0 = none
    max_body: int
    freshness: FreshnessPlan | None = None  # of its answers; None = as their pool says
    client_tags: bool = False  # clients may name what their answers depend on
    expose_endpoint: bool = False  # X-Tidegate-Endpoint in answers
    host_regex: bool = False  # `host` is a regular expression
    conditions: tuple[ConditionPlan, ...] = ()
    split: SplitPlan | None = None
    mirror: MirrorPlan | None = None
    answer: AnswerPlan | None = None  # no pool is asked
    rewrite: RewritePlan | None = None  # of the path; of a redirect, the path it leads to
    rewrite_host: str = ""
    request_fields: FieldsPlan | None = None
    response_fields: FieldsPlan | None = None
    response_rewrite: ResponseRewritePlan | None = None  # None = URLs and cookies of answers stay as they are
    response_timeout_ns: int = -1  # as in PoolPlan, whose it replaces; -1 = the pool's
    max_in_flight: int = 0  # exchanges of the route in all workers; 0 = no limit
    retry: RetryPlan | None = None  # None = as `safe_retries` says
    hedge: HedgePlan | None = None  # None = as `safe_hedges` says
    safe_retries: bool = True  # those of lb.config.plan.routes; False = the pool's `retries`, without a budget
    safe_hedges: bool = True  # those of lb.config.plan.routes; False = none
    idempotent: bool = False  # whatever the method
    idempotency_key: bool = False  # where a request has an Idempotency-Key
    rate_limit: RatePlan | None = None
    priority: int = 1  # in the queue of its pool: 0 high, 1 normal, 2 low
    cors: CorsPlan | None = None  # None = answers say nothing of other origins
    bare_streams: bool = False  # messages of ModelStreamInfer's answers are ModelInferResponse, as MLServer has them
    server_calls: int = 0  # that clients may make: a set of lb.inference.server_calls.Kind
    http_cache: HttpCachePlan | None = None  # None = nothing is kept by the rules of HTTP
    cache_key: CacheKeyPlan | None = None  # None = answers are kept by what requests ask for alone
    results_by_get: bool = False  # answers of inferences have URLs
    access: AccessPlan | None = None  # None = anybody, and nothing is said of who it is
    quotas: tuple[tuple[str, str], ...] = ()  # names, and digests of QuotaPlan
    log_fields: str = ""  # a text of JSON: its own fields in the access log
    error_pages: tuple[ErrorPagePlan, ...] = ()  # before those of the listener
    track: tuple[str, ...] = ()  # tables that its requests count in
    table_rules: tuple[TableRulePlan, ...] = ()
    tables: tuple[str, ...] = ()  # digests of all tables that it has to do with
    compression: CompressionPlan | None = None  # None = answers pass as they are
    decompression: DecompressionPlan | None = None  # None = bodies keep their codings
    bandwidth: BandwidthPlan | None = None  # None = answers go as fast as clients take them
    maps: tuple[str, ...] = ()  # digests of those that its texts and conditions use


class Http2Plan(Struct, frozen=True):
    """Limits of HTTP/2 connections of clients."""

    enabled: bool
    max_streams: int
    stream_window: int
    connection_window: int
    max_age_ns: int  # 0 = none
    control_rate: int  # per second
    reset_rate: int


class SniRoutePlan(Struct, frozen=True):
    """A rule of a listener that chooses by the ClientHello; all conditions that are given have to hold."""

    pool: int  # index into Plan.pools; -1 = a split, or another listener
    sni: tuple[str, ...] = ()  # lower case, "*.example.org" = any one or more labels below; () = any, or none
    alpn: tuple[str, ...] = ()  # one of these is offered; () = any
    sources: tuple[str, ...] = ()  # networks; () = any
    split: SplitPlan | None = None
    terminate: bool = False  # TLS ends here; False: it is passed through
    listener: str = ""  # of protocol https, that takes the connection; "" = none


class ProxyProtocolPlan(Struct, frozen=True):
    """Who may send a PROXY protocol header."""

    networks: tuple[str, ...]
    unix: bool  # and clients of a Unix socket
    required: bool
    timeout_ns: int


class SourcesPlan(Discreet, frozen=True):
    """Who may connect to a listener, and how often."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("refused4", "refused6")

    ipv4_prefix: int = 32  # bits that say which network an address is of
    ipv6_prefix: int = 64
    refused4: bytes = b""  # who may not: lb.config.sources.Ranges
    refused6: bytes = b""
    rate_interval_ns: int = 0  # between two connections of a network; 0 = any rate
    rate_burst: int = 0


class UdpPlan(Struct, frozen=True):
    """Limits are per worker."""

    series: int  # of the listener's datagrams
    max_sessions: int
    max_sessions_per_source: int  # 0 = none
    max_datagram: int
    responses: int  # answers to each datagram of a client, -1 = not known
    requests: int  # a client's datagrams in a session, 0 = any number
    receive_buffer: int = 0  # of each worker's socket; 0 = the kernel's default
    lasting: bool = True  # sessions outlive their worker: its successor goes on with their endpoints


class HopPlan(Struct, frozen=True):
    """How a listener tells the next hop of its clients; the mode of X-Forwarded-* is ListenerPlan.forwarded."""

    trusted_proxies: tuple[str, ...] = ()  # networks
    port: int = 0  # the listener's, for X-Forwarded-Port; 0 = not told
    forwarded_header: bool = False  # Forwarded (RFC 7239), too
    via: str = ""  # pseudonym, "" = none
    request_id: bool = False
    tracing: bool = False
    trace_ratio: float = 0.0  # of the traces that begin here
    trace_parent: str = "any"  # any | trusted | ignore: whose traceparent is continued


class ExplainPlan(Struct, frozen=True):
    """Which requests of a listener have the choice of their endpoint explained."""

    sample: float  # share of the requests
    trusted: tuple[str, ...] = ()  # networks


class ListenerPlan(Struct, frozen=True):
    """A listener: address, protocol, limits of its connections, and its routes or pool."""

    name: str
    bind: str
    protocol: str  # http | https | tcp | tls | udp
    series: int
    pool: int  # tcp and udp: index into Plan.pools, -1 = split; tls: that of what no rule takes, -1 = none; http: -1
    routes: Sequence[RoutePlan]  # http: the most particular match wins, of equals the first
    header_timeout_ns: int  # from the first byte of a request's head to its end
    body_timeout_ns: int  # between two reads of a request's body
    idle_timeout_ns: int  # keep-alive without a request; a silent TCP or UDP session
    send_timeout_ns: int  # a client that takes none of the bytes offered to it
    max_header_bytes: int
    max_headers: int
    max_connections: int  # in all workers
    forwarded: str  # append | replace | preserve | off: what happens to X-Forwarded-*
    retry_buffer: int  # a request up to this many bytes is kept until its answer begins, so that it can be tried again
    http2: Http2Plan
    upgrades: tuple[str, ...]  # protocols that requests may change to, in lower case
    upgrade_idle_timeout_ns: int  # silence both ways behind an upgrade; 0 = no limit
    half_close_timeout_ns: int = 0  # silence of a session that one side has ended; 0 = idle_timeout_ns (tcp, tls)
    max_connections_per_source: int = 0  # in all workers; 0 = no limit
    proxy_protocol: ProxyProtocolPlan | None = None
    sni_routes: tuple[SniRoutePlan, ...] = ()  # tls
    min_body_rate: int = 0  # bytes a second over each body_timeout; 0 = any speed
    hop: HopPlan = field(default_factory=HopPlan)
    normalize: NormalizePlan | None = None  # None = paths are taken as they come
    aliased_headers: str = (
        "drop"  # drop | reject | pass: headers that others of ours read as one (lb.proxy.routing.headers.aliases)
    )
    tls: TlsPlan | None = None
    udp: UdpPlan | None = None  # protocol udp
    explain: ExplainPlan | None = None  # None = no choice is explained
    keepalive: KeepalivePlan | None = None  # of accepted connections; None = off
    split: SplitPlan | None = None  # in place of `pool`
    error_pages: tuple[ErrorPagePlan, ...] = ()  # the first that fits
    sources: SourcesPlan = field(default_factory=SourcesPlan)
    binds: tuple[str, ...] = ()  # all of them, of which `bind` is the first; () = that one alone

    def places(self) -> dict[str, str]:
        """Its sockets, place -> bind, as lb.config.address.places names them."""
        return places(self.name, self.binds or (self.bind,))

    def at(self, bind: str) -> ListenerPlan:
        """What the socket of `bind` goes by."""
        if bind == self.bind:
            return self
        return replace(self, bind=bind, hop=replace(self.hop, port=port_of(bind)))

    def route_series(self) -> Iterator[tuple[str, int]]:
        """Name and series of each route."""
        if isinstance(self.routes, Packed):
            return ((name, series) for name, series, *_ in self.routes.own())
        return ((route.name, route.series) for route in self.routes)


class CachePlan(Struct, frozen=True):
    """The result cache; sizes in bytes."""

    size: int
    max_object: int
    tier: TierPlan | None = None
    tags_header: str = ""  # name of the field of answers that has their tags; "" = none has
    disk: DiskPlan | None = None


class AccessLogPlan(Struct, frozen=True):
    """The access log."""

    path: str  # "" = off, "-" = standard output


class TracingPlan(Struct, frozen=True):
    """Where spans go; how traces begin is in every listener's HopPlan."""

    endpoint: str
    protocol: str  # grpc | http
    service: str
    timeout_ns: int


class LimitsPlan(Struct, frozen=True):
    """Limits of each worker; 0 = none."""

    max_in_flight: int = 0
    max_memory: int = 0


class Plan(Discreet, frozen=True):
    """All that a worker runs by."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("tickets",)

    generation: int
    workers: int
    listeners: tuple[ListenerPlan, ...]
    pools: tuple[PoolPlan, ...]
    cache: CachePlan | None
    access_log: AccessLogPlan
    drain_timeout_ns: int
    tracing: TracingPlan | None = None
    limits: LimitsPlan = field(default_factory=LimitsPlan)
    tickets: tuple[bytes, ...] = ()  # keys of TLS session tickets, newest first
    providers: tuple[ProviderPlan, ...] = ()  # of identities, that routes name
    quotas: tuple[QuotaPlan, ...] = ()  # that routes name
    tables: tuple[TablePlan, ...] = ()  # that routes and texts name
    maps: tuple[MapPlan, ...] = ()  # that texts and conditions of routes name

    def to_wire(self) -> dict[str, Any]:
        """The plan as plain types, for msgpack."""
        wire: dict[str, Any] = plain(self)
        return wire

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Plan:
        """The plan from what `to_wire` gave, after msgpack. Its routes stay packed (lb.config.plan.wire.Packed)."""
        plan: Plan = typed(cls, data)
        return plan
