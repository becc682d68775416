"""Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): who still has room for a key.

An endpoint of weight w has room while its load, requests in flight or what they cost, is below

    ceil(factor * (L + c) * w / W)

with a load of L, to which the request would add c (1 where requests are not weighed), and W of weight at all available
endpoints together, counted over all workers. Since these capacities add up to more than L, some available endpoint
always has room.
"""

from libc.stdint cimport int64_t
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class Bound:
    """The capacities of `endpoints` for a `factor` of at least 1, at the time of the last `measure`."""

    def __init__(self, endpoints: EndpointSet, factor: float) -> None:
        self.endpoints = endpoints
        self.factor = factor
        self.total = 0.0
        self.weight = 0.0

    cdef bint fits(self, int index, Choice choice) noexcept:
        """Measure, and say whether the available endpoint `index` has room."""
        # Every capacity is above 0: an idle endpoint needs no walk over the pool.
        if self.endpoints.outstanding(index) == 0:
            return True
        self.measure(choice)
        return self.room(index, choice)

    cdef void measure(self, Choice choice) noexcept:
        cdef int64_t total = choice.cost
        cdef int64_t weights = 0
        cdef int i, weight
        for i in range(self.endpoints.size):
            weight = choice.open_weight(i)
            if weight > 0:
                weights += weight
                total += self.endpoints.outstanding(i)
        self.total = self.factor * total
        self.weight = weights

    cdef bint room(self, int index, Choice choice) noexcept:
        """Whether the endpoint has room. A whole number is below ceil(x) just if it is below x, so nothing is divided
        or rounded."""
        return self.endpoints.outstanding(index) * self.weight < self.total * choice.open_weight(index)
