"""Sessions by flow, and how many each client has: see flows.h for the contract."""

from libc.stdint cimport uint32_t, uint64_t
from lb.core.datagram cimport tg_flow_key


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

    ctypedef struct tg_source:
        uint32_t count
    ctypedef struct tg_sources:
        size_t size
        size_t count
    int tg_sources_reserve(tg_sources *t, size_t expected) noexcept
    tg_source *tg_sources_enter(tg_sources *t, const unsigned char *address, uint64_t hash) noexcept
    void tg_sources_leave(tg_sources *t, tg_source *source) noexcept
    void tg_sources_free(tg_sources *t) noexcept
