"""The entries of one pool in the table of all (lb.shared.affinity_table): under keys of its own, and by its endpoints'
indices."""

from libc.stdint cimport uint32_t, uint64_t
from lb.shared.hashing cimport tg_mix64
from lb.shared.affinity_table cimport AffinityTable
from lb.endpoints.set cimport EndpointSet


# A key, or a pool's salt, with another part: never 0.
cdef inline uint64_t mix_key(AffinityTable table, uint64_t key, const char *text, size_t n) noexcept nogil:
    cdef uint64_t mixed = tg_mix64(key ^ table.key_of(text, n))
    return mixed if mixed else 1


cdef class PoolAffinity:
    cdef AffinityTable table
    cdef EndpointSet endpoints
    cdef uint64_t salt
    cdef uint64_t idle
    cdef uint32_t *slots              # of the endpoints

    # For the subclass's constructor: entries of the pool `plan` in `table`, told apart by `scope`.
    cdef int keep(self, plan, EndpointSet endpoints, AffinityTable table, bytes scope, uint64_t idle) except -1
    # It is at this endpoint from now on.
    cdef void begin(self, uint64_t key, int index, uint64_t now) noexcept nogil
    # The same of one that began elsewhere, where nobody has heard of it.
    cdef void move(self, uint64_t key, int index, uint64_t now) noexcept nogil
    # It is in use.
    cdef void touch(self, uint64_t key, uint64_t now) noexcept nogil
    cdef void end(self, uint64_t key) noexcept nogil
    # The endpoint of this slot; -1 = none of the pool's, or no slot (AFFINITY_…).
    cdef int index_of(self, int slot) noexcept nogil
