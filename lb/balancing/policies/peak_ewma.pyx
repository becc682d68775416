"""The one with the lower expected latency of a few endpoints drawn at random, quick to notice a slow one.

As Finagle's balancer of that name (com.twitter.finagle.loadbalancer.PeakEwma): a latency above the average replaces
it, lower ones wear it down, and without any it fades to 0.
"""

from libc.stdint cimport uint64_t
from lb.balancing.draw cimport Draw
from lb.balancing.latency cimport Latencies
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import ChoiceOptions, DecayOptions


class PeakEwmaOptions(ChoiceOptions, DecayOptions):
    """Those of power_of_two, and how fast latencies fade."""


cdef class PeakEwma(Policy):
    """Of `choices` different available endpoints, drawn in proportion to their weights, the one with the least
    average * (load + the request's own) / weight, which is average * (in flight + 1) / weight where requests are not
    weighed.

    An endpoint of which nothing is known is taken when it is idle, and then not before one that is known. Equal ones
    go to the first drawn. `seed` makes the draws repeatable (0: random).
    """
    cdef int choices
    cdef Draw draw
    cdef Latencies latencies

    Options = PeakEwmaOptions

    def __init__(self, endpoints: EndpointSet, options: PeakEwmaOptions, seed: int = 0) -> None:
        Policy.__init__(self, endpoints, options)
        self.choices = options.choices
        self.draw = Draw(endpoints, seed)
        self.latencies = Latencies(endpoints, options.decay, True)

    cpdef int pick(self, Choice choice) except -2:
        cdef Draw draw = self.draw
        cdef int i, best
        cdef double load, best_load
        draw.begin(choice)
        best = draw.another(choice)
        if best < 0:
            return -1
        best_load = self.load(best, choice)
        for _ in range(self.choices - 1):
            i = draw.another(choice)
            if i < 0:
                break
            load = self.load(i, choice)
            if load < best_load:
                best, best_load = i, load
        return best

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.latencies.add(index, now, latency_ns, ok)

    cdef double load(self, int index, Choice choice) noexcept:
        cdef double running = self.endpoints.outstanding(index) * self.endpoints.scale
        cdef double weight, average
        # At least 1: the weight may have become 0 since the draw.
        weight = max(choice.effective_weight(index), 1)
        average = self.latencies.faded(index, choice.now)
        if average > 0:
            return average * (running + choice.cost * self.endpoints.scale) / weight
        # Finagle adds the number to the penalty. Multiplied it orders them alike, and by weight.
        return self.latencies.pending(index) * running / weight

    def explain(self, choice: Choice) -> Explained:
        scores = []
        for i in range(self.endpoints.size):
            if choice.available(i):
                average = self.latencies.faded(i, choice.now)
                note = f"average {average / 1e6:.3g} ms" if average > 0 else "nothing known"
                scores.append(Score(i, self.load(i, choice), note))
        rule = "the least average * (load + 1) / weight, in ns, of {} drawn by weight"
        return Explained(rule.format(self.choices), scores, True)
