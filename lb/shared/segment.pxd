"""The shared segment: one process's mapping of it, and the words that Python reads and writes.

What segment.h declares (lb.shared.segment_layout) can be had from here, too.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from lb.shared.segment_layout cimport *


cdef class Segment:
    cdef char *base
    cdef tg_header *header
    cdef readonly int fd
    cdef readonly int worker          # this process's column and stripe; -1 in the master
    cdef uint64_t mapped              # bytes mapped at base; 0 once closed

    cdef tg_endpoint *endpoint(self, uint32_t slot) noexcept nogil
    # This worker's in-flight word of an endpoint (single writer).
    cdef int32_t *inflight_word(self, uint32_t slot) noexcept nogil
    # The exact number of requests in flight at an endpoint: the sum over all workers' columns.
    cdef int32_t inflight_total(self, uint32_t slot) noexcept nogil
    # The words of a series in this worker's stripe.
    cdef uint64_t *series(self, uint32_t index) noexcept nogil
    # The same of any worker; NULL for the master (-1).
    cdef int32_t *inflight_of(self, int worker, uint32_t slot) noexcept nogil
    cdef uint64_t *series_of(self, int worker, uint32_t index) noexcept nogil
    # What a worker's requests at an endpoint cost, in TG_COST_ONE of an average one (single writer); NULL for -1.
    cdef int32_t *outstanding_of(self, int worker, uint32_t slot) noexcept nogil
    # A worker's column of counts of sources.
    cdef uint32_t *source_counts_of(self, uint32_t worker) noexcept nogil
    # A worker's column of requests that it has under way of entries of stick tables.
    cdef uint32_t *stick_counts_of(self, uint32_t worker) noexcept nogil

    cdef void unmap(self) noexcept
    cdef int map(self, int fd, uint64_t size) except -1
    cdef int check_open(self) except -1
    cdef void clear_sources(self, uint32_t worker) noexcept
    cdef void unlock_quotas(self, uint32_t worker) noexcept
    cdef void clear_sticks(self, uint32_t worker) noexcept
    cdef int check_series(self, index) except -1
    cdef tg_endpoint *record(self, slot) except NULL
    cdef void reset(self, tg_endpoint *record) noexcept
