"""The plan of the cache tier that several daemons share."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from lb.config.plan.discreet import Discreet


class TierTlsPlan(Struct, frozen=True):
    """TLS towards the servers; paths of files, "" = none."""

    ca_file: str = ""  # "" = the system's authorities
    cert: str = ""
    key: str = ""
    insecure_skip_verify: bool = False


class TierPlan(Discreet, frozen=True):
    """Servers of a tier and how they are asked."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("password", "secret")

    type: str  # redis | memcached
    servers: tuple[str, ...]
    secret: bytes  # what its file holds
    prefix: str
    timeout_ns: int  # of a get
    connect_timeout_ns: int
    ttl_max_ns: int
    username: str = ""
    password: bytes = b""
    database: int = 0
    cluster: bool = False
    sentinel: str = ""  # name of the master; the servers are Sentinels then
    tls: TierTlsPlan | None = None
