"""An idle endpoint if there is one, however little it can do; else the least loaded for its weight (IPVS' `nq`).

Weinrib and Shenker, "Greed is not enough: adaptive load sharing in large heterogeneous systems" (INFOCOM 1988). What is
best for the request at hand, to wait for a fast endpoint, leaves slow ones idle, and the fast ones longer queues for
the requests that follow.
"""

from libc.stdint cimport int64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions

# Up to this many endpoints a walk over all of them costs less than it is worth to think about.
cdef int ALWAYS_ALL = 32


cdef class NeverQueue(Policy):
    """Of the endpoints with nothing in flight, over all workers, the one of the highest weight; where all are busy, the
    least (load + the request's own) / weight. Of equal ones the next in turn.

    In a large pool the walk ends at an idle endpoint of the highest weight that was seen.
    """
    # At least every weight that was seen, those of endpoints that may come up later included.
    cdef int64_t ceiling

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions) -> None:
        Policy.__init__(self, endpoints, options)
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        self.ceiling = max((endpoints.weight(i) for i in range(endpoints.size)), default=0)

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef int64_t best_load = 0
        cdef int64_t best_weight = 1
        cdef bint best_idle = False
        cdef int i = self.rotation
        cdef int64_t weight, load
        cdef bint idle
        for _ in range(endpoints.size):
            if i == endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if weight > 0:
                load = endpoints.outstanding(i)
                idle = load == 0
                load += choice.cost
                # load / weight < best_load / best_weight, without the rounding of a division.
                if best < 0 or (load * best_weight < best_load * weight if idle == best_idle else idle):
                    best, best_load, best_weight, best_idle = i, load, weight, idle
                if weight >= self.ceiling:
                    self.ceiling = weight
                    if idle and endpoints.size > ALWAYS_ALL:
                        break
            i += 1
        if best < 0:
            return -1
        self.rotation = best + 1
        return best

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        scores = []
        for i in range(endpoints.size):
            weight = choice.weight(i)
            if weight > 0:
                load = endpoints.outstanding(i)
                # Idle ones by their weight, before all others by their load.
                score = (load + choice.cost) * endpoints.scale / weight if load else -float(weight)
                scores.append(Score(i, score, f"a load of {load * endpoints.scale:g}" if load else "idle"))
        rule = "an idle one, of the highest weight; if all are busy the least (load + 1) / weight"
        return Explained(f"{rule}; of equal ones the next in turn", scores)
