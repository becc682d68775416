"""The entries of one pool: see pool_affinity.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from lb.shared.affinity_table cimport AffinityTable
from lb.endpoints.set cimport EndpointSet


cdef class PoolAffinity:

    def __dealloc__(self):
        free(self.slots)

    cdef int keep(self, plan, EndpointSet endpoints, AffinityTable table, bytes scope, uint64_t idle) except -1:
        cdef int i
        self.table = table
        self.endpoints = endpoints
        self.salt = table.key_of(<const char *>scope, <size_t>len(scope))
        self.idle = idle
        self.slots = <uint32_t *>calloc(len(plan.endpoints) + 1, sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        for i, endpoint in enumerate(plan.endpoints):
            self.slots[i] = endpoint.slot
        return 0

    cdef void begin(self, uint64_t key, int index, uint64_t now) noexcept nogil:
        self.table.put(key, self.slots[index], now, self.idle)

    cdef void move(self, uint64_t key, int index, uint64_t now) noexcept nogil:
        self.table.move(key, self.slots[index], now, self.idle)

    cdef void touch(self, uint64_t key, uint64_t now) noexcept nogil:
        self.table.touch(key, now, self.idle)

    cdef void end(self, uint64_t key) noexcept nogil:
        self.table.drop(key)

    cdef int index_of(self, int slot) noexcept nogil:
        cdef int i
        if slot >= 0:
            for i in range(self.endpoints.size):
                if self.slots[i] == <uint32_t>slot:
                    return i
        return -1
