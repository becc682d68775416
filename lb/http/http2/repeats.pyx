"""Header blocks that come again: see repeats.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from lb.net.buffer cimport tg_buffer_clear, tg_buffer_free
from lb.http.http2.message cimport h2_section

cdef enum:
    # Of a connection: a client's few kinds of requests, or the heads and trailers of an endpoint's answers.
    KEPT = 4
    INDEXED = 0x80                    # the bit of an index; with all bits set it goes on in the next byte


cdef bint repeats_look(h2_repeats *repeats, const uint8_t *wire, size_t size, bint whole) noexcept:
    cdef size_t i
    cdef bint indices = whole and 0 < size <= REPEAT_BYTES
    if indices:
        for i in range(size):
            if wire[i] <= INDEXED or wire[i] == 0xFF:
                indices = False
                break
    repeats.age += not indices
    return indices


cdef h2_repeat *repeats_find(const h2_repeats *repeats, const uint8_t *wire, size_t size, bint trailers) noexcept:
    cdef h2_repeat *one
    cdef int i
    if repeats.known == NULL:
        return NULL
    for i in range(KEPT):
        one = &repeats.known[i]
        if (one.size == size and one.usable and one.age == repeats.age and one.section.trailers == trailers
                and memcmp(one.wire, wire, size) == 0):
            return one
    return NULL


cdef h2_repeat *repeats_begin(h2_repeats *repeats, const uint8_t *wire, size_t size) noexcept:
    cdef h2_repeat *one
    if repeats.known == NULL:
        repeats.known = <h2_repeat *>calloc(KEPT, sizeof(h2_repeat))
        if repeats.known == NULL:
            return NULL
    one = &repeats.known[repeats.next]
    repeats.next = (repeats.next + 1) % KEPT
    memcpy(one.wire, wire, size)
    one.size = <uint32_t>size
    one.usable = False
    one.count = 0
    tg_buffer_clear(&one.fields)
    free(one.reading)
    one.reading = NULL
    return one


cdef void repeat_done(const h2_repeats *repeats, h2_repeat *repeat, const h2_section *section) noexcept:
    repeat.usable = True
    repeat.age = repeats.age
    repeat.section = section[0]


cdef void repeats_free(h2_repeats *repeats) noexcept:
    cdef int i
    if repeats.known == NULL:
        return
    for i in range(KEPT):
        tg_buffer_free(&repeats.known[i].fields)
        free(repeats.known[i].reading)
    free(repeats.known)
    repeats.known = NULL
