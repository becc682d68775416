"""What the policies have in common that send like requests to one endpoint, by the hash of the request's key."""

from lb.balancing.bound cimport Bound
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import HashOptions


cdef class HashPolicy(Policy):
    """The first available endpoint in an order of all endpoints that each key has for itself.

    A policy gives the order, by `first`. With a `bounded_load`, the first that has room as well; should only the
    excluded one have room, the bound gives way.
    """

    Options = HashOptions
    needs_key = True

    def __init__(self, endpoints: EndpointSet, options: HashOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.bound = None if options.bounded_load is None else Bound(endpoints, options.bounded_load)

    cpdef int pick(self, Choice choice) except -2:
        cdef int index = self.first(choice, None)
        cdef int other
        if index < 0 or self.bound is None or self.bound.fits(index, choice):
            return index
        other = self.first(choice, self.bound)
        return other if other >= 0 else index

    cdef int first(self, Choice choice, Bound bound) except -2:
        """The first in the order of the key that is available and has room in `bound` if there is one; -1 when there is
        none."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Takes note of all weights that have changed, of which a choice looks at one."""

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        # Else the choice itself might see a change first that this does not.
        self.catch_up()
        chosen, owner = self.pick(choice), self.first(choice, None)
        scores = []
        for i in range(endpoints.size):
            if not choice.available(i):
                continue
            note = "first in the order of the key" if i == owner else ""
            if i == owner and i != chosen:
                note += ", but over its bounded load"
            scores.append(Score(i, float(i != chosen), note))
        return Explained("the first available in the order that the key has for itself", scores)
