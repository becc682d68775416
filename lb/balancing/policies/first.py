"""The first endpoint with room, so that the others can stay idle (HAProxy's `balance first`)."""

from __future__ import annotations

from lb.balancing.explained import Explained, Score
from lb.balancing.options import FirstOptions
from lb.balancing.policy import Policy
from lb.endpoints.choice import Choice
from lb.endpoints.set import EndpointSet


class First(Policy):
    """In the order of the configuration, the first available endpoint with a load below `fill` per weight, counted over
    all workers; when all are full, the least (load + the request's own) / weight, the first of equal ones.

    The load sits on as few endpoints as can bear it; those at the end of the list can be switched off.
    """

    Options = FirstOptions

    def __init__(self, endpoints: EndpointSet, options: FirstOptions) -> None:
        Policy.__init__(self, endpoints, options)
        self.fill = options.fill

    def pick(self, choice: Choice) -> int:
        endpoints = self.endpoints
        best = -1
        best_load = 0
        best_weight = 1
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
