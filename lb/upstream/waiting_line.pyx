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
    cdef const tg_place *places = line.places + line.first
    while low < high:
        middle = (low + high) // 2
        if places[middle].key < key or (places[middle].key == key and places[middle].number < number):
            low = middle + 1
        else:
            high = middle
    return low


cdef int line_insert(tg_line *line, uint64_t key, uint64_t number, bint tied, uint64_t wanted,
                     void *waiter) noexcept nogil:
    cdef size_t at, room
    cdef void *grown
    cdef tg_place *one
    if line.first + line.count == line.room:
        if line.first:
            memmove(line.places, line.places + line.first, line.count * sizeof(tg_place))
            line.first = 0
        else:
            room = max(line.room * 2, <size_t>FIRST_ROOM)
            grown = realloc(line.places, room * sizeof(tg_place))
            if grown == NULL:
                return -1
            line.places = <tg_place *>grown
            line.room = room
    at = line_rank(line, key, number)
    one = line.places + line.first + at
    memmove(one + 1, one, (line.count - at) * sizeof(tg_place))
    one.key = key
    one.number = number
    one.wanted = 0 if tied else wanted
    one.waiter = waiter
    line.count += 1
    line_tally(line, tied, wanted, 1)
    return 0


cdef void line_tally(tg_line *line, bint tied, uint64_t wanted, int by) noexcept nogil:
    cdef int bit
    if tied:
        line.tied += by
    elif wanted:
        line.choosy += by
        bit = __builtin_ctzll(wanted)
        line.wishes[bit] += by
        if line.wishes[bit]:
            line.models |= <uint64_t>1 << bit
        else:
            line.models &= ~(<uint64_t>1 << bit)


cdef void line_take_out(tg_line *line, size_t at) noexcept nogil:
    cdef tg_place *one = line.places + line.first + at
    line.count -= 1
    if at == 0:
        line.first += 1
    else:
        memmove(one, one + 1, (line.count - at) * sizeof(tg_place))
    if line.count == 0:
        line.first = 0


cdef void line_free(tg_line *line) noexcept nogil:
    free(line.places)
    line.places = NULL
