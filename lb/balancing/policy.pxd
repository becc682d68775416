from libc.stdint cimport uint64_t

from lb.endpoints.choice cimport Choice
from lb.endpoints.set cimport EndpointSet


cdef class Policy:
    cdef readonly EndpointSet endpoints
    cdef readonly bint learns
    cdef readonly bint by_in_flight
    cdef readonly bint by_cost
    cdef readonly bint by_service
    cdef readonly bint keeps_progress
    cdef readonly bint limits
    cdef readonly bint reads_reports
    cdef readonly object probes       # type: PolicyOptions | None
    # Whose turn it is, in a policy that has turns: kept apart for each group by whoever lets it choose among one.
    cdef public uint64_t rotation

    cpdef int pick(self, Choice choice) except -2
    cpdef void observe(self, int index, uint64_t now, uint64_t latency_ns, bint ok)
    cpdef void learn(self, int index, uint64_t now, uint64_t latency_ns, bint ok, int in_flight_at_start, int cost)
    cpdef void abandoned(self, int index, uint64_t now, uint64_t waited_ns)
    cdef double usual_gap(self, int index) noexcept
    cpdef void probed(self, int index, uint64_t now, double rif, double latency_ns)
