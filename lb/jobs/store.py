"""Where jobs are kept: the interface that every store has. `tests/jobs/store_contract.py` is its contract suite.

A method that changes something returns once the change is durable: what it has returned for survives a kill -9 of every
process and a loss of power. A store of one process (lb.jobs.sqlite) is open in one at a time; what was running when
the process before ended is queued again by `open`. A store of several (lb.jobs.jetstream) queues what a process was
running once that is known to be dead, in `sweep`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from lb.jobs.job import Answer, Attempt, Delivery, Job, State, Submission


class StoreError(Exception):
    """The store cannot be used now, as with a full disk. Nothing was changed."""


class StoreAwayError(StoreError):
    """The store cannot be reached now, which it has written to the log itself. What was asked may have been done."""


def level_of(error: StoreError) -> int:
    """The level of a log line about what has failed by it."""
    return logging.DEBUG if isinstance(error, StoreAwayError) else logging.ERROR


class QuotaError(Exception):
    """The tenant has as many unfinished jobs as it may have."""


class KeyReusedError(Exception):
    """The idempotency key belongs to a job with another request."""


class JobStore(Protocol):
    """Jobs by id. `now` is seconds since the epoch; no method reads that clock. `error` says why the store cannot be
    reached or written, "" while it can."""

    @property
    def error(self) -> str: ...

    async def open(self, now: float) -> int:
        """Takes the store, and queues what was running and runs no longer: the number of those jobs. Raises
        StoreError."""
        ...

    async def close(self) -> None:
        """Gives the store back. What is asked afterwards raises StoreError."""
        ...

    async def submit(self, submission: Submission, quota: int) -> tuple[Job, bool]:
        """Accepts a job, durably; whether it is new. A submission with the tenant's key of a job that is there gives
        that job. Raises QuotaError when the tenant has `quota` unfinished jobs, KeyReusedError when the key's job has
        another request, StoreError."""
        ...

    async def get(self, job: str) -> Job | None:
        """A job; None where there is none, or no longer."""
        ...

    async def answer(self, job: str) -> Answer | None:
        """The answer of a job that has one."""
        ...

    async def take(self, now: float, most: int) -> list[Attempt]:
        """Makes up to `most` jobs running: of those that are due and whose deadline is not over, the first by priority,
        then by age."""
        ...

    async def finish(
        self, attempt: Attempt, state: State, answer: Answer | None, failure: str, now: float, expires: float
    ) -> Job | None:
        """Ends a running job with a final state. None, with nothing changed, when the attempt is no longer the job's:
        it was cancelled meanwhile."""
        ...

    async def postpone(self, attempt: Attempt, due: float, failure: str, counted: bool) -> Job | None:
        """Queues a running job again, for `due`; `counted` says whether the attempt is one of those that it may
        have. None as for `finish`."""
        ...

    async def cancel(self, job: str, now: float, expires: float) -> Job | None:
        """Cancels a job that is not over; the job as it is then, whatever its state. None where there is none."""
        ...

    async def requeue(self, job: str, now: float, deadline: float, quota: int | None = None) -> Job | None:
        """Queues a dead job anew, with all of its attempts; the job as it is then, whatever its state. Raises
        QuotaError, with nothing changed, when its tenant has `quota` unfinished jobs; None: however many it has."""
        ...

    async def sweep(self, now: float, expires: float, most: int = 5000) -> list[Job]:
        """Forgets jobs that are over and expired, and makes dead the queued ones whose deadline is over, up to `most`
        of each: the latter."""
        ...

    async def deliveries(self, now: float, most: int, busy: Sequence[str] = ()) -> list[Delivery]:
        """Ends of jobs that are to be told to their webhooks by `now`, but for those to the receivers `busy`
        (`receiver_of` in lb.jobs.job). Each is given again until `delivered`, or until the time that `delay_delivery`
        names."""
        ...

    async def delivered(self, delivery: Delivery) -> None:
        """The webhook was told of that end, or is not to be told of it any more. An end that came meanwhile stays to be
        told."""
        ...

    async def delay_delivery(self, delivery: Delivery, due: float) -> None:
        """An attempt to tell the webhook of that end was in vain."""
        ...

    async def latest(self, state: State | None, most: int) -> Sequence[Job]:
        """The last `most` jobs that were accepted, of those in a state or of all, newest first."""
        ...

    async def counts(self) -> Mapping[tuple[str, State], int]:
        """The number of jobs by route and state; what is 0 may be missing."""
        ...

    async def oldest(self) -> float:
        """When the oldest queued job was accepted; 0.0 where none is queued."""
        ...
