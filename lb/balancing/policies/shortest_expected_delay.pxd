cimport cython
from libc.stdint cimport uint64_t

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


# As C globals: names of the module would be looked up and boxed at every use.
cdef int _WINDOW
cdef int _SAMPLES
cdef double _ALONE
cdef double _NEW
cdef double _MOST
cdef double _FAIR
cdef double _LEAST_LEFT
cdef double _LATE
cdef double _UNKNOWN_NS


cdef class ShortestExpectedDelay(Policy):
    cdef double decay
    cdef double[::1] usual_in_flight

    @cython.locals(endpoints=EndpointSet, i=int, seen=int, best=int, running=int, weight=int, delay=double,
                   best_delay=double)
    cpdef int pick(self, Choice choice) except -2

    @cython.locals(now=uint64_t, service=double, running=int, elapsed=double, left=double, own=double, load=double,
                   served=double)
    cdef double delay(self, int index, Choice choice) noexcept

    @cython.locals(samples=int, age=double, grown=double)
    cdef double faded(self, int index, double idle) noexcept

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)

    @cython.locals(endpoints=EndpointSet, service=double, sample=double, samples=int, faded=double)
    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight_at_start, int cost)

    cdef double since(self, uint64_t moment, uint64_t now) noexcept

    @cython.locals(highest=double, i=int)
    cdef double highest(self) noexcept
