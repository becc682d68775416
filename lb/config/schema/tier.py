"""The cache tier: servers in which several daemons share answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lb.config.plan.tier import TierPlan, TierTlsPlan
from lb.config.schema.base import Address, Boolean, FilePath, Integer, only_for, problem, text
from lb.config.schema.listeners.tls import Material
from lb.config.schema.pools.platforms import RareModel
from lb.config.units import DAY, MILLISECOND, SECOND, Duration


class TierTlsConfig(RareModel):
    """TLS towards the servers of a tier, whose certificates have to be for the host that `servers` names."""

    ca_file: FilePath | None = None
    """File with the authorities that are trusted, in PEM. Default: those of the system."""
    cert: FilePath | None = None
    """File with our own certificate, for servers that ask for one (mutual TLS), in PEM."""
    key: FilePath | None = None
    """File with its key, in PEM and without a passphrase."""
    insecure_skip_verify: Boolean = False
    """Takes any certificate. Whoever can get between Tidegate and a server can then read every answer. It is logged at
    every start and reload."""

    @model_validator(mode="after")
    def _both(self) -> TierTlsConfig:
        if (self.cert is None) != (self.key is None):
            raise problem("tls", "cert and key belong together: one of them is missing")
        return self


class TierConfig(RareModel):
    """A second tier behind the memory of the daemon: servers in which several daemons share answers. What is not in
    memory is looked for there before an endpoint is asked. Nothing waits long for it, and no request fails by it: a
    tier that is down or slow is a line in the log, and misses. How it works: [Share a
    cache](howto/share-a-cache.md)."""

    type: Literal["redis", "valkey", "memcached"]
    """`redis` (from 6.0 on) and `valkey`, which are spoken to alike and need the extra `tidegate[redis]`; or
    `memcached` (from 1.6 on)."""
    servers: list[Address] = Field(min_length=1, max_length=100)
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`. One server of Redis, some nodes of a cluster, or the Sentinels. All
    servers of Memcached, spelled alike on all daemons: keys are spread over them by ketama."""
    secret_file: FilePath
    """File with the secret that the daemons of a tier have in common, at least 32 random bytes. What was written with
    another one counts as a miss. A changed file is noticed, and begins an empty cache."""
    username: Annotated[str, *text(r"[!-~]{1,256}", "is no user name of printable ASCII characters")] | None = None
    """User of an access list of Redis, or of an authentication file of Memcached. Default: Redis' default user."""
    password_file: FilePath | None = None
    """File with the password; white space around it does not count. Default: none is sent."""
    database: Integer = Field(default=0, ge=0, le=65535)
    """Number of the database. `redis` only, and not with `cluster`."""
    cluster: Boolean = False
    """The servers are nodes of a Redis Cluster, which tell the others. `redis` only."""
    sentinel: Annotated[str, *text(r"[!-~]{1,256}", "is no name of a master")] | None = None
    """Name of the master that Sentinels watch over; `servers` are the Sentinels then. `redis` only."""
    tls: TierTlsConfig | None = None
    """TLS. Default: none. `{}` switches it on with its defaults."""
    prefix: Annotated[str, *text(r"[!-~]{0,100}", "is no prefix of at most 100 printable characters")] = "tidegate:"
    """Beginning of every key, so that others can use the servers, too, and an access list can say what is ours."""
    timeout: Duration = Field(default=10 * MILLISECOND, ge=MILLISECOND, le=10 * SECOND)
    """Longest time that a request waits for the tier. After five failures in a row, or while more than half of the
    answers take longer than half of this, the tier is left alone for 1 s, and up to 30 s if that goes on."""
    connect_timeout: Duration = Field(default=200 * MILLISECOND, ge=MILLISECOND, le=10 * SECOND)
    """Longest time to connect, with TLS and password. No request waits for that."""
    ttl_max: Duration = Field(default=1 * DAY, ge=1 * SECOND, le=30 * DAY)
    """Longest time that the servers keep an answer, whatever its route says. They keep it shorter where they evict."""

    @model_validator(mode="after")
    def _fits(self) -> TierConfig:
        for field, message in self._problems():
            raise problem(field, f"{field} {message}")
        return self

    def _problems(self) -> Iterator[tuple[str, str]]:
        if self.type == "memcached":
            only = "is only for types redis and valkey"
            for path, message in only_for(self, "", ("database", "cluster", "sentinel"), only):
                yield path.removeprefix("."), message
            if (self.username is None) != (self.password_file is None):
                yield "username", "and password_file belong together: one of them is missing"
        elif self.username is not None and self.password_file is None:
            yield "password_file", "is needed with username"
        if self.cluster and self.sentinel is not None:
            yield "sentinel", "is not for a cluster, which looks after itself"
        if self.cluster and self.database:
            yield "database", "is not for a cluster, which has one only"
        if self.type != "memcached" and len(self.servers) > 1 and not self.cluster and self.sentinel is None:
            yield "servers", "has more than one: say cluster: true, or sentinel: NAME, or name one of them"
        if len(set(self.servers)) < len(self.servers):
            yield "servers", "has one of them twice"
        unix = any(server.startswith("unix:") for server in self.servers)
        if unix and (self.cluster or self.sentinel is not None):
            yield "servers", "of a cluster or of Sentinel have no Unix sockets"
        if unix and self.tls is not None:
            yield "tls", "is not for Unix sockets"


def tier_plan(tier: TierConfig | None, material: Material) -> TierPlan | None:
    """The plan of a tier; None where there is none. Raises KeyError when `material` was read for another
    configuration."""
    if tier is None:
        return None
    tls = tier.tls
    return TierPlan(
        type=tier.type,
        servers=tuple(tier.servers),
        secret=material.files[tier.secret_file].strip(),
        prefix=tier.prefix,
        timeout_ns=tier.timeout,
        connect_timeout_ns=tier.connect_timeout,
        ttl_max_ns=tier.ttl_max,
        username=tier.username or "",
        password=material.files[tier.password_file].strip() if tier.password_file is not None else b"",
        database=tier.database,
        cluster=tier.cluster,
        sentinel=tier.sentinel or "",
        tls=TierTlsPlan(
            ca_file=str(tls.ca_file or ""),
            cert=str(tls.cert or ""),
            key=str(tls.key or ""),
            insecure_skip_verify=tls.insecure_skip_verify,
        )
        if tls is not None
        else None,
    )
