"""Random draws of available endpoints, for the policies that choose among drawn ones."""

from __future__ import annotations

import secrets
from array import array

from lb.balancing.options import MOST_CHOICES
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet

# Draws before the endpoints are walked instead: enough while a good part of them takes requests.
_ATTEMPTS = 8


class Draw:
    """Draws from `endpoints` in proportion to their weights. `seed` makes the draws repeatable (0: random).

    `begin` starts a choice; each `another` until the next `begin` is a different endpoint.
    """

    def __init__(self, endpoints: EndpointSet, seed: int = 0) -> None:
        self.endpoints = endpoints
        # Zero is the one state that xorshift never leaves.
        self.state = seed or secrets.randbits(64) or 1
        self.ceiling = 1
        # The excluded endpoint and those drawn since `begin`.
        self.taken = array("i", bytes(4 * (MOST_CHOICES + 1)))
        self.count = 0

    def begin(self, choice: Choice) -> None:
        self.taken[0] = choice.exclude
        self.count = 1

    def another(self, choice: Choice) -> int:
        """An available endpoint, neither the excluded one nor drawn since `begin`; -1 when there is none.

        To be called MOST_CHOICES times at most between two `begin`.
        """
        index = self.draw(choice)
        self.taken[self.count] = index
        self.count += 1
        return index

    def draw(self, choice: Choice) -> int:
        """By rejection: any endpoint, kept with probability weight / ceiling, where `ceiling` is at least every
        weight."""
        endpoints = self.endpoints
        if endpoints.size == 0:
            return -1
        for _ in range(_ATTEMPTS):
            i = self.below(endpoints.size)
            if self.is_taken(i):
                continue
            weight = choice.open_weight(i)
            if weight > self.ceiling:
                break
            if weight == self.ceiling or self.below(self.ceiling) < weight:
                return i
        return self.draw_by_scan(choice)

    def draw_by_scan(self, choice: Choice) -> int:
        """The same by two walks over all endpoints; also finds the ceiling anew."""
        endpoints = self.endpoints
        highest = 1
        total = 0
        for i in range(endpoints.size):
            weight = choice.open_weight(i)
            highest = max(highest, weight)
            if not self.is_taken(i):
                total += weight
        self.ceiling = highest
        if total == 0:
            return -1
        rest = self.below(total)
        chosen = -1
        for i in range(endpoints.size):
            if self.is_taken(i):
                continue
            weight = choice.open_weight(i)
            if weight > 0:
                # Kept as the answer for the case that a weight shrank between the walks.
                chosen = i
                if rest < weight:
                    break
                rest -= weight
        return chosen

    def is_taken(self, index: int) -> bool:
        for at in range(self.count):  # noqa: SIM110 (a generator would be an object)
            if self.taken[at] == index:
                return True
        return False

    def below(self, n: int) -> int:
        """A random number from 0 to n - 1, n < 2**32 (xorshift64, Marsaglia 2003; its upper half, scaled)."""
        x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return ((x >> 32) * n) >> 32
