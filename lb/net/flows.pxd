"""Sessions by flow: see flows.h for the contract."""

from libc.stdint cimport uint64_t
from lb.net.datagram cimport tg_flow_key


cdef extern from "flows.h" nogil:
    ctypedef struct tg_flow:
        uint64_t hash
        void *owner
        tg_flow_key key
    ctypedef struct tg_flows:
        tg_flow **buckets
        size_t size
        size_t count
    int tg_flows_reserve(tg_flows *t, size_t expected) noexcept
    void tg_flows_free(tg_flows *t) noexcept
    tg_flow *tg_flows_find(const tg_flows *t, const tg_flow_key *key, uint64_t hash) noexcept
    void tg_flows_add(tg_flows *t, tg_flow *flow) noexcept
    void tg_flows_remove(tg_flows *t, tg_flow *flow) noexcept
