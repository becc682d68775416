"""The groups of a pool's endpoints: the levels of its priorities, each in one part or two, the own zone's and the rest.

A choice is one of a group first: the master says what share of the requests each gets (lb.health.levels), in the shared
record of its endpoints. A group is a number: 2 * level, and 1 more for the part in other zones.
"""

from libc.stdint cimport uint32_t, uint64_t

from lb.shared.segment cimport Segment, tg_endpoint


cdef enum:
    TG_GROUPS = 256                   # twice MOST_LEVELS of lb.config.schema.pools.failover


cdef class Groups:
    cdef Segment segment
    cdef readonly int count           # one more than the highest
    # The group of each endpoint.
    cdef readonly tuple group_of      # type: tuple[int, ...]
    cdef bint keyed
    cdef uint32_t turn
    cdef tg_endpoint **members        # one endpoint of each, which tells its share; NULL = it has none

    cdef uint32_t share(self, int group) noexcept nogil
    # Whether the level gets requests, in any of its parts.
    cdef bint active(self, int level) noexcept nogil
    # The group for a request with this key, by their shares; the lowest while none has one.
    cdef int draw(self, uint64_t key) noexcept nogil
    cdef int at_point(self, uint32_t point) noexcept nogil
    # Which are asked, one after the other, where `drawn` is first: their number, and how many of them are of the levels
    # that get requests at all.
    cdef int order(self, int drawn, short *order, int *active) noexcept nogil
    cdef int check(self) except -1
