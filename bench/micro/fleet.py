"""Endpoints in a segment of their own, for what balances over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lb.config.plan.plan import EndpointPlan, PolicyPlan, PoolPlan
from lb.shared.segment import Segment


def addresses(count: int) -> list[str]:
    """`count` different addresses (documentation's 192.0.2.0/24)."""
    return [f"192.0.2.{i // 250}:{9000 + i % 250}" for i in range(count)]


@contextmanager
def worker_segment(endpoints: int) -> Iterator[Segment]:
    """A worker's segment with endpoints in the slots from 0 on, all up and of weight 1."""
    master = Segment.create(1, endpoint_capacity=max(endpoints, 1), series_capacity=max(endpoints, 1))
    worker = Segment.attach(os.dup(master.fd), 0)
    try:
        for slot in range(endpoints):
            master.set_weight(slot, 1)
            master.set_health(slot, True, 0)
        yield worker
    finally:
        worker.close()
        master.close()


def pool_plan(endpoints: int) -> PoolPlan:
    """A pool over the endpoints of `worker_segment`."""
    return PoolPlan(
        name="pool",
        protocol="http",
        policy=PolicyPlan("round_robin"),
        endpoints=tuple(EndpointPlan(address, i, i, 1) for i, address in enumerate(addresses(endpoints))),
        connect_timeout_ns=1_000_000_000,
        response_timeout_ns=0,
        idle_timeout_ns=0,
        retries=0,
        max_idle=1,
    )
