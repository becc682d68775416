"""The least loaded of a few endpoints drawn at random (Mitzenmacher 2001, "The power of two choices").

Almost as even as least_request at a cost that does not grow with the number of endpoints, and workers that choose at
the same moment do not all choose the same endpoint.
"""

from libc.stdint cimport int64_t
from lb.balancing.draw cimport Draw
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import ChoiceOptions


cdef class PowerOfTwo(Policy):
    """Of `choices` different available endpoints, drawn in proportion to their weights, the one with the least load
    per weight.

    Equal ones go to the first drawn, so that idle endpoints share by weight. `seed` makes the draws repeatable (0:
    random).
    """
    cdef int choices
    cdef Draw draw

    Options = ChoiceOptions

    def __init__(self, endpoints: EndpointSet, options: ChoiceOptions, seed: int = 0) -> None:
        Policy.__init__(self, endpoints, options)
        self.choices = options.choices
        self.draw = Draw(endpoints, seed)

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef Draw draw = self.draw
        cdef int i, best
        cdef int64_t weight, load, best_load, best_weight
        draw.begin(choice)
        best = draw.another(choice)
        if best < 0:
            return -1
        best_load = endpoints.outstanding(best)
        # At least 1: the weight may have become 0 since the draw.
        best_weight = max(choice.effective_weight(best), 1)
        for _ in range(self.choices - 1):
            i = draw.another(choice)
            if i < 0:
                break
            load = endpoints.outstanding(i)
            weight = max(choice.effective_weight(i), 1)
            if load * best_weight < best_load * weight:
                best, best_load, best_weight = i, load, weight
        return best

    def explain(self, choice: Choice) -> Explained:
        endpoints = self.endpoints
        scores = []
        for i in range(endpoints.size):
            weight = choice.weight(i)
            if weight > 0:
                scores.append(Score(i, endpoints.load(i) / weight))
        return Explained(f"the least load / weight of {self.choices} drawn by weight", scores, True)
