"""Those who wait in one worker, in the order in which it is their turn, and what they wait for."""

from libc.stdint cimport uint32_t, uint64_t


cdef struct tg_entry:
    uint64_t key
    uint64_t number                   # among equal keys
    uint64_t wanted                   # the bit of a model; 0 = any endpoint will do, or `endpoint_bound`
    void *waiter


cdef struct tg_line:
    tg_entry *entries                 # from `first`, by key and number
    size_t first
    size_t count
    size_t room
    size_t endpoint_bound             # of them: those for whom only one endpoint will do
    size_t model_specific             # of them: others that want a model
    uint64_t models                   # that they want
    uint32_t wanted_by[64]            # how many of them want the model of each bit


cdef inline tg_entry *entry_at(const tg_line *line, size_t at) noexcept nogil:
    return <tg_entry *>line.entries + line.first + at


# How many come before one with this key and number.
cdef size_t line_rank(const tg_line *line, uint64_t key, uint64_t number) noexcept nogil
# 0, or -1: out of memory.
cdef int line_insert(tg_line *line, uint64_t key, uint64_t number, bint endpoint_bound, uint64_t wanted,
                     void *waiter) noexcept nogil
cdef void line_take_out(tg_line *line, size_t at) noexcept nogil
# One more who waits for an endpoint of its own, or with its model; or one less, who is taken out, too.
cdef void line_tally(tg_line *line, bint endpoint_bound, uint64_t wanted, int by) noexcept nogil
cdef void line_free(tg_line *line) noexcept nogil
