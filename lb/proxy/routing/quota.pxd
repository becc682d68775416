"""The quotas of a route: who counts as one client, what it may use of a window of the calendar, and what it is told."""

from libc.stdint cimport int64_t, uint64_t
from lb.http.head cimport Scan
from lb.net.buffer cimport tg_buffer
from lb.shared.quotas cimport Quotas, tg_window


cdef enum:
    QUOTAS_OF_ROUTE = 4               # at most


cdef struct tg_quota_use:
    # One quota, after a request has used one of it.
    uint64_t limit
    uint64_t used
    uint64_t length                   # of the window, in seconds
    uint64_t reset                    # seconds until it begins anew


cdef class Quota:
    cdef Quotas quotas
    cdef readonly str name
    cdef bytes label                  # the name in names of clients, with a NUL
    cdef int kind                     # KEY_* of lb.upstream.pool; KEY_NONE = all share one
    cdef bytes header
    cdef uint64_t requests
    cdef dict overrides               # client, as bytes -> its requests; None where there are none
    cdef str per
    cdef bint told                    # answers say what is left
    cdef bytes policy                 # "RateLimit-Policy: "NAME";q=" and
    cdef bytes item                   # "RateLimit: "NAME";r=" up to the numbers
    cdef tg_window window             # that runs, and in seconds:
    cdef int64_t begins
    cdef int64_t ends

    # Follows the clock; `wall` is Unix time in seconds. 0, or -1 (no memory).
    cdef int follow(self, int64_t wall) noexcept
    # Uses one for the request, whose client is at `source` (text). False: it has used all.
    cdef bint take(self, const Scan *scan, const char *source, size_t n, int64_t wall, tg_quota_use *use) noexcept
    # Gives back what the same request has just taken.
    cdef void put_back(self, const Scan *scan, const char *source, size_t n) noexcept
    cdef size_t client_of(self, const Scan *scan, const char *source, size_t n, uint64_t *limit) noexcept


cdef class QuotaUse:
    """What a request has used of the quotas of its route."""
    cdef readonly Quota refused_by    # the quota that had no more; None: it may go on
    cdef tuple quotas
    cdef tg_quota_use[QUOTAS_OF_ROUTE] uses
    cdef int count                    # of `uses`

    # Nanoseconds until it is of use to ask again.
    cdef uint64_t wait(self) noexcept
    # The field lines that tell the client what it has left, with Retry-After for one that is refused. 0, or -1 when
    # memory is out.
    cdef int append(self, tg_buffer *out) noexcept


# Uses one of each of `quotas` (of Quota), or none of any. None: out of memory.
cdef QuotaUse use_quotas(tuple quotas, const Scan *scan, const char *source, size_t n, int64_t wall_ns)
