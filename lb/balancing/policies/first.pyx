"""The first endpoint with room, so that the others can stay idle (HAProxy's `balance first`)."""

from libc.stdint cimport int64_t
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from pydantic import Field

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions
from lb.config.schema.base import Integer


class FirstOptions(PolicyOptions):
    fill: Integer = Field(
        ge=1,
        le=1_000_000,
        description="Requests in flight per unit of weight at an endpoint before the next one is used.",
    )


cdef class First(Policy):
    """In the order of the configuration, the first available endpoint with a load below `fill` per weight, counted over
    all workers; when all are full, the least (load + the request's own) / weight, the first of equal ones.

    The load sits on as few endpoints as can bear it; those at the end of the list can be switched off.
    """
    cdef int64_t fill

    Options = FirstOptions

    def __init__(self, endpoints: EndpointSet, options: FirstOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.fill = options.fill

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef int64_t best_load = 0
        cdef int64_t best_weight = 1
        cdef int i
        cdef int64_t weight, load
        for i in range(endpoints.size):
            weight = choice.effective_weight(i)
            if weight == 0:
                continue
            load = endpoints.outstanding(i)
            if load * endpoints.unit < self.fill * endpoints.one * weight:
                return i
            load += choice.cost
            if best < 0 or load * best_weight < best_load * weight:
                best, best_load, best_weight = i, load, weight
        return best

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        scores = []
        for i in range(endpoints.size):
            weight = choice.weight(i)
            if weight > 0:
                load = endpoints.load(i)
                room = load < self.fill * weight
                # Those with room by their place, before all others by what they have.
                score = float(i) if room else endpoints.size + (load + 1) / weight
                scores.append(Score(i, score, f"{load:g} of {self.fill * weight}, {'room' if room else 'full'}"))
        rule = "the first with a load below fill * weight; if all have as much the least (load + 1) / weight"
        return Explained(rule, scores)
