"""When the turn of those who wait in a queue will come, by how long requests keep their endpoints."""

from libc.stdint cimport uint64_t
from lb.upstream.queue cimport PoolQueue

# Endpoints' places for requests that want this model, and the bits of those models that are ready there, too.
cdef uint64_t places_of(PoolQueue queue, uint64_t wanted, uint64_t *rivals) noexcept
# How many come before one with this key and may take an endpoint from it, over all workers, roughly.
cdef double ahead_of(PoolQueue queue, uint64_t key, uint64_t rivals) noexcept
# Tells other workers how many come before whom in this one's line, which is not empty.
cdef void publish_marks(PoolQueue queue) noexcept
# Nanoseconds until it is the turn of one with this key; 0 when nothing is known of that.
cdef double wait_of(PoolQueue queue, uint64_t key, uint64_t wanted, uint64_t now) noexcept
# Somebody has waited for longer than a burst lasts.
cdef bint overloaded(PoolQueue queue, uint64_t now) noexcept
