"""Jobs: requests that are accepted now and answered later."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from lb.config.schema.base import FilePath, HttpPath, Integer, only_one, problem, text
from lb.config.schema.pools.platforms import RareModel, Url
from lb.config.schema.routes.cache_key import TenantConfig
from lb.config.units import DAY, SECOND, Duration


def _prefix(value: str) -> str:
    if value == "/" or value.endswith("/"):
        raise problem("text", f"{value!r} ends with a slash; write it without, as in /jobs")
    return value


class WebhooksConfig(RareModel):
    """Who may be told of the end of a job, where its submission has the field `X-Tidegate-Webhook`. Deliveries are
    signed as [Standard Webhooks](https://www.standardwebhooks.com) says, and repeated until an answer of 2xx."""

    secret_file: FilePath
    """File with the secret of the signatures: base64 behind `whsec_`, or any text of 24 bytes at least. Read at each
    reload."""
    urls: list[Url] = Field(min_length=1, max_length=64)
    """Beginnings of the URLs that clients may name: scheme, host and port have to be the same, the path below. What is
    not listed is refused, so that clients cannot have this machine ask others for them."""


class NatsTlsConfig(RareModel):
    """TLS towards NATS, whose certificates have to be for the hosts of `urls`."""

    ca_file: FilePath | None = None
    """File with the authorities that are trusted, in PEM. Default: those of the system."""
    cert: FilePath | None = None
    """File with our own certificate, for servers that ask for one (mutual TLS), in PEM."""
    key: FilePath | None = None
    """File with its key, in PEM and without a passphrase."""

    @model_validator(mode="after")
    def _both(self) -> NatsTlsConfig:
        if (self.cert is None) != (self.key is None):
            raise problem("tls", "cert and key belong together: one of them is missing")
        return self


class NatsConfig(RareModel):
    """Jobs in NATS JetStream (server 2.10 or newer), for several daemons that share them. Needs the extra
    `tidegate[nats]`. What the server has to be like: [Answer later](howto/answer-later.md#several-daemons)."""

    urls: list[Annotated[str, *text(r"(nats|tls)://[^\s/?#@]+", "is no URL such as nats://HOST:4222")]] = Field(
        min_length=1, max_length=16
    )
    """`nats://HOST:PORT`, or `tls://HOST:PORT` for TLS: the servers of one cluster, all of one kind. Without a port
    4222."""
    stream: Annotated[str, *text(r"[A-Za-z0-9_-]{1,64}", "is no name of letters, digits, - and _")] = "tidegate-jobs"
    """Name of the stream of jobs, and beginning of the name of another, with `-bodies`, and of all subjects. Daemons
    that share jobs have the same. Both streams are made when they are missing."""
    replicas: Integer = Field(default=1, ge=1, le=5)
    """Servers that keep each job, for streams that Tidegate makes. With 3, of a cluster of three or more, one of them
    may be lost."""
    credentials_file: FilePath | None = None
    """File with a JWT and the seed of its nkey, as `nsc generate creds` writes it."""
    username: Annotated[str, *text(r"[!-~]{1,256}", "is no user name of printable ASCII characters")] | None = None
    """User, with `password_file`, for servers without JWTs."""
    password_file: FilePath | None = None
    """File with the password; white space around it does not count."""
    tls: NatsTlsConfig | None = None
    """Certificates for `tls://`. Default: the authorities of the system, no certificate of our own."""

    @model_validator(mode="after")
    def _fits(self) -> NatsConfig:
        kinds = {url.partition(":")[0] for url in self.urls}
        if len(kinds) > 1:
            raise problem("urls", "nats:// and tls:// not together: what one server hides another would show")
        if self.tls is not None and kinds != {"tls"}:
            raise problem("tls", "tls needs urls of the form tls://HOST:PORT")
        if (self.username is None) != (self.password_file is None):
            raise problem("username", "username and password_file belong together: one of them is missing")
        if self.username is not None and self.credentials_file is not None:
            raise problem("credentials_file", "credentials_file and username are two ways to log in: one is needed")
        return self


class JobStoreConfig(RareModel):
    """Where jobs are, when that is no file of this machine."""

    nats: NatsConfig
    """In NATS JetStream."""


class JobsConfig(RareModel):
    """Jobs: requests of routes with `jobs: true` that are accepted now and answered later. How to use them:
    [Answer later](howto/answer-later.md)."""

    path: FilePath | None = None
    """File of the jobs, their requests (headers included) and answers: an SQLite database, made when it is missing,
    readable by the daemon's user alone. Put it on a disk that keeps what it has synced. Changing it needs a restart."""
    store: JobStoreConfig | None = None
    """A store that several daemons share, instead of `path`. Exactly one of the two is needed. Changing it needs a
    restart."""
    prefix: Annotated[HttpPath, AfterValidator(_prefix)] = "/jobs"
    """Path under which clients find their jobs, on each listener with such routes: `/jobs/ID`."""
    tenant: TenantConfig | None = None
    """What names the tenant of a request: quotas and idempotency keys are a tenant's own, and so are its jobs. A
    request that names none, or more than one, is refused. Default: all clients are one tenant."""
    quota: Integer = Field(default=100_000, ge=1, le=10_000_000)
    """Most unfinished jobs of a tenant; further ones are answered with 429."""
    concurrency: Integer = Field(default=32, ge=1, le=4096)
    """Most jobs that run at once. Those that wait for their turn wait in the order of their urgency; those that run, in
    that of the pool's queue."""
    attempts: Integer = Field(default=10, ge=1, le=100)
    """Attempts that a job has, with pauses between them that grow from a second to a minute: four minutes for all. One
    that found no room (429, 503) or did not arrive is not counted. A job without an answer after the last is a dead
    letter, which `POST /jobs/ID/retry` queues anew."""
    deadline: Duration = Field(default=1 * DAY, ge=SECOND)
    """Longest time from the submission to the answer; then the job is a dead letter. Clients may ask for less by
    `X-Tidegate-Deadline`."""
    keep: Duration = Field(default=1 * DAY, ge=SECOND)
    """Time after its end for which a job, its answer and its idempotency key are kept."""
    webhooks: WebhooksConfig | None = None
    """Who may be told of the end of a job. Default: nobody."""

    @model_validator(mode="after")
    def _one_place(self) -> JobsConfig:
        only_one(self, ("path", "store"))
        return self
