"""Consistent hashing: requests with the same key go to the same endpoint as long as it takes requests.

See lb/balancing/slots.pyx for the table, and for where it departs from the Maglev paper.
"""

from lb.balancing.bound cimport Bound
from lb.balancing.hash_policy cimport HashPolicy
from lb.balancing.slots cimport SlotTable
from lb.balancing.weights cimport WeightWatch
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.options import HashOptions


cdef class Maglev(HashPolicy):
    """The endpoint that owns the key's slot; while it takes no requests, the one that would own it without it.

    The choice depends on the key and on the addresses and weights of the available endpoints, and on nothing else (but
    for a `bounded_load`): workers agree, and go on agreeing after a restart. An endpoint that leaves (removed, drained,
    down, weight 0) moves its own keys and no others, spread by weight over the rest; one that comes takes its share
    and moves nothing between the others.
    """
    cdef readonly SlotTable table
    cdef WeightWatch watch

    def __init__(self, endpoints: EndpointSet, options: HashOptions) -> None:
        HashPolicy.__init__(self, endpoints, options)
        self.watch = WeightWatch(endpoints)
        self.table = SlotTable(self.watch.members())

    cdef int first(self, Choice choice, Bound bound) except -2:
        cdef int index
        if self.watch.outdated():
            self.rebuild()
        # With a bound the owner has been asked already.
        index = self.table.owner(choice.key) if bound is None else -1
        if index >= 0 and choice.effective_weight(index) > 0:
            return index
        index = self.table.first_available(choice, bound)
        if index < 0 and self.watch.stale():
            self.rebuild()
            index = self.table.first_available(choice, bound)
        return index

    def catch_up(self) -> None:
        if self.watch.stale():
            self.rebuild()

    def rebuild(self) -> None:
        self.watch.refresh()
        self.table = SlotTable(self.watch.members())
