"""The endpoint with the lowest average latency for the requests it has in flight (nginx's `least_time last_byte`)."""

from libc.stdint cimport uint64_t
from lb.balancing.latency cimport Latencies
from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet

from lb.balancing.explained import Explained, Score
from lb.balancing.options import DecayOptions


cdef class LeastTime(Policy):
    """Of all available endpoints the least average * (load + the request's own) / weight, which without a cost is
    average * (in flight + 1) / weight; of equal ones the next in turn.

    The request that would be added counts with what time has left of the average, those in flight with all of it: an
    endpoint that was slow a while ago gets one request to show itself by, not all of them until that one ends. One of
    which nothing is known is treated alike.
    """
    cdef Latencies latencies

    Options = DecayOptions

    def __init__(self, endpoints: EndpointSet, options: DecayOptions) -> None:
        Policy.__init__(self, endpoints, options)
        # Workers start at different endpoints: else the first of all of them would meet at one.
        self.rotation = endpoints.worker % endpoints.size if endpoints.size else 0
        self.latencies = Latencies(endpoints, options.decay, False)

    cpdef int pick(self, Choice choice) except -2:
        cdef EndpointSet endpoints = self.endpoints
        cdef int best = -1
        cdef double best_load = 0.0
        cdef double own = choice.cost * endpoints.scale
        cdef int i = self.rotation
        cdef double weight, pending, load
        for _ in range(endpoints.size):
            if i == endpoints.size:
                i = 0
            weight = choice.effective_weight(i)
            if weight > 0:
                pending = endpoints.outstanding(i) * endpoints.scale * self.latencies.pending(i)
                # What is in flight may decide already, and costs no exponential.
                if best < 0 or pending < best_load * weight:
                    load = (self.latencies.faded(i, choice.now) * own + pending) / weight
                    if best < 0 or load < best_load:
                        best, best_load = i, load
            i += 1
        if best < 0:
            return -1
        self.rotation = best + 1
        return best

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok):
        self.latencies.add(index, now, latency_ns, ok)

    def explain(self, choice: Choice) -> Explained:
        scores = []
        for i in range(self.endpoints.size):
            weight = choice.weight(i)
            if weight > 0:
                faded, each = self.latencies.faded(i, choice.now), self.latencies.pending(i)
                load = self.endpoints.load(i)
                note = f"{faded / 1e6:.3g} ms + a load of {load:g}" if faded > 0 else "nothing known"
                own = choice.cost * self.endpoints.scale
                scores.append(Score(i, (faded * own + load * each) / weight, note))
        rule = "the least (average that time has left + load * average) / weight, in ns"
        return Explained(f"{rule}; of equal ones the next in turn", scores)
