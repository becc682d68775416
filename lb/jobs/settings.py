"""What the jobs process is told by the master: at its start, and again at each reload."""

from __future__ import annotations

import base64

from msgspec import Struct

# Marks a request that is to become a job, with the name of its route; and a job's own request, on its way to the pool.
ROUTE_FIELD = "X-Tidegate-Job-Route"
# Of heads that aiohttp reads, requests of workers and answers of pools: the limits are the listener's and the pool's.
HEAD_LINE = 1 << 20  # bytes
HEAD_FIELDS = 1100


class NatsSettings(Struct, frozen=True):
    """The store in NATS JetStream. Files are paths, "" for none; they are read at each connection."""

    urls: tuple[str, ...]
    stream: str
    replicas: int
    credentials_file: str = ""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert: str = ""
    key: str = ""


class Settings(Struct, frozen=True):
    """Times in seconds. `path` is the store's file, unless it is in `nats`. `calls` is the Unix socket of the listener
    that takes jobs' requests. `tenant` is the kind (header, cookie, query or "") and name of what tells tenants apart.
    `webhook_secret` signs; `webhook_urls` are the beginnings of the URLs that may be told, none for no webhooks."""

    path: str
    calls: str
    prefix: str
    tenant: tuple[str, str]
    quota: int
    concurrency: int
    attempts: int
    deadline: float
    keep: float
    webhook_urls: tuple[str, ...] = ()
    webhook_secret: bytes = b""
    nats: NatsSettings | None = None

    @property
    def place(self) -> str:
        """Where jobs are, for people."""
        return self.path if self.nats is None else f"NATS at {', '.join(self.nats.urls)}"


def secret_of(text: bytes) -> bytes:
    """The key of a secret's file: base64 behind `whsec_`, or all of it. Raises ValueError for a key below 24 bytes."""
    text = text.strip()
    key = base64.b64decode(text.removeprefix(b"whsec_"), validate=True) if text.startswith(b"whsec_") else text
    if len(key) < 24:
        raise ValueError("a secret has 24 bytes at least")
    return key
