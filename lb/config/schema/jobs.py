"""Jobs: requests that are accepted now and answered later."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lb.config.schema.base import FilePath, HttpPath, Integer, problem
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


class JobsConfig(RareModel):
    """Jobs: requests of routes with `jobs: true` that are accepted now and answered later. How to use them:
    [Answer later](howto/answer-later.md)."""

    path: FilePath
    """File of the jobs, their requests (headers included) and answers: an SQLite database, made when it is missing,
    readable by the daemon's user alone. Put it on a disk that keeps what it has synced. Changing it needs a restart."""
    prefix: Annotated[HttpPath, AfterValidator(_prefix)] = "/jobs"
    """Path under which clients find their jobs, on each listener with such routes: `/jobs/ID`."""
    tenant: TenantConfig | None = None
    """What names the tenant of a request: quotas and idempotency keys are a tenant's own, and so are its jobs. A
    request that names none, or more than one, is refused. Default: all clients are one tenant."""
    quota: Integer = Field(default=100_000, ge=1, le=10_000_000)
    """Most unfinished jobs of a tenant; further ones are answered with 429."""
    concurrency: Integer = Field(default=32, ge=1, le=4096)
    """Most jobs that run at once."""
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
