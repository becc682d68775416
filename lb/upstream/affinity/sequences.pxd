"""The open sequences of a pool: requests of a stateful model that all have to reach the endpoint of the first.

The protocol is Triton's (sequence extension): the parameters `sequence_id`, `sequence_start` and `sequence_end` of an
inference request. The table are the segment's, so that it is no matter which worker a request comes to.
"""

from libc.stdint cimport uint64_t
from lb.upstream.affinity.pool_affinity cimport PoolAffinity


cdef enum where:
    SEQUENCE_ANYWHERE = 0             # it begins: by the pool's policy
    SEQUENCE_HERE                     # at this endpoint of the pool
    SEQUENCE_LEAVING                  # at this endpoint of those that the plan no longer names
    SEQUENCE_UNKNOWN                  # it is not open
    SEQUENCE_LOST                     # it was; its endpoint, and its state, are gone


cdef class Sequences(PoolAffinity):
    cdef Sequences leaving            # of the endpoints that the plan no longer names, or None

    # Of model, version and id, which is `text` or the digits of a number: these are two ids.
    cdef uint64_t key_of(self, const char *model, size_t m, const char *version, size_t v, const char *id,
                         size_t n, bint text) noexcept nogil
    # Where a request of the sequence `key` goes: `index` with SEQUENCE_HERE and _LEAVING.
    cdef where find(self, uint64_t key, bint start, uint64_t now, int *index) noexcept nogil
    # Its endpoint cannot be reached: it ends, and is counted.
    cdef void lose(self, uint64_t key) noexcept nogil
    # Whether an endpoint goes on serving the sequences that it has.
    cdef bint serves(self, int index) noexcept nogil
