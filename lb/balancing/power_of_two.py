"""The less loaded of two endpoints drawn at random (Mitzenmacher 2001, "The power of two choices").

Almost as even as least_request at a cost that does not grow with the number of endpoints, and workers that choose at
the same moment do not all choose the same endpoint.
"""

from __future__ import annotations

import secrets

from lb.balancing.options import PolicyOptions
from lb.balancing.policy import Policy
from lb.endpoints.set import EndpointSet

# Draws before the endpoints are walked instead: enough while a good part of them takes requests.
_ATTEMPTS = 8


class PowerOfTwo(Policy):
    """Of two different available endpoints, drawn in proportion to their weights, the one with fewer in flight per
    weight.

    Equal ones go to the first drawn, so that idle endpoints share by weight. `seed` makes the draws repeatable (0:
    random).
    """

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions, seed: int = 0) -> None:
        Policy.__init__(self, endpoints, options)
        # Zero is the one state that xorshift never leaves.
        self.state = seed or secrets.randbits(64) or 1
        self.ceiling = 1

    def pick(self, now: int, key: int, exclude: int) -> int:
        endpoints = self.endpoints
        first = self.draw(exclude, -1)
        if first < 0:
            return self.last_resort(exclude)
        second = self.draw(exclude, first)
        if second < 0:
            return first
        first_load = endpoints.running(first)
        second_load = endpoints.running(second)
        # At least 1: the weight may have become 0 since the draw.
        if second_load * max(endpoints.effective_weight(first), 1) < first_load * max(
            endpoints.effective_weight(second), 1
        ):
            return second
        return first

    def draw(self, exclude: int, taken: int) -> int:
        """An available endpoint other than the two given, with a probability in proportion to its weight; -1: none.

        By rejection: any endpoint, kept with probability weight / ceiling, where `ceiling` is at least every weight.
        """
        endpoints = self.endpoints
        if endpoints.size == 0:
            return -1
        for _ in range(_ATTEMPTS):
            i = self.below(endpoints.size)
            if i in (exclude, taken):
                continue
            weight = endpoints.effective_weight(i)
            if weight > self.ceiling:
                break
            if weight == self.ceiling or self.below(self.ceiling) < weight:
                return i
        return self.draw_by_scan(exclude, taken)

    def draw_by_scan(self, exclude: int, taken: int) -> int:
        """The same by two walks over all endpoints; also finds the ceiling anew."""
        endpoints = self.endpoints
        highest = 1
        total = 0
        for i in range(endpoints.size):
            weight = endpoints.effective_weight(i)
            highest = max(highest, weight)
            if i not in (exclude, taken):
                total += weight
        self.ceiling = highest
        if total == 0:
            return -1
        rest = self.below(total)
        chosen = -1
        for i in range(endpoints.size):
            if i in (exclude, taken):
                continue
            weight = endpoints.effective_weight(i)
            if weight > 0:
                # Kept as the answer for the case that a weight shrank between the walks.
                chosen = i
                if rest < weight:
                    break
                rest -= weight
        return chosen

    def below(self, n: int) -> int:
        """A random number from 0 to n - 1, n < 2**32 (xorshift64, Marsaglia 2003; its upper half, scaled)."""
        x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return ((x >> 32) * n) >> 32
