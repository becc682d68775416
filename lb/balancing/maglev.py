"""Consistent hashing: requests with the same key go to the same endpoint as long as it takes requests.

See lb/balancing/slots.py for the table, and for where it departs from the Maglev paper.
"""

from __future__ import annotations

from array import array

from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.balancing.slots import SlotTable
from lb.endpoints.set import EndpointSet


class Maglev(Policy):
    """The endpoint that owns the key's slot; while it takes no requests, the one that would own it without it.

    The choice depends on the key and on the addresses and weights of the available endpoints, and on nothing else:
    workers agree, and go on agreeing after a restart. An endpoint that leaves (removed, drained, down, weight 0)
    moves its own keys and no others, spread by weight over the rest; one that comes takes its share and moves nothing
    between the others.
    """

    needs_key = True

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.weights = array("i", bytes(4 * endpoints.size))
        self.watched = 0
        self.rebuild()

    def pick(self, now: int, key: int, exclude: int) -> int:
        endpoints = self.endpoints
        if self.outdated():
            self.rebuild()
        index = self.table.owner(key)
        if index >= 0 and index != exclude and endpoints.effective_weight(index) > 0:
            return index
        index = self.table.first_available(key, endpoints, exclude)
        if index < 0 and self.stale():
            self.rebuild()
            index = self.table.first_available(key, endpoints, exclude)
        return index if index >= 0 else self.last_resort(exclude)

    def outdated(self) -> bool:
        """Whether the next endpoint in turn has changed: over one round of choices, every change is seen."""
        if self.endpoints.size == 0:
            return False
        self.watched = self.watched + 1 if self.watched + 1 < self.endpoints.size else 0
        return self.changed(self.watched)

    def stale(self) -> bool:
        """Whether any endpoint has another weight than in the table."""
        return any(self.changed(i) for i in range(self.endpoints.size))

    def changed(self, i: int) -> bool:
        """Whether endpoint `i` has another weight than in the table.

        Weight 0 is no change: it makes the endpoint unavailable, and the table knows what to do then.
        """
        weight = self.endpoints.effective_weight(i)
        return weight not in (0, self.weights[i])

    def rebuild(self) -> None:
        for i in range(self.endpoints.size):
            self.weights[i] = self.endpoints.weight(i) or self.weights[i]
        addresses = self.endpoints.addresses
        self.table = SlotTable([(addresses[i], self.weights[i]) for i in range(self.endpoints.size)])
