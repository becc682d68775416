"""Smooth weighted round robin: each endpoint its share, as evenly spaced as can be.

The algorithm is nginx's (ngx_http_upstream_round_robin.c, 2012): every turn adds each available endpoint's weight to
its current value, the highest value wins, and the winner pays the sum of the weights. Weights 5, 1, 1 give a a b a c
a a and not a a a a a b c.
"""

from array import array

from libc.stdint cimport int64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions


cdef class RoundRobin(Policy):
    """Endpoints in turn, by weight. Every worker has its own turn."""
    cdef int64_t[::1] current
    cdef int[::1] weights
    cdef int ahead

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.current = array("q", bytes(8 * endpoints.size))
        self.weights = array("i", bytes(4 * endpoints.size))
        # Worker n starts n turns on: else the first requests after a start or reload would all meet at one endpoint.
        self.ahead = endpoints.worker

    cpdef int pick(self, Choice choice) except -2:
        cdef int index = self.turn(choice)
        while index >= 0 and self.ahead > 0:
            self.ahead -= 1
            index = self.turn(choice)
        return index

    cdef int turn(self, Choice choice) noexcept:
        """One turn among the available endpoints; -1 when there is none."""
        cdef EndpointSet endpoints = self.endpoints
        cdef bint changed = True
        cdef int best = -1
        cdef int i, weight, known
        cdef int64_t total
        while changed:
            changed = False
            best = -1
            total = 0
            for i in range(endpoints.size):
                weight = choice.effective_weight(i)
                if weight == 0:
                    continue
                known = self.weights[i]
                if weight != known:
                    self.weights[i] = weight
                    # A share that grows little by little is no new weight: to restart at each step would keep whoever
                    # has the smallest from its turn.
                    changed = changed or endpoints.unit == 1 or weight > 2 * known or 2 * weight < known
                total += weight
                self.current[i] += weight
                if best < 0 or self.current[i] > self.current[best]:
                    best = i
            if changed:
                # What was saved up under other weights would come out as a burst. A mere pause keeps it.
                self.restart()
            elif best >= 0:
                self.current[best] -= total
        return best

    cdef void restart(self) noexcept:
        cdef int i
        for i in range(self.endpoints.size):
            self.current[i] = 0

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        indexes = range(endpoints.size)
        current = [self.current[i] for i in indexes]
        weights = [self.weights[i] for i in indexes]
        ahead = self.ahead
        index = self.pick(choice)
        scores = []
        for i in indexes:
            self.current[i], self.weights[i] = current[i], weights[i]
            weight = choice.weight(i)
            if weight > 0:
                scores.append(Score(i, float(i != index), f"current value {current[i]}, {weight} more each turn"))
        self.ahead = ahead
        return Explained("in turn by weight: the highest current value; every worker has its own turn", scores)
