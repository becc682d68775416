"""Pools: groups of endpoints, how one of them is chosen and how their health is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lb.config.plan.plan import EndpointSpec
from lb.config.schema.base import Address, Boolean, FieldName, Integer, Model, Zone, only_one, problem, text
from lb.config.schema.listeners.keepalive import PoolTcpKeepalive, PoolTcpKeepaliveConfig
from lb.config.schema.listeners.tcp import SendProxyConfig, expand_send_proxy
from lb.config.schema.listeners.tls import PoolTlsConfig
from lb.config.schema.pools.affinity import AffinityConfig
from lb.config.schema.pools.agent import AgentConfig
from lb.config.schema.pools.cache import PoolCache, PoolCacheConfig
from lb.config.schema.pools.cost import CostConfig, expand_cost
from lb.config.schema.pools.discover import DiscoverConfig
from lb.config.schema.pools.engine import EngineConfig, expand_engine
from lb.config.schema.pools.failover import PrioritiesConfig, ZonesConfig
from lb.config.schema.pools.health import HealthConfig
from lb.config.schema.pools.outlier import Outlier, outlier_of
from lb.config.schema.pools.queue import QueueConfig
from lb.config.schema.pools.scaling import ScalingConfig
from lb.config.schema.pools.serve import ServeConfig
from lb.config.schema.pools.slow_start import SlowStartConfig, expand_slow_start
from lb.config.schema.pools.source import Source
from lb.config.schema.source_key import SourceKeyConfig
from lb.config.schema.values import checked_key
from lb.config.units import HOUR, MILLISECOND, MINUTE, SECOND, Duration


def _source(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, dict | SourceKeyConfig):
        raise problem("source", "must be true, or a mapping with prefixes")
    return value


class TargetKeyConfig(Model):
    """How much of a path or a URI counts, as in HAProxy's `balance uri`. Requests that differ behind it have one
    key."""

    depth: Integer | None = Field(default=None, ge=1, le=100)
    """Directories from the beginning: with 2, `/a/b/c` and `/a/b/d` have one key. Default: all."""
    length: Integer | None = Field(default=None, ge=1, le=65_535)
    """Bytes from the beginning. Default: all."""


def _target(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, dict | TargetKeyConfig):
        raise problem("target", "must be true, or a mapping with depth and length")
    return value


TargetKey = Annotated[TargetKeyConfig | None, BeforeValidator(_target, json_schema_input_type=bool | TargetKeyConfig)]


class KeyConfig(Model):
    """What a request is recognised by, for policies that send like requests to one endpoint. Exactly one of the
    eight."""

    header: FieldName | None = None
    """Value of this request header."""
    cookie: FieldName | None = None
    """Value of this cookie."""
    query: str | None = Field(default=None, min_length=1, max_length=256)
    """Value of this parameter of the query."""
    source: Annotated[
        SourceKeyConfig | None, BeforeValidator(_source, json_schema_input_type=bool | SourceKeyConfig)
    ] = None
    """Address of the client (`source: true`), or its network (`source: {ipv4_prefix: 24, ipv6_prefix: 64}`). The only
    key that a `tcp` or `udp` listener has."""
    model: Boolean = False
    """Name of the model that is asked for (`model: true`), so that each endpoint keeps few models warm. `oip`
    only."""
    path: TargetKey = None
    """Path of the request (`path: true`), as it came, in its normal form, or its beginning (`path: {depth: 2}`): for
    endpoints that keep what they have read."""
    uri: TargetKey = None
    """The same with the query (HAProxy's `balance uri whole`, nginx' `hash $request_uri`)."""
    text: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(checked_key)] | None = None
    """A text with [values of the request](howto/values.md), such as `${request.host}${request.path}` or
    `${header.x-user:-${client.address}}`. The values that maps and captures give are not for keys."""

    @model_validator(mode="after")
    def _one(self) -> KeyConfig:
        only_one(self, ("header", "cookie", "query", "source", "model", "path", "uri", "text"))
        return self


class PolicyConfig(Model):
    """How an endpoint is chosen. Further keys are options of the policy itself and are checked by it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1)
    """Name of the policy, such as `least_request` or `maglev`; a plug-in may add others. What each does, and its
    options: [Choose a balancing policy](howto/choose-a-policy.md)."""
    key: KeyConfig | None = None
    """What requests are told apart by. Needed by `maglev`, `ring_hash` and `rendezvous`, and only by these."""

    @property
    def options(self) -> dict[str, Any]:
        """The policy's own options, unchecked: the policy's `Options` model checks them."""
        return dict(self.model_extra or {})


def _policy(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


ServerId = Annotated[str, *text(r"(?:[0-9A-Fa-f]{2}){1,8}", "is not 1 to 8 bytes as hexadecimal digits")]


class EndpointConfig(Model):
    """One server of a pool."""

    address: Address
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`. A host name is resolved at start and on reload, and every
    address it has becomes an endpoint."""
    weight: Integer = Field(default=1, ge=0, le=1000)
    """Share of the requests relative to the other endpoints; 0 takes no new ones."""
    max_in_flight: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Most requests that this endpoint has at once, from all workers together. Default: the pool's."""
    priority: Integer = Field(default=0, ge=0, le=65_535)
    """Who is asked first: those with the lowest number, then the others, as the pool's `priorities` say. With 1 and
    `spill: none` there it is a `backup` server of HAProxy or nginx."""
    server_id: ServerId | None = None
    """Its id in connection ids of QUIC, as hexadecimal digits (`0a17`), for `affinity.quic.server_id_length`. The
    server has to be told the same. Default: its connection ids say nothing. `udp` only."""
    zone: Zone | None = None
    """Where it is: a name for its data centre, zone or rack, for the pool's `zones`. Default: unknown, which is another
    zone than any."""

    def spec(self, address: str, host: str = "") -> EndpointSpec:
        """The endpoint at `address`, one of those that its own leads to; `host` is the name that did."""
        return EndpointSpec(
            address,
            self.weight,
            host,
            self.max_in_flight or 0,
            self.priority,
            self.zone or "",
            (self.server_id or "").lower(),
        )


def _endpoint(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


class ServerCallsConfig(Model):
    """How server calls are answered: requests that load or unload models, change settings of traces or logs, or
    register shared memory. They go to every endpoint that is up, where a route allows them (`server_calls` there).
    Endpoints that come up later are told before they get requests."""

    quorum: Literal["all", "majority", "one"] = "all"
    """How many of the endpoints have to do it for the client to be told that it was done. Otherwise the answer is an
    error that names the endpoints that failed, why, and those that did it. Either way, what one endpoint has done is
    asked of the others again when they come up, and an endpoint that failed to load a model gets no requests for it."""
    timeout: Duration = Field(default=5 * MINUTE, ge=SECOND)
    """Longest time for an endpoint to load or unload a model. The client may give up earlier; the call goes on."""


EndpointList = list[Annotated[EndpointConfig, BeforeValidator(_endpoint, json_schema_input_type=str | EndpointConfig)]]


POOL_SOURCES = ("endpoints", "discover", "serve")


class PoolConfig(Model):
    """A group of endpoints that answer the same requests. It has one of `endpoints`, `discover` and `serve`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in POOL_SOURCES]})

    protocol: Literal["oip", "http", "http2", "grpc", "tcp", "udp"]
    """How endpoints are spoken to: `oip` (Open Inference Protocol over gRPC; REST in front is translated, gRPC passed
    on), `http` (HTTP/1.1), `http2` (HTTP/2 without TLS, by prior knowledge), `grpc` (as `http2`, for requests that
    speak gRPC), `tcp` (bytes) or `udp` (datagrams). Over HTTP/2 each worker has one connection to an endpoint, which
    all clients share."""
    policy: Annotated[PolicyConfig, BeforeValidator(_policy, json_schema_input_type=str | PolicyConfig)] = Field(
        default_factory=lambda data: PolicyConfig(
            type="least_request" if data.get("protocol") in ("tcp", "udp") else "auto"
        )
    )
    """How an endpoint is chosen: a policy's name, or a mapping with its options. Default: `auto`, which learns what
    each endpoint can do; `least_request` for `tcp` and `udp`."""
    endpoints: EndpointList = []
    """The servers: addresses, or mappings with an address and a weight."""
    discover: DiscoverConfig | None = None
    """Where endpoints are found while the daemon runs, instead of `endpoints`:
    [Discover endpoints](howto/discover-endpoints.md)."""
    serve: ServeConfig | None = None
    """Model servers that Tidegate starts and watches over itself, instead of `endpoints`. `oip` only."""
    health: HealthConfig | None = None
    """Active checks. Default: none; a managed model server is then judged by its process and its own readiness."""
    agent: AgentConfig | None = None
    """Agents beside the endpoints, which say how each is and how much it should get: HAProxy's `agent-check`. Not with
    `serve`. Default: none."""
    avoid_failing: Boolean = True
    """Whether an endpoint whose recent attempts failed takes only a part of its turns, under every policy: all of them
    while none failed, a quarter while half of them fail, one of 256 while all do. An attempt fails by an answer of 5xx
    or 429, by a gRPC status that stands for one of these, or by no whole answer. Without it an endpoint that fails at
    once looks idle and fast, and gets most requests. How it works:
    [Ride out failures](howto/ride-out-failures.md#endpoints-that-fail-at-once). Without effect for `udp`."""
    panic_threshold: Integer | None = Field(default=None, ge=0, le=100)
    """When less than this percentage of the endpoints is up and not ejected, requests go to all of them but for those
    that an operator drained or put into maintenance, rather than overload the few that are left (Envoy's panic
    threshold). 0: never. Default: with `outlier` 50, of which endpoints that are surely down (their last check was
    refused, reset or answered wrong, or their process has exited) get nothing; with `outlier: off` 0."""
    priorities: PrioritiesConfig | None = None
    """How requests fail over from endpoints of one `priority` to those of the next:
    [Fail over](howto/fail-over.md). Not with `serve`. Default: by shares, as Envoy."""
    zones: ZonesConfig | None = None
    """Endpoints of the daemon's own `zone` are asked first, as far as they carry the requests:
    [Fail over](howto/fail-over.md). Not with `serve`. Default: zones have no say."""
    slow_start: (
        Annotated[SlowStartConfig, BeforeValidator(expand_slow_start, json_schema_input_type=str | SlowStartConfig)]
        | None
    ) = None
    """How the share of an endpoint that comes up grows: a duration, or a mapping with options. Not with policies that
    choose by a key, which would move other endpoints' keys. Default: it has its share at once."""
    max_in_flight: Integer | None = Field(default=None, ge=1, le=1_000_000)
    """Most requests (`tcp` and `udp`: sessions) that each endpoint has at once, from all workers together: HAProxy's
    `maxconn` of a server, nginx' `max_conns`. When all have as many, requests wait in the `queue`. For model servers
    that work on one batch at a time, a little more than a batch keeps the wait here, where it can be put in order,
    rather than there. What a worker that died had under way counts for one second longer, in which endpoints notice; a
    try over HTTP/2 that was given up until the endpoint has read that, a second at most.
    Pools count apart: an endpoint in two pools may have as many from each, and one whose pool is renamed as many again
    until those from before are done.
    Default: with the policy `auto` the number that the endpoint was found to be good for, of which this is an upper
    bound; else no limit."""
    cost: Annotated[CostConfig, BeforeValidator(expand_cost, json_schema_input_type=str | CostConfig)] = CostConfig(
        unit="requests"
    )
    """What a request counts for where the policy compares endpoints' loads: a unit's name, or a mapping. How it works:
    [Weigh requests](howto/weigh-requests.md)."""
    queue: QueueConfig = QueueConfig()
    """How requests wait for an endpoint; see `max_in_flight`. Not for `udp`, whose datagrams do not wait."""
    scaling: ScalingConfig | None = None
    """Automatic number of model servers between `min` and `max` of `serve`, or of replicas between those of `engine`.
    Default: always `min`; with `engine` the number stays as it is."""
    engine: (
        Annotated[EngineConfig, BeforeValidator(expand_engine, json_schema_input_type=str | EngineConfig)] | None
    ) = None
    """What runs the replicas of the pool, so that `scaling` can change their number: [Engines](howto/engines.md).
    Beside `discover`, or with `ray` beside `serve`. Default: `local`, which runs the model servers of `serve` as
    processes on this machine; replicas of pools without `serve` are not scaled."""
    affinity: AffinityConfig = AffinityConfig()
    """Which requests stay with the endpoint that had the ones before."""
    outlier: Outlier = Field(default_factory=lambda data: outlier_of(data.get("protocol"), data.get("affinity")))
    """Ejection of endpoints by the answers they give: a mapping, or `off`. An empty mapping (`outlier: {}`) takes the
    defaults. Not for `udp`. Default: `{}`; `off` for `tcp`, and where `affinity` has a `cookie` or learns sessions,
    which an ejection would end. How it works: [Ride out failures](howto/ride-out-failures.md)."""
    server_calls: ServerCallsConfig = ServerCallsConfig()
    """How requests that change the model servers are answered: [Change model servers](howto/change-model-servers.md).
    `oip` only."""
    cache: PoolCache = PoolCacheConfig()
    """Whether answers are kept in the result cache (`true`, `false`), or a mapping that says how long. `oip` only, and
    only when the file has a `cache` section. Default: `true`."""
    connect_timeout: Duration = Field(default=1 * SECOND, ge=MILLISECOND)
    """Longest time to open a connection to an endpoint; then another is tried."""
    response_timeout: Duration = Field(
        default_factory=lambda data: 0 if data.get("protocol") in ("tcp", "udp") else 60 * SECOND
    )
    """Longest time from the end of a request to the beginning of its answer; then 504. It must be longer than the
    slowest inference. `0s`: no limit. Default: `60s`. Not for `tcp`. A gRPC request has its own deadline besides
    (`grpc-timeout`), and once its answer has begun only that."""
    idle_timeout: Duration = Field(default_factory=lambda data: HOUR if data.get("protocol") == "tcp" else 60 * SECOND)
    """Longest time an unused connection to an endpoint is kept. Keep it below the endpoint's own idle timeout, or
    requests meet connections that are just being closed. `0s`: no limit. Default: `60s`. `http` only; the
    silence of a `tcp` session is limited by its listener."""
    retries: Integer = Field(default=1, ge=0, le=10)
    """Retries on another endpoint when that is safe: the request was not sent, or repeating it does no harm."""
    ready_endpoints: Integer = Field(default=0, ge=0, le=65_536)
    """Endpoints that have to be up and enabled for `/readyz` to answer 200: HAProxy's `monitor fail if { nbsrv lt N }`.
    With fewer the load balancer in front sends its requests elsewhere. `0`: the pool is not asked about."""
    max_idle: Integer = Field(default=256, ge=0, le=65_536)
    """Unused connections kept for each worker and endpoint. `http` only."""
    tcp_keepalive: PoolTcpKeepalive = PoolTcpKeepaliveConfig()
    """How endpoints that have vanished are noticed: a mapping, or `off`. New connections follow a reload, open ones
    stay as they are. Not for `udp`; without effect on Unix sockets."""
    send_proxy: Annotated[
        SendProxyConfig,
        BeforeValidator(expand_send_proxy, json_schema_input_type=Literal["off", "v1", "v2"] | SendProxyConfig),
    ] = SendProxyConfig(version="off")
    """Whether a PROXY protocol header tells the endpoint the client's address: `off`, `v1`, `v2`, or a mapping with
    options. For `tcp`, and `v2` for `udp`, where each datagram has a header, as DNS servers expect it; the connections
    of other pools carry the requests of many clients. The endpoint must expect it."""
    on_marked_down: Literal["keep", "shutdown_sessions"] = "keep"
    """What becomes of the sessions and requests of an endpoint that its checks find down, or that is put into
    maintenance (HAProxy's `on-marked-down`): `keep` lets them go on, `shutdown_sessions` ends them, so that clients
    which would wait for an answer ask anew. It takes up to 200 ms. A TCP session and an upgraded connection are reset.
    A request whose answer has not begun is retried as after a reset by its endpoint, or gets 502. An answer that has
    begun is cut, or ends with `UNAVAILABLE` where it is gRPC's. Not for `udp`."""
    on_marked_up: Literal["keep", "shutdown_backup_sessions"] = "keep"
    """What becomes of the sessions and requests of endpoints of further priorities when one of the first priority is up
    again (HAProxy's `on-marked-up`): `shutdown_backup_sessions` ends them as `on_marked_down` does, so that nobody
    stays with a backup, as is wanted of a primary database. Not for `udp`."""
    source: Source | None = None
    """The address of this machine from which endpoints are reached: HAProxy's `source`, nginx' `proxy_bind`.
    `10.0.0.5`, `[2001:db8::5]`, or with ports `10.0.0.5:40000-49999` (within `net.ipv4.ip_local_port_range`, beyond
    which the system does not go). `client` is each client's own address (for `tcp` and `udp`), which takes
    CAP_NET_ADMIN and endpoints whose answers are routed back through this machine:
    [Choose addresses](howto/bind.md#towards-endpoints). Clients without an address of the endpoint's family come from
    the machine's own. Without effect on Unix sockets, and on health checks. Default: what the system's routes say."""
    tls: PoolTlsConfig | None = None
    """TLS towards the endpoints; an empty mapping (`tls: {}`) verifies them by the system's authorities. Health checks
    use the same. Default: no TLS."""

    @property
    def on_demand(self) -> bool:
        """Whether the pool may have no endpoint, and gets one when a request comes."""
        return any(section is not None and section.on_demand for section in (self.serve, self.engine))

    @property
    def awaits_start(self) -> bool:
        """Whether requests that find no endpoint wait for the start of one."""
        return self.protocol != "udp" and (self.serve is not None or self.on_demand)

    @property
    def checks(self) -> HealthConfig | None:
        """`health` with the defaults that the pool decides."""
        health = self.health
        if health is None:
            return None
        if health.send_proxy is None:
            version = self.send_proxy.version if health.port is None else "off"
            health = health.model_copy(update={"send_proxy": version})
        if health.type != "http" or health.protocol is not None:
            return health
        http2 = self.protocol == "http2" and health.port is None
        return health.model_copy(update={"protocol": "http2" if http2 else "http1"})

    @property
    def panic(self) -> int:
        """`panic_threshold` with its default."""
        if self.panic_threshold is None:
            return 0 if self.outlier is None else 50
        return self.panic_threshold

    @property
    def learns_limits(self) -> bool:
        """Whether the number of requests that each endpoint is good for is learned."""
        if self.protocol in ("tcp", "udp") or self.policy.type != "auto":
            return False
        return self.policy.options.get("limits", True) is True

    @property
    def panic_for_all(self) -> bool:
        """Whether a panic is also for endpoints that are surely down: the file asks for it."""
        return self.panic_threshold is not None

    @property
    def shaped(self) -> bool:
        """Whether more than health, the operator and weights decides what an endpoint gets."""
        return self.outlier is not None or self.panic > 0 or self.slow_start is not None

    @model_validator(mode="after")
    def _source(self) -> PoolConfig:
        only_one(self, POOL_SOURCES)
        return self
