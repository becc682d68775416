"""Runs of header fields that an encoder has written as indices alone.

Such a run changes no table, and its bytes stay right as long as nothing else does (RFC 7541 section 6.1): when the
same fields come again they are copied. What one client asks for again and again is compared as a whole then, which
costs a tenth of looking for each of its fields.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from lb.net.buffer cimport tg_buffer


cdef enum:
    RUN_WIRE = 48                     # bytes of a run on the wire, at most
    RUN_FIELDS = 2048                 # and of its fields


ctypedef struct hpack_run:
    uint64_t age                      # of the table; 0 = there is no run
    tg_buffer fields                  # as `block_add` writes them (lb.http.http2.block)
    uint32_t size                     # bytes of `wire`
    uint8_t wire[RUN_WIRE]


ctypedef struct hpack_runs:
    uint32_t next                     # of `known`, to be overwritten
    hpack_run *known                  # NULL until there is one


# The run that the fields begin with, under a table of that age; or NULL.
cdef const hpack_run *runs_find(const hpack_runs *runs, uint64_t age, const char *fields, size_t size) noexcept
# Without memory it is not kept.
cdef void runs_keep(hpack_runs *runs, uint64_t age, const char *fields, size_t size, const char *wire,
                    uint32_t wire_size) noexcept
cdef void runs_free(hpack_runs *runs) noexcept
