"""The shared segment: its mapping, with the words that Python reads and writes.

What segment.h declares (lb.shared.segment_layout) can be had from here, too.
"""

from libc.stdint cimport uint32_t
from lb.shared.segment_layout cimport *
from lb.shared.segment_map cimport SegmentMap


cdef class Segment(SegmentMap):
    cdef void clear_sources(self, uint32_t worker) noexcept
    cdef int check_series(self, index) except -1
    cdef tg_endpoint *record(self, slot) except NULL
    cdef void reset(self, tg_endpoint *record) noexcept
