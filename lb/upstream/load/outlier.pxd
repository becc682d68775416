"""How the answers of a pool's endpoints are held against them, in the worker that got them: see outlier.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from lb.endpoints.ejection_state cimport Standings


cdef enum verdict:
    VERDICT_NONE = 0                  # says nothing of the endpoint: the client left
    VERDICT_GOOD
    VERDICT_FAULT                     # an answer of 5xx
    VERDICT_GATEWAY                   # 502, 503, 504, UNAVAILABLE, or no (whole) answer at all
    VERDICT_BUSY                      # 429, RESOURCE_EXHAUSTED: it refuses, which is no fault, but others do better

# The verdict on a try that ended with `status`, or that brought no answer to the end (not `ok`).
cdef int verdict_of(int status, bint ok) noexcept nogil
# The same of an answer with gRPC status `code` (0 to 16).
cdef int verdict_of_grpc(int code) noexcept nogil
# Whether a gRPC status is the server's fault: it stands for 5xx.
cdef bint is_fault(int code) noexcept nogil


cdef class Outlier:
    cdef Standings standings
    cdef uint64_t **series            # the pool's: per endpoint, this worker's words
    cdef int rank                     # the worker
    cdef uint32_t consecutive_5xx     # so many in a row eject; 0 = never
    cdef uint32_t consecutive_gateway
    cdef int most                     # endpoints that may be ejected at once

    # A try at endpoint `index` that began at `started` (monotonic ns) has ended.
    cdef void judge(self, int index, int verdict, uint64_t started) noexcept
