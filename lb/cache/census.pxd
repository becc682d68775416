"""The most requested entries of a shard: any process, at any time, without its lock."""

from libc.stdint cimport uint32_t, uint64_t

from lb.cache.layout cimport tg_entry, tg_shard_view

cdef enum:
    CENSUS_BYTES = 256   # of an object's beginning, which says what it is


ctypedef struct tg_counted:
    tg_entry entry       # its head
    uint32_t requests    # of late, 15 or more as 15: the sketch's count, and a visit that is not in it yet
    uint32_t memory      # bytes, in whole chunks
    uint32_t copied      # bytes of `start`
    char start[CENSUS_BYTES]


# The entry that begins at a node (1 to the number of chunks); False when none does that anyone has a use for.
cdef bint read_counted(const tg_shard_view *v, uint32_t id, uint64_t now, tg_counted *found) noexcept nogil
# Puts the shard's entries among the `most` best in `best`, of which `count` are there; the best first. Entries that are
# of no use any more, or purged, are passed by. Entries that come and go meanwhile are there or not.
cdef uint32_t shard_census(
    const tg_shard_view *v, uint64_t now, tg_counted *best, uint32_t most, uint32_t count
) noexcept nogil
