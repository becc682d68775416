"""Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): who still has room for a key.

An endpoint of weight w has room while its load, requests in flight or what they cost, is below

    ceil(factor * (L + c) * w / W)

with a load of L, to which the request would add c (1 where requests are not weighed), and W of weight at all available
endpoints together, counted over all workers. Since these capacities add up to more than L, some available endpoint
always has room.
"""

from __future__ import annotations

from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet


class Bound:
    """The capacities of `endpoints` for a `factor` of at least 1, at the time of the last `measure`."""

    def __init__(self, endpoints: EndpointSet, factor: float) -> None:
        self.endpoints = endpoints
        self.factor = factor
        self.total = 0.0
        self.weight = 0.0

    def fits(self, index: int, choice: Choice) -> bool:
        """Measure, and say whether the available endpoint `index` has room."""
        # Every capacity is above 0: an idle endpoint needs no walk over the pool.
        if self.endpoints.outstanding(index) == 0:
            return True
        self.measure(choice)
        return self.room(index, choice)

    def measure(self, choice: Choice) -> None:
        total = choice.cost
        weights = 0
        for i in range(self.endpoints.size):
            weight = choice.open_weight(i)
            if weight > 0:
                weights += weight
                total += self.endpoints.outstanding(i)
        self.total = self.factor * total
        self.weight = weights

    def room(self, index: int, choice: Choice) -> bool:
        """Whether the endpoint has room. A whole number is below ceil(x) just if it is below x, so nothing is divided
        or rounded."""
        return self.endpoints.outstanding(index) * self.weight < self.total * choice.open_weight(index)
