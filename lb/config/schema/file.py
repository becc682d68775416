"""The configuration file as typed, closed, immutable models (design.md section 5).

Every field's docstring is its entry in docs/configuration.md. Durations are nanoseconds and sizes bytes; short
spellings (a policy's name, an endpoint's address, a single method) are turned into their full form, so that later code
sees one form. What concerns several sections is checked in lb.config.checks.file, which the loader runs.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo

from lb.config.schema.access import AccessConfig, ProviderConfig
from lb.config.schema.admin import AdminConfig
from lb.config.schema.alerts import AlertsConfig
from lb.config.schema.base import Boolean, FilePath, Model, Name, Zone, problem
from lb.config.schema.disk import DiskConfig
from lb.config.schema.jobs import JobsConfig
from lb.config.schema.limits import LimitsConfig
from lb.config.schema.listeners.listener import ListenerConfig
from lb.config.schema.listeners.sampling import ExplainConfig
from lb.config.schema.listeners.sni import SniRouteConfig
from lb.config.schema.listeners.tcp import ProxyProtocolConfig, SendProxyConfig
from lb.config.schema.listeners.tls import CertificateConfig, PoolTlsConfig, TlsConfig
from lb.config.schema.maps import MapConfig
from lb.config.schema.pools.agent import AgentConfig
from lb.config.schema.pools.cache import PoolCacheConfig
from lb.config.schema.pools.discover import DiscoverConfig, DnsSourceConfig, FileSourceConfig
from lb.config.schema.pools.failover import PrioritiesConfig, ZonesConfig
from lb.config.schema.pools.health import BodyMatchConfig, HealthConfig
from lb.config.schema.pools.pool import EndpointConfig, KeyConfig, PolicyConfig, PoolConfig
from lb.config.schema.pools.scaling import BehaviorConfig, ScalingConfig, StepConfig
from lb.config.schema.pools.scaling_rules import (
    AlarmConfig,
    KpaConfig,
    RayConfig,
    StepAdjustmentConfig,
    StepScalingConfig,
    TargetTrackingConfig,
)
from lb.config.schema.pools.schedules import ScheduleConfig
from lb.config.schema.pools.serve import BackoffConfig, CrashLoopConfig, ReadyConfig, ServeConfig, VerticalConfig
from lb.config.schema.pools.signals import MetricConfig, SignalConfig
from lb.config.schema.purge import PurgeConfig
from lb.config.schema.quotas import QuotaConfig, QuotaKeyConfig
from lb.config.schema.routes.cache import FreshnessConfig, RouteCacheConfig
from lb.config.schema.routes.canary import CanaryConfig
from lb.config.schema.routes.cors import CorsConfig
from lb.config.schema.routes.match import (
    Conditions,
    Group,
    GrpcMatch,
    MatchConfig,
    ModelMatch,
    NormalizeConfig,
    PathMatch,
    TextMatch,
)
from lb.config.schema.routes.rate import RateKeyConfig, RateLimitConfig
from lb.config.schema.routes.retry import HedgeConfig, RetryBackoffConfig, RetryConfig
from lb.config.schema.routes.route import (
    CompareConfig,
    FieldsConfig,
    MirrorConfig,
    PathRewriteConfig,
    RedirectConfig,
    RegexRewriteConfig,
    RespondConfig,
    RewriteConfig,
    RouteConfig,
    ShareConfig,
)
from lb.config.schema.tables import PeersConfig, TableCompareConfig, TableConfig, TableRuleConfig
from lb.config.schema.tier import TierConfig, TierTlsConfig
from lb.config.schema.tracing import TracingConfig
from lb.config.units import HOUR, KIB, MIB, MILLISECOND, SECOND, TIB, Duration, FileContext, Size

__all__ = [
    "AccessConfig",
    "AdminConfig",
    "AgentConfig",
    "AlarmConfig",
    "AlertsConfig",
    "BackoffConfig",
    "BehaviorConfig",
    "BodyMatchConfig",
    "CacheConfig",
    "CanaryConfig",
    "CertificateConfig",
    "CompareConfig",
    "Conditions",
    "Config",
    "CorsConfig",
    "CrashLoopConfig",
    "DiscoverConfig",
    "DiskConfig",
    "DnsSourceConfig",
    "EndpointConfig",
    "ExplainConfig",
    "FieldsConfig",
    "FileSourceConfig",
    "FreshnessConfig",
    "Group",
    "GrpcMatch",
    "HealthConfig",
    "HedgeConfig",
    "JobsConfig",
    "KeyConfig",
    "KpaConfig",
    "LimitsConfig",
    "ListenerConfig",
    "LogConfig",
    "MapConfig",
    "MatchConfig",
    "MetricConfig",
    "MirrorConfig",
    "ModelMatch",
    "NormalizeConfig",
    "PathMatch",
    "PathRewriteConfig",
    "PeersConfig",
    "PolicyConfig",
    "PoolCacheConfig",
    "PoolConfig",
    "PoolTlsConfig",
    "PrioritiesConfig",
    "ProviderConfig",
    "ProxyProtocolConfig",
    "QuotaConfig",
    "QuotaKeyConfig",
    "RateKeyConfig",
    "RateLimitConfig",
    "RayConfig",
    "ReadyConfig",
    "RedirectConfig",
    "RegexRewriteConfig",
    "RespondConfig",
    "RetryBackoffConfig",
    "RetryConfig",
    "RewriteConfig",
    "RouteCacheConfig",
    "RouteConfig",
    "ScalingConfig",
    "ScheduleConfig",
    "SendProxyConfig",
    "ServeConfig",
    "ShareConfig",
    "ShutdownConfig",
    "SignalConfig",
    "SniRouteConfig",
    "StepAdjustmentConfig",
    "StepConfig",
    "StepScalingConfig",
    "TableCompareConfig",
    "TableConfig",
    "TableRuleConfig",
    "TargetTrackingConfig",
    "TextMatch",
    "TierConfig",
    "TierTlsConfig",
    "TlsConfig",
    "TracingConfig",
    "VerticalConfig",
    "ZonesConfig",
]

# TG_MAX_WORKERS of lb/shared/segment.h.
MAX_WORKERS = 128


class CacheConfig(FreshnessConfig):
    """The result cache: answers of inference kept in memory that all workers share. Without this section there is
    none. How to use it: [Cache results](howto/cache-results.md)."""

    size: Size = Field(default=64 * MIB, ge=1 * MIB, le=1 * TIB)
    """Memory of the cache. Changing it needs a restart."""
    max_object: Size = Field(default_factory=lambda data: min(1 * MIB, data.get("size", TIB) // 4), ge=1 * KIB)
    """Largest answer that is kept. A quarter of `size` at most. Default: `1MiB`, or that quarter where it is less."""
    ttl: Duration = Field(default=60 * SECOND, ge=MILLISECOND)
    """How long an answer is fresh, unless its route, model or pool says otherwise."""
    stale_while_revalidate: Duration = 0
    """Time after that in which requests still get the answer at once, while one call in the background makes it anew
    (RFC 5861). Default: `0s`, for none."""
    stale_if_error: Duration = 0
    """Time after `ttl` in which requests get the answer in place of a failure: no endpoint, no connection, no answer in
    time, or 500, 502, 503 or 504 (RFC 5861). Default: `0s`, for none."""
    refresh_early: Boolean = True
    """Whether an answer that is asked for often is made anew shortly before it is stale, by one call in the background:
    the earlier the longer making it takes (XFetch)."""
    negative_ttl: Duration = 0
    """How long errors are kept that are the request's own fault (gRPC's `INVALID_ARGUMENT` and `NOT_FOUND`). Default:
    `0s`, not at all."""
    disk: DiskConfig | None = None
    """A folder behind the memory, for answers of routes with `http_cache`. Default: none."""
    tier: TierConfig | None = None
    """Servers in which several daemons share answers. Default: none."""
    purge: PurgeConfig | None = None
    """CDNs that are told of purges. Default: none."""
    tags_header: Literal["Cache-Tag", "Surrogate-Key"] | None = None
    """Field in which answers of inferences that may be cached carry their tags, for a CDN that purges by tag:
    `Cache-Tag` (Cloudflare, Akamai; commas between the tags) or `Surrogate-Key` (Fastly; spaces). Both take it away
    before the answer reaches the client. Without a CDN clients see the names of pools in it. Default: none does."""
    snapshot: FilePath | None = None
    """File in which the answers outlive a restart: written at an orderly stop, read and removed at the next start. It
    holds answers and the secret of their keys, readable by the daemon's user alone. Default: they do not."""

    @property
    def largest_object(self) -> int:
        """Bytes of the largest answer that is kept, in memory or on disk."""
        return max(self.max_object, self.disk.max_object if self.disk is not None else 0)


# What other daemons take for no log or for an output. Who wants such a file writes ./off.
_NO_FILES = frozenset(
    {"off", "no", "none", "false", "stdout", "stderr", "on", "yes", "true", "json", "combined", "common", "main"}
    | {"syslog", "journal", "journald", "console", "stream", "enabled", "disabled"}
)
# What other daemons send logs to over the network or a socket.
_NO_PATH = re.compile(
    r"(?:syslog|udp|tcp|unixgram|unix|fd|ring|https?|grpc|file|journald?|stdout|stderr)[:@]|[0-9.]+:[0-9]+$"
)


_REST = "which systemd's journal and syslog daemons collect"


def _not_text(value: Any) -> Any:
    if value is True:
        raise problem("path", "must be a file's path, such as /var/log/tidegate/access.log, or - for standard output")
    if value is False:
        raise problem("path", 'must be text; leave it out, or write "" for no log')
    return value


def _access(value: str, info: ValidationInfo) -> str:
    if "\0" in value:
        raise problem("path", "must be a path")
    if value in _NO_FILES:
        raise problem("path", f'{value!r} would be a file of this name; "" is no log, - is standard output')
    if _NO_PATH.match(value) or value == "/dev/log":
        raise problem(
            "path", f"{value!r} is no file: there is no output but files; write - for standard output, {_REST}"
        )
    if value in ("", "-") or not isinstance(info.context, FileContext):
        return value
    return str(info.context.base / value)


class LogConfig(Model):
    """What is logged and where."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message of the daemon's own log, which goes to standard error."""
    access: Annotated[str, BeforeValidator(_not_text), AfterValidator(_access)] = ""
    """Access log, one JSON object a line: empty is off, `-` is standard output, else a file (reopened on SIGUSR1).
    A file named `off`, `stdout` or the like has to be written with its folder: `./off`."""


class ShutdownConfig(Model):
    """How the daemon stops."""

    drain_timeout: Duration = 30 * SECOND
    """Longest time that running exchanges may take to finish after SIGTERM; then they are cut off."""
    old_workers_timeout: Duration = 12 * HOUR
    """Longest time that workers of the version before go on after an upgrade: with requests, gRPC streams, WebSockets
    and TCP sessions that they have. So long a result cache has its memory twice, and limits of requests in flight hold
    for old and new workers each. Then what is left is cut off, as by HAProxy's `hard-stop-after`. The value is that of
    the configuration that they run."""


def _workers(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if type(value) is int and 1 <= value <= MAX_WORKERS:
        return value
    number = value.strip() if isinstance(value, str) else ""
    meant = number if number.isascii() and number.isdigit() and 1 <= int(number) <= MAX_WORKERS else ""
    meant = meant or ("auto" if value in (0, "0", "max", "all", None) and value is not False else "")
    hint = f"; write {meant}" if meant else ""
    raise problem("workers", f"must be auto or a number from 1 to {MAX_WORKERS}{hint}")


class Config(Model):
    """A configuration file of Tidegate."""

    workers: Annotated[
        int | Literal["auto"], PlainValidator(_workers, json_schema_input_type=int | Literal["auto"])
    ] = "auto"
    """Worker processes, each on one core: a number from 1 to 128, or `auto` for one on each CPU that the daemon
    may use. Changing it needs a restart."""
    zone: Zone | None = None
    """The zone that this daemon is in, for pools with `zones`. Default: none is known."""
    admin: AdminConfig = AdminConfig()
    """The admin server."""
    listeners: dict[Name, ListenerConfig] = {}
    """Where clients connect, by name. At least one."""
    pools: dict[Name, PoolConfig] = {}
    """Where requests are answered, by name. None is needed where routes only redirect, or answer themselves."""
    auth: dict[Name, ProviderConfig] = {}
    """Ways to prove who a request is from, by name, for `auth` of routes. Default: none."""
    quotas: dict[Name, QuotaConfig] = Field(default={}, max_length=64)
    """How much each client may ask for in a day or a month, by name, for `quota` of routes. Default: none."""
    tables: Annotated[dict[Name, TableConfig], Field(max_length=16)] = {}
    """Stick tables, by name. Default: none."""
    peers: PeersConfig | None = None
    """By what daemons share stick tables. Default: each counts for itself."""
    maps: Annotated[dict[Name, MapConfig], Field(max_length=256)] = {}
    """Maps from what requests say to texts, by name. Default: none."""
    cache: CacheConfig | None = None
    """The result cache. Default: none. An empty mapping (`cache: {}`) switches it on with its defaults."""
    jobs: JobsConfig | None = None
    """Jobs: requests that are accepted now and answered later. Default: none."""
    alerts: AlertsConfig | None = None
    """Webhooks that are told of problems. Default: none."""
    log: LogConfig = LogConfig()
    """Logging."""
    tracing: TracingConfig | None = None
    """Distributed tracing. Default: none."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of each worker."""
    shutdown: ShutdownConfig = ShutdownConfig()
    """Stopping."""
