"""Listeners: where clients connect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from lb.config.forms import validated
from lb.config.schema.access import RouteAccess
from lb.config.schema.base import Boolean, FieldName, FilePath, Integer, Model
from lb.config.schema.listeners.bind import BindList
from lb.config.schema.listeners.hop import Network, Pseudonym
from lb.config.schema.listeners.http2 import Http2Config
from lb.config.schema.listeners.keepalive import TcpKeepalive, TcpKeepaliveConfig
from lb.config.schema.listeners.sampling import ExplainConfig
from lb.config.schema.listeners.sni import Shares, SniRouteConfig
from lb.config.schema.listeners.sources import ConnectionRate, SourceNetworkConfig
from lb.config.schema.listeners.tcp import Network as ConnectionNetwork
from lb.config.schema.listeners.tcp import ProxyProtocolConfig
from lb.config.schema.listeners.tls import TlsConfig
from lb.config.schema.listeners.udp import UdpConfig
from lb.config.schema.pools.pool import KeyConfig
from lb.config.schema.routes.error_pages import ErrorPages
from lb.config.schema.routes.match import Normalize, NormalizeConfig
from lb.config.schema.routes.route import RouteConfig
from lb.config.schema.tables import TableRules, Track
from lb.config.units import GIB, HOUR, KIB, MIB, MINUTE, SECOND, Duration, FileContext, Size

_IDLE = {"tcp": HOUR, "tls": HOUR, "udp": MINUTE}


def _routes(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    # Of the context a route's validation takes only that there is a file, so that the same words mean the same.
    memory = info.context.memory if isinstance(info.context, FileContext) else None
    return handler(value) if memory is None else validated(value, handler, memory)


if TYPE_CHECKING:
    RouteList = Sequence[RouteConfig]
else:
    RouteList = Annotated[list[RouteConfig], WrapValidator(_routes)]  # to pydantic, and in the file, a list


class ListenerConfig(Model):
    """An address on which clients connect, and how they are spoken to."""

    protocol: Literal["http", "https", "tcp", "tls", "udp"]
    """`http` understands HTTP/1.1 and HTTP/2 and routes by request; `https` is the same through TLS; `tcp` passes bytes
    through to one pool, `udp` datagrams; `tls` chooses by the ClientHello, and passes TLS through undecrypted or ends
    it, as the rule for the name (SNI) says. What is said of `http` below holds for `https`, too."""
    bind: BindList
    """Where clients connect: `IP:PORT`, `[IPV6]:PORT` or `unix:/PATH`, a mapping with options of the socket, or a list
    of these. Port 0 takes a free port, `IP:9000-9010` all of these ports. `[::]` is every IPv6 address and no IPv4 one,
    unless `ipv6only: false` is said. Limits of the listener hold for its addresses together."""
    tls: TlsConfig | None = None
    """How TLS is ended here. Needed for protocol `https`, and for `tls` where one of `sni_routes` says
    `tls: terminate`; with protocol `tcp` the bytes inside of TLS are passed on. Default: no TLS."""
    pool: str | None = None
    """Name of the pool that takes the connections or sessions. Needed for `tcp` and `udp`, unless there are `pools`;
    for `tls` it takes those that no rule does, which otherwise are refused with the alert `unrecognized_name`."""
    pools: Shares = []
    """Pools that share the connections or sessions by weight, in place of `pool`: for canaries and splits. A pool
    without an endpoint that can take one refuses its share. `tcp`, `tls` and `udp` only."""
    sticky: KeyConfig | None = None
    """What keeps a client with one of the `pools`: `source: true`, or its network. Shares may then change, and a client
    moves only when its own share does. Default: each connection or session goes to one of them at random. `tcp`, `tls`
    and `udp` only."""
    routes: RouteList = []
    """The rules that say what becomes of a request. Of those that match, the most particular takes it, wherever it
    stands (see docs/howto/routing.md); of equals the first. Protocol `http` only, and needed there; a request that
    none of them takes is answered with 404."""
    normalize_path: Normalize = NormalizeConfig()
    """How paths are brought into one form before routes look at them, so that no other spelling of a path gets round a
    route. `http` only."""
    aliased_headers: Literal["drop", "reject", "pass"] = "drop"
    """What becomes of headers such as `X_Forwarded_For`: their names have other characters than letters, digits and
    hyphens, and with hyphens instead would be one that is set, removed or looked at here or by a route. WSGI, CGI and
    PHP servers take both for one. `drop` does not pass them on, `reject` answers 400, `pass` leaves them as they are
    (for endpoints that tell them apart). Other names with underscores are always passed on. `http` only."""
    sni_routes: list[SniRouteConfig] = []
    """The rules that choose by the ClientHello where a connection goes, and whether TLS ends here. Protocol `tls`
    only."""
    proxy_protocol: ProxyProtocolConfig | None = None
    """Reads the client's address from a PROXY protocol header. Default: no header is expected, and the client is who
    connects. The address counts for everything: limits, affinity, source networks, logs and `X-Forwarded-For`."""
    header_timeout: Duration = 10 * SECOND
    """Longest time from the first byte of a request's head to its end; then 408. It ends clients that trickle their
    headers to hold connections. For `tls`, longest time for the ClientHello. `http` and `tls` only."""
    body_timeout: Duration = 30 * SECOND
    """Longest silence while a request's body is awaited; then 408. `http` only."""
    min_body_rate: Size = Field(default=100, le=1 * GIB)
    """Least speed of a request's body, in bytes a second over each `body_timeout`; a slower one is answered with 408.
    Each time that many bytes have come the time begins anew, so a fast start earns no credit for a trickle. The time in
    which an endpoint takes no more of the body does not count. `0B`: any speed will do. `http` only."""
    idle_timeout: Duration = Field(default_factory=lambda data: _IDLE.get(data.get("protocol", ""), 75 * SECOND))
    """Longest time a connection stays open without a request (`http`) or without a byte in either direction
    (`tcp`, `tls`), and a session without a datagram (`udp`). Default: `75s` for `http`, `1h` for `tcp` and `tls`, `1m`
    for `udp`. Keep it above the idle timeout of the clients' own connection pools, or they meet connections that are
    just being closed. `0s`: no limit, which `udp` cannot have."""
    half_close_timeout: Duration = 0
    """The same once one side has ended its direction and the other has not. `0s`: as `idle_timeout`. Shorter frees
    sessions whose other side is gone; keep it above the longest answer that begins after the client's end. `tcp` and
    `tls` only."""
    send_timeout: Duration = 30 * SECOND
    """Longest time a client may take none of the bytes offered to it; then its connection is closed. `http` only."""
    max_header_bytes: Size = Field(default=16 * KIB, ge=1 * KIB, le=1 * MIB)
    """Largest request head (request line and headers); a larger one is answered with 431. `http` only."""
    max_headers: Integer = Field(default=100, ge=1, le=1000)
    """Most headers in a request; more are answered with 431. An HTTP/2 header block that decodes to more than eight
    times `max_header_bytes`, plus 32 bytes for each of `max_headers`, ends its connection. `http` only."""
    max_connections: Integer = Field(default=20_000, ge=1, le=1_000_000)
    """Most connections of this listener, in all workers together; further ones wait in the kernel's queue. An idle
    connection costs some kilobytes, and each a descriptor of its worker, which has as many as the hard limit of open
    files allows (`ulimit -Hn`, systemd's `LimitNOFILE`). A worker holds no more connections than half of what is left
    when its own needs are met, since each may need another descriptor towards an endpoint. When that is less than the
    limits allow, the log and `tidegate status` say so."""
    max_connections_per_source: Integer = Field(default=0, ge=0, le=1_000_000)
    """Most connections of this listener that one network has, in all workers together, a network being one IPv4 address
    or one IPv6 /64 unless `source_network` says otherwise; further ones are closed at once. 0: no limit. Counted by the
    address of the client, also when a PROXY protocol header tells it."""
    connection_rate_per_source: ConnectionRate = None
    """How often one network may connect to this listener, or begin UDP sessions, over all workers together: `10/s`, or
    a mapping with a burst. Further connections are closed at once, and datagrams dropped. What this limit refuses does
    not count, what `max_connections_per_source` refuses does. Default: as often as it likes."""
    source_network: SourceNetworkConfig = SourceNetworkConfig()
    """What counts as one network in `max_connections_per_source`, `connection_rate_per_source` and, for `udp`,
    `max_sessions_per_source`. A reload that changes it begins these counts anew."""
    allow: list[ConnectionNetwork] = []
    """Networks whose clients may connect; others are closed at once, and their datagrams dropped. The most exact
    network of `allow` and `deny` decides. Connections that are open stay open when a reload changes the lists. Default:
    everybody may who is not in `deny`."""
    allow_file: FilePath | None = None
    """File with further ones, one on each line; `#` begins a comment. It is read again on reload and when it changes; a
    new one that cannot be used leaves the old one in force, with a message in log and status."""
    deny: list[ConnectionNetwork] = []
    """Networks whose clients may not connect."""
    deny_file: FilePath | None = None
    """File with further ones, as `allow_file`."""
    forwarded: Literal["append", "replace", "preserve", "off"] = "append"
    """What endpoints see in `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`: `append` adds this hop
    to what the client sent, `replace` drops what the client sent (for listeners on the open internet),
    `preserve` passes on what the client sent and sets it only where it is missing, `off` passes headers on as
    they are. `http` only."""
    trusted_proxies: list[Network] = []
    """Networks of the proxies in front whose word is taken: the client is then the right-most address in
    `X-Forwarded-For` that is not one of theirs, in logs, keys and limits, and their `X-Forwarded-Proto`, `-Host` and
    `-Port` are passed on. What anybody else sends in these fields is dropped. Clients on a Unix socket count as trusted
    when this is not empty. Default: nobody is trusted. `http` only."""
    forwarded_header: Boolean = False
    """Whether endpoints also get `Forwarded` (RFC 7239), by the rules of `forwarded`. `http` only."""
    via: Pseudonym = "tidegate"
    """Name of this hop in the `Via` that endpoints get (RFC 9110 section 7.6.3). Empty: no `Via` of ours. `http`
    only."""
    request_id: Boolean = False
    """Whether each request gets an `X-Request-Id` of 32 hexadecimal digits, unless a trusted proxy sent one; it also
    stands in the access log. `http` only."""
    retry_buffer: Size = Field(default=64 * KIB, le=16 * MIB)
    """A request up to this size is kept in memory until its answer begins, so that it can be tried on another
    endpoint; a larger one is tried once. `http` only."""
    http2: Http2Config = Http2Config()
    """HTTP/2 with clients. `http` only."""
    upgrades: list[FieldName] = ["websocket"]
    """Protocols that requests to pools of protocol `http` may change to (the `Upgrade` field); bytes then pass both
    ways until one side closes. An upgrade to any other is not passed on, and the request answered as it is.
    `websocket` also serves WebSockets over HTTP/2 (RFC 8441). `http` only."""
    upgrade_idle_timeout: Duration = HOUR
    """Longest silence in both directions behind an upgrade; then both sides are closed. `0s`: no limit. `http` only."""
    auth: RouteAccess = None
    """Who may send requests of the routes that have no `auth` of their own; `auth: none` of a route lets anybody.
    Default: anybody. `http` only."""
    track: Track = []
    """Stick tables of the section `tables` that the requests of all routes count in: a name, or up to four with those
    of the route. A request that no route takes counts nowhere; a last route that answers 404 itself changes that.
    `http` only."""
    table_rules: TableRules = []
    """Rules by what tables have counted, for the requests of all routes. They are asked before `auth` and limits; those
    that name a table by `${auth.identity}` once `auth` is passed. `http` only."""
    explain: ExplainConfig | None = None
    """Explanations of the choices made for real requests. Default: none. `http` only."""
    error_pages: ErrorPages = []
    """Answers in place of Tidegate's own errors and, where a page says so, of the endpoints', behind those of the
    route; the first that fits: [Error pages](howto/error-pages.md). `http` only."""
    tcp_keepalive: TcpKeepalive = TcpKeepaliveConfig()
    """How clients that have vanished are noticed: a mapping, or `off`. New connections follow a reload, open ones stay
    as they are. Not for `udp`; without effect on Unix sockets."""
    udp: UdpConfig = UdpConfig()
    """Sessions and datagrams. `udp` only."""

    @property
    def binds(self) -> tuple[str, ...]:
        """All sockets as text (lb.config.address.Bind), ranges of ports one by one."""
        return tuple(str(each) for item in self.bind for each in item.sockets())

    @property
    def lists_allowed(self) -> bool:
        """Whether it says who may connect, so that others may not."""
        return bool(self.allow) or self.allow_file is not None

    @property
    def lists_sources(self) -> bool:
        """Whether it says who may connect, or who may not."""
        return self.lists_allowed or bool(self.deny) or self.deny_file is not None

    @property
    def terminates(self) -> bool:
        """Whether one of `sni_routes` ends TLS here."""
        return any(route.tls == "terminate" for route in self.sni_routes)
