"""A pool in a segment of its own, with a master and workers, for tests of what balances over it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from compiled.endpoint_set import pick
from compiled.shared_segment import add_inflight, add_outstanding

from lb.balancing import registry
from lb.balancing.policy import Policy
from lb.config.plan.plan import PolicyPlan
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment

ENABLED, DRAIN, MAINTENANCE = 0, 1, 2


def choose(policy: Policy, now: int, key: int, exclude: int = -1, **more: Any) -> int:
    """The endpoint that a pool would get from the policy; `more` as for a Choice."""
    return pick(policy, Choice(policy.endpoints, now, key, exclude, **more), in_turn=False)


def choose_in_turn(policy: Policy, now: int, key: int, exclude: int = -1, **more: Any) -> int:
    """The same where endpoints that fail take only a part of their turns."""
    return pick(policy, Choice(policy.endpoints, now, key, exclude, **more))


def choose_queued(policy: Policy, now: int, key: int) -> int:
    """The endpoint that the first in the pool's queue would get."""
    return pick(policy, Choice(policy.endpoints, now, key), in_turn=False, queued=True)


class Fleet:
    """Endpoints of the given weights, all up; `sets[n]` is worker n's view. `weighed`: their load is what requests
    cost. Close it, or use it as a context."""

    def __init__(
        self,
        weights: Sequence[int],
        *,
        workers: int = 1,
        addresses: Sequence[str] | None = None,
        weighed: bool = False,
    ) -> None:
        self.addresses = addresses or [f"192.0.2.{i // 250}:{9000 + i % 250}" for i in range(len(weights))]
        # Slots in reverse, so that an index taken for a slot is noticed.
        self.slots = list(range(len(weights)))[::-1]
        self.master = Segment.create(workers, endpoint_capacity=max(len(weights), 1), series_capacity=1)
        for i, weight in enumerate(weights):
            self.weigh(i, weight)
            self.up(i)
        self.segments = [Segment.attach(os.dup(self.master.fd), worker) for worker in range(workers)]
        self.sets = [EndpointSet(segment, self.addresses, self.slots) for segment in self.segments]
        for each in self.sets if weighed else ():
            each.weigh()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sets.clear()
        for segment in (*self.segments, self.master):
            segment.close()

    def up(self, i: int) -> None:
        self.master.set_health(self.slots[i], True, 1)

    def down(self, i: int) -> None:
        self.master.set_health(self.slots[i], False, 1)

    def admin(self, i: int, state: int) -> None:
        self.master.set_admin(self.slots[i], state)

    def weigh(self, i: int, weight: int) -> None:
        self.master.set_weight(self.slots[i], weight)

    def load(self, i: int, count: int, worker: int = 0) -> None:
        """Let worker `worker` have `count` more requests in flight at endpoint `i`."""
        add_inflight(self.segments[worker], self.slots[i], count)

    def charge(self, i: int, cost: float, worker: int = 0) -> None:
        """Let what worker `worker` has at endpoint `i` cost so much more, 1 for an average request."""
        add_outstanding(self.segments[worker], self.slots[i], cost)

    @property
    def available(self) -> set[int]:
        return {i for i in range(len(self.addresses)) if self.sets[0].available(i)}

    def build(self, policy: str, worker: int = 0, **options: object) -> Policy:
        return registry.build(PolicyPlan(policy, options=options or None), self.sets[worker])
