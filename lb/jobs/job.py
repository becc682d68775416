"""A job: one request that was accepted to be answered later, with its state and its answer. Plain data."""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum

from msgspec import Struct

Fields = list[tuple[str, str]]  # of a head, in their order; values are latin-1


class State(StrEnum):
    """Of a job. The last four are final."""

    QUEUED = "queued"  # waits for its turn, or for the end of a pause between attempts
    RUNNING = "running"  # its request is with the daemon
    DONE = "done"  # there is an answer, with a status below 400
    FAILED = "failed"  # there is an answer that another attempt would not change: a status of 4xx
    DEAD = "dead"  # a dead letter: attempts or time are used up. An operator or the client may requeue it
    CANCELLED = "cancelled"


FINAL = (State.DONE, State.FAILED, State.DEAD, State.CANCELLED)

# From each state to those that may follow it. A store refuses every other step.
STEPS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (State.RUNNING, State.DEAD, State.CANCELLED),
    State.RUNNING: (State.QUEUED, State.DONE, State.FAILED, State.DEAD, State.CANCELLED),
    State.DEAD: (State.QUEUED,),
    State.DONE: (),
    State.FAILED: (),
    State.CANCELLED: (),
}


class Request(Struct, frozen=True):
    """What is sent to the pool: `target` is the path with its query."""

    method: str
    target: str
    fields: Fields
    body: bytes


class Answer(Struct, frozen=True):
    """What the pool has answered."""

    status: int
    fields: Fields
    body: bytes


class Submission(Struct, frozen=True):
    """A request to become a job. Times are seconds since the epoch. `key` is the client's idempotency key, None without
    one; keys of different tenants are different. `priority` is 0 (first) to 7 (RFC 9218's urgency). `webhook` is the
    URL that is told of the end, "" for none."""

    id: str
    route: str
    tenant: str
    request: Request
    created: float
    deadline: float
    priority: int = 3
    key: str | None = None
    webhook: str = ""


class Job(Struct, frozen=True):
    """A job as clients see it. Times are seconds since the epoch, 0.0 for not yet. `attempts` counts those that the
    pool has processed or may have; `due` is when the next one may begin; `status` is that of the answer, 0 for none;
    `failure` says why the last attempt gave none. After `expires` a job that is over is forgotten."""

    id: str
    route: str
    tenant: str
    state: State
    priority: int
    created: float
    deadline: float
    due: float
    attempts: int
    status: int = 0
    failure: str = ""
    finished: float = 0.0
    expires: float = 0.0


class Attempt(Struct, frozen=True):
    """A job that has become running, with what to send. `number` counts from 1, and tells this attempt from others of
    the job that may still be under way. `failures` are attempts of this job that were counted before."""

    id: str
    number: int
    failures: int
    route: str
    deadline: float
    request: Request


class Delivery(Struct, frozen=True):
    """The news of a job's end, to be told to its webhook; `failures` attempts were in vain."""

    job: Job
    url: str
    failures: int


def receiver_of(url: str) -> str:
    """Scheme, host and port of a webhook's URL, in small letters: those of one receiver are told one after another
    where it is slow."""
    scheme, _, rest = url.lower().partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0]}"


def new_id() -> str:
    """A new job's id: 128 random bits. Whoever knows it may ask for the job's answer."""
    return secrets.token_hex(16)


def fingerprint(route: str, request: Request) -> bytes:
    """What two submissions with one idempotency key have to have in common: 32 bytes."""
    digest = hashlib.sha256()
    for part in (route, request.method, request.target):
        digest.update(len(part).to_bytes(4, "big") + part.encode("latin-1", "replace"))
    digest.update(request.body)
    return digest.digest()
