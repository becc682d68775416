"""The records of a pool's endpoints in the shared segment, word by word.

Whatever several words of a record say together, or a record and the columns of in-flight counts, is the EndpointSet's.
"""

from libc.stdint cimport uint64_t

from lb.shared.segment cimport Segment, tg_endpoint


cdef class EndpointRecords:
    cdef Segment segment
    cdef readonly int size
    cdef readonly int worker          # whose in-flight column `acquire` and `release` write
    cdef tg_endpoint **records

    # Begins with the endpoints whose records are at `slots`, all of them in the segment.
    cdef int hold(self, Segment segment, list slots) except -1
    cdef int check(self, int i) except -1

    # For Python and for whoever cannot vouch for the index: IndexError when it is out of range.
    cpdef int weight(self, int i)

    # For compiled callers that hold an index (0 <= i < size).
    # Of those that wait for this very endpoint: the worker that gets its next slot until `until`; -1 = anybody.
    cdef void claim(self, int i, uint64_t until) noexcept nogil
    cdef void unclaim(self, int i) noexcept nogil
    cdef int claimant(self, int i, uint64_t now) noexcept nogil
    cdef void set_progress(self, int i, uint64_t now) noexcept nogil
    cdef void set_latency(self, int i, double latency_ns, uint64_t now) noexcept nogil
    cdef void set_latency_samples(self, int i, int samples) noexcept nogil
    # The last load report: written by whichever worker got it.
    cdef double reported_utilization(self, int i) noexcept nogil
    cdef double reported_qps(self, int i) noexcept nogil
    cdef double reported_eps(self, int i) noexcept nogil
    cdef uint64_t reported_at(self, int i) noexcept nogil    # 0: it never reported
    cdef uint64_t reporting_since(self, int i) noexcept nogil     # the later of that and when it came up
    cdef void set_report(self, int i, double utilization, double qps, double eps, uint64_t now) noexcept nogil
    cdef void forget_report(self, int i) noexcept nogil
    cdef void set_load_word(self, int i, int at, uint64_t word) noexcept nogil
