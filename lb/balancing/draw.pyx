"""Random draws of available endpoints, for the policies that choose among drawn ones."""

from array import array

from libc.stdint cimport int64_t, uint64_t
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.options import MOST_CHOICES
from lb.shared import seeds

# Draws before the endpoints are walked instead: enough while a good part of them takes requests.
cdef int ATTEMPTS = 8


cdef class Draw:
    """Draws from `endpoints` in proportion to their weights. `seed` makes the draws repeatable (0: random).

    `begin` starts a choice; each `another` until the next `begin` is a different endpoint.
    """

    def __init__(self, endpoints: EndpointSet, seed: int = 0) -> None:
        self.endpoints = endpoints
        self.state = seed or seeds.draw()
        self.ceiling = 1
        # The excluded endpoint and those drawn since `begin`.
        self.taken = array("i", bytes(4 * (MOST_CHOICES + 1)))
        self.count = 0

    cdef void begin(self, Choice choice) noexcept:
        self.taken[0] = choice.exclude
        self.count = 1

    cdef int another(self, Choice choice) noexcept:
        """An available endpoint, neither the excluded one nor drawn since `begin`; -1 when there is none.

        To be called MOST_CHOICES times at most between two `begin`.
        """
        cdef int index = self.draw(choice)
        self.taken[self.count] = index
        self.count += 1
        return index

    cdef int draw(self, Choice choice) noexcept:
        """By rejection: any endpoint, kept with probability weight / ceiling, where `ceiling` is at least every
        weight."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int i, weight
        if endpoints.size == 0:
            return -1
        for _ in range(ATTEMPTS):
            i = self.below(endpoints.size)
            if self.is_taken(i):
                continue
            weight = choice.open_weight(i)
            if weight > self.ceiling:
                break
            if weight == self.ceiling or self.below(self.ceiling) < weight:
                return i
        return self.draw_by_scan(choice)

    cdef int draw_by_scan(self, Choice choice) noexcept:
        """The same by two walks over all endpoints; also finds the ceiling anew."""
        cdef EndpointSet endpoints = self.endpoints
        cdef int highest = 1
        cdef int64_t total = 0
        cdef int i, weight, chosen
        cdef int64_t rest
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

    cdef bint is_taken(self, int index) noexcept:
        cdef int at
        for at in range(self.count):
            if self.taken[at] == index:
                return True
        return False

    cdef int64_t below(self, uint64_t n) noexcept:
        """A random number from 0 to n - 1, n < 2**32 (xorshift64, Marsaglia 2003; its upper half, scaled)."""
        cdef uint64_t x = self.state
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.state = x
        return ((x >> 32) * n) >> 32
