"""Consistent hashing on a ring of points, as libketama, nginx (`hash … consistent`), HAProxy and Envoy have it.

See lb/balancing/ring.pyx for the ring.
"""

from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.balancing.ring cimport Ring
from lb.balancing.weights cimport WeightWatch
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.options import HashOptions
from lb.config.schema.base import Integer


class RingHashOptions(HashOptions):
    points: Integer = Field(
        default=160,
        ge=1,
        le=10_000,
        description="Points on the ring per unit of weight. The shares of keys are even to about 1/sqrt(points).",
    )


cdef class RingHash(HashPolicy):
    """The endpoint of the first point at or after the key; while it takes no requests, that of the next point whose
    endpoint does.

    The choice depends on the key and on the addresses and weights of the available endpoints, and on nothing else (but
    for a `bounded_load`). An endpoint that leaves moves its own keys and no others; one that comes takes its share and
    moves nothing between the others. Rings of more than Ring's MAX_POINTS are the exception.
    """
    cdef readonly Ring ring
    cdef WeightWatch watch
    cdef int points

    Options = RingHashOptions

    def __init__(self, endpoints: EndpointSet, options: RingHashOptions) -> None:
        HashPolicy.__init__(self, endpoints, options)
        self.points = options.points
        self.watch = WeightWatch(endpoints)
        self.ring = Ring(self.watch.members(), self.points)

    cdef int first(self, Choice choice, Bound bound) except -2:
        if self.watch.outdated():
            self.rebuild()
        index = self.walk(choice, bound)
        if index < 0 and self.watch.stale():
            self.rebuild()
            index = self.walk(choice, bound)
        return index

    cdef int walk(self, Choice choice, Bound bound) noexcept:
        """Clockwise from the key to the first endpoint that will do; -1 when there is none."""
        cdef Ring ring = self.ring
        cdef int at = ring.seek(choice.key)
        cdef int step, index
        for step in range(ring.size):
            index = ring.owners[at]
            if self.will_do(index, choice, bound):
                return index
            # So far round a ring in vain: before going on, see whether it is worth it.
            if step == self.endpoints.size and not self.anyone(choice, bound):
                return -1
            at = at + 1 if at + 1 < ring.size else 0
        return -1

    cdef bint will_do(self, int index, Choice choice, Bound bound) noexcept:
        if choice.effective_weight(index) == 0:
            return False
        return bound is None or bound.room(index, choice)

    cdef bint anyone(self, Choice choice, Bound bound) noexcept:
        cdef int i
        for i in range(self.endpoints.size):
            if self.will_do(i, choice, bound):
                return True
        return False

    def catch_up(self) -> None:
        if self.watch.stale():
            self.rebuild()

    def rebuild(self) -> None:
        self.watch.refresh()
        self.ring = Ring(self.watch.members(), self.points)
