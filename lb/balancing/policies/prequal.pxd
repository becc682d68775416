cimport cython
from libc.stdint cimport int64_t, uint64_t

from lb.balancing.policy cimport Policy
from lb.balancing.probes cimport ProbePool
from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


# As C globals: names of the module would be looked up and boxed at every use.
cdef int _WINDOW
cdef int _RANGES
cdef int _AGE_BITS
cdef uint64_t _AGE_MASK
cdef int _AGE_SHIFT
cdef uint64_t _MOST_NS
cdef double _NEW
cdef double _MOST
cdef double _UNKNOWN_NS
cdef int _STEPS
cdef int _EXACT
cdef int _PER_DOUBLING
cdef int _OBSERVED


# What is done for every endpoint at every choice, to be compiled into the loop over them: functions, as methods are
# called by way of a table.
@cython.locals(at=int, rest=int)
cdef int _range_of(int in_flight) noexcept


@cython.locals(step=int)
cdef int _step_of(double load) noexcept


cdef class Prequal(Policy):
    cdef int heaviest
    cdef double quantile
    cdef double full
    cdef double decay
    cdef int[::1] counts
    cdef int observed
    cdef readonly ProbePool pool      # empty without probes

    @cython.locals(entry=int)
    cpdef int pick(self, Choice choice) except -2

    @cython.locals(endpoints=EndpointSet, now=uint64_t, i=int, seen=int, limit=int, cold=int, hot=int, running=int,
                   weight=int, heaviest=int, step=int, load=double, latency=double, lowest=double, least=double)
    cdef int pick_counted(self, Choice choice) noexcept

    @cython.locals(weight=int)
    cpdef void probed(self, int index, uint64_t now, double rif, double latency_ns)

    @cython.locals(now=uint64_t, pool=ProbePool, i=int, entry=int, limit=int, cold=int, hot=int, usable=int,
                   weight=int, load=double, latency=double, lowest=double, least=double)
    cdef int choose_probed(self, Choice choice) noexcept

    @cython.locals(pool=ProbePool)
    cdef double load_of(self, int entry, int weight) noexcept

    @cython.locals(pool=ProbePool, index=int)
    cdef double latency_of(self, int entry, uint64_t now) noexcept

    @cython.locals(pool=ProbePool, index=int)
    cdef int use_probe(self, int entry) noexcept

    @cython.locals(pool=ProbePool, entry=int, limit=int, found=int, hot=cython.bint, is_hot=cython.bint, load=double,
                   value=double, highest=double)
    cdef int worst(self) noexcept

    @cython.locals(endpoints=EndpointSet)
    cdef bint is_full(self, int index, uint64_t now) noexcept

    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)

    @cython.locals(endpoints=EndpointSet, at=int, word=uint64_t, latency=uint64_t, sample=double, known=double)
    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight, int cost)

    @cython.locals(at=int, word=uint64_t, age=uint64_t, latency=double, kept=double)
    cdef double latency(self, int index, int in_flight, uint64_t now) noexcept

    cdef int level(self, int load) noexcept

    @cython.locals(distance=int)
    cdef int nearest(self, int index, int at) noexcept

    @cython.locals(found=int)
    cdef double known(self, int index, int at) noexcept

    @cython.locals(i=int, highest=double)
    cdef double highest(self, int at) noexcept

    @cython.locals(step=int, rest=double)
    cdef int limit(self) noexcept

    @cython.locals(i=int)
    cdef void count(self, int step) noexcept
