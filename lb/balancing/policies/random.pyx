"""Endpoints at random, by weight."""

from lb.balancing.draw cimport Draw
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import PolicyOptions


cdef class Random(Policy):
    """Any available endpoint, with a probability in proportion to its weight.

    Shares as round_robin's, without a turn that workers or several load balancers could fall into step with. `seed`
    makes the draws repeatable (0: random).
    """
    cdef Draw draw

    def __init__(self, endpoints: EndpointSet, options: PolicyOptions, seed: int = 0) -> None:
        Policy.__init__(self, endpoints, options)
        self.draw = Draw(endpoints, seed)

    cpdef int pick(self, Choice choice) except -2:
        self.draw.begin(choice)
        return self.draw.another(choice)

    def explain(self, choice: Choice) -> Explained:
        weights = {i: choice.weight(i) for i in range(self.endpoints.size)}
        total = sum(weights.values())
        scores = [Score(i, 0.0, f"{weight / total:.1%} of the draws") for i, weight in weights.items() if weight > 0]
        return Explained("one drawn by weight", scores, True)
