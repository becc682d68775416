"""How long requests keep their endpoints: what the forecast of a queue goes by."""

from libc.stdint cimport uint64_t


cdef class ServiceTime:
    """The mean of a pool, as one worker sees it."""
    cdef double mean                  # nanoseconds; 0 = not known
    cdef uint64_t learned_at
    cdef int count                    # of those that it is the mean of, SMOOTHING at most

    # A request has kept its endpoint for `latency` ns.
    cdef void learn(self, uint64_t now, uint64_t latency) noexcept
    # Nanoseconds; 0 when too little is known of late.
    cdef double known(self, uint64_t now) noexcept


cdef class Warmth:
    """Whether what requests took at an endpoint tells of others, or only of a model that was still being loaded."""
    cdef uint64_t heard               # when it answered last; 0 = never
    cdef uint64_t warm_since          # when it answered for the first time after a silence

    # Whether what a request took tells of others, that was sent to it at `sent` and is over at `now`. `answered`: by
    # the endpoint, and not because its client has left.
    cdef bint tells(self, uint64_t sent, uint64_t now, bint answered) noexcept
