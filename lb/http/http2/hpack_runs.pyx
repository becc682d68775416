"""Runs of fields that an encoder has written before: see hpack_runs.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size

cdef enum:
    KEPT = 8                          # of a connection, whose streams are those of many clients


cdef const hpack_run *runs_find(const hpack_runs *runs, uint64_t age, const char *fields, size_t size) noexcept:
    cdef const hpack_run *run
    cdef size_t n
    cdef int i
    if runs.known == NULL:
        return NULL
    for i in range(KEPT):
        run = &runs.known[i]
        n = tg_buffer_size(&run.fields)
        if run.age == age and n <= size and memcmp(tg_buffer_head(&run.fields), fields, n) == 0:
            return run
    return NULL


cdef void runs_keep(hpack_runs *runs, uint64_t age, const char *fields, size_t size, const char *wire,
                    uint32_t wire_size) noexcept:
    cdef hpack_run *run
    if runs.known == NULL:
        runs.known = <hpack_run *>calloc(KEPT, sizeof(hpack_run))
        if runs.known == NULL:
            return
    run = &runs.known[runs.next]
    runs.next = (runs.next + 1) % KEPT
    run.age = 0
    tg_buffer_clear(&run.fields)
    if tg_buffer_append(&run.fields, fields, size) < 0:
        return
    memcpy(run.wire, wire, wire_size)
    run.size = wire_size
    run.age = age


cdef void runs_free(hpack_runs *runs) noexcept:
    cdef int i
    if runs.known == NULL:
        return
    for i in range(KEPT):
        tg_buffer_free(&runs.known[i].fields)
    free(runs.known)
    runs.known = NULL
