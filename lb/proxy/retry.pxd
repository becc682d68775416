"""When a request is tried again on another endpoint, as a route says it."""

from libc.stdint cimport uint64_t


cdef enum:
    RETRY_CONNECT = 1
    RETRY_RESET = 2
    RETRY_5XX = 4
    RETRY_TIMEOUT = 8


cdef class RetryPolicy:
    cdef readonly int attempts
    cdef readonly int on              # set of the above
    cdef readonly uint64_t per_try_timeout   # ns; 0 = none
    cdef uint64_t percent
    cdef uint64_t least               # retries a second that are always allowed
    # The budget: what was asked and retried in this second and the last. Per worker, so in proportion to its requests.
    cdef uint64_t second
    cdef uint64_t asked[2]
    cdef uint64_t retried[2]

    # A request of the route begins.
    cdef void begin(self, uint64_t now) noexcept
    # Whether another try after a failure of `kind` is within the rules and the budget; if so, it is counted.
    cdef bint allows(self, int kind, uint64_t now) noexcept
    # The same without counting, for who has to know before it acts.
    cdef bint names(self, int kind) noexcept
    cdef void turn(self, uint64_t now) noexcept


# Whether a status is one that another endpoint may not give: 502, 503, 504.
cdef bint is_retryable(int status) noexcept nogil
