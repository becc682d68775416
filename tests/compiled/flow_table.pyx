"""A Python view of the table of flows.h for tests: keys are numbers, hashes are the test's choice."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from lb.net.datagram cimport tg_flow_key
from lb.net.flows cimport (
    tg_flow, tg_flows, tg_flows_add, tg_flows_find, tg_flows_free, tg_flows_remove, tg_flows_reserve,
)


cdef void make_key(tg_flow_key *key, uint64_t number) noexcept nogil:
    memset(key, 0, sizeof(tg_flow_key))
    memcpy(key.address, &number, sizeof(number))


cdef class FlowsProbe:
    """A table whose entry for a key is the key."""
    cdef tg_flows table

    def __dealloc__(self):
        self.clear()
        tg_flows_free(&self.table)

    def reserve(self, size_t expected):
        if tg_flows_reserve(&self.table, expected) < 0:
            raise MemoryError
        return self.table.size

    def find(self, uint64_t number, uint64_t hashed):
        """Whether the key is there."""
        cdef tg_flow_key key
        make_key(&key, number)
        return tg_flows_find(&self.table, &key, hashed) != NULL

    def add(self, uint64_t number, uint64_t hashed):
        cdef tg_flow *flow = <tg_flow *>calloc(1, sizeof(tg_flow))
        if flow == NULL:
            raise MemoryError
        make_key(&flow.key, number)
        flow.hash = hashed
        tg_flows_add(&self.table, flow)

    def remove(self, uint64_t number, uint64_t hashed):
        cdef tg_flow_key key
        cdef tg_flow *flow
        make_key(&key, number)
        flow = tg_flows_find(&self.table, &key, hashed)
        if flow == NULL:
            raise KeyError(number)
        tg_flows_remove(&self.table, flow)
        free(flow)

    def clear(self):
        cdef size_t i
        cdef tg_flow *flow
        for i in range(self.table.size):
            while self.table.buckets[i] != NULL:
                flow = self.table.buckets[i]
                tg_flows_remove(&self.table, flow)
                free(flow)

    def __len__(self):
        return <Py_ssize_t>self.table.count
