"""Closed streams of HTTP/2: see closed.pxd."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free


cdef void closed_free(h2_closed *closed) noexcept:
    free(closed.resets)
    closed.resets = NULL


cdef void closed_add(h2_closed *closed, int32_t id, uint8_t how, int64_t room) noexcept:
    cdef h2_reset *place
    if closed.resets == NULL:
        closed.resets = <h2_reset *>calloc(CLOSED_RESETS, sizeof(h2_reset))
        if closed.resets == NULL:
            closed.forgotten = max(closed.forgotten, id)
            return
    place = &closed.resets[closed.count % CLOSED_RESETS]
    closed.forgotten = max(closed.forgotten, place.id)
    closed.count += 1
    place.id = id
    place.how = how
    place.room = room


cdef void closed_skip(h2_closed *closed, int32_t first, int32_t last) noexcept:
    cdef h2_gap *gap = &closed.gaps[closed.gap_count % CLOSED_GAPS]
    closed.gap_count += 1
    gap.first = first
    gap.last = last


cdef h2_reset *closed_find(const h2_closed *closed, int32_t id) noexcept:
    cdef uint32_t i
    if closed.resets != NULL:
        for i in range(min(closed.count, <uint32_t>CLOSED_RESETS)):
            if closed.resets[i].id == id:
                return &closed.resets[i]
    return NULL


cdef int closed_how(const h2_closed *closed, int32_t id) noexcept:
    cdef h2_reset *found = closed_find(closed, id)
    cdef uint32_t i
    if found != NULL:
        return found.how
    for i in range(min(closed.gap_count, <uint32_t>CLOSED_GAPS)):
        if closed.gaps[i].first <= id <= closed.gaps[i].last:
            return CLOSED_NEVER
    return CLOSED_FORGOTTEN if id <= closed.forgotten else CLOSED_ENDED


cdef void closed_widen(h2_closed *closed, int64_t by) noexcept:
    cdef uint32_t i
    if closed.resets != NULL:
        for i in range(min(closed.count, <uint32_t>CLOSED_RESETS)):
            closed.resets[i].room += by
