"""Where the requests of a pool wait while each of its endpoints has as many as it may."""

from __future__ import annotations

from pydantic import Field

from lb.config.plan.plan import QueuePlan
from lb.config.schema.base import Integer, Model, Number
from lb.config.units import MILLISECOND, SECOND, Duration

MOST = 1024
MOST_LEARNED = 16_384


class QueueConfig(Model):
    """The queue of a pool whose endpoints have a limit, `max_in_flight` or learned: one for all workers. In a pool with
    `serve` requests wait here for the start of a model server as well, while none takes requests. Who goes first
    is decided by the route's `priority`, then by deadline (the route's `timeout`, `grpc-timeout`, over REST the
    `timeout` of an inference request), then by arrival. A request that could not be answered by its deadline is refused
    at once, with 503 (gRPC: UNAVAILABLE) and `Retry-After`; so is one that waits too long, or finds the queue full,
    or has no deadline and would wait for longer than clients of the pool have waited before they left."""

    max: Integer | None = Field(default=None, ge=0, le=1_000_000)
    """Most requests that wait, in all workers together; 0: none waits. A request of a higher priority takes the place
    of the last one. Default: 1024 where `max_in_flight` limits endpoints, 16384 where limits are learned."""
    timeout: Duration = Field(default=30 * SECOND, ge=MILLISECOND)
    """Longest wait of a request; one that has waited longer is refused. It is also the deadline of requests that have
    none of their own, as far as their order goes: who has one beyond it goes after them. Default with `serve` and
    `min: 0`: `start_timeout` there if that is longer, since requests wait for the first model server, too."""
    overload_after: Duration = Field(default=100 * MILLISECOND, ge=MILLISECOND)
    """A queue that has not been empty for this long is no burst but an overload, in which it is kept short: as many
    requests are served as before, but sooner. `overload_share` says how short."""
    overload_share: Number = Field(default=0.25, gt=0, le=1)
    """During an overload, the share of the time until its deadline (or of `timeout`) that a request may spend waiting.
    One that would wait longer is refused at once. 1: all of it."""


def queue_plan(queue: QueueConfig, series: int, *, learned: bool, start: int = 0) -> QueuePlan:
    """The plan of a queue counted by the series `series`, of a pool whose limits are `learned` or configured. Requests
    may wait for the start of an endpoint that takes up to `start` ns."""
    most = queue.max if queue.max is not None else MOST_LEARNED if learned else MOST
    timeout = queue.timeout if "timeout" in queue.model_fields_set else max(queue.timeout, start)
    return QueuePlan(series, most, timeout, queue.overload_after, queue.overload_share)
