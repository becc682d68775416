"""Pools whose endpoints are found while the daemon runs: by DNS, in a file, by a platform such as Kubernetes, or by a
source that a plug-in adds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lb.config.address import HostPort, UnixPath, parse_address
from lb.config.schema.base import FilePath, Integer, Model, problem
from lb.config.schema.pools.platforms import AwsSourceConfig, GcpSourceConfig, KubernetesSourceConfig
from lb.config.units import MILLISECOND, MINUTE, SECOND, Duration

DNS_PORT = 53
SOURCES = ("dns", "file", "kubernetes", "aws", "gcp")


def _dns_name(value: str) -> str:
    try:
        parsed = parse_address(f"{value}:1")
    except ValueError:
        parsed = None
    if not isinstance(parsed, HostPort) or parsed.literal:
        raise problem("dns_name", f"{value!r} is not a name that DNS can be asked for")
    return parsed.host


def _resolver(value: str) -> str:
    for text in (value, f"{value}:{DNS_PORT}", f"[{value}]:{DNS_PORT}"):
        try:
            parsed = parse_address(text)
        except ValueError:
            continue
        if not isinstance(parsed, UnixPath) and parsed.literal and parsed.port:
            return str(parsed)
    raise problem("resolver", f"{value!r} is not a name server; write its IP address, or IP:PORT")


class DnsSourceConfig(Model):
    """Endpoints are the addresses of a name, asked for again when they have outlived their TTL. `/etc/hosts` is not
    looked at."""

    name: Annotated[str, AfterValidator(_dns_name)]
    """The name to ask for, such as `models.internal` or, with `type: SRV`, `_oip._tcp.models.internal`. With a dot at
    the end the search list of `/etc/resolv.conf` is not tried."""
    port: Integer | None = Field(default=None, ge=1, le=65_535)
    """Port of every endpoint. Required, except for `type: SRV`, whose records say it."""
    type: Literal["A", "AAAA", "SRV"] | None = None
    """Records to ask for. `SRV`: the weights of its records become weights, and their priorities those of
    [failover](howto/fail-over.md). Default: `A` and `AAAA`, and the endpoints are both together."""
    families: list[Literal["ipv4", "ipv6"]] = Field(default=["ipv4", "ipv6"], min_length=1, max_length=2)
    """Addresses to ask for: those of the name, or with `type: SRV` those of its targets. `[ipv4]` asks for `A` only,
    `[ipv6]` for `AAAA` only."""
    resolvers: list[Annotated[str, AfterValidator(_resolver)]] = Field(default=[], max_length=16)
    """Name servers, `IP` or `IP:PORT`, asked in turn until one answers. Default: those of `/etc/resolv.conf`, which is
    read anew each time."""
    timeout: Duration = Field(default=2 * SECOND, ge=10 * MILLISECOND, le=MINUTE)
    """Longest wait for one name server, which is asked at most twice."""
    min_ttl: Duration = Field(default=1 * SECOND, ge=100 * MILLISECOND)
    """Shortest time between two questions, whatever the records say: guards name servers against a TTL of 0."""
    max_ttl: Duration = Field(default=5 * MINUTE, ge=100 * MILLISECOND)
    """Longest time that an answer counts: how long a change can stay unnoticed under a TTL of days."""
    negative_ttl: Duration = Field(default=30 * SECOND, ge=100 * MILLISECOND)
    """Longest time that an answer without addresses counts; the zone's SOA record may say less (RFC 2308). One without
    an SOA record is not kept: the name is asked for again after 1 s, 2 s and so on, up to this."""

    @model_validator(mode="after")
    def _whole(self) -> DnsSourceConfig:
        if self.type == "SRV" and self.port is not None:
            raise problem("port", "port has no effect with type: SRV, whose records say it")
        if self.type != "SRV" and self.port is None:
            raise problem("port", "port is required: only records of type SRV say it")
        if self.type in ("A", "AAAA") and "families" in self.model_fields_set:
            raise problem("families", f"families has no effect with type: {self.type}, which is one already")
        if len(set(self.families)) < len(self.families):
            raise problem("families", "a family is named twice")
        if self.min_ttl > self.max_ttl:
            raise problem("ttl", "min_ttl is longer than max_ttl")
        return self


class FileSourceConfig(Model):
    """Endpoints stand in a file of their own, YAML or JSON, which is read again when it changes."""

    path: FilePath
    """The file: a list in the form of `endpoints`, or a mapping with only the key `endpoints`. Replace it by renaming a
    new file over it; one that is written in place is read once it has stopped changing for `interval`."""
    interval: Duration = Field(default=1 * SECOND, ge=10 * MILLISECOND)
    """Time between two looks at the file's date, size and number (inode)."""


class DiscoverConfig(Model):
    """Where a pool's endpoints come from, instead of `endpoints`: exactly one of `dns`, `file`, `kubernetes`, `aws`,
    `gcp`, or the name of a source that a plug-in adds, with its options. Whatever goes wrong with the source, the last
    good set of endpoints stays."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "object"}})

    dns: DnsSourceConfig | None = None
    """By DNS."""
    file: FileSourceConfig | None = None
    """In a file."""
    kubernetes: KubernetesSourceConfig | None = None
    """By the EndpointSlices of a service of Kubernetes."""
    aws: AwsSourceConfig | None = None
    """By a target group of AWS."""
    gcp: GcpSourceConfig | None = None
    """By a managed instance group of Google Cloud."""
    initial: Literal["wait", "empty", "required"] = "wait"
    """What a start, or a reload that brings this section, does until the first endpoints are known. `wait`: waits at
    most `initial_timeout` for them, then goes on without. `empty`: goes on at once; requests get 503 meanwhile.
    `required`: waits likewise, and then fails. A pool that had endpoints before a reload keeps them meanwhile."""
    initial_timeout: Duration = Field(default=5 * SECOND, ge=MILLISECOND, le=5 * MINUTE)
    """See `initial`."""
    max_endpoints: Integer = Field(default=256, ge=1, le=4096)
    """Most endpoints that are taken from the source: a guard against one that has gone wrong. Those beyond are left
    out, which status and log say."""

    @model_validator(mode="after")
    def _one(self) -> DiscoverConfig:
        given = [name for name in SOURCES if getattr(self, name) is not None] + list(self.model_extra or {})
        if len(given) != 1:
            what = f"not {' and '.join(given)} together" if given else "none is given"
            raise problem(
                "only_one", f"exactly one of {', '.join(SOURCES)} and the sources of plug-ins is needed; {what}"
            )
        return self

    @property
    def source(self) -> str:
        """Name of the source."""
        own = (name for name in SOURCES if getattr(self, name) is not None)
        return next(own, "") or next(iter(self.model_extra or {}))

    @property
    def options(self) -> Any:
        """The source's options: a checked model of Tidegate's own, what the file says for a plug-in's."""
        own = (getattr(self, name) for name in SOURCES if getattr(self, name) is not None)
        return next(own, None) or next(iter((self.model_extra or {}).values()))
