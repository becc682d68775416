"""The endpoint that would have the least load per unit of weight, counted over all workers: requests in flight, or
what they cost.

The count is exact: it is the sum of every worker's column in the shared segment, not this worker's own view.
"""

from libc.stdint cimport int64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions

# Up to this many endpoints a walk over all of them costs less than it is worth to think about.
cdef int ALWAYS_ALL = 32


cdef class LeastRequest(Policy):
    """The least (load + the request's own) / weight, where requests are not weighed (in flight + 1) / weight; of equal
    ones the next in turn, so that idle endpoints share evenly.

    With the one that is about to be added counted, a weight says how much an endpoint can do: one of weight 10 gets
    ten before one of weight 1 gets its first (shortest expected delay). For shares of the traffic whatever the load,
    as for a canary, round_robin is the policy.

    In a large pool the walk ends at an idle endpoint of the highest weight, which none can beat. A weight that is
    raised beyond all others while the pool runs is known once a walk has passed it, after one round of choices.
    """
    cdef int64_t ceiling

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions) -> None:
        Policy.__init__(self, endpoints, options)
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        # At least every weight, those of endpoints that may come up later included.
        self.ceiling = max((endpoints.weight(i) for i in range(endpoints.size)), default=0)

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef int64_t best_load = 0
        cdef int64_t best_weight = 1
        cdef int i = self.rotation
        cdef int64_t weight, load
        for _ in range(endpoints.size):
            if i == endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if weight > 0:
                load = endpoints.outstanding(i) + choice.cost
                # load / weight < best_load / best_weight, without the rounding of a division.
                if best < 0 or load * best_weight < best_load * weight:
                    best, best_load, best_weight = i, load, weight
                if weight >= self.ceiling:
                    self.ceiling = weight
                    if load == choice.cost and endpoints.size > ALWAYS_ALL:
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
                scores.append(Score(i, (endpoints.outstanding(i) + choice.cost) * endpoints.scale / weight))
        return Explained("the least (load + 1) / weight; of equal ones the next in turn", scores)
