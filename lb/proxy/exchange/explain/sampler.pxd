"""Which requests of a listener have the choice of their endpoint explained."""

from libc.stdint cimport uint64_t
from lb.http.head cimport Scan
from lb.net.ip cimport Networks


cdef enum:
    EXPLAIN_NOT = 0
    EXPLAIN_LOG                       # in the access log
    EXPLAIN_ASKED                     # and to the client


cdef class Sampler:
    cdef uint64_t threshold           # of 2**56
    cdef Networks trusted             # None = nobody may ask

    # For a request of the client `source` (text): EXPLAIN_…. A field that asks for it is marked as one that is not
    # passed on, whoever sent it.
    cdef int wants(self, Scan *scan, const char *source, size_t n) noexcept
