"""Consistent hashing on a ring of points, as libketama, nginx (`hash … consistent`), HAProxy and Envoy have it.

See lb/balancing/ring.py for the ring.
"""

from __future__ import annotations

from lb.balancing.bound import Bound
from lb.balancing.hash_policy import HashPolicy
from lb.balancing.options import RingHashOptions
from lb.balancing.ring import Ring
from lb.balancing.weights import WeightWatch
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet


class RingHash(HashPolicy):
    """The endpoint of the first point at or after the key; while it takes no requests, that of the next point whose
    endpoint does.

    The choice depends on the key and on the addresses and weights of the available endpoints, and on nothing else (but
    for a `bounded_load`). An endpoint that leaves moves its own keys and no others; one that comes takes its share and
    moves nothing between the others. Rings of more than Ring's MAX_POINTS are the exception.
    """

    Options = RingHashOptions

    def __init__(self, endpoints: EndpointSet, options: RingHashOptions) -> None:
        HashPolicy.__init__(self, endpoints, options)
        self.points = options.points
        self.watch = WeightWatch(endpoints)
        self.ring = Ring(self.watch.members(), self.points)

    def first(self, choice: Choice, bound: Bound | None) -> int:
        if self.watch.outdated():
            self.rebuild()
        index = self.walk(choice, bound)
        if index < 0 and self.watch.stale():
            self.rebuild()
            index = self.walk(choice, bound)
        return index

    def walk(self, choice: Choice, bound: Bound | None) -> int:
        """Clockwise from the key to the first endpoint that will do; -1 when there is none."""
        ring = self.ring
        at = ring.seek(choice.key)
        for step in range(ring.size):
            index = ring.owners[at]
            if self.will_do(index, choice, bound):
                return index
            # So far round a ring in vain: before going on, see whether it is worth it.
            if step == self.endpoints.size and not self.anyone(choice, bound):
                return -1
            at = at + 1 if at + 1 < ring.size else 0
        return -1

    def will_do(self, index: int, choice: Choice, bound: Bound | None) -> bool:
        if choice.effective_weight(index) == 0:
            return False
        return bound is None or bound.room(index, choice)

    def anyone(self, choice: Choice, bound: Bound | None) -> bool:
        for i in range(self.endpoints.size):  # noqa: SIM110 (a generator would be an object)
            if self.will_do(i, choice, bound):
                return True
        return False

    def catch_up(self) -> None:
        if self.watch.stale():
            self.rebuild()

    def rebuild(self) -> None:
        self.watch.refresh()
        self.ring = Ring(self.watch.members(), self.points)
