"""A sorted array: see waiting_line.pxd.

Its length is bounded, and moving some pointers is cheaper than any tree's step; the first goes without moving anybody.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil

cdef enum:
    FIRST_ROOM = 64


cdef size_t line_rank(const tg_line *line, uint64_t key, uint64_t number) noexcept nogil:
    cdef size_t low = 0, high = line.count, middle
    cdef const tg_entry *entries = line.entries + line.first
    while low < high:
        middle = (low + high) // 2
        if entries[middle].key < key or (entries[middle].key == key and entries[middle].number < number):
            low = middle + 1
        else:
            high = middle
    return low


cdef int line_insert(tg_line *line, uint64_t key, uint64_t number, bint endpoint_bound, uint64_t wanted,
                     void *waiter) noexcept nogil:
    cdef size_t at, room
    cdef void *grown
    cdef tg_entry *one
    if line.first + line.count == line.room:
        if line.first:
            memmove(line.entries, line.entries + line.first, line.count * sizeof(tg_entry))
            line.first = 0
        else:
            room = max(line.room * 2, <size_t>FIRST_ROOM)
            grown = realloc(line.entries, room * sizeof(tg_entry))
            if grown == NULL:
                return -1
            line.entries = <tg_entry *>grown
            line.room = room
    at = line_rank(line, key, number)
    one = line.entries + line.first + at
    memmove(one + 1, one, (line.count - at) * sizeof(tg_entry))
    one.key = key
    one.number = number
    one.wanted = 0 if endpoint_bound else wanted
    one.waiter = waiter
    line.count += 1
    line_tally(line, endpoint_bound, wanted, 1)
    return 0


cdef void line_tally(tg_line *line, bint endpoint_bound, uint64_t wanted, int by) noexcept nogil:
    cdef int bit
    if endpoint_bound:
        line.endpoint_bound += by
    elif wanted:
        line.model_specific += by
        bit = __builtin_ctzll(wanted)
        line.wanted_by[bit] += by
        if line.wanted_by[bit]:
            line.models |= <uint64_t>1 << bit
        else:
            line.models &= ~(<uint64_t>1 << bit)


cdef void line_take_out(tg_line *line, size_t at) noexcept nogil:
    cdef tg_entry *one = line.entries + line.first + at
    line.count -= 1
    if at == 0:
        line.first += 1
    else:
        memmove(one, one + 1, (line.count - at) * sizeof(tg_entry))
    if line.count == 0:
        line.first = 0


cdef void line_free(tg_line *line) noexcept nogil:
    free(line.entries)
    line.entries = NULL
