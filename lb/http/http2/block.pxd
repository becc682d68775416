"""Header fields one behind the other in a buffer: two 32-bit lengths, name, value."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from lb.net.buffer cimport tg_buffer, tg_buffer_reserve, tg_buffer_tail


cdef enum:
    BLOCK_OVERHEAD = 8                # of each: the lengths


ctypedef struct block_field:
    const char *name
    const char *value
    uint32_t name_size
    uint32_t value_size


# The field at `at`, which moves on behind it. False at the end.
cdef inline bint block_next(const char **at, const char *end, block_field *field) noexcept nogil:
    cdef uint32_t lengths[2]
    if at[0] >= end:
        return False
    memcpy(lengths, at[0], sizeof(lengths))
    field.name_size = lengths[0]
    field.value_size = lengths[1]
    field.name = at[0] + sizeof(lengths)
    field.value = field.name + lengths[0]
    at[0] = field.value + lengths[1]
    return True


# 0, or -1 (no memory).
cdef inline int block_add(tg_buffer *block, const char *name, size_t name_size, const char *value,
                          size_t value_size) noexcept nogil:
    cdef uint32_t lengths[2]
    cdef char *at
    if tg_buffer_reserve(block, name_size + value_size + sizeof(lengths)) < 0:
        return -1
    lengths[0] = <uint32_t>name_size
    lengths[1] = <uint32_t>value_size
    at = tg_buffer_tail(block)
    memcpy(at, lengths, sizeof(lengths))
    memcpy(at + sizeof(lengths), name, name_size)
    memcpy(at + sizeof(lengths) + name_size, value, value_size)
    block.end += name_size + value_size + sizeof(lengths)
    return 0


# The same with the name in lower case (RFC 9113 section 8.2).
cdef inline int block_add_lower(tg_buffer *block, const char *name, size_t name_size, const char *value,
                                size_t value_size) noexcept nogil:
    cdef size_t i
    cdef char *at
    if block_add(block, name, name_size, value, value_size) < 0:
        return -1
    at = tg_buffer_tail(block) - name_size - value_size
    for i in range(name_size):
        if c'A' <= at[i] <= c'Z':
            at[i] |= 32
    return 0
